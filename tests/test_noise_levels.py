"""Noise levels of discrete models, flows and EDM: published numbers, diffusers, and the map to timesteps and back."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_edm_dpmsolver_multistep import EDMDPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from backend.diffusion.edm_levels import EdmLevels
from backend.diffusion.flow_levels import FlowLevels, flux_shift
from backend.diffusion.levels import Levels
from backend.diffusion.noise_levels import NoiseLevels

LEVELS = NoiseLevels.scaled_linear()
ZERO_SNR = NoiseLevels.scaled_linear(zero_terminal_snr=True)
LINEAR = NoiseLevels.linear()
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LINEAR_BETAS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
KINDS = {
    "sd": LEVELS,
    "zero-snr": ZERO_SNR,
    "pixart": LINEAR,
    "sd3": FlowLevels(3.0),
    "flux": FlowLevels(flux_shift(1024, 1024), 10_000),
    "edm": EdmLevels(),
}
every_kind = pytest.mark.parametrize("levels", KINDS.values(), ids=KINDS)


def test_levels_span_the_range_of_stable_diffusion():
    assert LEVELS.sigma_min == pytest.approx(0.02917, abs=5e-6)
    assert LEVELS.sigma_max == pytest.approx(14.6146, abs=5e-5)


@pytest.mark.parametrize(
    ("levels", "betas", "rescaled"),
    [(LEVELS, BETAS, False), (ZERO_SNR, BETAS, True), (LINEAR, LINEAR_BETAS, False)],
    ids=["scaled-linear", "zero-snr", "linear"],
)
def test_levels_are_those_of_diffusers(levels, betas, rescaled):
    alpha_bars = DDIMScheduler(**betas, rescale_betas_zero_snr=rescaled).alphas_cumprod.double()[:-1]
    theirs = ((1 - alpha_bars) / alpha_bars).sqrt()
    assert torch.allclose(torch.tensor(levels.sigmas[:-1], dtype=torch.float64), theirs, rtol=4e-4)


def test_zero_terminal_snr_keeps_the_first_level_and_clamps_the_last():
    assert ZERO_SNR.sigma_min == pytest.approx(LEVELS.sigma_min, rel=1e-9)
    assert ZERO_SNR.sigma_max == pytest.approx(4518.76, abs=0.01)
    assert 1 / (1 + ZERO_SNR.sigma_max**2) == pytest.approx(4.8973e-8, rel=1e-4)


@every_kind
def test_timestep_and_sigma_are_inverse(levels: Levels):
    first = levels.timestep(levels.sigma_min)
    for share in (0.0, 0.00025, 0.001, 0.0175, 0.5, 0.99975, 1.0):
        timestep = first + share * (levels.last_timestep - first)
        assert levels.timestep(levels.sigma(timestep)) == pytest.approx(timestep, abs=1e-7)
    assert levels.timestep(levels.sigma_max) == levels.last_timestep
    assert levels.sigma(levels.last_timestep) == pytest.approx(levels.sigma_max, rel=1e-12)


@every_kind
def test_level_numbers_rise_from_the_least_to_the_most_noise_and_are_clamped(levels: Levels):
    last = levels.num_levels - 1
    assert (levels.level(0), levels.level(last)) == (pytest.approx(levels.sigma_min), levels.sigma_max)
    assert levels.level(last + 5) == levels.sigma_max
    some = [levels.level(last * i / 40) for i in range(41)]
    assert some == sorted(set(some))


@every_kind
def test_sigmas_outside_the_trained_range_get_a_timestep_of_its_ends(levels: Levels):
    assert levels.timestep(levels.sigma_max * 100) == levels.last_timestep
    assert levels.timestep(0.0) <= levels.timestep(levels.sigma_min)


def test_timesteps_of_discrete_models_are_linear_in_log_sigma():
    middle = math.sqrt(LEVELS.sigmas[400] * LEVELS.sigmas[401])
    assert LEVELS.timestep(middle) == pytest.approx(400.5)
    assert [LEVELS.timestep(sigma) for sigma in (0.0, 0.001, 1e6)] == [0.0, 0.0, 999.0]
    assert [LEVELS.sigma(timestep) for timestep in (-3.0, 2000.0)] == [LEVELS.sigma_min, LEVELS.sigma_max]


def test_flow_levels_are_those_of_diffusers():
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    ours = [FlowLevels(3.0).level(index) for index in range(999, -1, -1)]
    assert ours == pytest.approx(theirs.sigmas.tolist(), abs=1e-6)
    assert [FlowLevels(3.0).timestep(sigma) for sigma in ours] == pytest.approx(theirs.timesteps.tolist(), abs=1e-3)
    assert FlowLevels(1.0).level(499) == 0.5


@pytest.mark.parametrize(
    ("width", "height", "mu"),
    [(256, 256, 0.5), (512, 512, 0.63), (768, 1024, 0.9767), (1024, 1024, 1.15), (1536, 1536, 2.017)],
)
def test_the_shift_of_flux_grows_with_the_picture_and_is_not_clamped(width, height, mu):
    assert math.log(flux_shift(width, height)) == pytest.approx(mu, abs=5e-4)


def test_edm_networks_are_told_a_quarter_of_the_logarithm():
    theirs = EDMDPMSolverMultistepScheduler()
    theirs.set_timesteps(10)
    ours = [EdmLevels().timestep(sigma) for sigma in theirs.sigmas.tolist()[:-1]]
    assert ours == pytest.approx(theirs.timesteps.tolist(), abs=1e-6)
    assert EdmLevels(sigma_max=120.0).last_timestep == pytest.approx(math.log(120) / 4)
