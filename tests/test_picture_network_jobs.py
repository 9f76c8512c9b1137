"""Whole jobs of networks that are given a picture: what they see of it, and what they do not."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from backend.engine.engine import Engine
from backend.engine.job import JobState
from backend.init_image import InitImage, MaskedContent, MaskInput
from backend.nn.flux import Flux, FluxConfig
from backend.request import GenerationRequest
from backend.second_pass import Detailer, HiresFix, Rectangle
from tests.lora_cases import TIMEOUT, empty_engine, write
from tests.lora_engine import SHALLOW
from tests.reference_weights import with_random_weights
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.tiny_families import FAMILIES
from tests.tiny_transformers import WIDTH_L, WIDTH_T5, with_name_prefix

SIDE = 64
INSIDE = (slice(16, 48), slice(16, 48))  # of the mask, along latent pixels
INPAINTING = ("inpainting", "fill")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with empty_engine(tmp_path_factory.mktemp("networks")) as engine:
        folder = engine.settings.checkpoint_dirs[0]
        for name, channels in (("plain", 4), ("inpainting", 9), ("editing", 8)):
            unet = dataclasses.replace(SHALLOW, in_channels=channels)
            write_tiny_checkpoint(folder / f"{name}.safetensors", unet=unet)
        fill = FluxConfig(
            in_channels=384, width=64, heads=2, mlp_width=256, double_blocks=1, single_blocks=2,
            context_dim=WIDTH_T5, vector_dim=WIDTH_L,
        )  # fmt: skip
        network = with_name_prefix("model.diffusion_model.", with_random_weights(Flux(fill)).state_dict())
        write(folder / "fill.safetensors", FAMILIES["flux"]()[0] | network, {})
        engine.library.refresh()
        yield engine


def stored(engine: Engine, pixels: np.ndarray) -> str:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return engine.pictures.add(data.getvalue()).sha256


def scene(inside: int = 90, outside: int = 200) -> np.ndarray:
    pixels = np.full((SIDE, SIDE, 3), outside, np.uint8)
    pixels[INSIDE] = inside
    return pixels


def mask() -> np.ndarray:
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[INSIDE] = 255
    return pixels


def made(
    engine: Engine, checkpoint: str, picture: np.ndarray, *, weight: float | None = 1.0, **fields: object
) -> np.ndarray:
    """weight: of the mask; None for no mask. From nothing but noise under the mask."""
    area = None if weight is None else MaskInput(
        picture=stored(engine, mask()), blur=0, content=MaskedContent.LATENT_NOTHING, conditioning_weight=weight
    )  # fmt: skip
    init = InitImage(picture=stored(engine, picture), denoising_strength=1.0, mask=area, **fields)  # pyright: ignore[reportArgumentType]
    request = GenerationRequest(
        prompt="a cat", checkpoint=checkpoint, steps=2, seed=5, width=SIDE, height=SIDE, sampler="euler", init=init
    )
    view = engine.wait(engine.submit(request), TIMEOUT)
    assert (view.state, view.error) == (JobState.DONE, "")
    assert not any("This checkpoint" in notice for notice in view.notices)
    return np.asarray(Image.open(view.images[0].path))


@pytest.mark.parametrize("checkpoint", INPAINTING)
def test_an_inpainting_network_sees_behind_the_mask_as_much_as_it_is_told(engine: Engine, checkpoint: str) -> None:
    hidden, seen = (made(engine, checkpoint, scene(), weight=weight) for weight in (1.0, 0.0))
    assert not np.array_equal(hidden[INSIDE], seen[INSIDE])
    for result in (hidden, seen):
        assert np.array_equal(result[mask() == 0], scene()[mask() == 0])


def test_a_plain_network_sees_nothing_but_its_latents(engine: Engine) -> None:
    hidden, seen = (made(engine, "plain", scene(), weight=weight) for weight in (1.0, 0.0))
    assert np.array_equal(hidden, seen)


def test_an_editing_network_sees_all_of_the_picture_and_keeps_to_it_as_it_is_told(engine: Engine) -> None:
    plain, other = (made(engine, "editing", scene(inside=inside), weight=None) for inside in (90, 10))
    closer = made(engine, "editing", scene(), weight=None, image_guidance=4.0)
    assert not np.array_equal(plain, other)
    assert not np.array_equal(plain, closer)
    guided = made(engine, "plain", scene(), weight=None, image_guidance=4.0)
    assert np.array_equal(made(engine, "plain", scene(), weight=None), guided)


@pytest.mark.parametrize("checkpoint", INPAINTING)
def test_what_follows_a_masked_picture_is_not_told_that_there_is_none(engine: Engine, checkpoint: str) -> None:
    area = MaskInput(picture=stored(engine, mask()))
    request = GenerationRequest(
        prompt="a cat",
        checkpoint=checkpoint,
        seed=5,
        steps=2,
        init=InitImage(picture=stored(engine, scene()), mask=area),
        hires=HiresFix(scale=1.5),
        detailers=(Detailer(rectangles=(Rectangle(x=8, y=8, width=16, height=16),), size=SIDE),),
    )
    assert not any("This checkpoint" in notice for notice in engine.plan(request).notices)
    view = engine.wait(engine.submit(request), TIMEOUT)
    assert (view.state, view.error) == (JobState.DONE, "")
