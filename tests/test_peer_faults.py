"""What other programs do wrong with adapters, and how it is here."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from backend.adapters.aliases import specs_of
from backend.adapters.patched import PlacedAdapter, patched
from backend.adapters.split_training import num_parts_of
from backend.weights.source import InMemory
from tests.tiny_adapters import KOHYA, QUERY, adapter, draw, lora_tensors, sd1_lora, sd1_source


def patched_query(tensors: dict[str, Tensor], *, strength: float = 1.0) -> tuple[Tensor, Tensor]:
    """The weight before and after."""
    base = sd1_source(dtype=torch.float32)
    named = {f"{KOHYA[QUERY]}.{name}": value for name, value in tensors.items()}
    model = patched(base, [PlacedAdapter(adapter=adapter(named), strength=strength)], "sd1")
    return base.read(f"{QUERY}.weight"), model.read(f"{QUERY}.weight")


def test_lengths_of_dora_are_those_of_the_weight_with_the_difference():
    """Not of the weight alone, which leaves rows of another length than what was trained."""
    scale = draw(8, 1, seed=4).abs() + 0.5
    tensors = {"lora_up.weight": draw(8, 2), "lora_down.weight": draw(2, 8, seed=1), "dora_scale": scale}
    _, after = patched_query(tensors)
    torch.testing.assert_close(after.norm(dim=1), scale[:, 0])


def test_a_scale_of_one_dimension_is_of_rows():
    scale = draw(8, seed=4).abs() + 0.5
    _, after = patched_query(
        {"lora_up.weight": draw(8, 2), "lora_down.weight": draw(2, 8, seed=1), "dora_scale": scale}
    )
    torch.testing.assert_close(after.norm(dim=1), scale)


def test_columns_of_dora_get_their_lengths():
    scale = draw(1, 8, seed=4).abs() + 0.5
    _, after = patched_query(
        {"lora_up.weight": draw(8, 2), "lora_down.weight": draw(2, 8, seed=1), "dora_scale": scale}
    )
    torch.testing.assert_close(after.norm(dim=0), scale[0])


def rotation(blocks: Tensor, strength: float) -> Tensor:
    skew, identity = blocks - blocks.mT, torch.eye(blocks.shape[-1])
    return strength * ((identity + skew) @ torch.linalg.inv(identity - skew) - identity) + identity


@pytest.mark.parametrize("strength", [1.0, 0.5, -0.5])
def test_the_strength_of_oft_is_not_squared(strength: float):
    blocks = 0.2 * draw(2, 4, 4)
    before, after = patched_query({"oft_blocks": blocks}, strength=strength)
    expected = (rotation(blocks, strength).mT @ before.view(2, 4, 8)).view(8, 8)
    torch.testing.assert_close(after, expected)


def test_rows_of_oft_are_rescaled():
    scale = 1 + 0.1 * draw(8, 1)
    before, after = patched_query({"oft_blocks": torch.zeros(2, 4, 4), "rescale": scale})
    torch.testing.assert_close(after, scale * before)


def test_the_bound_of_oft_counts_outputs():
    blocks = draw(2, 4, 4)
    bound = 1e-2 * 8
    skew = blocks - blocks.mT
    limited = blocks * (bound / skew.norm())
    before, after = patched_query({"oft_blocks": blocks, "alpha": torch.tensor(1e-2)})
    torch.testing.assert_close(after, (rotation(limited, 1.0).mT @ before.view(2, 4, 8)).view(8, 8))


def test_boft_without_alpha_is_not_left_out():
    before, after = patched_query({"oft_blocks": 0.2 * draw(2, 4, 2, 2)})
    assert (after - before).abs().max() > 0.1


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_ia3_is_not_left_out(side: str):
    factor = draw(8)
    before, after = patched_query({"weight": factor, "on_input": torch.tensor(side == "inputs")})
    torch.testing.assert_close(after, before + before * (factor if side == "inputs" else factor[:, None]))


def test_one_stray_key_does_not_turn_the_rest_off():
    tensors = {**sd1_lora(), "bundle_emb.cat.string_to_param.*": torch.zeros(1, 6), "stray": torch.zeros(1)}
    report = adapter(tensors).report(specs_of(sd1_source()), "sd1")
    assert (report.num_matched, report.num_modules) == (4, 4)


SPLIT = {"ss_network_args": json.dumps({"split_qkv": "True", "train_t5xxl": "False"})}
DOUBLE, SINGLE = "lora_unet_double_blocks_0_img_attn_qkv", "lora_unet_single_blocks_0_linear1"


def fused(metadata: dict[str, str], name: str, key: str, shape: tuple[int, int], **options: Any) -> Tensor:
    tensors = lora_tensors({name: shape}, **options)
    base = {key: torch.zeros(shape), "double_blocks.0.img_attn.norm.query_norm.scale": torch.ones(2)}
    lora = adapter(tensors, metadata)
    return patched(InMemory(base), [PlacedAdapter(adapter=lora)], "flux").read(key)


@pytest.mark.parametrize(
    ("name", "key", "shape", "parts"),
    [
        (DOUBLE, "double_blocks.0.img_attn.qkv.weight", (6, 2), 3),
        (SINGLE, "single_blocks.0.linear1.weight", (14, 2), 4),
    ],
    ids=["double", "single"],
)
def test_layers_that_kohya_trained_in_parts_act_as_they_were_trained(
    name: str, key: str, shape: tuple[int, int], parts: int
):
    """alpha / r of a part, and not of the three or four parts that the file has side by side."""
    plain = fused({}, name, key, shape, rank=2 * parts, alpha=1.0)
    torch.testing.assert_close(fused(SPLIT, name, key, shape, rank=2 * parts, alpha=1.0), parts * plain)
    without_alpha = {"rank": 2 * parts, "alpha": None}
    torch.testing.assert_close(
        fused(SPLIT, name, key, shape, **without_alpha), fused({}, name, key, shape, **without_alpha)
    )


def test_only_fused_layers_of_such_files_are_in_parts():
    assert num_parts_of(SPLIT, "lora_unet_double_blocks_0_img_attn_proj") == 1
    assert num_parts_of({"ss_network_args": '{"split_qkv": "False"}'}, DOUBLE) == 1
    assert num_parts_of({"ss_network_args": "split_qkv["}, DOUBLE) == 1
    assert num_parts_of({"ss_network_args": '["split_qkv"]'}, DOUBLE) == 1
