"""Every sampler: exact solutions on Gaussian data, orders of convergence, diffusers step by step, batch = singles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from torch import Tensor

from backend.diffusion import noise as noise_module
from backend.diffusion.noise import BatchNoise
from backend.diffusion.noise_levels import NoiseLevels
from backend.diffusion.prediction import EpsPrediction, VPrediction, denoiser
from backend.diffusion.process import Denoise, Process, RectifiedFlow, VarianceExploding
from backend.diffusion.samplers import BUILTIN, Sampler
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
    assert samples.std().item() == pytest.approx(STD, rel=0.03)
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
    """A v-predicting network in float32 from sigma 4519 on: finite, and the data's spread as far as 30 steps go."""
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
        case _:
            raise AssertionError(f"no scheduler to compare {name} with")


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@every_sampler
def test_every_step_is_that_of_diffusers(sampler: Sampler, prediction_type: str):
    scheduler = scheduler_for(sampler.name, prediction_type)
    scheduler.set_timesteps(STEPS)
    timesteps = scheduler.timesteps.tolist()
    sigmas = [*(LEVELS.sigma(timestep) for timestep in dict.fromkeys(timesteps)), 0.0]
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
    # their start in our scale: Euler and its kin have it, the others are smaller by c_in
    scale = scheduler.init_noise_sigma
    first = start * (scale if scale != 1 else math.hypot(1, sigmas[0]))
    sampled = sampler.sample(denoiser(ours, prediction, LEVELS), first, sigmas, VarianceExploding(), SharedNoise())

    assert len(ours.inputs) == len(theirs.inputs)
    for index, (our_input, their_input) in enumerate(zip(ours.inputs, theirs.inputs, strict=True)):
        difference = (our_input - their_input).norm() / their_input.norm()
        assert difference.item() < 1e-4, f"evaluation {index}"
    assert ((sampled - x).norm() / x.norm()).item() < 1e-4
