"""Schedules against published numbers, diffusers and SciPy, on levels of all kinds; names as people write them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from diffusers.schedulers import AysSchedules
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_edm_dpmsolver_multistep import EDMDPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from backend.diffusion.beta_distribution import beta_cdf, beta_ppf
from backend.diffusion.edm_levels import EdmLevels
from backend.diffusion.flow_levels import FlowLevels, flux_shift
from backend.diffusion.levels import Levels
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


# by numpy and SciPy from the definitions, once; the last two are every second number of the paper's table
GOLDEN = {
    "normal": [14.6146, 4.0861, 1.6156, 0.6951, 0.0292, 0.0],
    "karras": [14.6146, 4.7965, 1.2741, 0.2479, 0.0292, 0.0],
    "exponential": [14.6146, 3.0890, 0.6529, 0.1380, 0.0292, 0.0],
    "sgm_uniform": [14.6146, 5.0924, 2.2797, 1.1629, 0.5712, 0.0],
    "simple": [14.6146, 5.0878, 2.2765, 1.1606, 0.5693, 0.0],
    "beta": [14.6146, 7.3718, 2.6152, 1.0273, 0.3955, 0.0],
    "beta_a1111": [14.6146, 12.0523, 7.3219, 2.5915, 0.0292, 0.0],
    "turbo": [14.6146, 5.0878, 2.2765, 1.1606, 0.5693, 0.0],
    "sd_turbo": [14.6146, 8.3028, 5.0878, 3.3211, 2.2765, 0.0],
    "lcm": [14.6146, 5.0878, 2.2765, 1.1606, 0.5693, 0.0],
    "dmd2": [14.6146, 5.0878, 2.2765, 1.1606, 0.5693, 0.0],
    "align_your_steps": [14.6146, 3.8610, 1.8860, 0.9630, 0.3990, 0.0],
    "align_your_steps_sdxl": [14.6146, 3.7710, 1.3420, 0.5550, 0.2340, 0.0],
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


def test_beta_of_a1111_spreads_sigmas():
    ours = Registry("schedule", BUILTIN)["Beta (A1111)"].sigmas(20, LEVELS)
    assert ours[:4] == pytest.approx([14.6, 14.4, 14.0, 13.4], abs=0.05)
    assert ours[-3:] == pytest.approx([0.23, 0.029, 0.0], abs=0.005)
    quantiles = stats.beta.ppf([1 - i / 19 for i in range(20)], 0.6, 0.6)
    span = LEVELS.sigma_max - LEVELS.sigma_min
    assert ours[:-1] == pytest.approx(LEVELS.sigma_min + span * quantiles, rel=1e-9)


KINDS = {
    "sd": LEVELS,
    "zero-snr": ZERO_SNR,
    "pixart": NoiseLevels.linear(),
    "flow": FlowLevels(),
    "sd3": FlowLevels(3.0),
    "flux": FlowLevels(flux_shift(1024, 1024), 10_000),
    "edm": EdmLevels(),
    "cosxl": EdmLevels(sigma_max=120.0),
}


def assert_descends(sigmas: list[float], steps: int, levels: Levels) -> None:
    assert len(sigmas) == steps + 1
    assert sigmas[0] <= levels.sigma_max * (1 + 1e-12)
    assert sigmas[-1] == 0.0
    assert all(high > low for high, low in pairwise(sigmas))


@pytest.mark.parametrize("levels", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("schedule", BUILTIN, ids=lambda schedule: schedule.name)
def test_schedules_descend_from_the_noisiest_level_to_zero(schedule, levels):
    for steps in (1, 2, 3, 10, 20, 50, 51, 151, *([1000] if levels is LEVELS else [])):
        sigmas = schedule.sigmas(steps, levels)
        assert_descends(sigmas, steps, levels)
        if (schedule.name, steps) != ("dmd2", 1):
            assert sigmas[0] == pytest.approx(levels.sigma_max, rel=1e-12)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    schedule=st.sampled_from(BUILTIN),
    levels=st.one_of(
        st.sampled_from(list(KINDS.values())),
        st.floats(0.2, 30.0).map(FlowLevels),
        st.tuples(st.floats(1e-3, 0.1), st.floats(1.0, 1000.0)).map(lambda ends: EdmLevels(*ends)),
    ),
    steps=st.integers(1, 150),
)
def test_no_schedule_stands_still_or_climbs_on_any_levels(schedule: Schedule, levels: Levels, steps: int):
    assert_descends(schedule.sigmas(steps, levels), steps, levels)
    shortened = sigmas_for(schedule, steps, levels, discards_penultimate_sigma=True)
    assert_descends(shortened, steps, levels)


def timesteps_of(name: str, steps: int, levels: Levels = LEVELS) -> list[float]:
    return [levels.timestep(sigma) for sigma in Registry("schedule", BUILTIN)[name].sigmas(steps, levels)[:-1]]


@pytest.mark.parametrize(
    ("name", "timesteps"),
    [
        ("turbo", [999]),
        ("turbo", [999, 499]),
        ("turbo", [999, 749, 499, 249]),
        ("turbo", [999, 874, 749, 624, 499, 374, 249, 124]),
        ("sd_turbo", [999]),
        ("sd_turbo", [999, 899, 799, 699]),
        ("sd_turbo", [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]),
        ("lcm", [999]),
        ("lcm", [999, 499]),
        ("lcm", [999, 759, 499, 259]),
        ("lcm", [999, 879, 759, 639, 499, 379, 259, 139]),
        ("dmd2", [999, 749, 499, 249]),
        ("dmd2", [399]),
    ],
)
def test_distilled_models_are_asked_at_the_timesteps_they_were_taught(name, timesteps):
    assert timesteps_of(name, len(timesteps)) == timesteps


def test_sd_turbo_in_four_steps_has_the_published_sigmas():
    sigmas = Registry("schedule", BUILTIN)["Turbo"].sigmas(4, LEVELS)
    assert sigmas == pytest.approx([14.6146, 4.0817, 1.6129, 0.6932, 0], abs=5e-5)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16, 31, 50])
def test_turbo_and_lcm_grids_are_those_of_diffusers(steps):
    trailing = EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing")
    trailing.set_timesteps(steps)
    assert timesteps_of("turbo", steps) == trailing.timesteps.tolist()
    lcm = LCMScheduler(**BETAS)
    lcm.set_timesteps(steps)
    assert timesteps_of("lcm", steps) == lcm.timesteps.tolist()


@pytest.mark.parametrize("steps", [1, 4, 5, 28])
def test_normal_on_flows_is_the_schedule_of_sd3(steps):
    """Its authors' code, diffusers' and ComfyUI's, which all shift the lowest level twice."""
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(steps)
    ours = Registry("schedule", BUILTIN)["normal"].sigmas(steps, FlowLevels(3.0))
    assert ours == pytest.approx(theirs.sigmas.tolist(), abs=1e-6)
    if steps == 5:
        assert ours == pytest.approx([1, 0.9004, 0.7511, 0.503, 0.0089, 0], abs=5e-5)


@pytest.mark.parametrize(("width", "height"), [(512, 512), (768, 1024), (1024, 1024), (1536, 1536)])
@pytest.mark.parametrize("steps", [4, 28])
def test_simple_on_flows_is_the_schedule_of_flux(width, height, steps):
    theirs = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    theirs.set_timesteps(sigmas=[1 - i / steps for i in range(steps)], mu=math.log(flux_shift(width, height)))
    levels = FlowLevels(flux_shift(width, height), num_levels=10_000)
    ours = Registry("schedule", BUILTIN)["simple"].sigmas(steps, levels)
    assert ours == pytest.approx(theirs.sigmas.tolist(), abs=1e-3)  # ours are levels of a ten-thousandth
    if (width, steps) == (1024, 4):
        assert ours == pytest.approx([1, 0.9045, 0.7595, 0.5128, 0], abs=5e-5)


def test_karras_on_edm_levels_is_the_schedule_of_playground():
    ours = Registry("schedule", BUILTIN)["karras"].sigmas(5, EdmLevels())
    assert ours == pytest.approx([80, 17.53, 2.515, 0.170, 0.002, 0], rel=2e-3)
    theirs = EDMDPMSolverMultistepScheduler()
    theirs.set_timesteps(20)
    assert Registry("schedule", BUILTIN)["karras"].sigmas(20, EdmLevels()) == pytest.approx(
        theirs.sigmas.tolist(), rel=1e-4
    )


@pytest.mark.parametrize("steps", [5, 20])
def test_sgm_uniform_is_the_schedule_of_pixart(steps):
    """Its DPMSolver has linspace spacing: steps + 1 even timesteps without the last, rounded to trained ones."""
    theirs = DPMSolverMultistepScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    theirs.set_timesteps(steps)
    ours = timesteps_of("sgm_uniform", steps, NoiseLevels.linear())
    assert ours == pytest.approx(theirs.timesteps.tolist(), abs=0.51)


@pytest.mark.parametrize(
    ("name", "published"), [("ays", "StableDiffusionSigmas"), ("ays_sdxl", "StableDiffusionXLSigmas")]
)
def test_ten_steps_of_align_your_steps_are_the_published_ones(name, published):
    ours = Registry("schedule", BUILTIN)[name].sigmas(10, LEVELS)
    assert ours == pytest.approx(AysSchedules[published], rel=1e-3)


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
    with pytest.raises(UnknownName, match="Polyexponential"):
        resolve_schedule("Polyexponential", dpmpp_2m, schedules)


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
        ("LCM LCM", "lcm", "automatic"),
        ("Euler Turbo", "euler", "turbo"),
        ("Euler SD Turbo", "euler", "sd_turbo"),
        ("DPM++ 2M Align Your Steps SDXL", "dpmpp_2m", "align_your_steps_sdxl"),
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
