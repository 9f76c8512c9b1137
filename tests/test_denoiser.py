"""Predictions, classifier-free guidance and observers around a network."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from backend.diffusion.edm_levels import EdmLevels
from backend.diffusion.flow_levels import FlowLevels
from backend.diffusion.guidance import Conditioning, classifier_free, image_and_text, rescaled, stacked
from backend.diffusion.lcm_boundary import LcmBoundary
from backend.diffusion.noise import BatchNoise
from backend.diffusion.noise_levels import NoiseLevels
from backend.diffusion.observe import Evaluation, cancellable, observed
from backend.diffusion.prediction import (
    EdmPrediction,
    EpsPrediction,
    FlowPrediction,
    VPrediction,
    X0Prediction,
    denoiser,
)
from backend.diffusion.process import RectifiedFlow, VarianceExploding, start
from backend.diffusion.samplers import BUILTIN
from backend.diffusion.schedules import BUILTIN as SCHEDULES
from backend.errors import Cancelled
from backend.registry import Registry

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


def rescale_noise_cfg(guided: Tensor, for_cond: Tensor, share: float) -> Tensor:
    """Lin et al. 2023, equations 15 and 16, image by image."""
    mixed = [
        share * each * (cond.std() / each.std()) + (1 - share) * each
        for each, cond in zip(guided, for_cond, strict=True)
    ]
    return torch.stack(mixed)


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


@pytest.mark.parametrize("sigma", [0.002, 0.3, 1.0, 80.0])
def test_edm_networks_are_given_and_answer_what_has_unit_variance(sigma):
    """Karras et al. 2022, appendix B.6, where the scalings come from; v of the data over 0.5 is the same, negated."""
    data = 0.5 * X0
    total = math.hypot(sigma, 0.5)

    def network(x: Tensor, timesteps: Tensor) -> Tensor:
        assert torch.allclose(x, (data + sigma * NOISE) / total, atol=1e-6)
        assert timesteps.tolist() == pytest.approx([math.log(sigma) / 4] * 2)
        return (data - 0.25 / total**2 * (data + sigma * NOISE)) * total / (sigma * 0.5)

    x = data + sigma * NOISE
    assert torch.allclose(denoiser(network, EdmPrediction(), EdmLevels())(x, sigma), data, atol=2e-4)
    negated = denoiser(lambda x, timesteps: -network(x, timesteps), VPrediction(sigma_data=0.5), EdmLevels())
    assert torch.allclose(negated(x, sigma), data, atol=2e-4)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 1.0])
def test_flow_networks_are_given_the_mixture_and_answer_its_velocity(sigma):
    def network(x: Tensor, timesteps: Tensor) -> Tensor:
        assert torch.equal(x, mixture)
        assert timesteps.tolist() == pytest.approx([1000 * sigma] * 2)
        return NOISE - X0

    mixture = RectifiedFlow().alpha(sigma) * X0 + sigma * NOISE
    x0 = denoiser(network, FlowPrediction(), FlowLevels(3.0))(mixture, sigma)
    assert torch.allclose(x0, X0, atol=1e-6)


def test_consistency_models_return_their_input_at_timestep_zero_and_hardly_any_of_it_later():
    boundary = LcmBoundary(prediction=EpsPrediction(), levels=LEVELS)
    x = X0 + LEVELS.sigma_min * NOISE
    at_zero = denoiser(lambda x, timesteps: 100 * x, boundary, LEVELS)(x, LEVELS.sigma_min)
    assert torch.allclose(at_zero, x / math.hypot(1, LEVELS.sigma_min))
    for timestep in (19, 259, 999):
        sigma = LEVELS.sigma(timestep)
        scaled = 10 * timestep
        skip, out = 0.25 / (scaled**2 + 0.25), scaled / math.sqrt(scaled**2 + 0.25)
        x0 = denoiser(lambda x, timesteps: NOISE, boundary, LEVELS)(X0 + sigma * NOISE, sigma)
        expected = out * X0 + skip * (X0 + sigma * NOISE) / math.hypot(1, sigma)
        assert torch.allclose(x0, expected, atol=1e-5)
        assert skip < 1e-5


def test_evaluations_can_be_repeated():
    denoise = denoiser(lambda x, timesteps: torch.tanh(x), FlowPrediction(), FlowLevels())
    x = X0.clone()
    first = denoise(x, 0.5)
    denoise(x, 0.25)
    assert torch.equal(denoise(x, 0.5), first)
    assert torch.equal(x, X0)


def test_dmd2_in_one_step_is_asked_for_pure_noise_at_timestep_399():
    process = VarianceExploding()
    sigma, _ = Registry("schedule", SCHEDULES)["dmd2"].sigmas(1, LEVELS)

    def network(x: Tensor, timesteps: Tensor) -> Tensor:
        assert torch.allclose(x, NOISE)
        assert timesteps.tolist() == [399, 399]
        return x

    denoiser(network, EpsPrediction(), LEVELS)(start(process, NOISE, sigma, LEVELS.sigma_max), sigma)


@pytest.mark.parametrize(("process", "levels"), [(VarianceExploding(), LEVELS), (RectifiedFlow(), FlowLevels(3.0))])
def test_pictures_begin_as_noise_of_the_variance_that_the_first_level_has(process, levels):
    assert torch.equal(start(process, NOISE, levels.sigma_max, levels.sigma_max), levels.sigma_max * NOISE)
    rounded = levels.sigma_max * (1 - 1e-15)
    assert torch.allclose(start(process, NOISE, rounded, levels.sigma_max), levels.sigma_max * NOISE)
    lower = levels.level(399)
    begun = start(process, NOISE, lower, levels.sigma_max)
    assert torch.allclose(begun, math.hypot(process.alpha(lower), lower) * NOISE)


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
        if cond.image is not None:
            told = told + cond.image.sum(dim=(1, 2, 3))
        told = (told + (cond.guidance or 0)).repeat_interleave(x.shape[0] // cond.groups)
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


@pytest.mark.parametrize("vector", [False, True], ids=["context", "context-vector"])
@pytest.mark.parametrize("groups", [1, 2])
def test_conditionings_one_after_the_other_give_the_same(groups, vector):
    network = CountingNetwork()
    cond, uncond = conditioning(1, 7, groups, vector), conditioning(8, 7, groups, vector)
    together = classifier_free(network, cond, uncond, 3.0, rescale=0.7)(X0, TIMESTEPS)
    assert network.batches == [4]
    network.batches.clear()
    apart = classifier_free(network, cond, uncond, 3.0, rescale=0.7, sequential=True)(X0, TIMESTEPS)
    assert network.batches == [2, 2]
    assert torch.allclose(together, apart, atol=1e-6)
    network.batches.clear()
    exact = classifier_free(network, cond, uncond, 3.0, rescale=0.7, sequential=True, exact_batches=True)
    assert torch.allclose(exact(X0, TIMESTEPS), together, atol=1e-6)
    assert network.batches == [1, 1, 1, 1]


def test_the_scale_that_a_network_is_told_reaches_it_with_and_without_guidance():
    network = CountingNetwork()
    plain = conditioning(1, 7)
    told = dataclasses.replace(plain, guidance=3.5)
    assert torch.equal(classifier_free(network, told, None, 1.0)(X0, TIMESTEPS), network(X0, TIMESTEPS, told))
    assert not torch.allclose(network(X0, TIMESTEPS, told), network(X0, TIMESTEPS, plain))
    both = classifier_free(network, told, dataclasses.replace(told, context=2 * plain.context), 2.0)
    assert torch.allclose(
        both(X0, TIMESTEPS),
        2 * network(X0, TIMESTEPS, told) - network(X0, TIMESTEPS, dataclasses.replace(told, context=2 * plain.context)),
        atol=1e-6,
    )


def test_conditionings_with_different_told_scales_are_not_mixed_up():
    network = CountingNetwork()
    cond, uncond = dataclasses.replace(conditioning(1, 7), guidance=3.5), conditioning(8, 7)
    guided = classifier_free(network, cond, uncond, 2.0)(X0, TIMESTEPS)
    assert network.batches == [2, 2]
    expected = 2 * network(X0, TIMESTEPS, cond) - network(X0, TIMESTEPS, uncond)
    assert torch.allclose(guided, expected, atol=1e-6)


def with_image(cond: Conditioning, seed: int) -> Conditioning:
    return dataclasses.replace(cond, image=0.1 * BatchNoise(range(seed, seed + cond.groups), (1, 4, 4))())


@pytest.mark.parametrize("sequential", [False, True], ids=["together", "apart"])
def test_image_and_text_have_a_scale_each(sequential):
    network = CountingNetwork()
    cond, uncond = with_image(conditioning(1, 7, 1), 4), with_image(conditioning(8, 7, 1), 4)
    guided = image_and_text(network, cond, uncond, image_scale=1.5, text_scale=7.5, sequential=sequential)
    found = guided(X0, TIMESTEPS)
    assert network.batches == ([2, 2, 2] if sequential else [6])
    for_both, for_image = network(X0, TIMESTEPS, cond), network(X0, TIMESTEPS, uncond)
    for_nothing = network(X0, TIMESTEPS, dataclasses.replace(uncond, image=torch.zeros(1, 1, 4, 4)))
    expected = for_nothing + 1.5 * (for_image - for_nothing) + 7.5 * (for_both - for_image)
    assert torch.allclose(found, expected, atol=1e-5)


def test_image_scale_one_is_guidance_by_the_text_alone():
    network = CountingNetwork()
    cond, uncond = with_image(conditioning(1, 7), 4), with_image(conditioning(8, 7), 4)
    found = image_and_text(network, cond, uncond, image_scale=1.0, text_scale=7.5)(X0, TIMESTEPS)
    assert network.batches == [4]
    assert torch.equal(found, classifier_free(network, cond, uncond, 7.5)(X0, TIMESTEPS))


def test_guidance_by_an_image_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="image"):
        image_and_text(
            CountingNetwork(), conditioning(1, 7), with_image(conditioning(8, 7), 4), image_scale=1.5, text_scale=7.5
        )


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_rescaling_brings_each_image_to_the_spread_of_the_conditional_prediction(share):
    for_cond = torch.stack([NOISE[0], 3 * NOISE[1]])
    guided = 5 * for_cond + 0.2
    found = rescaled(guided, for_cond, share)
    assert torch.allclose(found, rescale_noise_cfg(guided, for_cond, share), atol=1e-5)
    spread = share * for_cond.std((1, 2, 3)) + (1 - share) * guided.std((1, 2, 3))
    assert torch.allclose(found.std((1, 2, 3)), spread, rtol=1e-5)


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
