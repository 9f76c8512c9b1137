"""Which block, kind and stream each weight of each family belongs to, and how large the blocks are."""

import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import UnsupportedMerge
from backend.merging.block_hints import OUTSIDE
from backend.merging.block_layout import BlockLayout, Place
from backend.merging.kinds import LAYERS, fits
from backend.merging.layouts import is_for, layout_of, network_blocks, parameters, shares, weight_at
from backend.merging.network_blocks import NETWORKS
from backend.recipe import Override, Weights
from backend.weights.safetensors_file import open_safetensors
from tests.test_headers import FAMILIES, HeaderOnly, rows

MAPPING = json.loads((Path(__file__).parent / "data" / "merge_mapping.json").read_text())
TINY = Path(__file__).parent.parent / "models" / "checkpoints" / "emulsion-tiny-v1.safetensors"
# Tensors that are no weights of any network: what training or noise levels left behind.
MARKERS = ("betas", "alphas_", "sqrt_", "log_one_", "posterior_", "denoiser.sigmas", "edm_", "v_pred", "ztsnr",
           "scaled_fp8")  # fmt: skip
STACKED = {"sd1": 25, "sd2": 25, "sdxl": 19, "sdxl-refiner": 25, "sd3": 24, "flux": 57, "pixart": 28}


@cache
def of_file(family: str, name: str) -> tuple[BlockLayout, HeaderOnly]:
    source = HeaderOnly(name)
    return layout_of(family, source.keys()), source


@pytest.mark.parametrize(("family", "name"), rows(FAMILIES), ids=lambda value: value)
def test_every_weight_of_every_file_has_a_place(family: str, name: str) -> None:
    layout, source = of_file(family, name)
    blocks = {block.name for block in layout.blocks}
    for key in source.keys():
        place = layout.place_of(key)
        if not key.startswith(MARKERS):
            assert place.block in blocks, key
        else:
            assert place == Place(), key
        assert place.kind == "" or place.kind in layout.kinds, key
        assert place.stream == "" or place.stream in layout.streams, key


@pytest.mark.parametrize(("family", "name"), rows(FAMILIES), ids=lambda value: value)
def test_every_block_but_those_outside_of_the_network_holds_weights(family: str, name: str) -> None:
    layout, source = of_file(family, name)
    counts = parameters(layout, source)
    assert all(counts[block] > 0 for block in network_blocks(layout))
    assert sum(counts.values()) == sum(source.spec(key).num_elements for key in source.keys())
    found = shares(layout, source)
    network = [found[block.name] for block in layout.blocks if block.group not in ("TE", "VAE")]
    assert sum(network) == pytest.approx(1.0)
    assert set(found) == {block.name for block in layout.blocks}


@pytest.mark.parametrize("family", STACKED)
def test_a_family_has_the_blocks_of_its_published_models(family: str) -> None:
    layout = layout_of(family)
    assert len(network_blocks(layout)) == STACKED[family]
    assert network_blocks(layout) == network_blocks(of_file(family, FAMILIES[family][0])[0])
    assert len({block.name for block in layout.blocks}) == len(layout.blocks)
    assert layout.name == family
    assert all(block.hint.endswith(".") and block.label for block in layout.blocks)


def test_blocks_stand_in_the_order_in_which_a_picture_passes_them() -> None:
    names = network_blocks(layout_of("sdxl"))
    assert names[:2] == ("IN00", "IN01")
    assert names[8:11] == ("IN08", "M00", "OUT00")
    assert network_blocks(layout_of("flux"))[18:20] == ("D18", "S00")


@pytest.mark.parametrize(
    ("family", "name", "count", "first", "last"),
    [
        ("sd3", "sd35-large", 38, "J00", "J37"),
        ("sd1", "bk-sdm-small-unet", 16, "IN00", "OUT07"),
        ("sdxl", "koala-700m-unet", 12, "IN00", "OUT05"),
        ("sdxl", "ssd-1b", 19, "IN00", "OUT08"),
    ],
)
def test_deeper_and_narrower_models_have_the_blocks_that_they_have(
    family: str, name: str, count: int, first: str, last: str
) -> None:
    names = network_blocks(of_file(family, name)[0])
    assert (len(names), names[0], names[-1]) == (count, first, last)


def test_a_network_without_a_middle_has_no_slider_for_it() -> None:
    assert "M00" not in network_blocks(of_file("sdxl", "koala-700m-unet")[0])


def test_the_model_that_ships_has_blocks_and_a_place_for_every_weight() -> None:
    source = open_safetensors(TINY)
    layout = layout_of("sd1", source.keys())
    assert network_blocks(layout)[0] == "IN00"
    assert "M00" in network_blocks(layout)
    assert [key for key in source.keys() if not layout.place_of(key).block and not key.startswith("emulsion.")] == []


def test_a_family_that_cannot_be_merged_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedMerge, match=r'"chroma".*sdxl'):
        layout_of("chroma")


def table(name: str) -> dict[str, int]:
    """Parameters by block as published descriptions of the networks give them."""
    sd1 = """IN00 11840 IN01 4801280 IN02 4801280 IN03 921920 IN04 15746560 IN05 17384960 IN06 3687040 IN07 59345920
        IN08 65899520 IN09 14746880 IN10 31138560 IN11 31138560 M00 97038080 OUT00 49164800 OUT01 49164800
        OUT02 63911680 OUT03 83925760 OUT04 83925760 OUT05 90479360 OUT06 25989760 OUT07 21892480 OUT08 23530880
        OUT09 6953280 OUT10 5928640 OUT11 5928640 TIME 2050560 FINAL 12164 TE1 123060557 VAE 83653863"""
    sdxl = """IN00 11840 IN01 2255040 IN02 2255040 IN03 921920 IN04 27390080 IN05 29028480 IN06 3687040 IN07 375425280
        IN08 381978880 M00 413117440 OUT00 400005120 OUT01 400005120 OUT02 406558720 OUT03 37633280 OUT04 33536000
        OUT05 35174400 OUT06 4407040 OUT07 3382400 OUT08 3382400 TIME 2050560 LABEL 5245440 FINAL 12164
        TE1 123060557 TE2 694659841"""
    words = {"sd15": sd1, "sdxl-base": sdxl}[name].split()
    return {block: int(count) for block, count in zip(words[::2], words[1::2], strict=True)}


@pytest.mark.parametrize(("family", "name"), [("sd1", "sd15"), ("sdxl", "sdxl-base")])
def test_blocks_of_u_nets_are_as_large_as_published(family: str, name: str) -> None:
    found = parameters(*of_file(family, name))
    assert {block: found[block] for block in table(name)} == table(name)


def test_blocks_of_transformers_are_as_large_as_published() -> None:
    sd3 = parameters(*of_file("sd3", "sd3-medium"))
    assert {sd3[f"J{number:02}"] for number in range(23)} == {84_980_736}
    assert sd3["J23"] == 54_294_528
    assert round(sd3["POS"] / 1e6, 1) == 56.6
    assert {block: round(sd3[block] / 1e6, 2) for block in ("TXT_IN", "TIME", "VECTOR", "FINAL")} == {
        "TXT_IN": 6.29, "TIME": 2.76, "VECTOR": 5.51, "FINAL": 4.82,
    }  # fmt: skip
    flux = parameters(*of_file("flux", "flux-dev"))
    assert {flux[f"D{number:02}"] for number in range(19)} == {339_831_296}
    assert {flux[f"S{number:02}"] for number in range(38)} == {141_591_808}
    assert flux["IMG_IN"] == 199_680
    assert {block: round(flux[block] / 1e6, 1) for block in ("TXT_IN", "TIME", "VECTOR", "GUIDANCE", "FINAL")} == {
        "TXT_IN": 12.6, "TIME": 10.2, "VECTOR": 11.8, "GUIDANCE": 10.2, "FINAL": 19.1,
    }  # fmt: skip


def test_most_of_sdxl_lies_in_six_blocks() -> None:
    found = shares(*of_file("sdxl", "sdxl-base"))
    assert sum(found[block] for block in ("IN07", "IN08", "M00", "OUT00", "OUT01", "OUT02")) == pytest.approx(
        0.926, abs=5e-4
    )
    assert found["TE2"] == pytest.approx(694_659_841 / sum(parameters(*of_file("sdxl", "sdxl-base")).values()))


def kind_shares(family: str, name: str) -> dict[str, float]:
    layout, source = of_file(family, name)
    counts: dict[str, int] = {}
    for key in source.keys():
        kind = layout.place_of(key).kind.partition(".")[0]
        if kind:
            counts[kind] = counts.get(kind, 0) + source.spec(key).num_elements
    return {kind: round(100 * count / sum(counts.values()), 1) for kind, count in counts.items()}


def test_kinds_have_the_published_shares() -> None:
    sd1, sdxl = kind_shares("sd1", "sd15"), kind_shares("sdxl", "sdxl-base")
    assert (sd1["feed_forward"], sd1["self_attention"], sd1["cross_attention"]) == (17.3, 5.8, 5.1)
    assert (sd1["projection"], sd1["resample"]) == (2.9, 6.1)
    assert sd1["resblock"] + sd1["norm"] == pytest.approx(62.6, abs=0.15)
    assert (sdxl["feed_forward"], sdxl["self_attention"]) == (47.9, 16.0)
    assert sdxl["cross_attention"] == pytest.approx(21.3, abs=0.05)


@pytest.mark.parametrize("case", MAPPING["block_of_key_sd1_sd2"]["cases"], ids=lambda case: case["key"])
def test_blocks_of_sd1_are_those_of_other_programs(case: dict[str, str]) -> None:
    place = layout_of("sd1").place_of(case["key"])
    ours = {"TE1": "BASE", "VAE": "BASE"}.get(place.block, place.block)
    assert {"TIME": "IN00", "FINAL": "OUT11"}.get(ours, ours) == case["supermerger"]
    assert {"TIME": "BASE", "FINAL": "OUT11"}.get(ours, ours) == case["sd_mecha_sd1"] or place.block == "FINAL"


@pytest.mark.parametrize("case", MAPPING["block_of_key_sdxl"]["cases"], ids=lambda case: case["key"])
def test_blocks_of_sdxl_are_those_of_other_programs(case: dict[str, str]) -> None:
    place = layout_of("sdxl").place_of(case["key"])
    ours = {"TE1": "BASE", "TE2": "BASE"}.get(place.block, place.block)
    supermerger = {"VAE": "BASE", "TIME": "IN00", "LABEL": "IN00", "FINAL": "OUT08"}
    mecha = {"TIME": "BASE", "LABEL": "BASE", "FINAL": "OUT08"}
    assert supermerger.get(ours, ours) == case["supermerger"]
    assert mecha.get(ours, ours) == case["sd_mecha"]


@pytest.mark.parametrize(
    ("family", "name", "key", "place"),
    [
        ("sd1", "sd15", "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
         Place(block="IN04", kind="cross_attention.k", part="1.0")),
        ("sd1", "sd15", "model.diffusion_model.input_blocks.4.0.skip_connection.weight",
         Place(block="IN04", kind="resblock.skip_connection", part="0")),
        ("sdxl", "sdxl-base", "model.diffusion_model.output_blocks.2.2.conv.bias",
         Place(block="OUT02", kind="resample.up", part="2")),
        ("sd1", "bk-sdm-tiny-unet", "up_blocks.0.upsamplers.0.conv.weight",
         Place(block="OUT01", kind="resample.up", part="2")),
        ("sd3", "sd35-medium", "model.diffusion_model.joint_blocks.3.x_block.attn2.qkv.weight",
         Place(block="J03", kind="image_attention.qkv", stream="image")),
        ("sd3", "sd35-medium", "model.diffusion_model.joint_blocks.3.context_block.mlp.fc1.weight",
         Place(block="J03", kind="feed_forward.in", stream="text")),
        ("sd3", "sd3-medium", "model.diffusion_model.context_embedder.weight",
         Place(block="TXT_IN", kind="other", stream="text")),
        ("flux", "flux-dev", "double_blocks.7.txt_attn.norm.key_norm.scale",
         Place(block="D07", kind="norm.key", stream="text")),
        ("flux", "flux-dev", "single_blocks.30.linear1.weight",
         Place(block="S30", kind="attention_and_feed_forward.in")),
        ("flux", "flux-dev-scaled-fp8", "double_blocks.7.img_mlp.2.scale_weight",
         Place(block="D07", kind="feed_forward.out", stream="image")),
        ("pixart", "pixart-sigma-1024", "blocks.5.cross_attn.kv_linear.weight",
         Place(block="B05", kind="cross_attention.kv")),
        ("pixart", "pixart-sigma-diffusers", "transformer_blocks.5.attn1.to_out.0.bias",
         Place(block="B05", kind="self_attention.out")),
        ("sdxl-refiner", "sdxl-refiner", "conditioner.embedders.0.model.ln_final.bias", Place(block="TE1")),
    ],
)  # fmt: skip
def test_places_of_some_weights(family: str, name: str, key: str, place: Place) -> None:
    layout, source = of_file(family, name)
    assert key in source.keys()
    assert layout.place_of(key) == place


def test_averaged_weights_lie_where_the_plain_ones_do() -> None:
    key = "model.diffusion_model.input_blocks.1.1.proj_in.weight"
    averaged = "model_ema." + key.removeprefix("model.").replace(".", "")
    layout = layout_of("sd1", [key, averaged])
    assert layout.place_of(averaged) == layout.place_of(key) == Place(block="IN01", kind="projection.in", part="1")


def test_the_last_override_that_fits_decides() -> None:
    place = Place(block="IN04", kind="self_attention.q", part="1.0")
    weights = Weights(
        base=0.1,
        overrides=(
            Override(value=0.2, blocks=("IN04", "IN05")),
            Override(value=0.3, kinds=("self_attention",)),
            Override(value=0.4, blocks=("IN05",), kinds=("self_attention",)),
            Override(value=0.5, kinds=("self_attention.k",)),
            Override(value=0.6, streams=("text",)),
        ),
    )
    assert weight_at(weights, place) == 0.3
    assert weight_at(weights, Place(block="IN05", kind="norm.norm1")) == 0.2
    assert weight_at(weights, Place()) == 0.1


@pytest.mark.parametrize(
    ("wanted", "block", "part", "does"),
    [
        ("IN04", "IN04", "1.0", True),
        ("IN04.1", "IN04", "1.0", True),
        ("IN04.1.0", "IN04", "1.0", True),
        ("IN04.1.1", "IN04", "1.10", False),
        ("IN04.0", "IN04", "1.0", False),
        ("IN04.1.0", "IN04", "1", False),
    ],
)
def test_a_part_of_a_block_can_be_named(wanted: str, block: str, part: str, does: bool) -> None:
    assert is_for(Override(value=1.0, blocks=(wanted,)), Place(block=block, part=part)) is does


@pytest.mark.parametrize("family", LAYERS)
def test_every_kind_has_a_label_and_every_part_is_one_of_its_kind(family: str) -> None:
    layout = layout_of(family)
    assert all(layout.kinds.values())
    for layer in LAYERS[family]:
        assert layer.kind in layout.kinds
        assert fits(layer.kind.partition(".")[0], layer.kind)
    assert set(NETWORKS[family].rest) | set(NETWORKS[family].encoders) <= set(OUTSIDE)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(data=st.data(), base=st.floats(-1, 1))
def test_one_value_everywhere_is_the_same_as_the_base(data: st.DataObject, base: float) -> None:
    layout, source = of_file("sd1", "sd15")
    blocks = data.draw(st.lists(st.sampled_from([block.name for block in layout.blocks])))
    weights = Weights(base=base, overrides=tuple(Override(value=base, blocks=(block,)) for block in blocks))
    key = data.draw(st.sampled_from(source.keys()))
    assert weight_at(weights, layout.place_of(key)) == base
