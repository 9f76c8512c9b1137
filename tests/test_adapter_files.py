"""Adapters beside a model: what fits, what they add, and what is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import peft
import pytest
import torch
from torch import Tensor

from backend.adapters.aliases import specs_of
from backend.adapters.lora_file import Adapter, open_adapter
from backend.adapters.matching import Reason
from backend.adapters.patched import Deltas, PlacedAdapter, patched
from backend.errors import AdapterDoesNotFit, BadCheckpoint, PickleRefused, UnknownName, UnsupportedCheckpoint
from backend.families.diffusers_layout import unet_in_ldm_layout
from backend.weights.safetensors_file import open_safetensors, write_safetensors
from backend.weights.source import InMemory, WeightSource
from tests.test_adapter_names import specs_of_header
from tests.tiny_adapters import (
    CONV,
    KEY,
    KOHYA,
    QUERY,
    TEXT,
    UNET,
    adapter,
    draw,
    lora_tensors,
    product,
    sd1_lora,
    sd1_source,
    sd1_tensors,
)


def place(tensors: Mapping[str, Tensor], **options: Any) -> PlacedAdapter:
    return PlacedAdapter(adapter=adapter(tensors), **options)


def differing(a: WeightSource, b: WeightSource) -> set[str]:
    return {key for key in a.keys() if a.identity(key) != b.identity(key)}


def test_touched_weights_are_rounded_once_and_others_are_the_same():
    base, lora = sd1_source(), sd1_lora()
    model = patched(base, [place(lora, strength=0.7, text_encoder_strength=0.3)], "sd1")
    for module, strength in ((QUERY, 0.7), (KEY, 0.7), (CONV, 0.7), (TEXT, 0.3)):
        key = f"{module}.weight"
        exact = base.read(key).double() + strength * product(lora, module)
        assert model.spec(key) == base.spec(key)
        torch.testing.assert_close(model.read(key), exact.half(), rtol=1e-3, atol=0)
        assert (model.read(key) != exact.half()).sum() <= 2  # float32 on the way, so hardly a number rounds otherwise
    untouched = set(base.keys()) - {f"{module}.weight" for module in KOHYA}
    for key in untouched:
        assert model.identity(key) == base.identity(key)
        assert torch.equal(model.read(key), base.read(key))


def test_every_way_of_reading_gives_the_same():
    model = patched(sd1_source(), [place(sd1_lora())], "sd1")
    key = f"{CONV}.weight"
    wide, stored = torch.empty(8, 8, 3, 3), torch.empty(model.storage_bytes(key), dtype=torch.uint8)
    model.read_into(key, wide)
    model.read_storage_into(key, stored)
    assert model.packing(key) is None
    assert torch.equal(wide, model.read(key).float())
    assert torch.equal(stored.view(torch.float16).view(8, 8, 3, 3), model.read(key))
    assert torch.equal(model.read_storage(key), stored)


def test_only_what_a_strength_decides_gets_another_identity():
    base, other = sd1_source(), lora_tensors({KOHYA[KEY]: (8, 6)}, seed=40)
    lora = lora_tensors({KOHYA[QUERY]: (8, 8), KOHYA[TEXT]: (6, 6)})
    model = patched(base, [place(lora), place(other, strength=0.5)], "sd1")
    assert differing(base, model) == {f"{module}.weight" for module in (QUERY, TEXT, KEY)}
    assert differing(model, patched(base, [place(lora), place(other, strength=0.6)], "sd1")) == {f"{KEY}.weight"}
    weaker_text = patched(base, [place(lora, text_encoder_strength=0.9), place(other, strength=0.5)], "sd1")
    assert differing(model, weaker_text) == {f"{TEXT}.weight"}


def test_no_strength_is_the_model_itself():
    base = sd1_source()
    assert patched(base, [place(sd1_lora(), strength=0.0)], "sd1") is base
    without_text = patched(base, [place(sd1_lora(), text_encoder_strength=0.0)], "sd1")
    assert without_text.identity(f"{TEXT}.weight") == base.identity(f"{TEXT}.weight")


def test_the_order_of_adapters_does_not_matter_even_for_those_that_look_at_the_weight():
    base = sd1_source(dtype=torch.float32)
    ia3 = {f"{KOHYA[QUERY]}.weight": draw(8, seed=1), f"{KOHYA[QUERY]}.on_input": torch.tensor(True)}
    one, two = place(sd1_lora()), place(ia3)
    key = f"{QUERY}.weight"
    there, back = (patched(base, uses, "sd1").read(key) for uses in ([one, two], [two, one]))
    torch.testing.assert_close(there, back)
    assert not torch.equal(there, patched(base, [one], "sd1").read(key))


def test_block_weights_are_a_factor_by_key():
    base, lora = sd1_source(dtype=torch.float32), sd1_lora()
    use = place(lora, strength=0.5, factor=lambda key: 0.0 if "in_layers" in key else 2.0)
    model = patched(base, [use], "sd1")
    assert torch.equal(model.read(f"{CONV}.weight"), base.read(f"{CONV}.weight"))
    expected = base.read(f"{QUERY}.weight") + product(lora, QUERY).float()
    torch.testing.assert_close(model.read(f"{QUERY}.weight"), expected)


def test_fewer_ranks_are_the_first_of_them():
    lora = sd1_lora(rank=3, alpha=3.0)
    found = Deltas(sd1_source(), [place(lora, max_rank=1)], "sd1").delta_for(f"{QUERY}.weight")
    up, down = lora[f"{KOHYA[QUERY]}.lora_up.weight"], lora[f"{KOHYA[QUERY]}.lora_down.weight"]
    assert found is not None
    torch.testing.assert_close(found, up[:, :1] @ down[:1])


def test_deltas_can_be_added_before_anything_is_rounded():
    lora = sd1_lora()
    deltas = Deltas(sd1_source(), [place(lora)], "sd1")
    assert deltas.keys == {f"{module}.weight" for module in KOHYA}
    assert deltas.delta_for(f"{UNET}input_blocks.0.0.weight") is None
    piece, delta = torch.zeros(3, 8, 3, 3), deltas.delta_of(f"{CONV}.weight")
    assert delta is not None
    delta.add_to(piece, slice(2, 5))
    torch.testing.assert_close(piece, product(lora, CONV)[2:5].float())


def test_fp8_models_become_numbers_that_can_hold_what_is_added():
    base = sd1_source(dtype=torch.float8_e4m3fn)
    lora = {key: value * 0.01 for key, value in sd1_lora(alpha=None).items()}
    model = patched(base, [place(lora)], "sd1")
    key = f"{QUERY}.weight"
    assert model.spec(key).dtype == torch.float16
    assert model.spec(f"{UNET}input_blocks.0.0.weight").dtype == torch.float8_e4m3fn
    added = model.read(key).double() - base.read(key).double()
    torch.testing.assert_close(added, product(lora, QUERY), rtol=0, atol=2e-3)
    assert patched(base, [place(lora)], "sd1", wide_dtype=torch.bfloat16).spec(key).dtype == torch.bfloat16


def test_biases_norms_and_replaced_weights():
    base = sd1_source(dtype=torch.float32)
    norm, conv = "lora_unet_down_blocks_0_resnets_0_norm1", KOHYA[CONV]
    tensors = {
        f"{norm}.w_norm": torch.full((8,), 0.5),
        f"{norm}.b_norm": torch.full((8,), 0.25),
        f"{conv}.diff": torch.ones(8, 8, 3, 3),
        f"{conv}.diff_b": torch.ones(8),
    }
    model = patched(base, [place(tensors, strength=2.0)], "sd1")
    in_layers = f"{UNET}input_blocks.1.0.in_layers"
    for key, added in ((f"{in_layers}.0.weight", 1.0), (f"{in_layers}.0.bias", 0.5), (f"{CONV}.weight", 2.0)):
        torch.testing.assert_close(model.read(key) - base.read(key), torch.full_like(base.read(key), added))
    torch.testing.assert_close(model.read(f"{CONV}.bias") - base.read(f"{CONV}.bias"), torch.full((8,), 2.0))


def test_parts_of_fused_weights_and_swapped_halves():
    width = 8
    base = InMemory(
        {
            "double_blocks.0.img_attn.qkv.weight": torch.zeros(3 * width, width),
            "single_blocks.0.linear1.weight": torch.zeros(7 * width, width),
            "final_layer.adaLN_modulation.1.weight": torch.zeros(2 * width, width),
        }
    )
    names = {
        "transformer.transformer_blocks.0.attn.to_k": (width, width),
        "transformer.single_transformer_blocks.0.proj_mlp": (4 * width, width),
        "transformer.norm_out.linear": (2 * width, width),
    }
    lora = {
        name.replace("lora_up", "lora_B").replace("lora_down", "lora_A"): tensor
        for name, tensor in lora_tensors(names, alpha=None).items()
    }
    model = patched(base, [place(lora)], "flux")

    def exact(name: str) -> Tensor:
        return lora[f"{name}.lora_B.weight"] @ lora[f"{name}.lora_A.weight"]

    key, mlp, norm = names
    fused = model.read("double_blocks.0.img_attn.qkv.weight")
    torch.testing.assert_close(fused[width : 2 * width], exact(key))
    assert not fused[:width].any()
    assert not fused[2 * width :].any()
    torch.testing.assert_close(model.read("single_blocks.0.linear1.weight")[3 * width :], exact(mlp))
    halves = exact(norm).chunk(2)
    torch.testing.assert_close(model.read("final_layer.adaLN_modulation.1.weight"), torch.cat([halves[1], halves[0]]))


def test_transposed_projection_of_open_clip():
    base = InMemory(
        {
            "cond_stage_model.model.text_projection": torch.zeros(4, 4),
            "cond_stage_model.model.transformer.resblocks.0.ln_1.weight": torch.ones(4),
        }
    )
    lora = lora_tensors({"lora_te_text_projection": (4, 4)}, alpha=None)
    up, down = (lora[f"lora_te_text_projection.lora_{side}.weight"] for side in ("up", "down"))
    model = patched(base, [place(lora)], "sd2")
    torch.testing.assert_close(model.read("cond_stage_model.model.text_projection"), (up @ down).T)


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"])
def test_a_unet_patched_is_the_unet_that_peft_merged(tmp_path: Path, options: dict[str, Any]):
    torch.manual_seed(0)
    unet: Any = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    base = {key: tensor.clone() for key, tensor in unet.state_dict().items()}
    config = peft.LoraConfig(
        r=2, lora_alpha=3, init_lora_weights=False, target_modules=["to_q", "to_k", "to_out.0", "conv1"], **options
    )
    trained: Any = peft.get_peft_model(unet, config)
    for name, parameter in trained.named_parameters():
        if "magnitude" in name:
            parameter.data *= 1.3
    tensors = {key: tensor.clone() for key, tensor in peft.get_peft_model_state_dict(trained).items()}
    file = tmp_path / "adapter_model.safetensors"
    write_safetensors(file, tensors)
    settings = {**config.to_dict(), "target_modules": [], "peft_type": "LORA", "task_type": None}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings, default=str))
    merged = trained.merge_and_unload().state_dict()

    behind = {f"{UNET}{key}": value for key, value in _ldm(base).items()}
    lora = open_adapter(file)
    report = lora.report(specs_of(InMemory(behind)), "sd1")
    assert report.num_matched == report.num_modules > 10
    model = patched(InMemory(behind), [PlacedAdapter(adapter=lora)], "sd1")
    changed = 0
    for key, expected in _ldm(merged).items():
        found = model.read(f"{UNET}{key}")
        changed += not torch.equal(expected, behind[f"{UNET}{key}"])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert changed == report.num_modules


def _ldm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    source = unet_in_ldm_layout(InMemory(tensors))
    return {key: source.read(key) for key in source.keys()}


def test_a_report_says_what_fits_and_what_does_not():
    tensors = {
        **sd1_lora(rank=4, alpha=None),
        **lora_tensors({"lora_unet_nowhere": (8, 8)}),
        f"{KOHYA[QUERY]}_extra.lora_down.weight": torch.zeros(2, 8),
        "bundle_emb.cat.string_to_param.*": torch.zeros(2, 6),
        "strange": torch.zeros(1),
    }
    tensors[f"{KOHYA[TEXT]}.lora_up.weight"] = torch.zeros(6, 4)
    report = adapter(tensors, {"ss_base_model_version": "sd_v1"}).report(specs_of(sd1_source()), "sd1")
    assert report.trained_for == "sd1"
    assert dict(report.matched) == {"denoiser": 3, "clip_l": 1}
    assert (report.num_matched, report.num_modules) == (4, 6)
    assert {found.module: found.reason for found in report.unmatched} == {
        "lora_unet_nowhere": Reason.UNKNOWN_NAME,
        f"{KOHYA[QUERY]}_extra": Reason.UNKNOWN_NAME,
    }
    assert report.formats["LoRA"] == 5
    assert report.ranks == (2, 4)
    assert report.num_without_alpha == 5
    assert report.untrained == (KOHYA[TEXT],)
    assert report.embeddings == ("cat",)
    assert report.others == ("strange",)
    report.require_fit()
    text = " ".join(report.notices())
    assert "4 of 6 modules fit" in text
    assert "lora_unet_nowhere" in text
    assert "strange" in text


def test_a_lora_for_another_family_is_refused_with_both_names():
    names = {"lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k": (8, 2048)}
    report = adapter(lora_tensors(names)).report(specs_of(sd1_source()), "sd1")
    assert [found.reason for found in report.unmatched] == [Reason.OTHER_SHAPE]
    with pytest.raises(AdapterDoesNotFit, match=r"cat.*made for sdxl models and this one is sd1: 0 of its 1"):
        report.require_fit()


def test_a_lora_that_fits_is_taken_whatever_its_metadata_say():
    report = adapter(sd1_lora(), {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}).report(
        specs_of(sd1_source()), "sd1"
    )
    report.require_fit()
    assert any("made for sdxl" in notice for notice in report.notices())


def test_alpha_of_zero_is_said():
    report = adapter(sd1_lora(alpha=0.0)).report(specs_of(sd1_source()), "sd1")
    assert len(report.silent) == 4
    assert report.alphas == (0.0, 0.0)
    assert any("alpha is 0" in notice for notice in report.notices())


def test_metadata_that_are_too_large_are_said_and_change_nothing(tmp_path: Path):
    path = tmp_path / "cat.safetensors"
    write_safetensors(path, sd1_lora(), {"ss_tag_frequency": "x" * 5 * 2**20, "ss_base_model_version": "sd_v1"})
    report = open_adapter(path).report(specs_of(sd1_source()), "sd1")
    assert (report.trained_for, report.num_matched, report.num_modules) == ("sd1", 4, 4)
    assert any("not read: ss_tag_frequency" in notice for notice in report.notices())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused_by_name(value: float):
    tensors = sd1_lora()
    bad = f"{KOHYA[KEY]}.lora_up.weight"
    tensors[bad][3, 1] = value
    lora = adapter(tensors)
    report = lora.report(specs_of(sd1_source()), "sd1")
    assert report.not_finite == (bad,)
    with pytest.raises(BadCheckpoint, match=bad):
        report.require_fit()
    with pytest.raises(BadCheckpoint, match=bad):
        patched(sd1_source(), [PlacedAdapter(adapter=lora)], "sd1").read(f"{KEY}.weight")


def test_all_of_a_published_lora_fits_its_model():
    lora = Adapter(InMemory({key: torch.zeros(spec.shape) for key, spec in specs_of_header("lora-sd15").items()}))
    report = lora.report(specs_of_header("sd15"), "sd1")
    assert (report.num_matched, report.num_modules, report.trained_for) == (160, 160, "sd1")
    assert len(report.untrained) == 160
    with pytest.raises(AdapterDoesNotFit, match="made for sd1 models and this one is sdxl"):
        lora.report(specs_of_header("sdxl-base"), "sdxl").require_fit()


def test_a_layer_under_two_names_is_said():
    other = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_q"
    tensors = {**sd1_lora(), **lora_tensors({other: (8, 8)})}
    report = adapter(tensors).report(specs_of(sd1_source()), "sd1")
    assert report.doubled == (other,)
    assert any("two names" in notice for notice in report.notices())


def test_broken_modules_are_left_out_and_said():
    tensors = sd1_lora()
    query, key, text = (KOHYA[module] for module in (QUERY, KEY, TEXT))
    tensors |= {f"{query}.lora_up.weight": torch.zeros(8, 0), f"{query}.lora_down.weight": torch.zeros(0, 8)}
    tensors[f"{key}.alpha"] = torch.ones(2)
    del tensors[f"{text}.lora_up.weight"]
    lora = adapter(tensors)
    report = lora.report(specs_of(sd1_source()), "sd1")
    assert {found.module: found.reason for found in report.unmatched} == {
        query: Reason.EMPTY,
        key: Reason.UNKNOWN_FORMAT,
        text: Reason.NO_UP,
    }
    assert Deltas(sd1_source(), [PlacedAdapter(adapter=lora)], "sd1").keys == {f"{CONV}.weight"}


def test_a_checkpoint_is_no_lora(tmp_path: Path):
    write_safetensors(tmp_path / "model.safetensors", sd1_tensors())
    with pytest.raises(UnsupportedCheckpoint, match="it is no LoRA"):
        open_adapter(tmp_path / "model.safetensors")


def test_a_pickle_is_refused_with_advice(tmp_path: Path):
    torch.save(sd1_lora(), tmp_path / "old.pt")
    with pytest.raises(PickleRefused, match="convert"):
        open_adapter(tmp_path / "old.pt")


def test_a_file_is_not_changed_by_being_used(tmp_path: Path):
    write_safetensors(tmp_path / "model.safetensors", sd1_tensors())
    write_safetensors(tmp_path / "lora.safetensors", sd1_lora())
    before = (tmp_path / "model.safetensors").read_bytes()
    base = open_safetensors(tmp_path / "model.safetensors")
    model = patched(base, [PlacedAdapter(adapter=open_adapter(tmp_path / "lora.safetensors"))], "sd1")
    changed = [key for key in model.keys() if not torch.equal(model.read(key), base.read(key))]
    assert len(changed) == 4
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_scales_of_peft_come_from_the_header():
    config = {"unet.r": 2, "unet.lora_alpha": 4, "unet.alpha_pattern": {"attn2.to_k": 1}, "unet.use_rslora": False}
    tensors = {
        f"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_{side}.lora_{ab}.weight": draw(*shape)
        for side, out in (("q", 8), ("k", 6))
        for ab, shape in (("A", (2, out)), ("B", (8, 2)))
    }
    lora = adapter(tensors, {"lora_adapter_metadata": json.dumps(config)})
    assert [lora.scaling(module).alpha for module in lora.modules] == [4.0, 1.0]


def test_families_that_take_no_adapters_are_said():
    with pytest.raises(UnknownName, match="pixart"):
        Adapter(InMemory(sd1_lora())).report({}, "pixart")
