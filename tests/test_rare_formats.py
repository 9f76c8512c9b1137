"""Formats of which no program at hand writes files: against the formulas of those that did."""

from typing import Any

import pytest
import torch
from peft.tuners.boft.layer import BOFTLayer
from torch import Tensor, nn

from backend.adapters.format import ALL_ROWS, Part, Scaling
from backend.adapters.formats.builtin import format_of
from tests.tiny_adapters import draw


def change(tensors: dict[str, Tensor], weight: Tensor, **options: Any) -> Tensor:
    format = format_of(tensors)
    assert format is not None
    assert format.fits({name: tuple(value.shape) for name, value in tensors.items()}, tuple(weight.shape))
    part = Part(tensors=tensors, shape=tuple(weight.shape), weight=lambda rows: weight[rows], **options)
    return format.delta(part, ALL_ROWS)


def orthogonal(*shape: int, seed: int) -> Tensor:
    return torch.linalg.qr(draw(*shape, seed=seed))[0]


@pytest.mark.parametrize("shape", [(8, 6), (6, 8), (6, 6)], ids=["high", "wide", "square"])
@pytest.mark.parametrize("kind", ["principal", "middle", "last"])
def test_tlora_without_its_beginning_finds_it_in_the_weight(kind: str, shape: tuple[int, int]):
    weight, rank = draw(*shape, seed=3), 2
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    start = {"principal": 0, "middle": (len(s) - rank) // 2, "last": len(s) - rank}[kind]
    used = slice(start, start + rank)
    moved = {
        "p_layer": u[:, used] + 0.05 * draw(shape[0], rank, seed=4),
        "q_layer": v[used] + 0.05 * draw(rank, shape[1], seed=5),
        "lambda_layer": (s[used] + 0.1)[None],
        "alpha": torch.tensor(1.0),
    }
    now = moved["p_layer"] * moved["lambda_layer"] @ moved["q_layer"]
    expected = 0.5 * (now - u[:, used] * s[used] @ v[used])
    torch.testing.assert_close(change(moved, weight), expected, rtol=1e-5, atol=1e-5)
    beginning = {"base_p": u[:, used], "base_q": v[used], "base_lambda": s[used][None]}
    torch.testing.assert_close(change({**moved, **beginning}, torch.zeros(shape)), expected, rtol=1e-5, atol=1e-5)


def test_tlora_with_fewer_ranks_is_its_mask():
    weight = draw(6, 6, seed=3)
    u, s, v = torch.linalg.svd(weight)
    tensors = {"p_layer": u[:, :2], "q_layer": v[:2], "lambda_layer": 2 * s[None, :2]}
    torch.testing.assert_close(change(tensors, weight, max_rank=1), s[0] * u[:, :1] @ v[:1], rtol=1e-5, atol=1e-5)


def test_sparse_numbers_are_added_at_their_places():
    up, down = draw(4, 2, seed=1), draw(2, 2, 3, 3, seed=2)
    tensors = {
        "up": up,
        "down": down,
        "alpha": torch.tensor(2.0),
        "bias_indices": torch.tensor([[0.0, 3.0], [17.0, 4.0]]),
        "bias_values": torch.tensor([0.5, -1.0]),
        "bias_size": torch.tensor([4.0, 18.0]),
    }
    expected = up @ down.flatten(1)
    expected[0, 17] += 0.5
    expected[3, 4] -= 1.0
    torch.testing.assert_close(change(tensors, torch.zeros(4, 2, 3, 3), strength=0.5), 0.5 * expected.view(4, 2, 3, 3))


def test_stored_rotations_are_those_that_blocks_make():
    blocks, weight = 0.2 * draw(2, 3, 3), draw(6, 4, seed=1)
    skew = blocks - blocks.mT
    rotations = (torch.eye(3) + skew) @ torch.linalg.inv(torch.eye(3) - skew)
    scales = 1 + 0.1 * draw(2, 3, 1, seed=2)
    for strength in (1.0, 0.4):
        ours = change({"oft_diag": rotations, "rescale": scales}, weight, strength=strength)
        same = change({"oft_blocks": blocks, "rescale": scales.view(6, 1)}, weight, strength=strength)
        torch.testing.assert_close(ours, same, rtol=1e-5, atol=1e-5)


def test_the_second_product_of_glora_may_have_a_core():
    a1, a2, b1, b2, core = (
        draw(3, 2),
        draw(2, 3, seed=1),
        draw(4, 2, seed=2),
        draw(2, 3, seed=3),
        draw(2, 2, 3, 3, seed=4),
    )
    weight = draw(4, 3, 3, 3, seed=5)
    pixel = {"a1": a1, "a2": a2, "b1": b1, "b2": b2}
    tensors = {name: value[:, :, None, None] for name, value in pixel.items()} | {"bm": core}
    through = torch.einsum("oikl,ir,rj->ojkl", weight, a1, a2)
    expected = through + torch.einsum("om,mnkl,ni->oikl", b1, core, b2)
    torch.testing.assert_close(change(tensors, weight), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_boft_of_peft_in_several_stages(stages: int):
    """PEFT makes more than one stage only where its CUDA extension can be built; its matrices are the same."""
    num_blocks, size, outputs = 4, 2, 5
    numbers, scales, weight = 0.3 * draw(stages, num_blocks, size, size), 1 + 0.1 * draw(outputs, 1), draw(outputs, 8)
    layer = BOFTLayer(nn.Linear(8, outputs))
    expected = weight.T
    for index, rotations in enumerate(numbers):
        order = layer.block_butterfly_perm(8, num_blocks // 2**index, size // 2, stages - 1)
        permutation = layer.perm2mat(order)
        stage = permutation @ torch.block_diag(*layer.cayley_batch(rotations)) @ permutation.T
        expected = stage @ expected
    expected = expected.T * scales - weight
    found = change({"boft_R": numbers, "boft_s": scales}, weight)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_whole_factors_of_lokr_are_scaled_only_by_a_configuration_of_peft():
    tensors, weight = {"lokr_w1": draw(2, 2), "lokr_w2": draw(3, 2, seed=1)}, torch.zeros(6, 4)
    product = torch.kron(*tensors.values())
    torch.testing.assert_close(change({**tensors, "alpha": torch.tensor(7.0)}, weight), product)
    torch.testing.assert_close(change(tensors, weight, scaling=Scaling(alpha=3.0, rank=2)), 1.5 * product)
