"""Every sampler: exact solutions on Gaussian data, orders of convergence, diffusers step by step, batch = singles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_edm_dpmsolver_multistep import EDMDPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_heun_discrete import FlowMatchHeunDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_lcm import FlowMatchLCMScheduler
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from diffusers.schedulers.scheduling_tcd import TCDScheduler
from torch import Tensor

from backend.diffusion import noise as noise_module
from backend.diffusion.edm_levels import EdmLevels
from backend.diffusion.flow_levels import FlowLevels
from backend.diffusion.lcm_boundary import LcmBoundary
from backend.diffusion.levels import Levels
from backend.diffusion.noise import BatchNoise
from backend.diffusion.noise_levels import NoiseLevels
from backend.diffusion.prediction import (
    EdmPrediction,
    EpsPrediction,
    FlowPrediction,
    Prediction,
    VPrediction,
    denoiser,
)
from backend.diffusion.process import Denoise, Process, RectifiedFlow, VarianceExploding
from backend.diffusion.samplers import BUILTIN, Sampler
from backend.diffusion.samplers.tcd import tcd
from backend.diffusion.schedules import BUILTIN as SCHEDULES
from backend.registry import Registry

# diffusers' schedulers call numpy in a way that it no longer likes
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

MEAN, STD = 0.7, 0.5  # of the data
LEVELS = NoiseLevels.scaled_linear()
ZERO_SNR = NoiseLevels.scaled_linear(zero_terminal_snr=True)
SAMPLERS = Registry("sampler", BUILTIN)
PROCESSES = [VarianceExploding(), RectifiedFlow()]
every_sampler = pytest.mark.parametrize("sampler", BUILTIN, ids=lambda sampler: sampler.name)
every_process = pytest.mark.parametrize("process", PROCESSES, ids=["ve", "flow"])


def spread(process: Process, sigma: float) -> float:
    """Standard deviation of x at a noise level."""
    return math.hypot(process.alpha(sigma) * STD, sigma)


def posterior_mean(process: Process) -> Denoise:
    """E[x0 | x], the answer of a perfect diffusion model."""

    def denoise(x: Tensor, sigma: float) -> Tensor:
        alpha = process.alpha(sigma)
        return MEAN + alpha * STD**2 / spread(process, sigma) ** 2 * (x - alpha * MEAN)

    return denoise


def follow_ode(process: Process, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The exact solution of the probability flow ODE: the standardised x stays."""
    standard = (x - process.alpha(sigma) * MEAN) / spread(process, sigma)
    return process.alpha(sigma_next) * MEAN + spread(process, sigma_next) * standard


def end_of_ode(process: Process) -> Denoise:
    """The answer of a perfect consistency model."""
    return lambda x, sigma: follow_ode(process, x, sigma, 0.0)


def even_in_log_snr(process: Process, first: float, last: float, steps: int) -> list[float]:
    """Levels that are even in log(alpha / sigma)."""
    ratios = [(process.alpha(sigma) / sigma) for sigma in (first, last)]
    ratio = [ratios[0] ** (1 - i / steps) * ratios[1] ** (i / steps) for i in range(steps + 1)]
    return [1 / (r + (1 if isinstance(process, RectifiedFlow) else 0)) for r in ratio]


@every_process
@every_sampler
def test_samples_have_the_mean_and_the_spread_of_the_data(sampler: Sampler, process: Process):
    noise = BatchNoise([4], (16_000,))
    denoise = end_of_ode(process) if sampler.name == "lcm" else posterior_mean(process)
    if isinstance(process, RectifiedFlow):
        sigmas = [1 - i / 250 for i in range(251)]
        start = noise()
    else:
        sigmas = Registry("schedule", SCHEDULES)["karras"].sigmas(250, LEVELS)
        start = MEAN + spread(process, sigmas[0]) * noise()
    samples = sampler.sample(denoise, start, sigmas, process, noise)
    # TCD's jumps stay long however many the steps, so that no denoiser of this kind is exact for it
    assert samples.std().item() == pytest.approx(STD, rel=0.07 if sampler.name == "tcd" else 0.03)
    assert samples.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert samples.dtype == torch.float32


@every_process
@pytest.mark.parametrize(
    ("name", "order"), [("euler", 1), ("ddim", 1), ("heun", 2), ("dpmpp_2m", 2)], ids=lambda value: str(value)
)
def test_errors_fall_with_the_order_of_the_solver(name: str, order: int, process: Process):
    first, last = (0.9, 0.1) if isinstance(process, RectifiedFlow) else (10.0, 0.1)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)  # double, so that rounding does not hide the order
    exact = follow_ode(process, x, first, last)

    def error(steps: int) -> float:
        sigmas = even_in_log_snr(process, first, last, steps)
        found = SAMPLERS[name].sample(posterior_mean(process), x, sigmas, process, BatchNoise([0], (9,)))
        return (found - exact).abs().max().item()

    assert error(128) / error(256) == pytest.approx(2**order, rel=0.1)


@pytest.mark.parametrize("schedule", ["simple", "sgm_uniform", "karras"])
@pytest.mark.parametrize("name", ["heun", "dpmpp_2m"])
def test_second_order_pays_on_flows_from_pure_noise_to_the_end(name: str, schedule: str):
    process = RectifiedFlow()
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    sigmas = Registry("schedule", SCHEDULES)[schedule].sigmas(20, FlowLevels(3.0))

    def error(sampler: Sampler) -> float:
        found = sampler.sample(posterior_mean(process), x, sigmas, process, BatchNoise([0], (9,)))
        return (found - follow_ode(process, x, 1.0, 0.0)).abs().max().item()

    assert error(SAMPLERS[name]) < error(SAMPLERS["euler"]) / 2


@pytest.mark.parametrize("step_numbers", [(8, 16, 32, 64, 128)])
def test_more_steps_of_the_sde_sampler_refine_the_same_picture(step_numbers):
    """Driven by one Brownian path, the pictures converge; with unrelated noise they would stay sqrt(2) * STD apart."""
    process = VarianceExploding()
    x = spread(process, 10.0) * BatchNoise([3], (2000,))()
    pictures: list[Tensor] = []
    for steps in step_numbers:
        sigmas = even_in_log_snr(process, 10.0, 0.05, steps)
        noise = BatchNoise([3], (2000,))
        pictures.append(SAMPLERS["dpmpp_2m_sde"].sample(posterior_mean(process), x, sigmas, process, noise))
    distances = [(fine - coarse).std().item() for coarse, fine in pairwise(pictures)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.1 * STD


@pytest.mark.parametrize("source", noise_module.BUILTIN, ids=lambda source: source.name)
@every_process
@every_sampler
def test_image_of_a_batch_is_the_single_image(sampler: Sampler, process: Process, source):
    seeds, shape = [5, 2**35, 99], (4, 8, 8)
    sigmas = [0.95, 0.7, 0.4, 0.1, 0.0]

    def sample(of: Sequence[int]) -> Tensor:
        noise = BatchNoise(of, shape, source)
        return sampler.sample(lambda x, sigma: torch.tanh(x) * (1 - sigma / 2), noise(), sigmas, process, noise)

    assert torch.equal(sample(seeds), torch.cat([sample([seed]) for seed in seeds]))


@every_process
@every_sampler
def test_arguments_are_left_alone_and_runs_repeat(sampler: Sampler, process: Process):
    x = BatchNoise([1], (4, 4, 4))()
    before = x.clone()
    sigmas = (0.9, 0.5, 0.2, 0.0)
    first, second = (
        sampler.sample(posterior_mean(process), x, sigmas, process, BatchNoise([1], (4, 4, 4))) for _ in range(2)
    )
    assert torch.equal(x, before)
    assert torch.equal(first, second)


@every_sampler
def test_only_samplers_that_say_so_draw_noise(sampler: Sampler):
    class Counting(BatchNoise):
        draws = 0

        def __call__(self) -> Tensor:
            self.draws += 1
            return super().__call__()

        def between(self, sigma: float, sigma_next: float) -> Tensor:
            self.draws += 1
            return super().between(sigma, sigma_next)

    noise = Counting([1], (4,))
    x = torch.ones(1, 4)
    sampler.sample(posterior_mean(VarianceExploding()), x, [3.0, 2.0, 1.0, 0.0], VarianceExploding(), noise)
    assert noise.draws == (2 if sampler.uses_noise else 0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.name)
@every_sampler
def test_zero_terminal_snr_models_start_from_pure_noise(sampler: Sampler, schedule):
    """A v-predicting network in float32 from sigma 4519 on: finite, and the data's spread as far as 30 steps go.

    A1111's Beta is even in sigma, so of 4519 all but the last of its steps are far above what decides mean and spread.
    """
    process = VarianceExploding()
    exact = end_of_ode(process) if sampler.name == "lcm" else posterior_mean(process)

    def network(x: Tensor, timesteps: Tensor) -> Tensor:
        sigma = ZERO_SNR.sigma(timesteps[0].item())
        alpha = 1 / math.hypot(1, sigma)
        x0 = exact((x / alpha).double(), sigma)
        noise = (x.double() - alpha * x0) / (sigma * alpha)
        return (alpha * noise - sigma * alpha * x0).float()

    noise = BatchNoise([4], (4000,))
    sigmas = schedule.sigmas(30, ZERO_SNR)
    samples = sampler.sample(denoiser(network, VPrediction(), ZERO_SNR), sigmas[0] * noise(), sigmas, process, noise)
    assert samples.isfinite().all()
    if schedule.name == "beta_a1111":
        assert samples.mean().item() == pytest.approx(MEAN, abs=0.3)
        return
    assert samples.mean().item() == pytest.approx(MEAN, abs=0.05)
    assert 0.5 * STD < samples.std().item() < 1.5 * STD


@every_sampler
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.name)
def test_one_step_gives_the_denoised_start(sampler: Sampler, schedule):
    process = VarianceExploding()
    noise = BatchNoise([4], (100,))
    sigmas = schedule.sigmas(1, LEVELS)
    x = sigmas[0] * noise()
    sampled = sampler.sample(posterior_mean(process), x, sigmas, process, noise)
    assert torch.allclose(sampled, posterior_mean(process)(x, sigmas[0]), atol=1e-5)


# Step by step against diffusers ---------------------------------------------------------------------------------------

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHAPE = (2, 4, 8, 8)
STEPS = 10


class RecordingNetwork:
    """A fixed nonlinear function of its inputs that remembers them."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []

    def __call__(self, x: Tensor, timesteps: Tensor) -> Tensor:
        self.inputs.append(x)
        mixed = x + 0.5 * x.roll(1, dims=-1) - 0.3 * x.roll(1, dims=1)
        return torch.tanh(mixed) + 0.2 * torch.sin(timesteps / 150)[:, None, None, None]


class SharedNoise:
    """The draws of diffusers' generator, for both kinds of noise."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(8)

    def __call__(self) -> Tensor:
        return torch.randn(SHAPE, generator=self._generator)

    def between(self, sigma: float, sigma_next: float) -> Tensor:
        return self()


def scheduler_for(name: str, prediction_type: str):
    common = {**BETAS, "prediction_type": prediction_type}
    trailing = {**common, "timestep_spacing": "trailing"}
    match name:
        case "euler":
            return EulerDiscreteScheduler(**trailing)
        case "euler_ancestral":
            return EulerAncestralDiscreteScheduler(**trailing)
        case "heun":
            return HeunDiscreteScheduler(**trailing)
        case "dpmpp_2m":
            return DPMSolverMultistepScheduler(**trailing, algorithm_type="dpmsolver++", solver_order=2)
        case "dpmpp_2m_sde":
            return DPMSolverMultistepScheduler(**trailing, algorithm_type="sde-dpmsolver++", solver_order=2)
        case "ddim":
            return DDIMScheduler(**trailing, clip_sample=False)
        case "lcm":
            return LCMScheduler(**common, clip_sample=False)
        case "tcd":
            return TCDScheduler(**common, clip_sample=False)
        case _:
            raise AssertionError(f"no scheduler to compare {name} with")


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@every_sampler
def test_every_step_is_that_of_diffusers(sampler: Sampler, prediction_type: str):
    scheduler = scheduler_for(sampler.name, prediction_type)
    scheduler.set_timesteps(STEPS)
    timesteps = scheduler.timesteps.tolist()
    last = LEVELS.sigma_min if sampler.name == "tcd" else 0.0  # their TCD leaves the noise of timestep 0 in
    sigmas = [*(LEVELS.sigma(timestep) for timestep in dict.fromkeys(timesteps)), last]
    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(8)

    theirs = RecordingNetwork()
    x = start * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        predicted = theirs(scheduler.scale_model_input(x, timestep), timestep.float().expand(SHAPE[0]))
        takes_generator = sampler.uses_noise or sampler.name == "ddim"
        x = scheduler.step(predicted, timestep, x, **({"generator": generator} if takes_generator else {})).prev_sample

    ours = RecordingNetwork()
    prediction = EpsPrediction() if prediction_type == "epsilon" else VPrediction()
    if sampler.name == "lcm":
        prediction = LcmBoundary(prediction=prediction, levels=LEVELS)
    # their start in our scale: Euler and its kin have it, the others are smaller by c_in
    scale = scheduler.init_noise_sigma
    first = start * (scale if scale != 1 else math.hypot(1, sigmas[0]))
    sampled = sampler.sample(denoiser(ours, prediction, LEVELS), first, sigmas, VarianceExploding(), SharedNoise())

    assert_same_inputs(ours, theirs)
    assert distance(sampled, x * math.hypot(1, last)) < 1e-4


def distance(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def assert_same_inputs(ours: RecordingNetwork, theirs: RecordingNetwork) -> None:
    assert len(ours.inputs) == len(theirs.inputs)
    for index, (our_input, their_input) in enumerate(zip(ours.inputs, theirs.inputs, strict=True)):
        assert distance(our_input, their_input) < 1e-4, f"evaluation {index}"


FLOW_SOLVER = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
EDM = {"sigma_data": 0.5, "sigma_max": 80.0}
OTHER_KINDS = [
    ("euler", "flow", FlowMatchEulerDiscreteScheduler(shift=3.0)),
    ("ddim", "flow", FlowMatchEulerDiscreteScheduler(shift=3.0)),
    ("heun", "flow", FlowMatchHeunDiscreteScheduler(shift=3.0)),
    ("dpmpp_2m", "flow-whole", DPMSolverMultistepScheduler(**FLOW_SOLVER)),
    ("dpmpp_2m_sde", "flow-whole", DPMSolverMultistepScheduler(**FLOW_SOLVER, algorithm_type="sde-dpmsolver++")),
    ("lcm", "flow", FlowMatchLCMScheduler(shift=3.0)),
    ("euler", "edm", EDMEulerScheduler(**EDM)),
    ("dpmpp_2m", "edm", EDMDPMSolverMultistepScheduler(**EDM)),
    ("dpmpp_2m", "edm-v", EDMDPMSolverMultistepScheduler(**EDM, prediction_type="v_prediction")),
    ("dpmpp_2m_sde", "edm", EDMDPMSolverMultistepScheduler(**EDM, algorithm_type="sde-dpmsolver++")),
]


class WholeTimesteps(FlowLevels):
    """diffusers' DPMSolver cuts the timesteps of flows to whole ones."""

    def timestep(self, sigma: float) -> float:
        return float(int(super().timestep(sigma) + 1e-3))


MODELS: dict[str, tuple[Prediction, Levels, Process]] = {
    "flow": (FlowPrediction(), FlowLevels(3.0), RectifiedFlow()),
    "flow-whole": (FlowPrediction(), WholeTimesteps(3.0), RectifiedFlow()),
    "edm": (EdmPrediction(), EdmLevels(), VarianceExploding()),
    "edm-v": (VPrediction(sigma_data=0.5), EdmLevels(), VarianceExploding()),
}


@pytest.mark.parametrize(
    ("name", "kind", "scheduler"), OTHER_KINDS, ids=[f"{name}-{kind}" for name, kind, _ in OTHER_KINDS]
)
def test_every_step_on_flows_and_edm_is_that_of_diffusers(name: str, kind: str, scheduler):
    prediction, levels, process = MODELS[kind]
    scheduler.set_timesteps(STEPS)
    sigmas = list(dict.fromkeys(scheduler.sigmas.tolist()))  # Heun's are listed twice
    start = sigmas[0] * torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(8)

    theirs = RecordingNetwork()
    x = start
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x
        predicted = theirs(scaled, timestep.float().expand(SHAPE[0]))
        x = scheduler.step(predicted, timestep, x, generator=generator).prev_sample

    ours = RecordingNetwork()
    sampled = SAMPLERS[name].sample(denoiser(ours, prediction, levels), start, sigmas, process, SharedNoise())
    assert_same_inputs(ours, theirs)
    assert distance(sampled, x) < 1e-4


def test_trajectory_consistency_lies_between_euler_and_consistency():
    process = VarianceExploding()
    sigmas = Registry("schedule", SCHEDULES)["lcm"].sigmas(4, LEVELS)
    x = sigmas[0] * BatchNoise([1], (50,))()

    def sample(of) -> Tensor:
        return of(posterior_mean(process), x, sigmas, process, BatchNoise([1], (50,)))

    assert torch.allclose(sample(partial(tcd, gamma=0.0)), sample(SAMPLERS["euler"].sample), atol=1e-4)
    assert torch.allclose(sample(partial(tcd, gamma=1.0)), sample(SAMPLERS["lcm"].sample), atol=0.03)


@every_process
def test_trajectory_consistency_keeps_the_noise_of_every_level(process: Process):
    """What is fed back at a level has just its noise: with x0 = 0 and unit predicted noise, sigma in all."""
    seen: list[float] = []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        seen.append(x.std().item() / sigma)
        return torch.zeros_like(x)

    sigmas = [0.95, 0.7, 0.4, 0.1, 0.0]
    tcd(denoise, 0.95 * BatchNoise([1], (40_000,))(), sigmas, process, BatchNoise([2], (40_000,)))
    assert seen == pytest.approx([1.0] * 4, rel=0.03)
