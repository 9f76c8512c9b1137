"""Networks that see a large picture in tiles, and pictures that are put together of tiles."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.diffusion.guidance import Conditioning, classifier_free
from backend.diffusion.tiled import tiled_network
from backend.images.tiling import blended, tile_boxes
from backend.tile_boxes import fades, spans


def told(groups: int, *, image: Tensor | None = None) -> Conditioning:
    vector = torch.arange(groups * 2.0).view(groups, 2)
    return Conditioning(context=torch.arange(groups * 6.0).view(groups, 3, 2), vector=vector, image=image)


def latents(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class Pointwise:
    """A network whose prediction for a place depends on that place alone, so that tiles change nothing."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Conditioning]] = []

    def __call__(self, x: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        self.calls.append((x, conditioning))
        assert conditioning.vector is not None
        images = x.shape[0] // conditioning.groups
        of_image = timesteps + 10 * conditioning.vector[:, 0].repeat_interleave(images)
        result = x.square() + of_image.view(-1, 1, 1, 1)
        if conditioning.image is not None:
            result = result + conditioning.image.repeat_interleave(images, dim=0)
        return result


@pytest.mark.parametrize("length", [5, 8, 9, 13, 20, 31, 64])
@pytest.mark.parametrize("overlap", [0, 1, 3, 4])
def test_tiles_cover_a_side_evenly_and_count_as_one_everywhere(length: int, overlap: int) -> None:
    found = spans(length, 8, overlap)
    assert (found[0].start, found[-1].stop) == (0, length)
    assert all(len(span) == min(8, length) for span in found)
    steps = [later.start - earlier.start for earlier, later in pairwise(found)]
    assert all(0 < step <= 8 - overlap for step in steps)
    assert not steps or max(steps) - min(steps) <= 1
    total = np.zeros(length)
    for span, fade in zip(found, fades(found), strict=True):
        assert min(fade) > 0
        total[span.start : span.stop] += fade
    assert total == pytest.approx(np.ones(length), abs=1e-12)


def test_tiles_cannot_overlap_completely() -> None:
    with pytest.raises(ValueError, match="cannot overlap by 8"):
        tiled_network(Pointwise(), 8, 8)


@pytest.mark.parametrize("per_call", [1, 2, 4, 100])
@pytest.mark.parametrize("has_image", [False, True], ids=["text", "text and picture"])
def test_a_network_that_looks_at_single_places_predicts_the_same_in_tiles(per_call: int, has_image: bool) -> None:
    x = latents(6, 4, 21, 30)  # two groups of three images
    times = torch.arange(6.0)
    conditioning = told(2, image=latents(2, 4, 21, 30) if has_image else None)
    network = Pointwise()
    tiled = tiled_network(network, 8, 3, tiles_per_call=per_call)
    torch.testing.assert_close(tiled(x, times, conditioning), Pointwise()(x, times, conditioning))
    assert all(x.shape[-2:] == (8, 8) for x, _ in network.calls)
    images = {x.shape[0] for x, _ in network.calls}
    assert max(images) <= 6 * per_call
    num_tiles = len(spans(21, 8, 3)) * len(spans(30, 8, 3))
    assert len(network.calls) == -(-num_tiles // per_call)
    assert sum(x.shape[0] for x, _ in network.calls) == 6 * num_tiles


def test_a_picture_that_is_no_larger_than_a_tile_goes_through_as_it_is() -> None:
    x, network, conditioning = latents(2, 4, 8, 6), Pointwise(), told(2, image=latents(2, 4, 8, 6))
    tiled_network(network, 8, 2)(x, torch.zeros(2), conditioning)
    ((given, known),) = network.calls
    assert given is x
    assert known is conditioning


def test_what_a_network_keeps_of_a_text_serves_all_tiles_and_steps() -> None:
    """Networks keep what they compute from a conditioning under the object or its text."""
    for image, objects in ((None, 1), (latents(1, 4, 16, 20), 3)):
        network, conditioning = Pointwise(), told(1, image=image)
        tiled = tiled_network(network, 8, 2, tiles_per_call=2)
        for _ in range(3):
            tiled(latents(2, 4, 16, 20), torch.zeros(2), conditioning)
        assert len({id(known) for _, known in network.calls}) <= objects * 2
        assert len({tuple(map(id, known.text)) for _, known in network.calls}) <= 2


def test_what_tiles_disagree_on_fades_from_one_to_the_next() -> None:
    def brightness(x: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        return x.mean((-1, -2), keepdim=True).expand_as(x)

    ramp = torch.linspace(0, 20, 16).expand(1, 1, 8, 16)
    largest = {}
    for overlap in (0, 4):
        made = tiled_network(brightness, 8, overlap)(ramp, torch.zeros(1), told(1))
        largest[overlap] = float(made.diff(dim=-1).abs().max())
    assert largest[0] > 5
    assert largest[4] <= largest[0] / 4 + 0.2


def test_guidance_goes_around_tiles() -> None:
    x, times = latents(2, 4, 12, 20), torch.ones(2)
    cond, uncond = told(2), dataclasses.replace(told(2), vector=torch.ones(2, 2))
    whole = classifier_free(Pointwise(), cond, uncond, 3.0, rescale=0.5)(x, times)
    tiled = classifier_free(tiled_network(Pointwise(), 8, 2, tiles_per_call=3), cond, uncond, 3.0, rescale=0.5)
    torch.testing.assert_close(tiled(x, times), whole)


@pytest.mark.parametrize("size", [(64, 48), (100, 100), (65, 257)])
def test_equal_tiles_give_the_picture_back_to_the_bit(size: tuple[int, int]) -> None:
    width, height = size
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    boxes = tile_boxes(width, height, 64, 24)
    tiles = [(box, picture[box.rows, box.columns]) for box in boxes]
    assert np.array_equal(blended(tiles, width, height), picture)


def test_one_tile_turns_into_the_next_in_a_straight_line() -> None:
    boxes = tile_boxes(112, 64, 64, 16)
    assert len(boxes) == 2
    tiles = [(box, np.full((64, 64, 3), value, np.uint8)) for box, value in zip(boxes, (40, 200), strict=True)]
    row = blended(tiles, 112, 64)[30, :, 0].astype(int)
    assert set(row[:48]) == {40}
    assert set(row[64:]) == {200}
    assert row[48:64].tolist() == [round(40 + 160 * (place + 0.5) / 16) for place in range(16)]


def test_tiles_of_another_size_or_too_few_of_them_are_refused() -> None:
    boxes = tile_boxes(100, 64, 64, 16)
    with pytest.raises(ValueError, match="not as large"):
        blended([(box, np.zeros((32, 64, 3), np.uint8)) for box in boxes], 100, 64)
    with pytest.raises(ValueError, match="do not cover"):
        blended([(boxes[0], np.zeros((64, 64, 3), np.uint8))], 100, 64)
