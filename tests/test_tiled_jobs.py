"""Jobs whose network sees the picture in tiles: MultiDiffusion, from the plan to the pixels."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from backend.errors import RequestError
from backend.families.family import Evaluation, Model, ModelFiles
from backend.families.sd1 import load
from backend.pipeline.metadata import request_of
from backend.pipeline.network_tiles import network_size
from backend.weights.safetensors_file import open_safetensors
from tests.test_generate import images_of, machine, plan_of
from tests.tiny_checkpoint import write_tiny_checkpoint

TILES: dict[str, object] = {"method": "multidiffusion", "size": 128, "overlap": 64}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path: Path = write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny.safetensors")
    return load(ModelFiles(checkpoint=open_safetensors(path)), machine())


def test_a_large_picture_is_made_in_tiles_and_again_from_its_request(model: Model) -> None:
    plan = plan_of(width=256, height=192, steps=2, tiles=TILES)
    (image,) = images_of(model, plan)
    assert image.pixels.shape == (192, 256, 3)
    (whole,) = images_of(model, dataclasses.replace(plan, tiles=None))
    assert not np.array_equal(image.pixels, whole.pixels)
    again = request_of(plan, plan.seed)
    assert again.tiles == plan.tiles
    (repeated,) = images_of(model, plan_of(**again.to_mapping()))
    assert np.array_equal(repeated.pixels, image.pixels)


def test_images_of_a_batch_in_tiles_equal_those_made_alone(model: Model) -> None:
    plan = plan_of(width=192, height=128, steps=2, tiles=TILES, batch_size=2, exact_batches=True)
    both = images_of(model, plan)
    alone = images_of(model, dataclasses.replace(plan, batch_size=1, seed=plan.seed + 1))
    assert np.array_equal(both[1].pixels, alone[0].pixels)


def test_a_picture_that_is_no_larger_than_a_tile_stays_as_it_is_to_the_bit(model: Model) -> None:
    plan = plan_of(width=128, height=64, steps=2, tiles=TILES)
    (tiled,) = images_of(model, plan)
    (whole,) = images_of(model, dataclasses.replace(plan, tiles=None))
    assert np.array_equal(tiled.pixels, whole.pixels)


def test_memory_is_planned_for_one_tile(model: Model) -> None:
    def working(tiles: dict[str, object] | None) -> int:
        """Of the network; what decoding takes does not count."""
        plan = plan_of(width=512, height=512, tiles=tiles)
        width, height = network_size(plan)
        return model.network_plan(Evaluation(images=2, width=width, height=height)).working_bytes

    assert network_size(plan_of(width=512, height=64, tiles=TILES)) == (128, 64)
    assert working(TILES) < working(None) / 8


def test_tiles_that_a_model_cannot_have_are_refused_with_those_next_to_them() -> None:
    with pytest.raises(RequestError, match=r"tiles\.size.*use 128 or 144"):
        plan_of(size_step=16, width=256, height=256, tiles={**TILES, "size": 136})
