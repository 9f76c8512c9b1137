"""Noise levels and schedules against published numbers, diffusers and SciPy; names as people write them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from scipy import stats

from backend.diffusion.beta_distribution import beta_cdf, beta_ppf
from backend.diffusion.names import resolve_schedule, split_sampler_name
from backend.diffusion.noise_levels import NoiseLevels
from backend.diffusion.samplers import BUILTIN as SAMPLERS
from backend.diffusion.schedules import BUILTIN, Schedule, sigmas_for
from backend.errors import UnknownName
from backend.registry import Registry

# diffusers' schedulers call numpy in a way that it no longer likes
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

LEVELS = NoiseLevels.scaled_linear()
ZERO_SNR = NoiseLevels.scaled_linear(zero_terminal_snr=True)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture
def schedules() -> Registry[Schedule]:
    return Registry("schedule", BUILTIN)


def test_levels_span_the_range_of_stable_diffusion():
    assert LEVELS.sigma_min == pytest.approx(0.02917, abs=5e-6)
    assert LEVELS.sigma_max == pytest.approx(14.6146, abs=5e-5)


@pytest.mark.parametrize(("levels", "rescaled"), [(LEVELS, False), (ZERO_SNR, True)], ids=["plain", "zero-snr"])
def test_levels_are_those_of_diffusers(levels, rescaled):
    alpha_bars = DDIMScheduler(**BETAS, rescale_betas_zero_snr=rescaled).alphas_cumprod.double()[:-1]
    theirs = ((1 - alpha_bars) / alpha_bars).sqrt()
    assert torch.allclose(torch.tensor(levels.sigmas[:-1], dtype=torch.float64), theirs, rtol=2e-4)


def test_zero_terminal_snr_keeps_the_first_level_and_clamps_the_last():
    assert ZERO_SNR.sigma_min == pytest.approx(LEVELS.sigma_min, rel=1e-9)
    assert ZERO_SNR.sigma_max == pytest.approx(4518.76, abs=0.01)
    assert 1 / (1 + ZERO_SNR.sigma_max**2) == pytest.approx(4.8973e-8, rel=1e-4)


@pytest.mark.parametrize("levels", [LEVELS, ZERO_SNR], ids=["plain", "zero-snr"])
def test_timestep_and_sigma_are_inverse(levels):
    for timestep in (0.0, 0.25, 1.0, 17.5, 500.0, 998.75, 999.0):
        assert levels.timestep(levels.sigma(timestep)) == pytest.approx(timestep, abs=1e-7)


def test_timesteps_are_linear_in_log_sigma_and_clamped():
    middle = math.sqrt(LEVELS.sigmas[400] * LEVELS.sigmas[401])
    assert LEVELS.timestep(middle) == pytest.approx(400.5)
    assert [LEVELS.timestep(sigma) for sigma in (0.0, 0.001, 1e6)] == [0.0, 0.0, 999.0]
    assert [LEVELS.sigma(timestep) for timestep in (-3.0, 2000.0)] == [LEVELS.sigma_min, LEVELS.sigma_max]


# by numpy and SciPy from the definitions, once
GOLDEN = {
    "normal": [14.6146, 4.0861, 1.6156, 0.6951, 0.0292, 0.0],
    "karras": [14.6146, 4.7965, 1.2741, 0.2479, 0.0292, 0.0],
    "exponential": [14.6146, 3.0890, 0.6529, 0.1380, 0.0292, 0.0],
    "sgm_uniform": [14.6146, 5.0924, 2.2797, 1.1629, 0.5712, 0.0],
    "simple": [14.6146, 5.0878, 2.2765, 1.1606, 0.5693, 0.0],
    "beta": [14.6146, 7.3718, 2.6152, 1.0273, 0.3955, 0.0],
}


@pytest.mark.parametrize("schedule", BUILTIN, ids=lambda schedule: schedule.name)
def test_five_steps_are_the_golden_numbers(schedule):
    assert schedule.sigmas(5, LEVELS) == pytest.approx(GOLDEN[schedule.name], abs=1e-4)


def test_karras_and_exponential_agree_with_diffusers():
    for name, option in (("karras", "use_karras_sigmas"), ("exponential", "use_exponential_sigmas")):
        theirs = EulerDiscreteScheduler(**BETAS, **{option: True})
        theirs.set_timesteps(20)
        ours = Registry("schedule", BUILTIN)[name].sigmas(20, LEVELS)
        assert ours == pytest.approx(theirs.sigmas.tolist(), rel=1e-4)


def test_sgm_uniform_is_trailing_spacing():
    theirs = EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing")
    theirs.set_timesteps(4)
    ours = Registry("schedule", BUILTIN)["trailing"].sigmas(4, LEVELS)
    assert theirs.timesteps.tolist() == [999, 749, 499, 249]
    assert ours == pytest.approx(theirs.sigmas.tolist(), rel=0.01)  # they round 749.25 to 749 and so on


def test_beta_spreads_timesteps_and_not_sigmas():
    ours = Registry("schedule", BUILTIN)["beta"].sigmas(20, LEVELS)
    assert ours[:5] == pytest.approx([14.6, 13.5, 11.5, 9.4, 7.4], abs=0.05)
    assert ours[-2:] == pytest.approx([0.11, 0.0], abs=0.005)
    quantiles = [round(999 * stats.beta.ppf(1 - i / 20, 0.6, 0.6)) for i in range(20)]
    assert ours[:-1] == [LEVELS.sigmas[timestep] for timestep in quantiles]


@pytest.mark.parametrize("levels", [LEVELS, ZERO_SNR], ids=["plain", "zero-snr"])
@pytest.mark.parametrize("schedule", BUILTIN, ids=lambda schedule: schedule.name)
def test_schedules_descend_from_the_noisiest_level_to_zero(schedule, levels):
    for steps in (1, 2, 3, 20, 151, 1000):
        sigmas = schedule.sigmas(steps, levels)
        assert len(sigmas) == steps + 1
        assert sigmas[0] == pytest.approx(levels.sigma_max, rel=1e-12)
        assert sigmas[-1] == 0.0
        assert all(high > low for high, low in pairwise(sigmas))


def test_penultimate_sigma_is_dropped_for_samplers_that_ask(schedules):
    longer = schedules["normal"].sigmas(6, LEVELS)
    dropped = sigmas_for(schedules["normal"], 5, LEVELS, discards_penultimate_sigma=True)
    assert dropped == [*longer[:5], 0.0]
    assert sigmas_for(schedules["normal"], 6, LEVELS) == longer


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (0.5, 2.0), (3.0, 1.5)])
def test_beta_distribution_is_that_of_scipy(a, b):
    for i in range(1, 40):
        x = i / 40
        assert beta_cdf(x, a, b) == pytest.approx(stats.beta.cdf(x, a, b), abs=1e-12)
        assert beta_ppf(x, a, b) == pytest.approx(stats.beta.ppf(x, a, b), abs=1e-12)
    assert [beta_ppf(p, a, b) for p in (0.0, 1.0)] == [0.0, 1.0]
    assert [beta_cdf(x, a, b) for x in (0.0, 1.0)] == [0.0, 1.0]


def test_every_sampler_has_a_registered_default_schedule(schedules):
    for sampler in SAMPLERS:
        assert resolve_schedule("Automatic", sampler, schedules).name == sampler.default_schedule


def test_automatic_is_the_samplers_own_schedule(schedules):
    dpmpp_2m = Registry("sampler", SAMPLERS)["DPM++ 2M"]
    assert [resolve_schedule(name, dpmpp_2m, schedules).name for name in (None, "", "automatic")] == ["karras"] * 3
    assert resolve_schedule("SGM Uniform", dpmpp_2m, schedules).name == "sgm_uniform"
    with pytest.raises(UnknownName, match="Align Your Steps"):
        resolve_schedule("Align Your Steps", dpmpp_2m, schedules)


@pytest.mark.parametrize(
    ("text", "sampler", "schedule"),
    [
        ("DPM++ 2M Karras", "dpmpp_2m", "automatic"),
        ("DPM++ 2M SDE Exponential", "dpmpp_2m_sde", "exponential"),
        ("Euler a SGM Uniform", "euler_ancestral", "sgm_uniform"),
        ("euler_ancestral_karras", "euler_ancestral", "karras"),
        ("Euler", "euler", None),
        ("k_euler_a", "euler_ancestral", None),
        ("sample_dpmpp_2m", "dpmpp_2m", None),
        ("dpmpp_2m_sde_gpu", "dpmpp_2m_sde", None),
        ("LCM", "lcm", None),
    ],
)
def test_names_that_hold_sampler_and_schedule_are_split(text, sampler, schedule, schedules):
    found, name = split_sampler_name(text, Registry("sampler", SAMPLERS), schedules)
    assert (found.name, name) == (sampler, schedule)


@pytest.mark.parametrize("text", ["Karras", "", "PLMS", "PLMS Karras", "EulerKarras"])
def test_unknown_samplers_are_named(text, schedules):
    with pytest.raises(UnknownName) as raised:
        split_sampler_name(text, Registry("sampler", SAMPLERS), schedules)
    assert raised.value.name == text
    assert "DPM++ 2M" in raised.value.known
