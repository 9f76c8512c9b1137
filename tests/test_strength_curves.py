"""Strengths of adapters that change over the steps of a picture: which model makes which step, and what that costs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backend.adapter_row import AdapterRow, StrengthCurve
from backend.adapters.lora_file import Adapter
from backend.adapters.patched import PlacedAdapter, patched
from backend.diffusion.guidance import ConditionedNetwork, classifier_free
from backend.diffusion.noise import BatchNoise
from backend.diffusion.prediction import denoiser
from backend.diffusion.process import Denoise, start
from backend.diffusion.samplers.sampler import Sampler
from backend.diffusion.schedules import sigmas_for
from backend.errors import Cancelled
from backend.families import flux, sd1
from backend.families.family import Model, ModelFiles, Prompt
from backend.memory.dtype_policy import DtypePolicy
from backend.memory.residency import Residency
from backend.pipeline.generate import GeneratedImage, generate
from backend.pipeline.plan import GenerationPlan
from backend.pipeline.step_models import step_at
from backend.recipe import AdapterUse, FileRef
from backend.weights.safetensors_file import open_safetensors
from backend.weights.source import InMemory, PlainStorage, TensorSpec, WeightSource
from tests.test_generate import Recorder, machine, plan_of
from tests.tiny_adapters import CONV, KEY, KOHYA, QUERY, TEXT, lora_tensors
from tests.tiny_checkpoint import METADATA, UNET, tiny_tensors
from tests.tiny_families import write_tiny_family

TENSORS = tiny_tensors(unet=dataclasses.replace(UNET, channel_mult=(1,)))
SHAPES = {name: tuple(TENSORS[f"{name}.weight"].shape) for name in (QUERY, KEY, CONV, TEXT)}
LORA = lora_tensors({KOHYA[name]: shape for name, shape in SHAPES.items()}, rank=2, alpha=8.0)
DENOISER_LAYERS = {f"{QUERY}.weight", f"{KEY}.weight", f"{CONV}.weight", f"{CONV}.bias"}
FALLING = StrengthCurve(points=((0.0, 1.0), (0.5, 0.0)))
FLOAT32 = DtypePolicy(unet=torch.float32, text_encoder=torch.float32, autoencoder=torch.float32)


class Counting(PlainStorage):
    """A source that remembers which keys were read, one by one."""

    def __init__(self, source: WeightSource) -> None:
        self._source = source
        self.reads: list[str] = []
        self.metadata, self.origin = source.metadata, source.origin

    def keys(self) -> Sequence[str]:
        return self._source.keys()

    def spec(self, key: str) -> TensorSpec:
        return self._source.spec(key)

    def identity(self, key: str) -> str:
        return self._source.identity(key)

    def read(self, key: str) -> Tensor:
        self.reads.append(key)
        return self._source.read(key)

    def read_into(self, key: str, out: Tensor) -> None:
        self.reads.append(key)
        self._source.read_into(key, out)


class Variants:
    """A checkpoint with a LoRA of several strengths, equal ones being one model."""

    def __init__(
        self,
        curve: StrengthCurve | None,
        *,
        lora: dict[str, Tensor] = LORA,
        strength: float = 1.0,
        text_strength: float = 1.0,
        residency: Residency | None = None,
        wrapped: Callable[[Model], Model] = lambda model: model,
    ) -> None:
        use = AdapterUse(file=FileRef(name="cat"), strength=strength, text_encoder_strength=text_strength)
        self.row = AdapterRow(use=use, curve=curve)
        self.sources: dict[AdapterUse, Counting] = {}
        self.asked: list[tuple[int, int]] = []
        self.residency = residency or Residency(2**30)
        self._machine = dataclasses.replace(machine(), policy=FLOAT32, residency=self.residency)
        self._checkpoint = InMemory(TENSORS, metadata=METADATA)
        self._lora = Adapter(InMemory(lora, origin=Path("cat.safetensors")))
        self._wrapped = wrapped
        self.model = cache(self._load)

    def at(self, step: int, num_steps: int) -> Model:
        self.asked.append((step, num_steps))
        return self.model(self.row.use_at(step, num_steps))

    def with_strength(self, strength: float) -> Model:
        return self.model(dataclasses.replace(self.row.use, strength=strength))

    def images(self, plan: GenerationPlan, **options: object) -> list[GeneratedImage]:
        reader = self.at(0, plan.steps)
        return list(generate(plan, reader, Recorder(), lambda: False, models=self.at, **options))  # type: ignore[arg-type]

    def _load(self, use: AdapterUse) -> Model:
        placed = PlacedAdapter(
            adapter=self._lora, strength=use.strength, text_encoder_strength=use.text_encoder_strength
        )
        self.sources[use] = Counting(patched(self._checkpoint, [placed], "sd1"))
        return self._wrapped(sd1.load(ModelFiles(checkpoint=self.sources[use]), self._machine))


def pixels(images: Sequence[GeneratedImage]) -> list[bytes]:
    return [image.pixels.tobytes() for image in images]


@cache
def alone(strength: float, text_strength: float = 1.0) -> Model:
    """The model with one strength, in memory of its own."""
    return Variants(None, text_strength=text_strength).with_strength(strength)


@cache
def shared(curve: StrengthCurve) -> Variants:
    """For tests that do not count what is loaded."""
    return Variants(curve)


@cache
def plain(strength: float, text_strength: float, sampler: str) -> list[bytes]:
    """A picture with the same strength in all steps."""
    plan = plan_of(sampler=sampler)
    return pixels(list(generate(plan, alone(strength, text_strength), Recorder(), lambda: False)))


# Which model makes which step


STEADY = [
    StrengthCurve(points=((0.0, 0.7),)),
    StrengthCurve(points=((0.0, 0.7), (1.0, 0.7))),
    StrengthCurve(points=((5.0, 0.7), (9.0, 1.0)), in_steps=True),
]


@pytest.mark.parametrize(
    ("sampler", "curve"), [*(("euler", curve) for curve in STEADY), ("dpmpp_2m", STEADY[1]), ("heun", STEADY[1])]
)
def test_a_curve_that_does_not_change_is_a_plain_strength_bit_for_bit(sampler, curve) -> None:
    variants = Variants(curve, strength=0.7, text_strength=0.7)
    assert pixels(variants.images(plan_of(sampler=sampler))) == plain(0.7, 0.7, sampler)
    assert len(variants.sources) == 1


def test_a_curve_changes_the_picture() -> None:
    changing = pixels(shared(FALLING).images(plan_of(sampler="euler")))
    assert len({changing[0], plain(1.0, 1.0, "euler")[0], plain(0.0, 1.0, "euler")[0]}) == 3


def recorded(sampler: Sampler, found: list[tuple[float, Tensor]]) -> Sampler:
    """The sampler, which also notes what each evaluation was for and what came of it."""

    def sample(denoise: Denoise, x: Tensor, sigmas: Sequence[float], *others: object) -> Tensor:
        def noting(x: Tensor, sigma: float) -> Tensor:
            x0 = denoise(x, sigma)
            found.append((sigma, x0))
            return x0

        return sampler.sample(noting, x, sigmas, *others)  # type: ignore[arg-type]

    return dataclasses.replace(sampler, sample=sample)


def euler_by_hand(denoise: Sequence[Denoise], x: Tensor, sigmas: Sequence[float]) -> list[Tensor]:
    found: list[Tensor] = []
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        found.append(denoise[step](x, sigma))
        x = found[-1] + sigma_next * ((x - found[-1]) / sigma)
    return found


def heun_by_hand(denoise: Sequence[Denoise], x: Tensor, sigmas: Sequence[float]) -> list[Tensor]:
    """The slope at the end of a step is that of the step which begins there."""
    found: list[Tensor] = []
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        found.append(denoise[step](x, sigma))
        slope = (x - found[-1]) / sigma
        end = found[-1] + sigma_next * slope
        if sigma_next > 0:
            found.append(denoise[step + 1](end, sigma_next))
            end = end + (sigma_next - sigma) * ((end - found[-1]) / sigma_next - slope) / 2
        x = end
    return found


def dpmpp_2m_by_hand(denoise: Sequence[Denoise], x: Tensor, sigmas: Sequence[float]) -> list[Tensor]:
    """The history goes on over changes of the model."""
    found: list[Tensor] = []
    before = 0.0
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        found.append(denoise[step](x, sigma))
        h = math.inf if sigma_next == 0 else math.log(sigma / sigma_next)
        is_second = step > 0 and sigma_next > 0
        data = found[-1] + h / (2 * before) * (found[-1] - found[-2]) if is_second else found[-1]
        x = sigma_next / sigma * x + (1 - math.exp(-h)) * data
        before = h
    return found


def bound(model: Model, plan: GenerationPlan, sigmas: Sequence[float], reader: Model) -> Denoise:
    """One model's denoiser, as it is for a whole picture."""
    prompt = Prompt(text=plan.words, clip_skip=plan.clip_skip, emphasis=plan.emphasis, width=64, height=64)
    cond = reader.encode_prompt(prompt)
    uncond = reader.encode_prompt(dataclasses.replace(prompt, text=plan.negative_words, is_negative=True))
    levels = model.levels(64, 64, None)
    network = model.network([levels.timestep(sigma) for sigma in sigmas if sigma > 0])
    return denoiser(classifier_free(network, cond, uncond, plan.guidance_scale), model.prediction, levels)


BY_HAND = {"euler": euler_by_hand, "heun": heun_by_hand, "dpmpp_2m": dpmpp_2m_by_hand}
CURVES = {
    "falling": (FALLING, [1.0, 0.5, 0.0, 0.0]),
    "from the second step": (StrengthCurve(points=((1.0, 0.0), (1.0, 0.8)), in_steps=True), [0.0, 0.8, 0.8, 0.8]),
    "on and off and on": (StrengthCurve(points=((0.0, 1.0), (0.25, 0.0), (0.5, 1.0))), [1.0, 0.0, 1.0, 1.0]),
}


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("sampler", BY_HAND)
def test_every_step_is_that_of_the_model_with_its_strength(sampler, curve) -> None:
    plan = plan_of(sampler=sampler, schedule="karras", negative_prompt="dog")
    points, strengths = CURVES[curve]
    found: list[tuple[float, Tensor]] = []
    shared(points).images(dataclasses.replace(plan, sampler=recorded(plan.sampler, found)))

    models = [alone(strength) for strength in strengths]
    levels = models[0].levels(64, 64, None)
    sigmas = sigmas_for(plan.schedule, plan.steps, levels)
    noise = BatchNoise([plan.seed], models[0].latent_shape(64, 64), plan.noise_source)
    x = start(models[0].process, noise(), sigmas[0], levels.sigma_max)
    expected = BY_HAND[sampler]([bound(model, plan, sigmas, models[0]) for model in models], x, sigmas)
    assert len(found) == len(expected)
    for (_, x0), wanted in zip(found, expected, strict=True):
        assert torch.allclose(x0, wanted, rtol=1e-3, atol=1e-4)


def test_a_transformer_changes_as_well(tmp_path: Path) -> None:
    path = write_tiny_family("flux", tmp_path / "flux.safetensors")
    source = open_safetensors(path)
    key = "model.diffusion_model.double_blocks.0.img_attn.qkv.weight"
    lora = {name.replace(KOHYA[QUERY], "lora_unet_double_blocks_0_img_attn_qkv"): tensor for name, tensor in
            lora_tensors({KOHYA[QUERY]: source.spec(key).shape}, alpha=8.0).items()}  # fmt: skip
    added = Adapter(InMemory(lora, origin=Path("cat.safetensors")))
    used = machine()

    @cache
    def model(strength: float) -> Model:
        changed = patched(source, [PlacedAdapter(adapter=added, strength=strength)], "flux")
        return flux.load(ModelFiles(checkpoint=changed), used)

    plan = plan_of(sampler="euler", guidance_scale=1.0, distilled_guidance=None)
    found: list[tuple[float, Tensor]] = []
    watched = dataclasses.replace(plan, sampler=recorded(plan.sampler, found))
    by_step = [1.0, 0.5, 0.0, 0.0]
    list(generate(watched, model(1.0), Recorder(), lambda: False, models=lambda step, _: model(by_step[step])))
    for strength in (1.0, 0.0):
        one: list[tuple[float, Tensor]] = []
        alone = dataclasses.replace(plan, sampler=recorded(plan.sampler, one))
        list(generate(alone, model(strength), Recorder(), lambda: False))
        same = [torch.equal(x0, other) for (_, x0), (_, other) in zip(found, one, strict=True)]
        assert same == [strength == 1.0, False, False, False]


@pytest.mark.parametrize(
    ("sigma", "step"), [(20.0, 0), (10.0, 0), (9.9, 0), (5.1, 0), (5.0, 1), (1.0, 2), (0.5, 2), (0.0, 2), (7.0, 0)]
)
def test_a_noise_level_belongs_to_the_step_that_goes_through_it(sigma, step) -> None:
    assert step_at(sigma, [10.0, 5.0, 1.0, 0.0]) == step


def test_a_refiner_takes_none_of_the_steps_that_are_asked_for() -> None:
    plan = plan_of(sampler="euler", steps=10, refiner="refiner", refiner_switch=0.6)
    asked: list[tuple[int, int]] = []

    def model_at(step: int, num_steps: int) -> Model:
        asked.append((step, num_steps))
        return alone(1.0)

    list(generate(plan, alone(1.0), Recorder(), lambda: False, models=model_at, refiner=alone(0.5)))
    assert asked == [(step, 10) for step in range(6)]


# What it costs


def test_only_what_the_lora_touches_is_read_at_a_change_and_nothing_for_further_pictures() -> None:
    variants = Variants(FALLING)
    variants.images(plan_of(sampler="euler"))
    first, second, third = variants.sources.values()
    assert set(third.reads) == set(second.reads) == DENOISER_LAYERS
    assert len(third.reads) == len(second.reads) == len(DENOISER_LAYERS)
    whole = [key for key in first.reads if key.startswith("model.diffusion_model.")]
    assert len(whole) == len(set(whole)) == sum(key.startswith("model.diffusion_model.") for key in TENSORS)
    assert f"{TEXT}.weight" in first.reads
    assert not any(key.startswith("cond_stage_model.") for source in (second, third) for key in source.reads)

    before = [len(source.reads) for source in variants.sources.values()]
    again = variants.images(plan_of(sampler="euler", batch_count=2))  # there is room for all strengths
    assert [len(source.reads) for source in variants.sources.values()] == before
    assert pixels(again)[0] != pixels(again)[1]


def test_each_step_is_asked_for_once_and_equal_strengths_are_one_model() -> None:
    variants = Variants(StrengthCurve(points=((2.0, 1.0), (2.0, 0.0)), in_steps=True))
    variants.images(plan_of(sampler="euler", steps=6, batch_count=2, guidance_scale=1.0))
    assert sorted(variants.asked[1:]) == [(step, 6) for step in range(6)]
    assert len(variants.sources) == 2


def whole_unet() -> dict[str, Tensor]:
    """A LoRA for every layer of the U-Net that is a matrix."""
    prefix = "model.diffusion_model."
    names = {key: tuple(value.shape) for key, value in TENSORS.items() if key.startswith(prefix) and value.dim() == 2}
    layers = {key.removeprefix("model.").removesuffix(".weight"): shape for key, shape in names.items()}
    return lora_tensors(layers, rank=1, alpha=1.0)


def unet_bytes() -> int:
    return 4 * sum(value.numel() for key, value in TENSORS.items() if key.startswith("model.diffusion_model."))


def test_variants_are_never_held_together_where_memory_is_short() -> None:
    plan = plan_of(sampler="euler")
    ample = pixels(Variants(FALLING, lora=whole_unet()).images(plan))
    budget = int(1.5 * unet_bytes())
    used: list[int] = []
    variants = Variants(FALLING, lora=whole_unet(), residency=Residency(budget, small=0))

    def sample(denoise: Denoise, x: Tensor, sigmas: Sequence[float], *others: object) -> Tensor:
        def measured(x: Tensor, sigma: float) -> Tensor:
            x0 = denoise(x, sigma)
            used.append(variants.residency.used())
            return x0

        return plan.sampler.sample(measured, x, sigmas, *others)  # type: ignore[arg-type]

    short = variants.images(dataclasses.replace(plan, sampler=dataclasses.replace(plan.sampler, sample=sample)))
    assert pixels(short) == ample
    assert len(used) == 4
    assert unet_bytes() * 0.9 < max(used) <= budget


# What stays as it is


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m"])
def test_exact_batches_stay_exact(sampler) -> None:
    variants = shared(FALLING)
    batch = pixels(variants.images(plan_of(sampler=sampler, batch_size=2, exact_batches=True)))
    assert batch == [pixels(variants.images(plan_of(sampler=sampler, seed=7 + index)))[0] for index in range(2)]


def test_progress_counts_the_same_steps_and_previews_come() -> None:
    variants, recorder = shared(FALLING), Recorder()
    plan = plan_of(sampler="heun")
    list(generate(plan, variants.at(0, 4), recorder, lambda: False, models=variants.at))
    assert [step for step, _ in recorder.steps] == [1, 1, 2, 2, 3, 3, 4]
    assert recorder.previews
    assert recorder.stages == ["encoding the prompt", "loading the model", "sampling", "decoding"]


def test_a_cancelled_job_loads_no_further_model() -> None:
    variants, recorder = Variants(FALLING), Recorder()
    plan = plan_of(sampler="euler")
    with pytest.raises(Cancelled):
        list(generate(plan, variants.at(0, 4), recorder, lambda: len(recorder.steps) >= 1, models=variants.at))
    assert recorder.steps == [(1, 4)]
    assert [bool(source.reads) for source in variants.sources.values()] == [True, False]


class Failing:
    """A model whose network finds no memory the first time."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.failures = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def network(self, timesteps: Sequence[float], working_bytes: int = 0) -> ConditionedNetwork:
        if self.failures == 0:
            self.failures = 1
            raise MemoryError
        return self._model.network(timesteps, working_bytes)


def test_a_change_that_runs_out_of_memory_is_made_again() -> None:
    plan = plan_of(sampler="dpmpp_2m")
    made: list[Failing] = []

    def wrapped(model: Model) -> Model:
        if not made:  # the first model is loaded outside of the sampler
            made.append(Failing(model))
            made[0].failures = 1
        else:
            made.append(Failing(model))
        return made[-1]  # type: ignore[return-value]

    variants, recorder = Variants(FALLING, wrapped=wrapped), Recorder()
    images = list(
        generate(plan, variants.at(0, 4), recorder, lambda: False, models=variants.at, residency=variants.residency)
    )
    assert pixels(images) == pixels(shared(FALLING).images(plan))
    assert [model.failures for model in made] == [1, 1, 1]
    assert len(recorder.notices) == 1


# The text encoder


def test_text_encoders_have_the_same_strength_in_all_steps() -> None:
    row = AdapterRow(use=AdapterUse(file=FileRef(name="cat"), strength=0.8), curve=FALLING)
    uses = [row.use_at(step, 4) for step in range(4)]
    assert [use.strength for use in uses] == [1.0, 0.5, 0.0, 0.0]
    assert [use.text_encoder_strength for use in uses] == [0.8] * 4
    own = dataclasses.replace(row, use=dataclasses.replace(row.use, text_encoder_strength=0.3))
    assert {own.use_at(step, 4).text_encoder_strength for step in range(4)} == {0.3}
    assert dataclasses.replace(row, curve=None).use_at(3, 4) == row.use
