"""Damaged, foreign and hostile files: a typed error or a notice, and the model's file stays as it was."""

import hashlib
import time
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backend.adapters.aliases import specs_of
from backend.adapters.lora_file import open_adapter
from backend.adapters.matching import Reason
from backend.adapters.patched import PlacedAdapter, patched
from backend.adapters.report import AdapterReport
from backend.errors import AdapterDoesNotFit, BadCheckpoint, EmulsionError, PickleRefused, UnsupportedCheckpoint
from backend.weights.safetensors_file import open_safetensors, write_safetensors
from backend.weights.source import InMemory
from tests.tiny_adapters import (
    CONV,
    KEY,
    KOHYA,
    QUERY,
    TEXT,
    adapter,
    draw,
    lora_tensors,
    sd1_lora,
    sd1_source,
    sd1_tensors,
)

MODULE = KOHYA[QUERY]
UP, DOWN, ALPHA = f"{MODULE}.lora_up.weight", f"{MODULE}.lora_down.weight", f"{MODULE}.alpha"


def report_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> AdapterReport:
    return adapter(tensors, metadata).report(specs_of(sd1_source()), "sd1")


def reasons(report: AdapterReport) -> dict[str, Reason]:
    return {found.module: found.reason for found in report.unmatched}


def without(tensors: Mapping[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if key not in keys}


# what is wrong -> the file, and why its first module is left out
MODULES: dict[str, tuple[dict[str, Tensor], Reason]] = {
    "no down": (without(sd1_lora(), DOWN), Reason.NO_DOWN),
    "no up": (without(sd1_lora(), UP), Reason.NO_UP),
    "half a LoHa": ({**without(sd1_lora(), UP, DOWN), f"{MODULE}.hada_w1_a": draw(8, 2)}, Reason.UNKNOWN_FORMAT),
    "rank 0": ({**sd1_lora(), UP: torch.zeros(8, 0), DOWN: torch.zeros(0, 8)}, Reason.EMPTY),
    "other widths": ({**sd1_lora(), DOWN: draw(2, 9)}, Reason.OTHER_SHAPE),
    "other heights": ({**sd1_lora(), UP: draw(9, 2)}, Reason.OTHER_SHAPE),
    "other ranks": ({**sd1_lora(), UP: draw(8, 3)}, Reason.OTHER_SHAPE),
    "one dimension": ({**sd1_lora(), UP: draw(16)}, Reason.OTHER_SHAPE),
    "many dimensions": ({**sd1_lora(), DOWN: draw(2, 8, 1, 1, 1, 2)}, Reason.OTHER_SHAPE),
    "integers": ({**sd1_lora(), UP: torch.ones(8, 2, dtype=torch.int8)}, Reason.NO_NUMBERS),
    "complex numbers": ({**sd1_lora(), UP: torch.ones(8, 2, dtype=torch.complex64)}, Reason.NO_NUMBERS),
    "two alphas": ({**sd1_lora(), ALPHA: torch.ones(2)}, Reason.UNKNOWN_FORMAT),
    "an unknown name": ({**without(sd1_lora(), UP, DOWN, ALPHA), "lora_unet_x.lora_up.weight": draw(2, 2),
                         "lora_unet_x.lora_down.weight": draw(2, 2)}, Reason.UNKNOWN_NAME),
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_a_broken_module_is_left_out_with_its_reason(name: str):
    tensors, reason = MODULES[name]
    report = report_of(tensors)
    assert list(reasons(report).values()) == [reason]
    assert report.num_matched == 3
    assert any(reason.value in notice for notice in report.notices())
    base = sd1_source()
    model = patched(base, [PlacedAdapter(adapter=adapter(tensors))], "sd1")
    assert model.identity(f"{QUERY}.weight") == base.identity(f"{QUERY}.weight")
    assert model.identity(f"{KEY}.weight") != base.identity(f"{KEY}.weight")


@pytest.mark.parametrize("name", [name for name in MODULES if name != "an unknown name"])
def test_nothing_but_broken_modules_is_refused(name: str):
    tensors = {key: value for key, value in MODULES[name][0].items() if key.startswith(MODULE)}
    try:
        report = report_of(tensors)
    except UnsupportedCheckpoint:
        return  # not even one module that could be of a LoRA
    with pytest.raises(AdapterDoesNotFit, match="0 of its 1 modules fit"):
        report.require_fit()


# formats other than LoRA, each with shapes that cannot be
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "oft of another height": {"oft_blocks": (2, 3, 3)},
    "oft that is no square": {"oft_blocks": (2, 4, 3)},
    "oft without blocks": {"oft_blocks": (0, 4, 4)},
    "oft with other scales": {"oft_blocks": (2, 4, 4), "rescale": (7, 1)},
    "boft with odd blocks": {"oft_blocks": (2, 1, 3, 3)},
    "oft of one dimension": {"oft_blocks": (8,)},
    "stored rotations": {"oft_diag": (3, 4, 4)},
    "oft_R that is no triangle": {"oft_R": (2, 5)},
    "oft_R of one dimension": {"oft_R": (6,)},
    "boft_R of another width": {"boft_R": (1, 3, 4, 4)},
    "boft_R that cannot be mixed": {"boft_R": (3, 2, 4, 4)},
    "boft_s of another height": {"boft_R": (1, 2, 4, 4), "boft_s": (7, 1)},
    "ia3_l of neither side": {"ia3_l": (7, 1)},
    "ia3": {"weight": (7,), "on_input": ()},
    "tlora": {"p_layer.weight": (8, 2), "lambda_layer": (1, 3), "q_layer.weight": (2, 8)},
    "tlora of one dimension": {"p_layer.weight": (8,), "lambda_layer": (1,), "q_layer.weight": (8,)},
    "tlora with half a beginning": {
        "p_layer.weight": (8, 2), "lambda_layer": (1, 2), "q_layer.weight": (2, 8), "base_p": (8, 2)
    },
    "sparse": {
        "lora_up.weight": (8, 2), "lora_down.weight": (2, 8),
        "bias_indices": (2, 3), "bias_values": (4,), "bias_size": (2,),
    },
    "sparse of three dimensions": {
        "lora_up.weight": (8, 2), "lora_down.weight": (2, 8),
        "bias_indices": (3, 3), "bias_values": (3,), "bias_size": (3,),
    },
    "sparse beside vectors": {
        "lora_up.weight": (8,), "lora_down.weight": (8,),
        "bias_indices": (2, 3), "bias_values": (3,), "bias_size": (2,),
    },
    "loha": {"hada_w1_a": (8, 2), "hada_w1_b": (3, 8), "hada_w2_a": (8, 2), "hada_w2_b": (2, 8)},
    "lokr": {"lokr_w1": (3, 2), "lokr_w2": (4, 4)},
    "lokr of one dimension": {"lokr_w1": (3,), "lokr_w2": (4, 4)},
    "glora": {"a1.weight": (8, 2), "a2.weight": (2, 8), "b1.weight": (8, 3), "b2.weight": (2, 8)},
    "dora": {"lora_up.weight": (8, 2), "lora_down.weight": (2, 8), "dora_scale": (5, 1)},
    "full": {"diff": (8, 9)},
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_that_cannot_be_are_no_crash(name: str):
    tensors = without(sd1_lora(), UP, DOWN, ALPHA)
    tensors |= {f"{MODULE}.{kind}": torch.ones(shape) for kind, shape in SHAPES[name].items()}
    found = reasons(report_of(tensors))
    assert list(found) == [MODULE]
    assert found[MODULE] in (Reason.OTHER_SHAPE, Reason.EMPTY)


@pytest.mark.parametrize(
    ("indices", "size", "match"),
    [
        ([[0, 8], [0, 0]], [8, 8], "outside"),
        ([[0, -1], [0, 0]], [8, 8], "outside"),
        ([[0, 1], [0, 0]], [9, 8], "is one of"),
    ],
    ids=["too far", "negative", "another matrix"],
)
def test_sparse_numbers_outside_of_the_layer_are_an_error(indices: list[list[int]], size: list[int], match: str):
    tensors = {
        **sd1_lora(),
        f"{MODULE}.bias_indices": torch.tensor(indices, dtype=torch.int16),
        f"{MODULE}.bias_values": torch.ones(2),
        f"{MODULE}.bias_size": torch.tensor(size, dtype=torch.int16),
    }
    lora = adapter(tensors)
    with pytest.raises(BadCheckpoint, match=f"(?s){MODULE}.*{match}"):
        lora.report(specs_of(sd1_source()), "sd1")
    with pytest.raises(BadCheckpoint, match=match):
        patched(sd1_source(), [PlacedAdapter(adapter=lora)], "sd1").read(f"{QUERY}.weight")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("key", [UP, ALPHA])
def test_values_that_are_no_numbers_are_refused(key: str, value: float):
    tensors = sd1_lora()
    tensors[key] = torch.full_like(tensors[key], value)
    with pytest.raises(BadCheckpoint, match=key):
        report_of(tensors).require_fit()
    with pytest.raises(BadCheckpoint, match=key):
        patched(sd1_source(), [PlacedAdapter(adapter=adapter(tensors))], "sd1").read(f"{QUERY}.weight")


def test_a_huge_rank_is_a_product_like_any_other():
    tensors = lora_tensors({MODULE: (8, 8)}, rank=4096, alpha=4096.0)
    base = sd1_source(dtype=torch.float32)
    found = patched(base, [PlacedAdapter(adapter=adapter(tensors))], "sd1").read(f"{QUERY}.weight")
    expected = base.read(f"{QUERY}.weight").double() + tensors[UP].double() @ tensors[DOWN].double()
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-3)
    assert report_of(tensors).ranks == (4096, 4096)


def test_alpha_of_0_is_told_and_adds_nothing():
    tensors = sd1_lora(alpha=0.0)
    report = report_of(tensors)
    assert any("their alpha is 0" in notice for notice in report.notices())
    base = sd1_source()
    model = patched(base, [PlacedAdapter(adapter=adapter(tensors))], "sd1")
    assert torch.equal(model.read(f"{QUERY}.weight"), base.read(f"{QUERY}.weight"))


def test_one_layer_under_two_ways_of_naming_is_told():
    other = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"
    pair = {f"{other}.lora_A.weight": draw(2, 8), f"{other}.lora_B.weight": draw(8, 2)}
    assert report_of({**sd1_lora(), **pair}).doubled == (other,)


def test_a_part_of_a_layer_that_is_there_as_a_whole_is_told():
    whole, part = "double_blocks.0.img_attn.qkv", "transformer.transformer_blocks.0.attn.to_k"
    tensors = lora_tensors({f"lora_unet_{whole.replace('.', '_')}": (6, 2), part: (2, 2)})
    base = {f"{whole}.weight": torch.zeros(6, 2), "img_in.weight": torch.zeros(2, 2)}
    assert adapter(tensors).report(specs_of(InMemory(base)), "flux").doubled == (part,)


def test_a_second_tensor_for_the_same_place_is_told():
    again = f"{MODULE}.lora.up.weight"
    assert report_of({**sd1_lora(), again: draw(8, 2)}).others == (again,)


@pytest.mark.parametrize(
    ("names", "metadata", "family"),
    [
        (["lora_prior_unet_down_blocks_0_1_0_attention_attn_to_q"], {}, "Stable Cascade"),
        (["lora_prior_te_text_model_encoder_layers_0_self_attn_q_proj"], {}, "Stable Cascade"),
        (["lora_unet_double_blocks_0_img_attn_qkv"], {}, "flux"),
        (["transformer.single_transformer_blocks.0.attn.to_q"], {}, "flux"),
        (["lora_unet_joint_blocks_0_x_block_attn_qkv"], {}, "sd3"),
        (["lora_unet_x"], {"ss_base_model_version": "lumina2"}, "Lumina 2"),
        (["lora_unet_x"], {"modelspec.architecture": "wan2.1/lora"}, "Wan"),
    ],
)
def test_files_for_other_models_are_refused_by_their_name(names: list[str], metadata: dict[str, str], family: str):
    tensors = lora_tensors(dict.fromkeys(names, (4, 4)))
    with pytest.raises(AdapterDoesNotFit, match=f"made for {family} models and this one is sd1"):
        report_of(tensors, metadata).require_fit()


def test_keys_that_match_nothing_are_listed():
    tensors = {**sd1_lora(), "loss": torch.zeros(1), "optimizer.0": torch.zeros(1)}
    report = report_of(tensors)
    assert report.others == ("loss", "optimizer.0")
    assert any("optimizer.0" in notice for notice in report.notices())


def test_a_file_of_nothing_that_is_known_is_refused_with_a_name_from_it():
    with pytest.raises(UnsupportedCheckpoint, match=r"the first is encoder\.conv"):
        adapter({"encoder.conv": torch.zeros(1)})
    with pytest.raises(UnsupportedCheckpoint, match="none of its 0 tensors"):
        adapter({})


BROKEN_FILES: dict[str, tuple[bytes, type[EmulsionError]]] = {
    "empty": (b"", BadCheckpoint),
    "cut off": ((1000).to_bytes(8, "little") + b'{"a":', BadCheckpoint),
    "a pickle": (b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00}\x94.", PickleRefused),
    "an archive": (b"PK\x03\x04" + bytes(60), PickleRefused),
    "a web page": (b"<!DOCTYPE html><html><head><title>Not found</title></head></html>", BadCheckpoint),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_what_is_no_file_of_tensors_is_refused(name: str, tmp_path: Path):
    content, error = BROKEN_FILES[name]
    file = tmp_path / "cat.safetensors"
    file.write_bytes(content)
    with pytest.raises(error, match=r"cat\.safetensors"):
        open_adapter(file)


def header_only(path: Path, count: int) -> int:
    """A file of `count` empty tensors, and the bytes of its header."""
    entry = '{"dtype":"F16","shape":[0],"data_offsets":[0,0]}'
    text = ",".join(f'"m{i // 2}.lora_{"up" if i % 2 else "down"}.weight":{entry}' for i in range(count))
    raw = f"{{{text}}}".encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw)
    return len(raw)


@pytest.mark.parametrize("count", [210_000, 500_000], ids=["by their number", "by its length"])
def test_a_header_of_too_many_tensors_is_refused_before_it_is_read(tmp_path: Path, count: int):
    """Counting marks takes milliseconds; reading the JSON would take seconds, and many times its length of memory."""
    size = header_only(tmp_path / "cat.safetensors", count)
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(BadCheckpoint):
        open_adapter(tmp_path / "cat.safetensors")
    seconds, (_, most) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 3 * size + 2**20
    assert seconds < 2


def test_many_tensors_are_read_in_seconds(tmp_path: Path):
    header_only(tmp_path / "cat.safetensors", 40_000)
    started = time.process_time()
    report = open_adapter(tmp_path / "cat.safetensors").report(specs_of(sd1_source()), "sd1")
    assert time.process_time() - started < 10
    assert report.num_modules == 20_000
    assert max(len(notice) for notice in report.notices()) < 1000
    with pytest.raises(AdapterDoesNotFit):
        report.require_fit()


def test_names_that_are_made_to_be_slow_are_not():
    keys = ["." * 400, ".lora_A" * 60, "_lora." * 80, "a.lora_B" + ".x" * 200, ".lora_magnitude_vector" * 20]
    tensors = {f"{key}{i}": torch.zeros(0) for key in keys for i in range(200)}
    started = time.process_time()
    with pytest.raises(UnsupportedCheckpoint):
        adapter(tensors)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "config", ["[1", "[]", '{"lora_alpha": "x", "alpha_pattern": 3, "r": NaN}', "{" * 5000, '{"r": -1}']
)
def test_a_broken_configuration_is_none(config: str):
    lora = adapter(sd1_lora(alpha=None), {"lora_adapter_metadata": config})
    assert lora.scaling(MODULE).alpha is None
    assert lora.scaling(MODULE).rank is None


def test_the_file_of_the_model_is_never_touched(tmp_path: Path):
    file = tmp_path / "model.safetensors"
    write_safetensors(file, sd1_tensors())
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    base = open_safetensors(file)
    bad = {**sd1_lora(), f"{KOHYA[CONV]}.lora_up.weight": torch.full((8, 2, 1, 1), float("nan"))}
    model = patched(base, [PlacedAdapter(adapter=adapter(bad))], "sd1")
    for key in model.keys():
        if key == f"{CONV}.weight":
            with pytest.raises(BadCheckpoint):
                model.read(key)
        else:
            model.read(key).add_(1)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before
    untouched = open_safetensors(file)
    assert torch.equal(untouched.read(f"{TEXT}.weight"), sd1_tensors()[f"{TEXT}.weight"])
