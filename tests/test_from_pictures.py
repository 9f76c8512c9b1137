"""Pictures made from pictures: what a mask keeps, how many steps a strength takes, second passes and details."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageDraw

from backend.errors import Cancelled
from backend.families.family import Model
from backend.images.resizing import resized
from backend.init_image import Borders, InitImage, MaskedContent, MaskInput, ResizeMode
from backend.pipeline.generate import GeneratedImage, generate
from backend.pipeline.means import Means, OpenedModels
from backend.pipeline.plan import DetailPass, GenerationPlan, SecondPass
from backend.request import GenerationRequest
from backend.second_pass import Detailer, HiresFix, Rectangle, Tiles
from tests.test_generate import CATALOG, Recorder, model, plan_of

__all__ = ["model"]  # a fixture

SIDE = 64


def name_of(picture: Image.Image) -> str:
    return hashlib.sha256(picture.tobytes()).hexdigest()


def scene(width: int = SIDE, height: int = SIDE) -> Image.Image:
    """Colours that run from side to side, and a rectangle."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1).astype(np.uint8)
    picture = Image.fromarray(pixels)
    ImageDraw.Draw(picture).rectangle((width // 4, height // 4, width // 2, height // 2), fill=(200, 30, 30))
    return picture


def mask_of(box: tuple[int, int, int, int], size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).rectangle(box, fill=255)
    return mask


PICTURE = scene()
MASK = mask_of((20, 20, 40, 40))


class World:
    """What a job finds: pictures, one model, Lanczos as the only upscaler; it counts how often it is asked."""

    def __init__(self, model: Model, *pictures: Image.Image) -> None:
        self._model = model
        self._pictures = {name_of(picture): picture for picture in (PICTURE, MASK, *pictures)}
        self.enlarged: list[tuple[str, int, int]] = []
        self.found: Sequence[Image.Image] = ()

    def means(self) -> Means:
        return Means(
            open_models=lambda plan: OpenedModels(model=self._model),
            picture=self._pictures.__getitem__,
            enlarge=self._enlarge,
            detect=lambda name, picture: self.found,
        )

    def _enlarge(self, name: str, picture: Image.Image, width: int, height: int) -> Image.Image:
        self.enlarged.append((name, width, height))
        return resized(picture, width, height, ResizeMode.STRETCH)


def made(
    model: Model, plan: GenerationPlan, world: World | None = None, recorder: Recorder | None = None
) -> list[GeneratedImage]:
    means = (world or World(model)).means()
    return list(generate(plan, model, recorder or Recorder(), lambda: False, means=means))


def init(**fields: object) -> dict[str, object]:
    return {"picture": name_of(PICTURE), **fields}


def masked(**fields: object) -> dict[str, object]:
    return {"picture": name_of(MASK), **fields}


def num_evaluations(model: Model, **fields: object) -> int:
    recorder = Recorder()
    made(model, plan_of(sampler="euler", **fields), recorder=recorder)
    return len(recorder.steps)


@pytest.mark.parametrize(
    ("strength", "share", "exact"), [(1, 20, 20), (0.75, 16, 20), (0.5, 11, 20), (0.3, 7, 20), (0.05, 2, 20)]
)
def test_a_strength_leaves_a_share_of_the_steps_or_all_of_them(
    model: Model, strength: float, share: int, exact: int
) -> None:
    assert num_evaluations(model, steps=20, init=init(denoising_strength=strength)) == share
    assert num_evaluations(model, steps=20, init=init(denoising_strength=strength, exact_steps=True)) == exact


def test_strength_0_evaluates_nothing_and_gives_the_picture_through_the_autoencoder(model: Model) -> None:
    recorder = Recorder()
    image = made(model, plan_of(init=init(denoising_strength=0)), recorder=recorder)[0]
    assert recorder.steps == []
    assert image.pixels.shape == (SIDE, SIDE, 3)


def test_more_strength_leaves_less_of_the_picture(model: Model) -> None:
    unchanged = made(model, plan_of(init=init(denoising_strength=0)))[0].pixels.astype(int)
    differences = [
        np.abs(made(model, plan_of(init=init(denoising_strength=strength)))[0].pixels - unchanged).mean()
        for strength in (0.05, 0.4, 1.0)
    ]
    assert differences == sorted(differences)
    assert differences[0] < differences[-1]


@pytest.mark.parametrize("content", list(MaskedContent))
@pytest.mark.parametrize("area", ["whole", "masked"])
def test_outside_of_the_mask_the_picture_is_the_same_to_the_bit(
    model: Model, content: MaskedContent, area: str
) -> None:
    mask = masked(content=content.value, area=area, blur=0, padding=8)
    image = made(model, plan_of(init=init(denoising_strength=1, mask=mask)))[0].pixels
    before, inside = np.asarray(PICTURE), np.asarray(MASK) > 0
    assert np.array_equal(image[~inside], before[~inside])
    assert (image[inside] != before[inside]).any(axis=-1).mean() > 0.5


def test_an_empty_mask_evaluates_nothing(model: Model) -> None:
    empty, recorder = Image.new("L", (SIDE, SIDE)), Recorder()
    plan = plan_of(batch_size=2, init=init(mask={"picture": name_of(empty)}))
    images = made(model, plan, World(model, empty), recorder)
    assert [image.pixels.tobytes() for image in images] == [PICTURE.tobytes()] * 2
    assert recorder.steps == []
    assert any("empty" in notice for notice in recorder.notices)


def test_a_full_mask_changes_everything(model: Model) -> None:
    full = Image.new("L", (SIDE, SIDE), 255)
    for area in ("whole", "masked"):
        plan = plan_of(init=init(denoising_strength=1, mask={"picture": name_of(full), "area": area}))
        image = made(model, plan, World(model, full))[0].pixels
        assert (image != np.asarray(PICTURE)).any(axis=-1).mean() > 0.9


def test_what_the_masked_part_begins_with_matters(model: Model) -> None:
    pictures = {
        made(model, plan_of(steps=6, init=init(denoising_strength=0.5, mask=masked(content=content.value))))[
            0
        ].pixels.tobytes()
        for content in MaskedContent
    }
    assert len(pictures) == len(MaskedContent)


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m_sde"])
@pytest.mark.parametrize("mask", [{}, {"content": "latent_noise"}, {"soft": True, "blur": 6}])
def test_an_image_of_a_batch_equals_the_image_made_alone(model: Model, sampler: str, mask: dict[str, object]) -> None:
    fields = {"sampler": sampler, "exact_batches": True, "init": init(mask=masked(**mask))}
    batch = made(model, plan_of(batch_size=3, **fields))
    for index, image in enumerate(batch):
        alone = made(model, plan_of(seed=7 + index, **fields))[0]
        assert np.array_equal(image.pixels, alone.pixels)
    assert not np.array_equal(batch[0].pixels, batch[1].pixels)


def test_a_soft_mask_changes_more_where_it_is_lighter(model: Model) -> None:
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, SIDE).astype(np.uint8), (SIDE, 1)))
    mask = {"picture": name_of(ramp), "soft": True, "blur": 0}
    plan = plan_of(sampler="euler", steps=12, init=init(denoising_strength=1, mask=mask))
    image = made(model, plan, World(model, ramp))[0].pixels.astype(int)
    changed = np.abs(image - np.asarray(PICTURE)).mean(axis=(0, 2))
    assert changed[: SIDE // 3].mean() < changed[-SIDE // 3 :].mean()
    assert changed[0] == 0  # black is kept to the end


def test_a_picture_grows_at_its_borders_and_stays_as_it_is_in_the_middle(model: Model) -> None:
    borders = {"left": 24, "bottom": 16, "overlap": 8}
    plan = plan_of(width=SIDE + 24, height=SIDE + 16, init=init(denoising_strength=1, borders=borders))
    image = made(model, plan)[0].pixels
    assert image.shape == (SIDE + 16, SIDE + 24, 3)
    before = np.asarray(PICTURE)
    assert np.array_equal(image[: SIDE - 8, 24 + 8 :], before[: SIDE - 8, 8:])


@pytest.mark.parametrize("resize", list(ResizeMode))
def test_a_picture_of_another_shape_comes_to_the_size_asked_for(model: Model, resize: ResizeMode) -> None:
    wide = scene(100, 50)
    plan = plan_of(width=64, height=72, init={"picture": name_of(wide), "resize": resize.value})
    assert made(model, plan, World(model, wide))[0].pixels.shape == (72, 64, 3)


def test_noise_that_is_multiplied_or_added_makes_another_picture(model: Model) -> None:
    plain = made(model, plan_of(init=init()))[0].pixels
    for fields in ({"noise_multiplier": 0.5}, {"extra_noise": 0.2}):
        assert not np.array_equal(plain, made(model, plan_of(init=init(**fields)))[0].pixels)


def second(plan: GenerationPlan, hires: HiresFix, width: int, height: int, **fields: object) -> GenerationPlan:
    """`plan` with a second pass, as the engine plans it."""
    known = {one.name: one for one in CATALOG.latent_upscalers}
    again = plan_of(width=width, height=height, steps=plan.steps, **fields)
    return dataclasses.replace(
        plan, hires=SecondPass(hires=hires, plan=again, latent_upscaler=known.get(hires.upscaler))
    )


@pytest.mark.parametrize("upscaler", [*CATALOG.latent_upscalers.names(), "lanczos"])
def test_hires_fix_makes_a_larger_picture_and_keeps_the_first(model: Model, upscaler: str) -> None:
    hires = HiresFix(upscaler=upscaler, scale=1.5, denoising_strength=0.5)
    world, plan = World(model), second(plan_of(batch_size=2), hires, 96, 96)
    first = made(model, plan_of(batch_size=2))
    images = made(model, plan, world)
    assert [image.pixels.shape for image in images] == [(96, 96, 3)] * 2
    assert [image.before_hires.tobytes() for image in images if image.before_hires is not None] == [
        image.pixels.tobytes() for image in first
    ]
    assert world.enlarged == ([("lanczos", 96, 96)] * 2 if upscaler == "lanczos" else [])


def test_hires_fix_makes_as_many_steps_as_asked_for(model: Model) -> None:
    recorder = Recorder()
    hires = HiresFix(denoising_strength=0.3, scale=1.5)
    made(model, second(plan_of(steps=4, sampler="euler"), hires, 96, 96, sampler="euler"), recorder=recorder)
    assert recorder.steps == [(step, 8) for step in range(1, 9)]


def test_a_size_of_another_shape_is_covered_and_cut_in_the_middle(model: Model) -> None:
    plan = second(plan_of(), HiresFix(width=96, height=72, denoising_strength=0.5), 96, 72)
    assert made(model, plan)[0].pixels.shape == (72, 96, 3)


def test_hires_fix_follows_inpainting_too(model: Model) -> None:
    plan = plan_of(init=init(mask=masked()))
    images = made(model, second(plan, HiresFix(scale=1.5, denoising_strength=0.3), 96, 96))
    assert images[0].pixels.shape == (96, 96, 3)


def detail(plan: GenerationPlan, **fields: object) -> GenerationPlan:
    detailer = Detailer(**{"padding": 4, "blur": 0, "denoising_strength": 1.0, **fields})  # type: ignore[arg-type]
    again = DetailPass(detailer=detailer, plan=plan_of(steps=plan.steps, prompt="another thing"))
    return dataclasses.replace(plan, details=(*plan.details, again))


def test_details_change_their_regions_and_nothing_else(model: Model) -> None:
    first = made(model, plan_of())[0].pixels
    rectangles = (Rectangle(x=4, y=4, width=16, height=16), Rectangle(x=40, y=36, width=12, height=20))
    image = made(model, detail(plan_of(), rectangles=rectangles))[0].pixels
    inside = np.zeros((SIDE, SIDE), dtype=bool)
    inside[4:20, 4:20] = inside[36:56, 40:52] = True
    assert np.array_equal(image[~inside], first[~inside])
    assert (image[4:20, 4:20] != first[4:20, 4:20]).any()
    assert (image[36:56, 40:52] != first[36:56, 40:52]).any()


def test_details_of_a_batch_are_those_of_the_pictures_made_alone(model: Model) -> None:
    rectangles = (Rectangle(x=8, y=8, width=24, height=24),)
    batch = made(model, detail(plan_of(batch_size=2, exact_batches=True), rectangles=rectangles))
    alone = [made(model, detail(plan_of(seed=7 + k, exact_batches=True), rectangles=rectangles))[0] for k in range(2)]
    assert [image.pixels.tobytes() for image in batch] == [image.pixels.tobytes() for image in alone]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"rectangles": (Rectangle(x=500, y=0, width=8, height=8),)}, "lies outside of the picture"),
        ({"detector": "faces"}, "found nothing"),
    ],
)
def test_regions_that_are_not_there_are_told_and_the_picture_stays(
    model: Model, fields: dict[str, object], told: str
) -> None:
    recorder = Recorder()
    image = made(model, detail(plan_of(), **fields), recorder=recorder)[0]
    assert np.array_equal(image.pixels, made(model, plan_of())[0].pixels)
    assert any(told in notice for notice in recorder.notices)


def test_what_a_detector_finds_is_made_again(model: Model) -> None:
    world = World(model)
    world.found = [MASK]
    image = made(model, detail(plan_of(), detector="faces"), world)[0].pixels
    first, inside = made(model, plan_of())[0].pixels, np.asarray(MASK) > 0
    assert np.array_equal(image[~inside], first[~inside])
    assert (image[inside] != first[inside]).any()


def test_each_part_of_a_mask_is_a_region_of_its_own_the_largest_first(model: Model) -> None:
    mask = ImageChops.lighter(mask_of((4, 4, 11, 11)), mask_of((40, 36, 51, 55)))
    painted = made(model, detail(plan_of(), mask=name_of(mask)), World(model, mask))[0].pixels
    rectangles = (Rectangle(x=40, y=36, width=12, height=20), Rectangle(x=4, y=4, width=8, height=8))
    assert np.array_equal(painted, made(model, detail(plan_of(), rectangles=rectangles))[0].pixels)


def test_a_mask_of_specks_is_told_and_an_empty_one_finds_nothing(model: Model) -> None:
    specks = Image.new("L", (SIDE, SIDE))
    for at in range(65):
        specks.putpixel((4 * (at % 16), 4 * (at // 16)), 255)
    for mask, told in ((specks, "more than 64 separate parts"), (Image.new("L", (SIDE, SIDE)), "found nothing")):
        recorder = Recorder()
        means, plan = World(model, mask).means(), detail(plan_of(), mask=name_of(mask))
        with contextlib.suppress(Cancelled):
            list(generate(plan, model, recorder, lambda: bool(recorder.notices), means=means))  # noqa: B023
        assert told in recorder.notices[0]


def test_tiles_that_are_made_to_their_end_cover_the_picture(model: Model) -> None:
    tiles = {"method": "separate", "size": 128, "overlap": 64}
    fields = {"width": 192, "height": 128, "steps": 2, "init": init(resize="stretch", denoising_strength=0.5)}
    recorder = Recorder()
    image = made(model, plan_of(sampler="euler", tiles=tiles, **fields), recorder=recorder)[0]
    assert image.pixels.shape == (128, 192, 3)
    assert recorder.steps[-1] == (4, 4)  # two tiles
    whole = made(model, plan_of(sampler="euler", **fields))[0]
    assert not np.array_equal(image.pixels, whole.pixels)


def test_a_picture_that_fits_into_one_tile_is_made_as_a_whole(model: Model) -> None:
    tiles = Tiles(size=128, overlap=32)
    for method in ("separate", "multidiffusion"):
        fields = dataclasses.asdict(dataclasses.replace(tiles, method=method))  # type: ignore[arg-type]
        image = made(model, plan_of(init=init(), tiles=fields))[0]
        assert np.array_equal(image.pixels, made(model, plan_of(init=init()))[0].pixels)


def test_a_plan_with_a_picture_needs_means(model: Model) -> None:
    with pytest.raises(ValueError, match="means"):
        list(generate(plan_of(init=init()), model, Recorder(), lambda: False))


def test_cancelling_works_in_every_pass(model: Model) -> None:
    plan = detail(
        second(plan_of(steps=4, sampler="euler"), HiresFix(scale=1.5), 96, 96, sampler="euler"),
        rectangles=(Rectangle(x=8, y=8, width=24, height=24),),
    )
    for steps in (2, 6, 10):
        recorder = Recorder()

        def is_cancelled(recorder: Recorder = recorder, steps: int = steps) -> bool:
            return len(recorder.steps) >= steps

        check: Callable[[], bool] = is_cancelled
        with pytest.raises(Cancelled):
            list(generate(plan, model, recorder, check, means=World(model).means()))
        assert len(recorder.steps) == steps


def test_requests_with_pictures_survive_json() -> None:
    request = GenerationRequest(
        init=InitImage(
            picture=name_of(PICTURE),
            mask=MaskInput(picture=name_of(MASK), soft=True),
            borders=Borders(left=8),
        ),
        hires=HiresFix(prompt="x"),
        tiles=Tiles(),
        detailers=(Detailer(rectangles=(Rectangle(x=1, y=2, width=3, height=4),)),),
    )
    assert GenerationRequest.from_mapping(request.to_mapping()) == request
