"""Predictions, classifier-free guidance and observers around a network."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from backend.diffusion.guidance import Conditioning, classifier_free, stacked
from backend.diffusion.noise import BatchNoise
from backend.diffusion.noise_levels import NoiseLevels
from backend.diffusion.observe import Evaluation, cancellable, observed
from backend.diffusion.prediction import EpsPrediction, VPrediction, X0Prediction, denoiser
from backend.diffusion.process import VarianceExploding
from backend.diffusion.samplers import BUILTIN
from backend.errors import Cancelled

LEVELS = NoiseLevels.scaled_linear()
X0 = torch.linspace(-2, 2, 32).view(2, 1, 4, 4)
NOISE = BatchNoise([1, 2], (1, 4, 4))()


def target(kind: str, alpha_bar: float) -> Tensor:
    """What a perfect network answers, by the definitions in variance-preserving form."""
    match kind:
        case "eps":
            return NOISE
        case "v":
            return math.sqrt(alpha_bar) * NOISE - math.sqrt(1 - alpha_bar) * X0
        case _:
            return X0


@pytest.mark.parametrize(
    ("kind", "prediction"), [("eps", EpsPrediction()), ("v", VPrediction()), ("x0", X0Prediction())]
)
@pytest.mark.parametrize("sigma", [0.05, 1.0, 14.6])
def test_perfect_networks_are_turned_into_perfect_denoisers(kind, prediction, sigma):
    alpha_bar = 1 / (1 + sigma**2)

    def network(x: Tensor, timesteps: Tensor) -> Tensor:
        assert torch.allclose(x, math.sqrt(alpha_bar) * X0 + math.sqrt(1 - alpha_bar) * NOISE, atol=1e-6)
        assert timesteps.tolist() == pytest.approx([LEVELS.timestep(sigma)] * 2)
        return target(kind, alpha_bar)

    x0 = denoiser(network, prediction, LEVELS)(X0 + sigma * NOISE, sigma)
    assert torch.allclose(x0, X0, atol=1e-5)


def test_denoiser_computes_in_the_dtype_of_x_when_the_network_does_not():
    denoise = denoiser(lambda x, timesteps: x.bfloat16(), EpsPrediction(), LEVELS)
    assert denoise(X0, 1.0).dtype == torch.float32


class CountingNetwork:
    """Depends on every input and remembers the batch sizes of its calls."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        assert x.shape[0] == timesteps.shape[0]
        assert x.shape[0] % cond.groups == 0
        self.batches.append(x.shape[0])
        told = cond.context.mean(dim=(1, 2))
        if cond.vector is not None:
            told = told + cond.vector.sum(dim=1)
        told = told.repeat_interleave(x.shape[0] // cond.groups)
        return torch.tanh(x * (1 + timesteps / 1000 + told)[:, None, None, None])


def conditioning(seed: int, tokens: int, batch: int = 2, vector: bool = False) -> Conditioning:
    noise = BatchNoise(range(seed, seed + batch), (tokens, 3))()
    return Conditioning(context=noise, vector=BatchNoise(range(seed, seed + batch), (5,))() if vector else None)


def repeated(cond: Conditioning) -> Conditioning:
    return stacked(cond, cond)


TIMESTEPS = torch.tensor([10.0, 10.0])


@pytest.mark.parametrize(("uncond_tokens", "vector", "batches"), [(7, False, [4]), (7, True, [4]), (14, False, [2, 2])])
def test_guidance_extrapolates_from_uncond_to_cond(uncond_tokens, vector, batches):
    network = CountingNetwork()
    cond, uncond = conditioning(1, 7, vector=vector), conditioning(8, uncond_tokens, vector=vector)
    guided = classifier_free(network, cond, uncond, 7.5)(X0, TIMESTEPS)
    assert network.batches == batches
    for_cond, for_uncond = network(X0, TIMESTEPS, cond), network(X0, TIMESTEPS, uncond)
    assert torch.allclose(guided, for_uncond + 7.5 * (for_cond - for_uncond), atol=1e-5)


@pytest.mark.parametrize("uncond", [conditioning(8, 7), None], ids=["given", "none"])
def test_unconditional_pass_is_not_made_at_scale_one(uncond):
    network = CountingNetwork()
    cond = conditioning(1, 7)
    guided = classifier_free(network, cond, uncond, 1.0)(X0, TIMESTEPS)
    assert network.batches == [2]
    assert torch.equal(guided, network(X0, TIMESTEPS, cond))


def test_one_conditioning_serves_a_whole_batch():
    network = CountingNetwork()
    cond, uncond = conditioning(1, 7, batch=1, vector=True), conditioning(8, 7, batch=1, vector=True)
    shared = classifier_free(network, cond, uncond, 3.0)(X0, TIMESTEPS)
    spelled_out = classifier_free(network, repeated(cond), repeated(uncond), 3.0)(X0, TIMESTEPS)
    assert torch.equal(shared, spelled_out)


def test_exact_batches_call_the_network_as_for_single_images():
    network = CountingNetwork()
    cond, uncond = conditioning(1, 7, vector=True), conditioning(8, 7, batch=1, vector=True)
    batch = classifier_free(network, cond, uncond, 3.0, exact_batches=True)(X0, TIMESTEPS)
    assert network.batches == [2, 2]
    second = classifier_free(network, cond.group(1), uncond, 3.0)(X0[1:], TIMESTEPS[1:])
    assert torch.equal(batch[1:], second)
    network.batches.clear()
    classifier_free(network, cond, None, 1.0, exact_batches=True)(X0, TIMESTEPS)
    assert network.batches == [1, 1]


def test_guidance_without_an_unconditional_side_is_refused():
    with pytest.raises(ValueError, match="scale 7"):
        classifier_free(CountingNetwork(), conditioning(1, 7), None, 7.0)


@pytest.mark.parametrize("sampler", BUILTIN, ids=lambda sampler: sampler.name)
def test_observer_hears_of_every_step(sampler):
    heard: list[Evaluation] = []
    calls = 0

    def denoise(x: Tensor, sigma: float) -> Tensor:
        nonlocal calls
        calls += 1
        return 0.5 * x

    watched = observed(denoise, heard.append, evaluations_per_step=sampler.evaluations_per_step)
    sigmas = [8.0, 4.0, 2.0, 1.0, 0.0]
    sampler.sample(watched, X0, sigmas, VarianceExploding(), BatchNoise([1, 2], (1, 4, 4)))
    assert calls == len(heard)
    steps = [evaluation.step for evaluation in heard]
    assert sorted(set(steps)) == [0, 1, 2, 3]
    assert steps == sorted(steps)
    assert heard[0].sigma == 8.0
    assert torch.equal(heard[0].x0, 0.5 * X0)
    assert heard[-1].sigma == 1.0


def test_cancelled_sampling_stops_before_the_next_call():
    seen: list[float] = []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        seen.append(sigma)
        return x

    stopping = cancellable(denoise, lambda: len(seen) == 2)
    with pytest.raises(Cancelled):
        BUILTIN[0].sample(stopping, X0, [8.0, 4.0, 2.0, 0.0], VarianceExploding(), BatchNoise([1, 2], (1, 4, 4)))
    assert seen == [8.0, 4.0]
