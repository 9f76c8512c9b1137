"""Vectors that need a model: fused layers, swapped halves, first layers that are wider, biases, and narrow numbers."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from backend.adapters.aliases import specs_of
from backend.adapters.patched import PlacedAdapter, patched
from backend.weights.source import InMemory
from tests.tiny_adapters import CONV, KOHYA, UNET, adapter, draw, sd1_tensors

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(
    gzip.decompress((Path(__file__).parent / "data" / "adapter_vectors.json.gz").read_bytes())
)


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def flux(tensors: Mapping[str, Tensor], base: Mapping[str, Tensor], **options: Any) -> dict[str, Tensor]:
    model = patched(InMemory(base), [PlacedAdapter(adapter=adapter(tensors), **options)], "flux")
    return {key: model.read(key) for key in base}


def pair(name: str, up: Tensor, down: Tensor) -> dict[str, Tensor]:
    return {f"{name}.lora_B.weight": up, f"{name}.lora_A.weight": down}


def test_queries_keys_and_values_go_to_their_rows_of_a_fused_weight():
    case = VECTORS["split_qkv_into_fused"][0]
    key = "double_blocks.0.img_attn.qkv.weight"
    base = {key: torch.zeros(6, 2)}
    parts = {
        part: pair(
            f"transformer.transformer_blocks.0.attn.to_{part}", *(tensor(case[f"{s}_{part}"]) for s in ("up", "down"))
        )
        for part in "qkv"
    }
    found = flux({name: value for part in parts.values() for name, value in part.items()}, base)
    torch.testing.assert_close(found[key], tensor(case["fused_delta"]))
    fused = {
        "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": tensor(case["fused_up"]),
        "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": tensor(case["fused_down"]),
        "lora_unet_double_blocks_0_img_attn_qkv.alpha": torch.tensor(case["fused_alpha"]),
    }
    torch.testing.assert_close(flux(fused, base)[key], tensor(case["check"]))
    alone = flux(parts["k"], base)[key]
    torch.testing.assert_close(alone[2:4], tensor(case["fused_delta"])[2:4])
    assert not alone[:2].any()
    assert not alone[4:].any()


def test_a_fused_product_is_that_of_its_rows():
    case = VECTORS["fused_qkv_into_split"][0]
    key = "double_blocks.0.img_attn.qkv.weight"
    base, down = {key: torch.zeros(6, 2)}, tensor(case["down"])
    whole = flux(pair("double_blocks.0.img_attn.qkv", tensor(case["up"]), down), base)[key]
    for index, part in enumerate("qkv"):
        one = flux(pair(f"transformer.transformer_blocks.0.attn.to_{part}", tensor(case[f"up_{part}"]), down), base)[
            key
        ]
        rows = slice(2 * index, 2 * index + 2)
        assert torch.equal(one[rows], whole[rows])


@pytest.mark.parametrize("case", VECTORS["swap_scale_shift"], ids=["weight", "bias"])
def test_scale_and_shift_of_diffusers_change_places(case: dict[str, Any]):
    found = tensor(case["x"])
    shape = found.shape if found.ndim == 2 else (4, 2)
    base = {
        "final_layer.adaLN_modulation.1.weight": torch.zeros(shape),
        "final_layer.adaLN_modulation.1.bias": torch.zeros(4),
    }
    ending, key = ("diff", "weight") if found.ndim == 2 else ("diff_b", "bias")
    model = flux({f"transformer.norm_out.linear.{ending}": found}, base)
    assert model[f"final_layer.adaLN_modulation.1.{key}"].tolist() == case["out"]


@pytest.mark.parametrize("case", VECTORS["flux_control_lora_img_in"])
def test_a_control_lora_acts_as_with_an_empty_picture(case: dict[str, Any]):
    """The wide layer of the vectors on [noise, zeros] gives what ours gives on the noise."""
    weight, wide = tensor(case["W"]), tensor(case["out"])
    tensors = pair("img_in", tensor(case["lora_B"]), tensor(case["lora_A"]))
    base = {"img_in.weight": weight, "double_blocks.0.img_attn.qkv.weight": torch.zeros(6, 2)}
    ours = flux(tensors, base, strength=case["strength"])["img_in.weight"]
    noise = draw(3, 2)
    expected = torch.cat([noise, torch.zeros(3, 2)], dim=1) @ wide.T
    torch.testing.assert_close(noise @ ours.T, expected)
    report = adapter(tensors).report(specs_of(InMemory(base)), "flux")
    assert report.needs_control
    report.require_fit()
    assert any("control picture" in notice for notice in report.notices())


def test_other_layers_that_are_twice_as_wide_are_those_of_another_model():
    name = "double_blocks.0.img_attn.qkv"
    report = adapter(pair(name, torch.ones(6, 1), torch.ones(1, 4))).report(
        specs_of(InMemory({f"{name}.weight": torch.zeros(6, 2), "img_in.weight": torch.zeros(2, 2)})), "flux"
    )
    assert [found.module for found in report.unmatched] == [name]


def test_biases_of_the_vectors():
    _, linear, norm = VECTORS["full_diff_and_bias"]
    name, layer = "lora_unet_down_blocks_0_resnets_0_norm1", f"{UNET}input_blocks.1.0.in_layers.0"
    base = {
        **sd1_tensors(dtype=torch.float32),
        f"{CONV}.weight": torch.zeros(2, 2, 3, 3),
        f"{CONV}.bias": tensor(linear["bias"]),
        f"{layer}.weight": tensor(norm["norm_weight"]),
        f"{layer}.bias": tensor(norm["norm_bias"]),
    }
    diff = {f"{KOHYA[CONV]}.diff_b": tensor(linear["diff_b"])}
    model = patched(
        InMemory(base),
        [PlacedAdapter(adapter=adapter({**diff, f"{name}.w_norm": torch.zeros(2)}), strength=2.0)],
        "sd1",
    )
    assert model.read(f"{CONV}.bias").tolist() == linear["out"]
    moved = {f"{name}.{kind}": tensor(norm[kind]) for kind in ("w_norm", "b_norm")}
    model = patched(InMemory(base), [PlacedAdapter(adapter=adapter(moved))], "sd1")
    torch.testing.assert_close(model.read(f"{layer}.weight"), tensor(norm["out_weight"]))
    torch.testing.assert_close(model.read(f"{layer}.bias"), tensor(norm["out_bias"]))


@pytest.mark.parametrize(
    ("dtype", "applied", "noise"),
    [(torch.bfloat16, 1.0, 0.1), (torch.float16, 1.0, 0.0124)],
    ids=["bfloat16", "float16"],
)
def test_weights_of_sixteen_bits_keep_all_that_is_added(dtype: torch.dtype, applied: float, noise: float):
    """The share and the noise that the vectors measured: of the rounding, and of nothing else."""
    wanted = 0.0005 * draw(512, 512, seed=1)
    key = "double_blocks.0.img_attn.qkv.weight"
    base = {key: (0.03 * draw(512, 512)).to(dtype)}
    found = flux({"double_blocks.0.img_attn.qkv.diff": wanted}, base)[key].float() - base[key].float()
    assert float((found * wanted).sum() / wanted.square().sum()) == pytest.approx(applied, abs=0.01)
    assert float((found - wanted).norm() / wanted.norm()) == pytest.approx(noise, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_eight_bits_keep_all_that_is_added(dtype: torch.dtype):
    """Rounded to eight bits again a third of it would be left."""
    wanted = 0.0005 * draw(128, 128, seed=1)
    key = "double_blocks.0.img_attn.qkv.weight"
    base = {key: (0.03 * draw(128, 128)).to(dtype)}
    found = flux({"double_blocks.0.img_attn.qkv.diff": wanted}, base)[key].float() - base[key].float()
    assert float((found * wanted).sum() / wanted.square().sum()) == pytest.approx(1, abs=0.01)
    assert float((found - wanted).norm() / wanted.norm()) < 0.02
