"""Names in adapters, against a table that was checked with diffusers' own networks."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.adapters.aliases import aliases_of, named_targets
from backend.adapters.target import Named, Target, swapped_halves
from backend.errors import UnknownName
from backend.weights.source import TensorSpec

TABLE: dict[str, dict[str, dict[str, Any]]] = json.loads(
    gzip.decompress((Path(__file__).parent / "data" / "lora_key_map.json.gz").read_bytes())
)
FAMILY = {"sd1": "sd1", "sdxl": "sdxl", "sd3_medium": "sd3", "flux1": "flux"}


def specs_of_header(name: str) -> dict[str, TensorSpec]:
    header = json.loads(gzip.decompress((Path(__file__).parent / "headers" / f"{name}.json.gz").read_bytes()))
    return {key: TensorSpec(tuple(shape), torch.float16) for key, (_, shape) in header["tensors"].items()}


def specs_of_table(model: str) -> dict[str, TensorSpec]:
    specs: dict[str, TensorSpec] = {}
    for module, entry in TABLE[model].items():
        key = module if entry.get("replace_only") else f"{module}.weight"
        specs[key] = TensorSpec(tuple(entry["shape"]), torch.float16)
    return specs


def expected_names(model: str) -> dict[str, tuple[str, tuple[int, int] | None, bool]]:
    expected: dict[str, tuple[str, tuple[int, int] | None, bool]] = {}
    for module, entry in TABLE[model].items():
        key = module if entry.get("replace_only") else f"{module}.weight"
        for style in ("kohya", "kohya_ldm", "kohya_diffusers", "diffusers", "diffusers_old", "generic", "xlabs"):
            if style in entry:
                rows = tuple(entry["xlabs_rows"]) if style == "xlabs" and "xlabs_rows" in entry else None
                expected[entry[style]] = (key, rows, False)
        for part in entry.get("parts", ()):
            rows = tuple(part["rows"]) if part["rows"] else None
            for style in ("diffusers", "onetrainer", "simpletuner_lycoris", "peft_base_model"):
                if style in part:
                    name = part[style].removesuffix(".weight")
                    expected[name] = (key, rows, part.get("swap_scale_shift", False))
    return expected


def what(target: Target) -> tuple[str, tuple[int, int] | None, bool]:
    return target.weight, target.rows, target.is_swapped


def names_of(header: str, family: str) -> dict[str, Target]:
    return aliases_of(named_targets(specs_of_header(header), family))


@pytest.mark.parametrize("model", FAMILY)
def test_every_name_of_the_table_stands_for_its_weight(model: str):
    aliases = aliases_of(named_targets(specs_of_table(model), FAMILY[model]))
    expected = expected_names(model)
    found = {name: what(aliases[name]) if name in aliases else None for name in expected}
    assert found == expected


@pytest.mark.parametrize("model", FAMILY)
def test_every_weight_of_the_table_has_names_and_the_model_has_no_others(model: str):
    named = list(named_targets(specs_of_table(model), FAMILY[model]))
    assert {module.target.weight for module in named} == set(specs_of_table(model))


@pytest.mark.parametrize(
    ("header", "family"),
    [
        ("sd15", "sd1"),
        ("sd21-768", "sd2"),
        ("sdxl-base", "sdxl"),
        ("sdxl-refiner", "sdxl-refiner"),
        ("sd3-medium-with-encoders", "sd3"),
        ("sd35-medium", "sd3"),
        ("sd35-large", "sd3"),
        ("flux-dev", "flux"),
    ],
)
def test_no_name_stands_for_two_weights(header: str, family: str):
    named: list[Named] = list(named_targets(specs_of_header(header), family))
    names = Counter(name for name, _ in {(name, what(module.target)) for module in named for name in module.names})
    assert [name for name, count in names.items() if count > 1] == []
    kohya = Counter(module.kohya for module in named if module.kohya)
    assert max(kohya.values()) == 1


@pytest.mark.parametrize(
    ("header", "family"),
    [("sd15", "sd1"), ("sd21-768", "sd2"), ("sdxl-base", "sdxl"), ("sdxl-refiner", "sdxl-refiner")],
)
def test_every_layer_of_denoiser_and_text_encoders_can_be_named_in_a_file_of_ours(header: str, family: str):
    specs = specs_of_header(header)
    covered = {module.target.weight for module in named_targets(specs, family) if module.kohya}
    starts = ("model.diffusion_model.", "cond_stage_model.", "conditioner.")
    layers = {key for key in specs if key.startswith(starts) and key.endswith(("weight", "text_projection"))}
    left_out = {key for key in layers - covered if "embedding" not in key}
    assert left_out == set()


def test_names_of_text_encoders():
    sd1 = names_of("sd15", "sd1")
    query = sd1["lora_te_text_model_encoder_layers_11_self_attn_q_proj"]
    assert query.weight == "cond_stage_model.transformer.text_model.encoder.layers.11.self_attn.q_proj.weight"
    assert query.bias == "cond_stage_model.transformer.text_model.encoder.layers.11.self_attn.q_proj.bias"
    assert query.component == "clip_l"
    assert sd1["text_encoder.text_model.encoder.layers.11.self_attn.q_proj"] == query
    assert sd1["text_encoder.text_model.encoder.layers.11.self_attn.to_q"] == query


def test_attention_of_open_clip_is_rows_of_its_fused_weight():
    sdxl = names_of("sdxl-base", "sdxl")
    value = sdxl["lora_te2_text_model_encoder_layers_31_self_attn_v_proj"]
    assert value.weight == "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight"
    assert value.bias == "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_bias"
    assert (value.rows, value.shape, value.component) == ((2560, 3840), (1280, 1280), "clip_g")
    assert sdxl["lora_te2_text_projection"].is_transposed
    assert sdxl["lora_te1_text_model_encoder_layers_0_mlp_fc1"].component == "clip_l"


def test_old_checkpoints_without_text_model_have_the_same_names():
    specs = {
        key.replace("transformer.text_model.", "transformer."): spec for key, spec in specs_of_header("sd15").items()
    }
    assert set(names_of("sd15", "sd1")) >= set(aliases_of(named_targets(specs, "sd1"))) - {
        name for name in aliases_of(named_targets(specs, "sd1")) if name.startswith("cond_stage_model.")
    }
    assert "lora_te_text_model_encoder_layers_0_mlp_fc1" in aliases_of(named_targets(specs, "sd1"))


def test_t5_of_flux_is_the_second_or_third_encoder():
    t5 = {f"text_encoders.t5xxl.transformer.{key}": spec for key, spec in specs_of_header("t5-xxl").items()}
    aliases = aliases_of(named_targets({**specs_of_header("flux-dev"), **t5}, "flux"))
    name = "encoder_block_3_layer_0_SelfAttention_q"
    assert aliases[f"lora_te3_{name}"] == aliases[f"lora_te2_{name}"]
    assert aliases[f"lora_te3_{name}"].component == "t5"
    assert aliases["text_encoder_2.encoder.block.3.layer.0.SelfAttention.q"] == aliases[f"lora_te2_{name}"]


def test_an_encoder_in_a_file_of_its_own_is_known_by_its_width():
    small, large = names_of("clip-l", "flux"), names_of("clip-g", "sd3")
    assert small["lora_te1_text_model_encoder_layers_0_mlp_fc1"].component == "clip_l"
    assert large["lora_te2_text_model_encoder_layers_0_mlp_fc1"].component == "clip_g"
    assert "lora_te1_text_model_encoder_layers_0_mlp_fc1" not in large


def test_onetrainer_numbers_the_parts_of_fused_layers():
    flux = names_of("flux-dev", "flux")
    assert flux["transformer.single_blocks.37.linear1.3"] == flux["transformer.single_transformer_blocks.37.proj_mlp"]
    assert flux["transformer.double_blocks.0.img_attn.qkv.1"].rows == (3072, 6144)


def test_second_attention_of_sd35_medium_has_names():
    sd35 = names_of("sd35-medium", "sd3")
    assert sd35["transformer.transformer_blocks.12.attn2.to_k"].rows == (1536, 3072)
    assert "transformer.transformer_blocks.13.attn2.to_k" not in sd35


def test_scale_and_shift_change_places():
    assert swapped_halves(torch.arange(6)).tolist() == [3, 4, 5, 0, 1, 2]


def test_families_without_names_are_refused_by_name():
    with pytest.raises(UnknownName, match="pixart"):
        list(named_targets({}, "pixart"))
