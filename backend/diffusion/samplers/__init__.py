"""The samplers that ship, one file each."""

from __future__ import annotations

from backend.diffusion.samplers.dpmpp_2m import dpmpp_2m
from backend.diffusion.samplers.dpmpp_2m_sde import dpmpp_2m_sde
from backend.diffusion.samplers.euler import euler
from backend.diffusion.samplers.euler_ancestral import euler_ancestral
from backend.diffusion.samplers.heun import heun
from backend.diffusion.samplers.lcm import lcm
from backend.diffusion.samplers.sampler import Sample, Sampler
from backend.diffusion.samplers.tcd import tcd

__all__ = ["BUILTIN", "Sample", "Sampler"]

# Aliases are the names of k-diffusion's functions, A1111, InvokeAI and ComfyUI. Case, spaces, hyphens and underscores
# do not matter in a look-up.
BUILTIN = (
    Sampler(name="euler", label="Euler", aliases=("k_euler", "sample_euler"), sample=euler),
    Sampler(
        name="euler_ancestral",
        label="Euler a",
        aliases=("k_euler_a", "k_euler_ancestral", "sample_euler_ancestral"),
        sample=euler_ancestral,
        uses_noise=True,
    ),
    Sampler(
        name="heun", label="Heun", aliases=("k_heun", "sample_heun", "heun_k"), sample=heun, evaluations_per_step=2
    ),
    Sampler(
        name="dpmpp_2m",
        label="DPM++ 2M",
        aliases=("k_dpmpp_2m", "sample_dpmpp_2m"),
        sample=dpmpp_2m,
        default_schedule="karras",
    ),
    Sampler(
        name="dpmpp_2m_sde",
        label="DPM++ 2M SDE",
        aliases=("k_dpmpp_2m_sde", "sample_dpmpp_2m_sde", "dpmpp_2m_sde_gpu"),
        sample=dpmpp_2m_sde,
        default_schedule="karras",
        uses_noise=True,
    ),
    # Song et al. 2021, equation 12 with eta 0: the same steps as Euler's
    Sampler(name="ddim", label="DDIM", aliases=("k_ddim", "sample_ddim"), sample=euler),
    Sampler(
        name="lcm",
        label="LCM",
        aliases=("k_lcm", "sample_lcm"),
        sample=lcm,
        default_schedule="lcm",
        uses_noise=True,
    ),
    Sampler(name="tcd", label="TCD", aliases=("sample_tcd",), sample=tcd, default_schedule="lcm", uses_noise=True),
)
