"""What each format adds to a weight, against numbers that were computed independently."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from backend.adapters.format import ALL_ROWS, Part, Scaling
from backend.adapters.formats.builtin import BUILTIN, format_of
from backend.adapters.tensor_names import split_name

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(
    gzip.decompress((Path(__file__).parent / "data" / "adapter_vectors.json.gz").read_bytes())
)
OURS = {"lora_up": "up", "lora_B": "up", "lora_down": "down", "lora_A": "down", "lora_mid": "mid"}
IDENTICAL = (
    "alpha on_input rescale oft_blocks diff w_norm a1 a2 b1 b2 hada_t1 hada_t2 hada_w1_a hada_w1_b hada_w2_a hada_w2_b "
    "lokr_w1 lokr_w2 lokr_w1_a lokr_w1_b lokr_w2_a lokr_w2_b lokr_t2 weight dora_scale"
).split()


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def tensors_of(case: dict[str, Any]) -> dict[str, Tensor]:
    names = OURS | {name: name for name in IDENTICAL}
    return {names[key]: tensor(value) for key, value in case.items() if key in names and value is not None}


def change(
    tensors: dict[str, Tensor], weight: Tensor, *, strength: float = 1.0, max_rank: int | None = None,
    scaling: Scaling | None = None, rows: slice = ALL_ROWS,
) -> Tensor:  # fmt: skip
    format = format_of(tensors)
    assert format is not None
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    assert format.fits(shapes, tuple(weight.shape))
    part = Part(
        tensors=tensors,
        shape=tuple(weight.shape),
        weight=lambda rows: weight[rows],
        strength=strength,
        max_rank=max_rank,
        scaling=scaling or Scaling(),
    )
    return format.delta(part, rows)


def cases(*names: str) -> list[Any]:
    return [pytest.param(case, id=f"{name}-{i}") for name in names for i, case in enumerate(VECTORS[name])]


def assert_close(found: Tensor, expected: Any) -> None:
    torch.testing.assert_close(found, tensor(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", cases("lora_linear", "lora_conv", "ia3"))
def test_weights_become_those_of_the_vectors(case: dict[str, Any]):
    weight = tensor(case["W"])
    assert_close(weight + change(tensors_of(case), weight, strength=case["strength"]), case["out"])


@pytest.mark.parametrize("case", cases("locon_tucker", "loha", "loha_tucker", "lokr", "lokr_conv"))
def test_differences_are_those_of_the_vectors(case: dict[str, Any]):
    assert_close(change(tensors_of(case), torch.zeros_like(tensor(case["delta"]))), case["delta"])


@pytest.mark.parametrize("case", cases("glora"))
def test_both_layouts_of_glora(case: dict[str, Any]):
    assert_close(change(tensors_of(case), tensor(case["W"])), case["delta"])


@pytest.mark.parametrize("case", cases("oft_cayley", "boft"))
def test_rotations(case: dict[str, Any]):
    tensors = tensors_of(case)
    if case.get("alpha_constraint") is not None:
        tensors["alpha"] = tensor(case["alpha_constraint"])
    weight = tensor(case["W"])
    assert_close(weight + change(tensors, weight, strength=case["strength"]), case["out"])


@pytest.mark.parametrize("case", cases("rslora"))
def test_rank_stabilised_scale_comes_from_metadata(case: dict[str, Any]):
    tensors = {name: value for name, value in tensors_of(case).items() if name != "alpha"}
    weight = tensor(case["W"])
    scaling = Scaling(alpha=case["alpha"], is_rank_stabilised=True)
    assert_close(weight + change(tensors, weight, scaling=scaling), case["out"])


@pytest.mark.parametrize("case", cases("dora"))
def test_dora_sets_the_lengths_of_rows_or_columns(case: dict[str, Any]):
    weight, delta = tensor(case["W"]), tensor(case["delta"])
    tensors = {"up": torch.eye(2), "down": delta, "dora_scale": tensor(case["dora_scale"])}
    assert_close(weight + change(tensors, weight, strength=case["strength"]), case["out"])


def test_magnitudes_of_peft_belong_to_rows_whatever_their_shape():
    weight = torch.eye(2)
    tensors = {"up": torch.zeros(2, 1), "down": torch.zeros(1, 2), "magnitude": tensor([[2.0, 3.0]])}
    assert (weight + change(tensors, weight)).tolist() == [[2.0, 0.0], [0.0, 3.0]]


def test_dora_of_a_row_without_direction_is_no_division_by_zero():
    tensors = {"up": torch.zeros(2, 1), "down": torch.zeros(1, 2), "dora_scale": torch.ones(2, 1)}
    assert change(tensors, torch.zeros(2, 2)).tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("case", cases("dyn_dim_truncation"))
def test_fewer_ranks_keep_the_scale_of_all(case: dict[str, Any]):
    found = change(tensors_of(case), torch.zeros(2, 3), max_rank=case["dyn"])
    assert_close(found, case["delta"])


def test_full_differences_of_weights_and_norms():
    linear, _, norm = VECTORS["full_diff_and_bias"]
    weight = tensor(linear["W"])
    assert_close(weight + change(tensors_of(linear), weight, strength=linear["strength"]), linear["out"])
    weight = tensor(norm["norm_weight"])
    assert_close(weight + change({"w_norm": tensor(norm["w_norm"])}, weight), norm["out_weight"])


def test_a_replaced_weight_takes_the_place_of_the_old_one():
    weight = tensor([1.0, 2.0])
    assert (weight + change({"scale": tensor([3.0, 5.0])}, weight)).tolist() == [3.0, 5.0]
    assert (weight + change({"scale": tensor([3.0, 5.0])}, weight, strength=0.5)).tolist() == [2.0, 3.5]


def random_module(name: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "dora": {"up": draw(8, 2), "down": draw(2, 6), "dora_scale": draw(8, 1).abs()},
        "lora": {"up": draw(8, 2), "down": draw(2, 6), "alpha": tensor(1.0)},
        "loha": {f"hada_w{i}_{s}": draw(*((8, 2) if s == "a" else (2, 6))) for i in (1, 2) for s in "ab"},
        "lokr": {"lokr_w1": draw(2, 3), "lokr_w2": draw(4, 2)},
        "glora": {"a1": draw(6, 2), "a2": draw(2, 6), "b1": draw(8, 2), "b2": draw(2, 6)},
        "oft": {"oft_blocks": draw(2, 4, 4)},
        "full": {"diff": draw(8, 6)},
        "ia3": {"weight": draw(8), "on_input": tensor(0.0)},
        "peft-ia3": {"ia3_l": draw(8, 1)},
        "replacement": {"set_weight": draw(8, 6)},
        "sparse": {
            "up": draw(8, 2),
            "down": draw(2, 6),
            "bias_indices": tensor([[0, 3, 5], [5, 0, 2]]),
            "bias_values": draw(3),
            "bias_size": tensor([8, 6]),
        },
        "oft-diag": {"oft_diag": draw(2, 4, 4)},
        "peft-oft": {"oft_R": draw(2, 3) * 0.2},
        "peft-boft": {"boft_R": draw(1, 2, 3, 3), "boft_s": draw(8, 1)},
        "tlora": {"q_layer": draw(2, 6), "p_layer": draw(8, 2), "lambda_layer": draw(1, 2)},
    }[name]


@pytest.mark.parametrize("name", [format.name for format in BUILTIN])
def test_some_rows_are_the_rows_of_all_and_no_strength_is_no_change(name: str):
    weight = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    tensors = random_module(name)
    found = format_of(tensors)
    assert found is not None
    assert found.name == name
    whole = change(tensors, weight, strength=0.7)
    assert whole.abs().max() > 0.01
    torch.testing.assert_close(change(tensors, weight, strength=0.7, rows=slice(3, 6)), whole[3:6])
    torch.testing.assert_close(change(tensors, weight, strength=0.0), torch.zeros(8, 6), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [format.name for format in BUILTIN])
def test_other_shapes_do_not_fit(name: str):
    tensors = random_module(name)
    found = format_of(tensors)
    assert found is not None
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    assert found.fits(shapes, (8, 6))
    assert not found.fits(shapes, (10, 7))
    assert not found.fits(shapes, (9,))


@pytest.mark.parametrize(
    ("key", "module", "name"),
    [
        ("lora_unet_x.lora_up.weight", "lora_unet_x", "up"),
        ("lora_unet_x.lora_mid.weight", "lora_unet_x", "mid"),
        ("unet.a.attn1.processor.to_q_lora.down.weight", "unet.a.attn1.processor.to_q", "down"),
        ("text_encoder.a.q_proj.lora_linear_layer.up.weight", "text_encoder.a.q_proj", "up"),
        ("unet.a.to_q.lora.up.weight", "unet.a.to_q", "up"),
        ("base_model.model.a.to_q.lora_A.default.weight", "base_model.model.a.to_q", "down"),
        ("transformer.a.lora_B.weight", "transformer.a", "up"),
        ("img_in.lora_B.bias", "img_in", "up_bias"),
        ("a.lora_magnitude_vector", "a", "magnitude"),
        ("a.lora_magnitude_vector.default.weight", "a", "magnitude"),
        ("a.hada_w1_a", "a", "hada_w1_a"),
        ("a.lokr_w2_b", "a", "lokr_w2_b"),
        ("a.a1.weight", "a", "a1"),
        ("a.diff_b", "a", "diff_b"),
        ("a.on_input", "a", "on_input"),
        ("base_model.model.a.oft_R.weight", "base_model.model.a", "oft_R"),
        ("a.oft_R.default.weight", "a", "oft_R"),
        ("a.boft_s", "a", "boft_s"),
        ("a.ia3_l.default", "a", "ia3_l"),
        ("a.oft_diag", "a", "oft_diag"),
        ("a.q_layer.weight", "a", "q_layer"),
        ("a.base_lambda", "a", "base_lambda"),
        ("a.bias_indices", "a", "bias_indices"),
        ("single_blocks.0.processor.qkv_lora.down.weight", "single_blocks.0.processor.qkv_lora", "down"),
        ("double_blocks.3.processor.proj_lora2.up.weight", "double_blocks.3.processor.proj_lora2", "up"),
        ("double_blocks.0.img_attn.norm.query_norm.scale", "double_blocks.0.img_attn.norm.query_norm", "scale"),
    ],
)
def test_endings_of_names(key: str, module: str, name: str):
    assert split_name(key) == (module, name)


def test_other_names_belong_to_no_module():
    assert split_name("bundle_emb.cat.clip_l") is None
    assert split_name("position_ids") is None
