"""Models made by recipes: what their weights are, and what is said of models that do not fit one another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.errors import BadCheckpoint, NumericalError, RequestError, UnsupportedMerge
from backend.merging.merged import make_model
from backend.merging.rules.builtin import BUILTIN
from backend.nn.unet import UNet
from backend.recipe import AdapterUse, FileRef, Merge, Override, Recipe, StoredDtype, Weights, WithAdapters, WithVae
from backend.registry import Registry
from backend.weights.safetensors_file import open_safetensors, write_safetensors
from tests.merge_rules import CATALOG, checkpoint, made, merge, opened
from tests.tiny_checkpoint import METADATA, UNET, tiny_tensors, write_tiny_checkpoint

UNET_KEY = "model.diffusion_model.middle_block.0.in_layers.2.weight"
FIRST = "model.diffusion_model.input_blocks.0.0.weight"
TEXT = "cond_stage_model.transformer.text_model."
IDS = f"{TEXT}embeddings.position_ids"


@pytest.fixture(scope="module")
def tensors():
    return [tiny_tensors(seed=seed) for seed in (1, 2, 3)]


@pytest.fixture
def write(tmp_path):
    def write(name: str, content, metadata=None) -> Path:
        path = tmp_path / f"{name}.safetensors"
        write_safetensors(path, content, {**METADATA, **(metadata or {})})
        return path

    return write


@pytest.fixture(scope="module")
def triple(tensors, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for number, part in enumerate(tensors):
        write_safetensors(folder / f"{number}.safetensors", part, METADATA)
    return [folder / f"{number}.safetensors" for number in range(3)]


@pytest.fixture
def pair(tensors, write):
    return write("a", tensors[0]), write("b", tensors[1])


def exact(a, b, alpha):
    """Independent of PyTorch: in double precision, rounded once."""
    a, b = (np.asarray(tensor.float().numpy(), dtype=np.float64) for tensor in (a, b))
    return a + alpha * (b - a)


def is_rounded(found, wanted, dtype):
    """Within a rounding of float32 of the nearest number of the type."""
    spacing = torch.finfo(dtype).eps
    return np.all(np.abs(found.float().numpy() - wanted) <= np.abs(wanted) * (spacing / 2 + 1e-6) + 1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_a_weighted_sum_is_what_numpy_says_rounded_once(tensors, write, dtype):
    a, b = (
        write(name, {key: t.to(dtype) for key, t in part.items()}) for name, part in zip("ab", tensors, strict=False)
    )
    source = made(merge("lerp", a, b, alpha=0.3)).source
    for key in source.keys():
        wanted = exact(tensors[0][key].to(dtype), tensors[1][key].to(dtype), 0.3)
        assert source.spec(key).dtype == dtype
        assert is_rounded(source.read(key), wanted, dtype), key


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        (StoredDtype.FLOAT32, torch.float32),
        (StoredDtype.BFLOAT16, torch.bfloat16),
        (StoredDtype.FLOAT16, torch.float16),
    ],
)
def test_the_type_can_be_chosen(pair, tensors, dtype, wanted):
    source = made(merge("lerp", *pair), dtype).source
    assert source.read(UNET_KEY).dtype == source.spec(UNET_KEY).dtype == wanted
    assert is_rounded(source.read(UNET_KEY), exact(tensors[0][UNET_KEY], tensors[1][UNET_KEY], 0.5), wanted)


def test_eight_bits_are_for_matrices_of_the_networks(pair):
    source = made(merge("lerp", *pair), StoredDtype.FLOAT8_E4M3).source
    assert source.spec(UNET_KEY).dtype == torch.float8_e4m3fn
    assert source.packing(UNET_KEY) is not None
    assert source.spec("model.diffusion_model.out.0.weight").dtype == torch.float16
    assert source.spec("first_stage_model.decoder.conv_in.weight").dtype == torch.float16
    exact16 = made(merge("lerp", *pair), StoredDtype.FLOAT32).source.read(UNET_KEY)
    assert torch.equal(source.read(UNET_KEY).float(), exact16.to(torch.float8_e4m3fn).float())


def test_reading_into_memory_gives_the_same(pair):
    source = made(merge("lerp", *pair)).source
    whole = source.read(UNET_KEY)
    for out in (torch.empty(whole.shape), torch.empty(whole.shape[::-1]).permute(3, 2, 1, 0)):
        source.read_into(UNET_KEY, out)
        assert torch.equal(out, whole.float())
    stored = torch.empty(source.storage_bytes(UNET_KEY), dtype=torch.uint8)
    source.read_storage_into(UNET_KEY, stored)
    assert torch.equal(stored, source.read_storage(UNET_KEY))
    assert torch.equal(stored.view(torch.float16).view(whole.shape), whole)


@pytest.mark.parametrize(("alpha", "number"), [(0.0, 0), (1.0, 1)])
def test_what_is_one_of_the_models_is_its_bytes(pair, alpha, number):
    source, file = made(merge("lerp", *pair, alpha=alpha)).source, open_safetensors(pair[number])
    for key in source.keys():
        assert source.identity(key) == file.identity(key)
        assert torch.equal(source.read_storage(key), file.read_storage(key))


def test_a_block_changes_its_own_weights_and_no_others(pair):
    def identities(value):
        weights = Weights(base=0.5, overrides=(Override(value=value, blocks=("M00",)),))
        source = made(merge("lerp", *pair, alpha=weights)).source
        return {key: source.identity(key) for key in source.keys()}

    before, after = identities(0.2), identities(0.4)
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {key for key in before if key.startswith("model.diffusion_model.middle_block.")}


def test_merges_in_merges_are_rounded_once(tensors, write):
    paths = [write(name, part) for name, part in zip("abc", tensors, strict=True)]
    inner = merge("lerp", paths[0], paths[1], alpha=0.3)
    source = made(merge("lerp", inner, paths[2], alpha=0.7)).source
    wanted = (1 - 0.7) * exact(tensors[0][UNET_KEY], tensors[1][UNET_KEY], 0.3) + 0.7 * tensors[2][
        UNET_KEY
    ].numpy().astype(float)
    found = source.read(UNET_KEY)
    assert is_rounded(found, wanted, torch.float16)
    rounded_twice = (exact(tensors[0][UNET_KEY], tensors[1][UNET_KEY], 0.3)).astype(np.float16)
    twice = torch.from_numpy(exact(torch.from_numpy(rounded_twice), tensors[2][UNET_KEY], 0.7)).half()
    assert not torch.equal(found, twice)


def test_rules_that_look_at_neighbouring_rows_work_on_merges_in_merges(tensors, write):
    paths = [write(name, part) for name, part in zip("abc", tensors, strict=True)]
    table = f"{TEXT}embeddings.token_embedding.weight"  # of more rows than a piece has
    source = made(merge("smooth", merge("lerp", *paths[:2]), paths[2]), StoredDtype.FLOAT32).source
    a, b, c = (part[table].float() for part in tensors)
    mean = (a + 0.5 * (b - a) + c) / 2
    assert torch.allclose(source.read(table)[1:-1], ((mean.roll(1, 0) + mean + mean.roll(-1, 0)) / 3)[1:-1], atol=1e-6)


def test_a_survey_sees_the_whole_model(pair, tensors):
    source = made(merge("largest", *pair), StoredDtype.FLOAT32).source
    largest = max(float(tensor.float().abs().max()) for tensor in tensors[1].values())
    assert torch.allclose(
        source.read(UNET_KEY), (tensors[0][UNET_KEY].float() + tensors[1][UNET_KEY].float()) / largest, rtol=1e-5
    )


def test_what_only_one_model_has_is_kept_and_told(tensors, write):
    vae = {key for key in tensors[0] if key.startswith("first_stage_model.")}
    bare = {key: tensor for key, tensor in tensors[1].items() if key not in vae}
    paths = write("whole", tensors[0]), write("bare", bare)
    for found in (made(merge("lerp", *paths)), made(merge("lerp", *reversed(paths)))):
        assert vae <= set(found.report.copied)
        assert any("has no VAE" in notice for notice in found.report.notices)
        assert torch.equal(found.source.read("first_stage_model.decoder.conv_in.weight"),
                           tensors[0]["first_stage_model.decoder.conv_in.weight"])  # fmt: skip
        assert UNET_KEY in found.report.matched


def test_single_weights_that_the_first_model_lacks_are_left_out_and_told(tensors, write):
    less = {key: tensor for key, tensor in tensors[0].items() if key != UNET_KEY}
    first = made(merge("lerp", write("less", less), write("b", tensors[1])))
    assert first.report.dropped == (UNET_KEY,)
    assert any("left out" in notice and UNET_KEY in notice for notice in first.report.notices)
    second = made(merge("lerp", write("b", tensors[1]), write("less", less)))
    assert UNET_KEY in second.report.copied
    assert torch.equal(second.source.read(UNET_KEY), tensors[1][UNET_KEY])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["inpainting first", "inpainting second"])
def test_channels_that_only_an_inpainting_model_has_stay(tensors, write, order):
    wide = dict(tensors[0])
    wide[FIRST] = torch.randn(wide[FIRST].shape[0], 9, 3, 3, generator=torch.Generator().manual_seed(1)).half()
    paths = write("inpaint", wide), write("plain", tensors[1])
    found = made(merge("lerp", *(paths[number] for number in order), alpha=0.25))
    weights = (wide[FIRST][:, :4], tensors[1][FIRST])
    merged = found.source.read(FIRST)
    assert found.report.padded == (FIRST,)
    assert torch.equal(merged[:, 4:], wide[FIRST][:, 4:])
    assert is_rounded(merged[:, :4].contiguous(), exact(*(weights[number] for number in order), 0.25), torch.float16)


def test_a_plain_model_becomes_one_for_inpainting_by_adding_a_difference(tensors, write):
    wide = dict(tensors[0])
    wide[FIRST] = torch.cat((wide[FIRST], torch.ones_like(wide[FIRST]), wide[FIRST][:, :1]), dim=1)
    root = merge("add_difference", write("inpaint", wide), write("b", tensors[1]), write("c", tensors[2]), alpha=1.0)
    merged = made(root).source.read(FIRST)
    assert merged.shape[1] == 9
    assert torch.equal(merged[:, 4:], wide[FIRST][:, 4:])


def test_models_of_other_shapes_are_refused_by_name(tensors, write, tmp_path):
    wider = write_tiny_checkpoint(
        tmp_path / "wider.safetensors", unet=type(UNET)(**{**vars(UNET), "model_channels": 32})
    )
    with pytest.raises(UnsupportedMerge, match=r"different sizes"):
        made(merge("lerp", write("a", tensors[0]), wider))


def test_models_of_other_families_are_refused_by_both_names(tensors, write, tmp_path):
    config = type(UNET)(**{**vars(UNET), "context_dim": 2048, "adm_in_channels": 2816, "linear_projections": True})
    xl = {f"model.diffusion_model.{name}": t for name, t in UNet(config).state_dict().items()}
    with pytest.raises(UnsupportedMerge, match=r"Stable Diffusion 1\.x.*SDXL|Stable Diffusion XL"):
        made(merge("lerp", write("a", tensors[0]), write("xl", xl)))


def test_a_lora_in_place_of_a_model_is_refused_and_says_what_to_do(pair, write):
    lora = write(
        "lora", {"lora_unet_mid.lora_down.weight": torch.ones(4, 16), "lora_unet_mid.lora_up.weight": torch.ones(16, 4)}
    )
    with pytest.raises(UnsupportedMerge, match=r"LoRA.*adapter"):
        made(merge("lerp", pair[0], lora))


def test_averages_are_used_when_asked_for_and_never_written(tensors, write):
    averages = {
        "model_ema." + key.removeprefix("model.").replace(".", ""): tensors[2][key]
        for key in tensors[0]
        if key.startswith("model.diffusion_model.")
    }
    path, other = write("ema", tensors[0] | averages), write("b", tensors[1])
    plain, ema = made(merge("lerp", path, other)), made(merge("lerp", checkpoint(path, use_ema=True), other))
    assert not any(key.startswith("model_ema") for found in (plain, ema) for key in found.source.keys())
    assert any("averaged" in notice for notice in plain.report.notices)
    assert is_rounded(ema.source.read(UNET_KEY), exact(tensors[2][UNET_KEY], tensors[1][UNET_KEY], 0.5), torch.float16)


@pytest.mark.parametrize("broken", [False, True])
def test_position_ids_are_what_they_must_be(tensors, write, broken):
    ids = torch.arange(77)[None]
    damaged = ids.half() + 0.4 if broken else ids
    found = made(merge("lerp", write("a", tensors[0] | {IDS: damaged}), write("b", tensors[1])))
    assert torch.equal(found.source.read(IDS), ids)
    assert found.source.spec(IDS).dtype == torch.int64
    assert any("positions" in notice for notice in found.report.notices) == broken
    assert made(merge("lerp", write("b", tensors[1]), write("a", tensors[0] | {IDS: damaged}))).source.spec(
        IDS
    ).shape == (1, 77)


def test_old_names_of_the_text_encoder_belong_to_the_new_ones(tensors, write):
    old = {key.replace(".transformer.text_model.", ".transformer."): tensor for key, tensor in tensors[1].items()}
    found = made(merge("lerp", write("a", tensors[0]), write("old", old)))
    key = f"{TEXT}final_layer_norm.weight"
    assert not found.report.dropped
    assert is_rounded(found.source.read(key), exact(tensors[0][key], tensors[1][key], 0.5), torch.float16)


def test_markers_stay_those_of_the_first_model_and_other_predictions_are_told(tensors, write):
    marker = {"v_pred": torch.empty(0), "ztsnr": torch.empty(0)}
    velocity, plain = write("v", tensors[0] | marker), write("eps", tensors[1])
    first, second = made(merge("lerp", velocity, plain)), made(merge("lerp", plain, velocity))
    assert {"v_pred", "ztsnr"} <= set(first.source.keys())
    assert "v_pred" not in second.source.keys()
    assert any("predicts v with zero" in notice for notice in first.report.notices)
    assert any("predicts noise" in notice for notice in second.report.notices)


def test_what_narrow_models_say_of_themselves_goes_on_being_said(pair):
    assert made(merge("lerp", *pair)).source.metadata["emulsion.num_heads"] == "2"


def test_eight_bit_inputs_are_widened(tensors, write):
    narrow = {key: t.to(torch.float8_e4m3fn) if t.dim() > 1 else t for key, t in tensors[1].items()}
    source = made(merge("lerp", write("a", tensors[0]), write("narrow", narrow))).source
    assert is_rounded(source.read(UNET_KEY), exact(tensors[0][UNET_KEY], narrow[UNET_KEY].float(), 0.5), torch.float16)


def test_scaled_eight_bit_inputs_become_sixteen_bits(tensors, write):
    scaled = dict(tensors[0])
    scaled[UNET_KEY] = (scaled[UNET_KEY].float() / 0.5).to(torch.float8_e4m3fn)
    scaled[UNET_KEY.removesuffix("weight") + "scale_weight"] = torch.tensor(0.5)
    scaled["scaled_fp8"] = torch.empty(2, dtype=torch.float8_e4m3fn)
    source = made(merge("lerp", write("scaled", scaled), write("b", tensors[1]))).source
    wanted = exact(scaled[UNET_KEY].float() * 0.5, tensors[1][UNET_KEY], 0.5)
    assert source.spec(UNET_KEY).dtype == torch.float16
    assert is_rounded(source.read(UNET_KEY), wanted, torch.float16)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_told_with_file_and_name(tensors, write, value):
    bad = dict(tensors[1])
    bad[UNET_KEY] = bad[UNET_KEY].clone()
    bad[UNET_KEY].view(-1)[7] = value
    source = made(merge("lerp", write("a", tensors[0]), write("bad", bad))).source
    with pytest.raises(BadCheckpoint, match=r"bad\.safetensors.*middle_block\.0\.in_layers\.2\.weight"):
        source.read(UNET_KEY)


def test_results_that_the_type_cannot_hold_are_told(tensors, write):
    large = {key: torch.full_like(tensor, 60000.0) if key == UNET_KEY else tensor for key, tensor in tensors[0].items()}
    root = merge("lerp", write("a", tensors[0]), write("large", large), alpha=2.0)
    with pytest.raises(NumericalError, match=r"bf16 or fp32"):
        made(root).source.read(UNET_KEY)
    assert made(root, StoredDtype.FLOAT32).source.read(UNET_KEY).max() > 100000


def test_another_autoencoder_is_baked_in(tensors, write):
    vae = {
        key.removeprefix("first_stage_model."): t
        for key, t in tensors[2].items()
        if key.startswith("first_stage_model.")
    }
    bare = {key: t for key, t in tensors[0].items() if not key.startswith("first_stage_model.")}
    for content in (tensors[0], bare):
        root = WithVae(
            model=merge("lerp", write("a", content), write("b", content)), vae=FileRef(name=str(write("vae", vae)))
        )
        source = made(root).source
        key = "first_stage_model.decoder.conv_in.weight"
        assert torch.equal(source.read(key), tensors[2][key])
        assert torch.equal(source.read(UNET_KEY), tensors[0][UNET_KEY])


def test_a_file_without_autoencoder_is_no_vae(pair):
    lora = FileRef(name=str(pair[1].with_name("none.safetensors")))
    write_safetensors(Path(lora.name), {"x": torch.ones(1)}, {})
    with pytest.raises(Exception, match="no autoencoder"):
        made(WithVae(model=checkpoint(pair[0]), vae=lora))


def test_adapters_are_added_to_a_merge_before_it_is_rounded(pair, tensors, write):
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    name = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
    generator = torch.Generator().manual_seed(5)
    down, up = (torch.randn(shape, generator=generator) for shape in ((2, 16), (16, 2)))
    lora = write(
        "lora", {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(2.0)}
    )
    use = AdapterUse(file=FileRef(name=str(lora)), strength=0.5)
    source = made(WithAdapters(model=merge("lerp", *pair, alpha=0.3), adapters=(use,))).source
    wanted = exact(tensors[0][key], tensors[1][key], 0.3) + 0.5 * (up @ down).numpy()
    assert is_rounded(source.read(key), wanted, torch.float16)
    assert source.identity(UNET_KEY) == made(merge("lerp", *pair, alpha=0.3)).source.identity(UNET_KEY)


def test_a_recipe_that_gives_a_rule_what_it_does_not_take_is_refused(pair):
    with pytest.raises(RequestError, match="takes 3 models"):
        made(merge("add_difference", *pair))
    root = replace(merge("lerp", *pair), parameters=(("beta", Weights(base=1.0)),))
    with pytest.raises(RequestError, match="no such number"):
        made(root)


def test_a_slider_that_is_moved_needs_no_other_survey(pair):
    def identities(value):
        weights = Weights(base=0.5, overrides=(Override(value=value, blocks=("M00",)),))
        source = made(merge("largest", *pair, alpha=weights)).source
        return {key: source.identity(key) for key in source.keys()}

    before, after = identities(0.0), identities(0.4)
    assert all(before[key] == after[key] for key in before if not key.startswith("model.diffusion_model.middle_block."))


@pytest.mark.parametrize("rule", BUILTIN, ids=lambda rule: rule.name)
@pytest.mark.parametrize("normalisation", ["none", "layer_norm"])
def test_every_rule_gives_numbers_for_a_model(triple, rule, normalisation):
    models = tuple(checkpoint(triple[number % 3]) for number in range(max(1, len(rule.roles))))
    catalog = replace(CATALOG, rules=Registry("merge rule", BUILTIN))
    recipe = Recipe(root=Merge(rule=rule.name, models=models, normalisation=normalisation), dtype=StoredDtype.FLOAT32)
    source = make_model(recipe, opened, catalog).source
    for key in (UNET_KEY, FIRST, "model.diffusion_model.out.0.weight", f"{TEXT}final_layer_norm.bias"):
        found = source.read(key)
        assert found.shape == source.spec(key).shape
        assert bool(found.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("alpha", [-0.5, 0.1, 0.49, 0.5, 0.7, 1.5])
def test_what_is_computed_in_sixteen_bits_has_the_bits_of_thirty_two(dtype: torch.dtype, alpha: float) -> None:
    rule = next(rule for rule in BUILTIN if rule.name == "lerp")
    assert rule.narrow is not None
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(10_007, generator=generator).to(dtype)[3:] for _ in range(2))
    narrow = rule.narrow((a, b), {"alpha": alpha}, torch.empty_like(a))
    assert narrow.equal(a.float().lerp_(b.float(), alpha).to(dtype))


def test_a_block_that_the_family_does_not_have_is_refused(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path / "a.safetensors")
    weights = Weights(base=0.0, overrides=(Override(value=1.0, blocks=("OUT",)),))
    with pytest.raises(RequestError, match="groups must be spelt out"):
        made(merge("lerp", path, path, alpha=weights))


def test_a_number_for_a_part_that_only_the_first_model_has_changes_nothing(tmp_path: Path) -> None:
    whole, network = tmp_path / "whole.safetensors", tmp_path / "network.safetensors"
    write_tiny_checkpoint(whole)
    tensors = {key: value for key, value in tiny_tensors(seed=1).items() if key.startswith("model.diffusion_model.")}
    write_safetensors(network, tensors, METADATA)
    weights = Weights(base=0.5, overrides=(Override(value=0.9, blocks=("TE1",)),))
    model = made(merge("lerp", whole, network, alpha=weights))
    key = next(key for key in model.source.keys() if key.startswith("cond_stage_model."))
    assert model.source.read(key).equal(open_safetensors(whole).read(key))
