"""Noise per image: known numbers, independence from the batch, and a Brownian path that is one path."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from backend.diffusion.brownian import BrownianPath
from backend.diffusion.noise import BUILTIN, CPU, NV, BatchNoise
from backend.diffusion.philox import philox, words

SHAPE = (4, 6, 5)


@pytest.mark.parametrize(
    ("counter", "seed", "expected"),
    [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0_A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers_of_its_paper(counter, seed, expected):
    assert tuple(int(word) for word in philox(seed, words(*counter))) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [(NV, [-0.92466, -0.42534, -2.64385, 0.14518]), (CPU, [1.5410, -0.2934, -2.1788, 0.5684])],
    ids=lambda value: value.name if hasattr(value, "name") else "",
)
def test_sources_draw_their_known_numbers(source, expected):
    assert BatchNoise([0], (4,), source)()[0].tolist() == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("source", BUILTIN, ids=lambda source: source.name)
def test_image_of_a_batch_gets_the_noise_of_the_single_image(source):
    seeds = [7, 2**40 + 3, 7_000_000_000, 0]
    batch = BatchNoise(seeds, SHAPE, source)
    singles = [BatchNoise([seed], SHAPE, source) for seed in seeds]
    for _ in range(3):
        assert torch.equal(batch(), torch.cat([single() for single in singles]))
    together = batch.between(3.0, 2.0)
    assert torch.equal(together, torch.cat([single.between(3.0, 2.0) for single in singles]))
    assert together.dtype == torch.float32
    assert together.shape == (4, *SHAPE)


@pytest.mark.parametrize("source", BUILTIN, ids=lambda source: source.name)
def test_draws_are_standard_normal_and_all_different(source):
    noise = BatchNoise([1, 2], (50_000,), source)
    draws = torch.cat([noise(), noise(), noise.between(2.0, 1.0), noise.between(1.0, 0.5)])
    assert draws.mean(dim=1).abs().max().item() < 0.02
    assert (draws.std(dim=1) - 1).abs().max().item() < 0.02
    correlations = torch.corrcoef(draws) - torch.eye(len(draws))
    assert correlations.abs().max().item() < 0.02


def test_seeds_differ_in_all_64_bits():
    low, high = BatchNoise([5], (8,))(), BatchNoise([5 + 2**32], (8,))()
    assert not torch.equal(low, high)


def test_brownian_increments_add_up_and_come_in_any_order():
    path = BrownianPath(3, SHAPE)
    whole = path.increment(14.6, 0.03)
    stops = [14.6, 9.0, 2.5, 1.0, 0.4, 0.03]
    parts = [path.increment(high, low) for high, low in reversed(list(pairwise(stops)))]
    assert torch.allclose(sum(parts[1:], parts[0]), whole, atol=1e-12)
    assert torch.equal(BrownianPath(3, SHAPE).normalised(2.5, 1.0), path.normalised(2.5, 1.0))
    assert torch.equal(path.normalised(1.0, 2.5), -path.normalised(2.5, 1.0))


@pytest.mark.parametrize(("sigma", "sigma_next"), [(4518.8, 4200.0), (14.6, 11.0), (1.0, 0.999), (0.0292, 0.029)])
def test_brownian_increments_have_the_variance_of_their_interval(sigma, sigma_next):
    path = BrownianPath(11, (40_000,))
    assert path.normalised(sigma, sigma_next).std().item() == pytest.approx(1, abs=0.02)
    time, time_next = sigma / (1 + sigma), sigma_next / (1 + sigma_next)
    spread = path.increment(sigma, sigma_next).std().item()
    assert spread == pytest.approx(math.sqrt(time - time_next), rel=0.05)


def test_neighbouring_brownian_increments_are_independent():
    path = BrownianPath(5, (40_000,))
    stops = [14.6, 8.0, 3.0, 1.0, 0.5, 0.2, 0.1, 0.03]
    increments = torch.stack([path.normalised(a, b) for a, b in pairwise(stops)])
    assert (torch.corrcoef(increments) - torch.eye(len(stops) - 1)).abs().max().item() < 0.02


def test_brownian_increment_of_an_empty_interval_is_zero():
    assert BrownianPath(5, (8,)).normalised(1.0, 1.0).abs().max().item() == 0
