"""Merged models have the names of single-file checkpoints, whatever the layouts of their files, and their networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backend.families.autoencoder_files import autoencoder_in
from backend.families.builtin import BUILTIN as BUILTIN_FAMILIES
from backend.families.recognition import recognised
from backend.families.transformer_files import transformer_in
from backend.families.unet_files import unet_in, unet_prefix
from backend.merging.layouts import layout_of
from backend.text.encoder_layouts import encoders_in
from backend.weights.safetensors_file import write_safetensors
from backend.weights.source import WeightSource
from backend.weights.weight_file import open_weights
from tests.merge_rules import made, merge
from tests.tiny_families import FAMILIES, write_tiny_family


def assert_same(found: WeightSource | None, wanted: WeightSource | None) -> None:
    if wanted is None:
        assert found is None
        return
    assert found is not None
    assert set(found.keys()) == set(wanted.keys())
    assert all(torch.equal(found.read(key), wanted.read(key)) for key in wanted.keys())


def network_in(source: WeightSource) -> WeightSource:
    if unet_prefix(source) is not None:
        return unet_in(source)
    prefix = "model.diffusion_model."
    return transformer_in(source, prefix if any(key.startswith(prefix) for key in source.keys()) else "")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_merged_with_itself_is_itself(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    path = write_tiny_family(name, tmp_path / "model.safetensors")
    original = open_weights(path)
    model = made(merge("lerp", path, path))
    family = recognised(original, BUILTIN_FAMILIES)
    assert recognised(model.source, BUILTIN_FAMILIES) is family is model.family
    assert not model.report.dropped
    assert_same(network_in(model.source), network_in(original))
    assert_same(autoencoder_in(model.source), autoencoder_in(original))
    wanted, found = encoders_in(original), encoders_in(model.source)
    assert found.keys() == wanted.keys()
    for kind, encoder in wanted.items():
        assert_same(found[kind], encoder)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_merged_weight_lies_in_a_block(name: str, tmp_path: Path) -> None:
    model = made(merge("lerp", *[write_tiny_family(name, tmp_path / "model.safetensors")] * 2))
    layout = layout_of(model.family.name, model.source.keys())
    assert all(layout.place_of(key).block for key in model.report.matched)


def test_sdxl_has_its_second_text_encoder_under_open_clips_names(tmp_path: Path) -> None:
    """As other programs expect it, though its file had those of transformers."""
    path = write_tiny_family("sdxl", tmp_path / "model.safetensors")
    keys = made(merge("lerp", path, path)).source.keys()
    assert "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight" in keys
    assert not any(key.startswith("text_encoders.") for key in keys)


def test_models_of_two_layouts_are_merged(tmp_path: Path) -> None:
    """One in the names that the other became when it was saved."""
    torch.manual_seed(1)
    path = write_tiny_family("sdxl", tmp_path / "model.safetensors")
    model = made(merge("lerp", path, path))
    write_safetensors(
        tmp_path / "saved.safetensors",
        {key: model.source.read(key).contiguous() for key in model.source.keys()},
        model.source.metadata,
    )
    both = made(merge("lerp", tmp_path / "saved.safetensors", path))
    assert not both.report.dropped
    assert not both.report.notices
    assert all(torch.allclose(both.source.read(key), model.source.read(key)) for key in both.report.matched)
