"""Plans to pictures: batches equal singles, jobs stop and go on, what is open is filled in."""

import dataclasses

import numpy as np
import pytest
import torch

from backend.diffusion.guidance import Conditioning
from backend.diffusion.schedules import sigmas_for
from backend.engine.catalog import Catalog
from backend.errors import Cancelled, NumericalError, RequestError, UnknownName
from backend.families.family import Defaults, Description, Machine, Model, ModelFiles, Prompt
from backend.families.sd1 import load
from backend.memory.device import DeviceFacts
from backend.memory.dtype_policy import DtypePolicy
from backend.memory.residency import Residency
from backend.pipeline.generate import GeneratedImage, generate
from backend.pipeline.infotext import read_infotext, request_from_infotext
from backend.pipeline.metadata import infotext_of, request_of
from backend.pipeline.passes import passes_of, steps_before_refiner
from backend.pipeline.plan import Choices, GenerationPlan, ModelName, Standing, resolve, seed_of
from backend.request import MAX_SEED, GenerationRequest
from backend.weights.safetensors_file import open_safetensors
from backend.weights.source import InMemory
from tests.tiny_checkpoint import METADATA, tiny_tensors, write_tiny_checkpoint

CATALOG = Catalog.builtin()
CHOICES = Choices(
    samplers=CATALOG.samplers,
    schedules=CATALOG.schedules,
    emphasis_modes=CATALOG.emphasis_modes,
    noise_sources=CATALOG.noise_sources,
)
BFLOAT16 = DtypePolicy(unet=torch.bfloat16, text_encoder=torch.bfloat16, autoencoder=torch.bfloat16)


def machine() -> Machine:
    device = DeviceFacts(kind="cpu", name="test", total_bytes=2**33, has_bfloat16=True, has_float16=False)
    return Machine(device=device, policy=BFLOAT16, residency=Residency(2**30))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny.safetensors")
    return load(ModelFiles(checkpoint=open_safetensors(path)), machine())


def plan_of(standing: Standing | None = None, size_step: int = 8, **fields: object) -> GenerationPlan:
    request = GenerationRequest.from_mapping({"prompt": "a (cat:1.2)", "steps": 4, "seed": 7, **fields})
    return resolve(
        request,
        model=ModelName(checkpoint="tiny"),
        description=Description(native_size=64, defaults=Defaults(), size_step=size_step),
        choices=CHOICES,
        standing=standing or Standing(),
        refiner=ModelName(checkpoint=request.refiner) if request.refiner else None,
    )


class Recorder:
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.steps: list[tuple[int, int]] = []
        self.previews: list[bytes] = []
        self.notices: list[str] = []

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def progress(self, step: int, steps: int, seconds_per_step: float, eta_seconds: float) -> None:
        assert seconds_per_step >= 0
        assert eta_seconds >= 0
        self.steps.append((step, steps))

    def preview(self, jpeg: bytes) -> None:
        self.previews.append(jpeg)


def images_of(model: Model, plan: GenerationPlan, *, first_image: int = 0) -> list[GeneratedImage]:
    return list(generate(plan, model, Recorder(), lambda: False, first_image=first_image))


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "heun", "lcm"])
@pytest.mark.parametrize("noise_source", ["nv", "cpu"])
def test_an_image_of_a_batch_equals_the_image_made_alone(model: Model, sampler: str, noise_source: str) -> None:
    batch = images_of(model, plan_of(sampler=sampler, batch_size=3, noise_source=noise_source))
    for index, image in enumerate(batch):
        alone = images_of(model, plan_of(sampler=sampler, seed=7 + index, noise_source=noise_source))[0]
        assert image.seed == alone.seed == 7 + index
        difference = np.abs(image.pixels.astype(int) - alone.pixels.astype(int))
        assert difference.mean() < 0.5
    assert not np.array_equal(batch[0].pixels, batch[1].pixels)


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m"])
def test_with_exact_batches_the_bytes_are_the_same(model: Model, sampler: str) -> None:
    batch = images_of(model, plan_of(sampler=sampler, batch_size=3, exact_batches=True))
    alone = [images_of(model, plan_of(sampler=sampler, seed=7 + index))[0] for index in range(3)]
    assert [image.pixels.tobytes() for image in batch] == [image.pixels.tobytes() for image in alone]


def test_the_same_plan_gives_the_same_bytes(model: Model) -> None:
    plan = plan_of(sampler="dpmpp_2m_sde", schedule="karras")
    assert np.array_equal(images_of(model, plan)[0].pixels, images_of(model, plan)[0].pixels)


def test_a_job_goes_on_at_its_first_missing_image(model: Model) -> None:
    plan = plan_of(batch_size=2, batch_count=2, exact_batches=True)
    whole = images_of(model, plan)
    for first in (1, 2, 3):
        rest = images_of(model, plan, first_image=first)
        assert [image.index for image in rest] == list(range(first, 4))
        assert [i.pixels.tobytes() for i in rest] == [i.pixels.tobytes() for i in whole[first:]]


def test_pictures_have_the_size_and_kind_that_was_asked_for(model: Model) -> None:
    image = images_of(model, plan_of(width=96, height=72))[0]
    assert image.pixels.shape == (72, 96, 3)
    assert image.pixels.dtype == np.uint8


def test_cancelling_stops_before_the_next_evaluation(model: Model) -> None:
    recorder = Recorder()

    def is_cancelled() -> bool:
        return len(recorder.steps) >= 2

    with pytest.raises(Cancelled):
        list(generate(plan_of(steps=10), model, recorder, is_cancelled))
    assert recorder.steps == [(1, 10), (2, 10)]


def test_progress_counts_over_all_batches_and_previews_are_jpegs(model: Model) -> None:
    recorder = Recorder()
    list(generate(plan_of(steps=3, batch_count=2), model, recorder, lambda: False))
    assert recorder.steps == [(step, 6) for step in range(1, 7)]
    assert all(jpeg.startswith(b"\xff\xd8") for jpeg in recorder.previews)
    assert recorder.stages[:2] == ["encoding the prompt", "loading the model"]


def test_second_order_samplers_count_steps_not_evaluations(model: Model) -> None:
    recorder = Recorder()
    list(generate(plan_of(sampler="heun", steps=3), model, recorder, lambda: False, preview_every=0))
    assert [step for step, _ in recorder.steps] == [1, 1, 2, 2, 3]
    assert recorder.previews == []


def test_guidance_of_one_does_not_look_at_the_negative_prompt(model: Model) -> None:
    one = images_of(model, plan_of(guidance_scale=1.0, negative_prompt="dog"))[0]
    other = images_of(model, plan_of(guidance_scale=1.0, negative_prompt=""))[0]
    assert np.array_equal(one.pixels, other.pixels)
    guided = images_of(model, plan_of(guidance_scale=5.0, negative_prompt="dog"))[0]
    assert not np.array_equal(guided.pixels, images_of(model, plan_of(guidance_scale=5.0))[0].pixels)


@pytest.fixture(scope="module")
def refiner(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "refiner.safetensors", seed=5)
    return load(ModelFiles(checkpoint=open_safetensors(path)), machine())


@pytest.mark.parametrize(
    ("fields", "steps_before"),
    [
        ({"refiner_switch": 0.0}, 0),
        ({"refiner_switch": 0.5}, 5),
        ({"refiner_switch": 0.72}, 8),
        ({"refiner_switch": 1.0}, 10),
        ({"refiner_switch_timestep": 999}, 1),
        ({"refiner_switch_timestep": 500}, 5),  # 999, 888, 777, 666, 555 come before it
        ({"refiner_switch_timestep": 0}, 10),
    ],
)
def test_a_refiner_takes_over_at_a_share_of_the_steps_or_at_a_timestep(
    model: Model, refiner: Model, fields: dict[str, object], steps_before: int
) -> None:
    plan = plan_of(sampler="euler", schedule="normal", steps=10, refiner="refiner", **fields)
    assert plan.refiner is not None
    levels = model.levels(64, 64, None)
    assert steps_before_refiner(plan.refiner, sigmas_for(plan.schedule, 10, levels), levels) == steps_before
    passes = passes_of(plan, model, refiner, lambda model, prompt: model.encode_prompt(prompt))
    assert [part.num_steps for part in passes] == [steps for steps in (steps_before, 10 - steps_before) if steps]


def test_a_refiner_that_is_the_model_itself_changes_nothing(model: Model) -> None:
    plan = plan_of(sampler="euler", refiner="tiny", refiner_switch=0.5)
    recorder = Recorder()
    refined = list(generate(plan, model, recorder, lambda: False, refiner=model))
    assert np.array_equal(refined[0].pixels, images_of(model, plan_of(sampler="euler"))[0].pixels)
    assert "refining" in recorder.stages
    assert recorder.steps[-1] == (4, 4)


def test_sides_that_the_model_cannot_have_are_refused_with_those_next_to_them() -> None:
    with pytest.raises(RequestError, match="use 64 or 80"):
        plan_of(width=72, height=64, size_step=16)


def test_prompts_of_different_lengths_work_together(model: Model) -> None:
    long = "a cat, " * 60
    image = images_of(model, plan_of(prompt=long, negative_prompt="dog"))[0]
    assert not np.array_equal(image.pixels, images_of(model, plan_of(negative_prompt="dog"))[0].pixels)


def test_a_damaged_unet_is_a_typed_error() -> None:
    tensors = tiny_tensors()
    tensors["model.diffusion_model.out.2.bias"] = torch.full((4,), torch.nan)
    broken = load(ModelFiles(checkpoint=InMemory(tensors, metadata=METADATA)), machine())
    with pytest.raises(NumericalError, match="checkpoint"):
        images_of(broken, plan_of())


def test_what_is_open_is_filled_in_from_the_model_and_the_standing_choices() -> None:
    plan = plan_of(Standing(clip_skip=2, emphasis="no_norm", noise_source="cpu", exact_batches=True), steps=None)
    assert (plan.steps, plan.width, plan.height, plan.guidance_scale) == (20, 64, 64, 7.0)
    assert (plan.sampler.name, plan.schedule.name, plan.is_schedule_asked) == ("dpmpp_2m", "karras", False)
    assert (plan.clip_skip, plan.emphasis.name, plan.noise_source.name, plan.exact_batches) == (
        2,
        "no_norm",
        "cpu",
        True,
    )


@pytest.mark.parametrize(
    ("sampler", "schedule", "resolved", "is_asked"),
    [
        ("Euler a", None, ("euler_ancestral", "normal"), False),
        ("DPM++ 2M Karras", None, ("dpmpp_2m", "karras"), False),
        ("Euler Karras", None, ("euler", "karras"), True),
        ("euler", "Exponential", ("euler", "exponential"), True),
        ("euler", "Automatic", ("euler", "normal"), False),
        ("k_dpmpp_2m", "normal", ("dpmpp_2m", "normal"), True),
    ],
)
def test_samplers_and_schedules_are_found_by_every_name(
    sampler: str, schedule: str | None, resolved: tuple[str, str], is_asked: bool
) -> None:
    plan = plan_of(sampler=sampler, schedule=schedule)
    assert ((plan.sampler.name, plan.schedule.name), plan.is_schedule_asked) == (resolved, is_asked)


@pytest.mark.parametrize("field", ["sampler", "schedule", "emphasis", "noise_source"])
def test_an_unknown_name_lists_what_there_is(field: str) -> None:
    with pytest.raises(UnknownName, match=r'"no such thing".*Known: '):
        plan_of(**{field: "no such thing"})


def test_a_seed_that_is_not_drawn_is_refused() -> None:
    with pytest.raises(RequestError, match="seed"):
        plan_of(seed=-1)


def test_seeds_wrap_around_at_the_largest() -> None:
    assert [seed_of(plan_of(seed=MAX_SEED), index) for index in range(3)] == [MAX_SEED, 0, 1]


def planned_again(fields: dict[str, object]) -> GenerationPlan:
    request = GenerationRequest.from_mapping(fields)
    return resolve(
        request,
        model=ModelName(checkpoint="tiny"),
        description=Description(native_size=128, defaults=Defaults(steps=99, sampler="lcm", guidance_scale=1.5)),
        choices=CHOICES,
        standing=Standing(clip_skip=3, emphasis="ignore", noise_source="cpu"),
        refiner=ModelName(checkpoint=request.refiner) if request.refiner else None,
    )


REQUESTS: list[dict[str, object]] = [
    {},
    {"sampler": "Euler a", "schedule": "Exponential", "guidance_scale": 4.5, "clip_skip": 2},
    {"refiner": "other", "refiner_switch": 0.65, "guidance_rescale": 0.7, "shift": 2.5},
    {"refiner": "other", "refiner_switch_timestep": 200},
    {"negative_prompt": "ugly, 1:2\nSteps: 3", "emphasis": "No norm", "noise_source": "CPU", "width": 96, "height": 72},
]


@pytest.mark.parametrize("fields", REQUESTS)
@pytest.mark.parametrize("way", ["infotext", "request"])
def test_the_metadata_give_the_plan_back(fields: dict[str, object], way: str) -> None:
    plan = plan_of(**fields)
    if way == "request":
        again = planned_again(request_of(plan, plan.seed).to_mapping())
        assert again == plan
    else:
        restored = request_from_infotext(read_infotext(infotext_of(plan, plan.seed)))
        again = planned_again(restored.fields | {"checkpoint": "tiny"})
        assert dataclasses.replace(again, exact_batches=plan.exact_batches) == plan


def test_what_an_encoder_had_no_room_for_is_told_once(model: Model) -> None:
    def short(model: Model, prompt: Prompt) -> Conditioning:
        lost = 0 if prompt.is_negative else 12
        return dataclasses.replace(model.encode_prompt(prompt), lost_tokens=lost)

    recorder = Recorder()
    list(generate(plan_of(batch_count=2), model, recorder, lambda: False, encode_prompt=short))
    assert len(recorder.notices) == 1
    assert "The prompt is 12 tokens too long" in recorder.notices[0]
