"""LoRAs made of LoRAs and of checkpoints."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from backend.adapters.aliases import specs_of
from backend.adapters.lora_file import Adapter, open_adapter
from backend.adapters.patched import Deltas, PlacedAdapter, patched
from backend.errors import Cancelled, RequestError, UnsupportedMerge
from backend.merging.lora_tools.extract_lora import Extraction, extract_lora
from backend.merging.lora_tools.merge_loras import ModelKeys, WeightedLora, merge_loras, resize_lora
from backend.merging.lora_tools.progress import Progress
from backend.merging.lora_tools.rank_choice import RankBy, RankChoice
from backend.merging.lora_tools.singular import factors_of, product_factors
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
    product,
    sd1_lora,
    sd1_source,
    sd1_tensors,
)

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(
    gzip.decompress((Path(__file__).parent / "data" / "adapter_vectors.json.gz").read_bytes())
)
FULL_RANK = RankChoice(by=RankBy.FROBENIUS, value=1.0)


def rank(value: float) -> RankChoice:
    return RankChoice(by=RankBy.RANK, value=value)


def added(lora: Adapter, module: str, **options: Any) -> Tensor:
    """What a LoRA adds to a module of the tiny SD 1.x model."""
    base = sd1_source(dtype=torch.float32)
    found = Deltas(base, [PlacedAdapter(adapter=lora, **options)], "sd1").delta_for(f"{module}.weight")
    assert found is not None
    return found


def weighted(*loras: tuple[Mapping[str, Tensor], float]) -> list[WeightedLora]:
    return [WeightedLora(adapter=adapter(tensors), strength=strength) for tensors, strength in loras]


# Merging LoRAs


@pytest.mark.parametrize("case", VECTORS["lora_lora_merge"])
def test_merged_loras_add_the_sum_of_the_vectors(case: dict[str, Any], tmp_path: Path):
    loras = [
        {
            "layer.lora_up.weight": torch.tensor(case[f"up_{name}"]),
            "layer.lora_down.weight": torch.tensor(case[f"down_{name}"]),
            "layer.alpha": torch.tensor(case["alpha"]),
        }
        for name in "ab"
    ]
    merge_loras(weighted(*zip(loras, case["ratios"], strict=True)), tmp_path / "out.safetensors", dtype=torch.float32)
    found = open_adapter(tmp_path / "out.safetensors").read("layer")
    torch.testing.assert_close(found["up"], torch.tensor(case["concat_up"]), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found["down"], torch.tensor(case["concat_down"]), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found["up"] @ found["down"], torch.tensor(case["delta"]), rtol=1e-6, atol=1e-6)
    assert float(found["alpha"]) == case["concat_alpha"] == found["down"].shape[0]


def test_merging_is_exact_for_linear_layers_convolutions_and_text_encoders(tmp_path: Path):
    one, two = sd1_lora(seed=1, alpha=3.0), sd1_lora(seed=90, rank=3, alpha=None)
    loras = [
        WeightedLora(adapter=adapter(one), strength=0.8, text_encoder_strength=0.25),
        WeightedLora(adapter=adapter(two), strength=-0.5),
    ]
    report = merge_loras(loras, tmp_path / "out.safetensors", dtype=torch.float32)
    assert report.relative_error == 0
    assert set(report.ranks.values()) == {5}
    merged = open_adapter(tmp_path / "out.safetensors")
    for module in KOHYA:
        expected = (0.25 if module == TEXT else 0.8) * product(one, module) - 0.5 * product(two, module)
        torch.testing.assert_close(added(merged, module), expected.float(), rtol=1e-5, atol=1e-5)


def test_fewer_ranks_lose_what_the_report_says(tmp_path: Path):
    one, two = sd1_lora(seed=1), sd1_lora(seed=90)
    path = tmp_path / "out.safetensors"
    report = merge_loras(weighted((one, 1.0), (two, 1.0)), path, rank=rank(3), dtype=torch.float32)
    merged = open_adapter(path)
    lost = norm = 0.0
    for module in KOHYA:
        exact = product(one, module) + product(two, module)
        values = torch.linalg.svdvals(exact.flatten(1))
        distance = float((added(merged, module) - exact).norm())
        assert distance == pytest.approx(float(values[3:].norm()), rel=1e-4)
        lost, norm = lost + distance**2, norm + float(exact.norm()) ** 2
    assert report.relative_error == pytest.approx((lost / norm) ** 0.5, rel=1e-4)
    assert set(report.ranks.values()) == {3}


def test_loras_of_different_naming_merge_with_the_model_at_hand(tmp_path: Path):
    kohya = lora_tensors({KOHYA[QUERY]: (8, 8)}, alpha=None, seed=1)
    peft = {
        f"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q.lora_{ab}.weight": draw(*shape, seed=seed)
        for ab, shape, seed in (("A", (2, 8), 5), ("B", (8, 2), 6))
    }
    loras = weighted((kohya, 1.0), (peft, 1.0))
    with pytest.raises(RequestError, match="Name the checkpoint"):
        merge_loras(loras, tmp_path / "out.safetensors")
    model = ModelKeys(specs=specs_of(sd1_source()), family="sd1")
    report = merge_loras(loras, tmp_path / "out.safetensors", model=model, dtype=torch.float32)
    assert report.ranks == {KOHYA[QUERY]: 4}
    a, b = (next(value for key, value in peft.items() if f"lora_{ab}" in key) for ab in "AB")
    expected = product(kohya, QUERY).float() + b @ a
    torch.testing.assert_close(added(open_adapter(tmp_path / "out.safetensors"), QUERY), expected)


def test_parts_of_a_fused_layer_become_rows_of_it(tmp_path: Path):
    case = VECTORS["split_qkv_into_fused"][0]
    base = InMemory({"double_blocks.0.img_attn.qkv.weight": torch.zeros(6, 2)})
    tensors = {
        f"transformer.transformer_blocks.0.attn.to_{part}.lora_{ab}.weight": torch.tensor(case[f"{side}_{part}"])
        for part in "qkv"
        for side, ab in (("up", "B"), ("down", "A"))
    }
    model = ModelKeys(specs=specs_of(base), family="flux")
    path = tmp_path / "out.safetensors"
    merge_loras(weighted((tensors, 1.0)), path, model=model, dtype=torch.float32)
    found = open_adapter(path)
    assert list(found.modules) == ["lora_unet_double_blocks_0_img_attn_qkv"]
    delta = Deltas(base, [PlacedAdapter(adapter=found)], "flux").delta_for("double_blocks.0.img_attn.qkv.weight")
    assert delta is not None
    torch.testing.assert_close(delta, torch.tensor(case["fused_delta"]))


def test_other_formats_become_products(tmp_path: Path):
    name = KOHYA[QUERY]
    loha = {f"{name}.hada_w{i}_{s}": draw(*((8, 2) if s == "a" else (2, 8)), seed=i) for i in (1, 2) for s in "ab"}
    lokr = {f"{name}.lokr_w1": draw(2, 2), f"{name}.lokr_w2": draw(4, 4)}
    tucker = {
        f"{KOHYA[CONV]}.lora_up.weight": draw(8, 2, 1, 1, seed=3),
        f"{KOHYA[CONV]}.lora_mid.weight": draw(2, 2, 3, 3, seed=4),
        f"{KOHYA[CONV]}.lora_down.weight": draw(2, 8, 1, 1, seed=5),
    }
    model = ModelKeys(specs=specs_of(sd1_source()), family="sd1")
    path = tmp_path / "out.safetensors"
    merge_loras(weighted((loha, 0.5), (lokr, 2.0), (tucker, 1.0)), path, model=model, dtype=torch.float32)
    merged = open_adapter(path)
    expected = added(adapter(loha), QUERY, strength=0.5) + added(adapter(lokr), QUERY, strength=2.0)
    torch.testing.assert_close(added(merged, QUERY), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(added(merged, CONV), added(adapter(tucker), CONV), rtol=1e-4, atol=1e-4)


def test_what_depends_on_the_model_is_refused(tmp_path: Path):
    dora = {**lora_tensors({KOHYA[QUERY]: (8, 8)}), f"{KOHYA[QUERY]}.dora_scale": torch.ones(8, 1)}
    with pytest.raises(UnsupportedMerge, match="DoRA"):
        merge_loras(weighted((dora, 1.0)), tmp_path / "out.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_differences_of_norms_and_biases_are_summed(tmp_path: Path):
    norm = "lora_unet_down_blocks_0_resnets_0_norm1"
    one = {**sd1_lora(), f"{norm}.w_norm": torch.ones(8), f"{KOHYA[CONV]}.diff_b": torch.full((8,), 2.0)}
    report = merge_loras(weighted((one, 0.5), (one, 1.0)), tmp_path / "out.safetensors", dtype=torch.float32)
    merged = open_adapter(tmp_path / "out.safetensors")
    assert merged.read(norm)["w_norm"].tolist() == [1.5] * 8
    assert merged.read(KOHYA[CONV])["diff_b"].tolist() == [3.0] * 8
    assert set(report.differences) == {norm, KOHYA[CONV]}


# Resizing


def test_resizing_keeps_the_share_that_is_asked_for(tmp_path: Path):
    lora = sd1_lora(rank=6, alpha=2.0)
    choice = RankChoice(by=RankBy.FROBENIUS, value=0.9)
    report = resize_lora(adapter(lora), tmp_path / "out.safetensors", choice, dtype=torch.float32)
    resized = open_adapter(tmp_path / "out.safetensors")
    for module, name in KOHYA.items():
        exact = product(lora, module)
        kept = float(added(resized, module).norm() / exact.norm())
        values = torch.linalg.svdvals(exact.flatten(1))
        assert 0.9 <= kept < 1
        assert float(values[: report.ranks[name] - 1].norm() / values.norm()) < 0.9  # one less would not do
    assert resized.metadata["ss_network_dim"] == "Dynamic"
    assert 0 < report.relative_error < 0.45


def test_resizing_to_all_ranks_loses_nothing(tmp_path: Path):
    lora = sd1_lora(rank=4)
    report = resize_lora(adapter(lora), tmp_path / "out.safetensors", rank(4), dtype=torch.float32)
    assert report.relative_error < 1e-6
    resized = open_adapter(tmp_path / "out.safetensors")
    torch.testing.assert_close(added(resized, CONV), product(lora, CONV).float(), rtol=1e-4, atol=1e-5)
    assert resized.metadata["ss_network_dim"] == "4"


# Ranks


@pytest.mark.parametrize("case", VECTORS["rank_selection"])
def test_ranks_are_chosen_as_in_the_vectors(case: dict[str, Any]):
    choice = RankChoice(by=RankBy(case["method"]), value=case["t"])
    assert choice.rank(torch.tensor(case["S"])) == case["index"]


@pytest.mark.parametrize("by", [RankBy.FROBENIUS, RankBy.CUMULATIVE])
def test_all_of_the_energy_takes_all_ranks_and_a_limit_is_kept(by: RankBy):
    values = torch.tensor([3.0, 2.0, 1e-3])
    assert RankChoice(by=by, value=1.0).rank(values) == 3
    assert RankChoice(by=by, value=1.0, largest=2).rank(values) == 2


@pytest.mark.parametrize(
    ("by", "value"),
    [(RankBy.RANK, 0), (RankBy.RANK, 1.5), (RankBy.FROBENIUS, 1.2), (RankBy.CUMULATIVE, 0), (RankBy.RATIO, 0.5)],
)
def test_ranks_that_mean_nothing_are_refused(by: RankBy, value: float):
    with pytest.raises(RequestError, match="rank"):
        RankChoice(by=by, value=value)


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (300, 340)])
def test_factors_are_the_best_approximation(shape: tuple[int, int]):
    matrix = draw(*shape) @ torch.diag(torch.logspace(0, -4, shape[1]))
    found = factors_of(matrix, rank(5))
    values = torch.linalg.svdvals(matrix.double())
    assert found.error == pytest.approx(float(values[5:].norm()), rel=1e-3)
    assert float((found.up @ found.down - matrix).norm()) == pytest.approx(found.error, rel=1e-3)


def test_noise_has_no_rank_and_is_approximated_as_well_as_anything_can():
    matrix = draw(330, 400)
    found = factors_of(matrix, rank(5))
    assert found.error == pytest.approx(float(torch.linalg.svdvals(matrix.double())[5:].norm()), rel=1e-4)


@pytest.mark.parametrize("case", VECTORS["lora_extract_svd"])
def test_factors_are_those_of_the_vectors(case: dict[str, Any]):
    found = factors_of(torch.tensor(case["diff"]), rank(case["rank"]))
    expected = torch.tensor(case["reconstruction"])
    torch.testing.assert_close(found.up @ found.down, expected, rtol=1e-5, atol=1e-5)
    assert found.error == pytest.approx(case["frobenius_error"], abs=1e-3)


def test_a_product_is_approximated_without_being_computed():
    up, down = draw(20, 6, seed=1), draw(6, 31, seed=2)
    found = product_factors(up, down, rank(4))
    values = torch.linalg.svdvals((up @ down).double())
    assert float((found.up @ found.down - up @ down).norm()) == pytest.approx(float(values[4:].norm()), rel=1e-4)
    assert found.error == pytest.approx(float(values[4:].norm()), rel=1e-4)


# Extraction


def tuned_and_base(*, dtype: torch.dtype = torch.float32) -> tuple[InMemory, InMemory]:
    base = sd1_tensors(dtype=dtype)
    tuned = {
        key: tensor if "first_stage" in key else (tensor.float() + 0.1 * draw(*tensor.shape, seed=99)).to(dtype)
        for key, tensor in base.items()
    }
    return InMemory(tuned, origin=Path("tuned.safetensors")), InMemory(base, origin=Path("base.safetensors"))


def test_all_ranks_reproduce_the_tuned_model(tmp_path: Path):
    tuned, base = tuned_and_base()
    path = tmp_path / "out.safetensors"
    extraction = Extraction(rank=FULL_RANK, conv_rank=FULL_RANK, has_differences=True)
    report = extract_lora(tuned, base, "sd1", path, extraction)
    assert report.left_out == ()
    assert report.relative_error < 1e-5
    again = patched(base, [PlacedAdapter(adapter=open_adapter(path))], "sd1")
    for key in tuned.keys():
        distance = (again.read(key) - tuned.read(key)).norm() / tuned.read(key).norm()
        assert float(distance) < 1e-3, key
    result = open_adapter(path).report(specs_of(base), "sd1")
    assert result.num_matched == result.num_modules
    assert result.trained_for == "sd1"


def test_a_lora_that_was_baked_in_comes_out_again(tmp_path: Path):
    base, lora = sd1_source(dtype=torch.float32), sd1_lora(rank=2)
    baked = patched(base, [PlacedAdapter(adapter=adapter(lora), strength=0.5)], "sd1")
    path = tmp_path / "out.safetensors"
    choice = RankChoice(by=RankBy.RATIO, value=1e4)
    report = extract_lora(baked, base, "sd1", path, Extraction(rank=choice, conv_rank=choice), dtype=torch.float32)
    assert report.ranks == dict.fromkeys(sorted(KOHYA.values()), 2) | {}
    for module in KOHYA:
        torch.testing.assert_close(
            added(open_adapter(path), module), 0.5 * product(lora, module).float(), rtol=1e-3, atol=1e-4
        )


def test_what_is_not_extracted_is_said(tmp_path: Path):
    tuned, base = tuned_and_base()
    extraction = Extraction(rank=rank(2), has_text_encoders=False)
    report = extract_lora(tuned, base, "sd1", tmp_path / "out.safetensors", extraction)
    assert set(report.ranks) == {KOHYA[QUERY], KOHYA[KEY]}
    assert f"{CONV}.weight" in report.left_out
    assert f"{CONV}.bias" in report.left_out
    assert 0 < report.relative_error < 1


def test_models_of_other_kinds_or_the_same_are_refused(tmp_path: Path):
    base = sd1_source()
    path = tmp_path / "out.safetensors"
    with pytest.raises(UnsupportedMerge, match="the same in all layers"):
        extract_lora(base, base, "sd1", path, Extraction(rank=rank(2)))
    other = sd1_tensors() | {f"{KEY}.weight": torch.zeros(8, 12)}
    with pytest.raises(UnsupportedMerge, match="not of the same kind"):
        extract_lora(InMemory(other), base, "sd1", path, Extraction(rank=rank(2)))
    assert list(tmp_path.iterdir()) == []


def test_progress_is_told_and_cancelling_leaves_nothing(tmp_path: Path):
    tuned, base = tuned_and_base()
    steps: list[tuple[int, int]] = []
    progress = Progress(on_progress=lambda done, total: steps.append((done, total)))
    extract_lora(tuned, base, "sd1", tmp_path / "a.safetensors", Extraction(rank=rank(2)), progress=progress)
    assert steps == sorted(steps)
    assert steps[0][0] == 0
    assert steps[-1][0] == steps[-1][1] > 0
    cancelled = Progress(is_cancelled=lambda: len(steps) > 0)
    with pytest.raises(Cancelled):
        extract_lora(tuned, base, "sd1", tmp_path / "b.safetensors", Extraction(rank=rank(2)), progress=cancelled)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_same_inputs_give_the_same_bytes_that_others_can_read(tmp_path: Path):
    tuned, base = tuned_and_base()
    paths = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for path in paths:
        extract_lora(tuned, base, "sd1", path, Extraction(rank=rank(2)), metadata={"ss_output_name": "cat"})
    assert paths[0].read_bytes().replace(b"one", b"two") == paths[1].read_bytes()
    with safe_open(paths[0], framework="pt") as file:
        assert file.metadata()["ss_output_name"] == "cat"
        assert file.metadata()["ss_network_dim"] == "2"
        assert file.metadata()["ss_base_model_version"] == "sd_v1"
        assert file.get_tensor(f"{KOHYA[QUERY]}.lora_up.weight").shape == (8, 2)


def test_an_existing_file_is_kept(tmp_path: Path):
    (tmp_path / "out.safetensors").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        merge_loras(weighted((sd1_lora(), 1.0)), tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_ranks_that_a_data_type_cannot_hold_are_made_up_for(dtype: torch.dtype, tmp_path: Path):
    tensors = lora_tensors({"layer": (4, 4)}, rank=2051, alpha=None)
    path = tmp_path / "out.safetensors"
    merge_loras(weighted((tensors, 1e-3)), path, dtype=dtype)
    found = open_adapter(path).read("layer")
    exact = 1e-3 * tensors["layer.lora_up.weight"] @ tensors["layer.lora_down.weight"]
    scale = float(found["alpha"]) / 2051
    torch.testing.assert_close(scale * found["up"] @ found["down"], exact, rtol=0.02, atol=2e-3)
    assert scale != 1
