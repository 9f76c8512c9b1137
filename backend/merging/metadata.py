"""What a made model's file says of how it was made: our own recipe, and the fields that other programs read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from backend.merging.made_model import MadeModel
from backend.merging.predicted import NOISE
from backend.recipe import (
    CheckpointInput,
    FileRef,
    Merge,
    Node,
    Recipe,
    StoredDtype,
    WithAdapters,
    WithVae,
    parse_recipe,
)

RECIPE = "emulsion.recipe"
_RECIPE_HASH = "emulsion.recipe_hash"
_MERGE_RECIPE, _MERGE_MODELS = "sd_merge_recipe", "sd_merge_models"
_MOST = 2**20  # characters of what is told of the models of models

_ARCHITECTURES = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2",
    "sdxl": "stable-diffusion-xl-v1-base",
    "sdxl-refiner": "stable-diffusion-xl-v1-refiner",
    "sd3": "stable-diffusion-v3",
    "flux": "flux-1",
    "pixart": "pixart",
}
_OF_THE_FILE = ("modelspec.hash_sha256", "modelspec.thumbnail", "modelspec.date", "modelspec.merged_from")
_A1111_NAMES = {"lerp": "Weighted sum", "add_difference": "Add difference"}


def inherited(metadata: Mapping[str, str]) -> dict[str, str]:
    """What a checkpoint says of itself and is still true of a model that it is the first part of."""
    return {
        key: value
        for key, value in metadata.items()
        if key.startswith(("emulsion.", "modelspec.")) and key not in _OF_THE_FILE and not key.startswith(RECIPE)
    }


def merge_metadata(recipe: Recipe, made: MadeModel, titles: Mapping[str, str]) -> dict[str, str]:
    """The metadata of a made model's file.

    titles: what files are called for people, by their names in the recipe; others are called as in the recipe.
    """
    files = tuple(dict.fromkeys(recipe.files()))
    told = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": _ARCHITECTURES.get(made.family.name, made.family.name),
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.merged_from": ", ".join(titles.get(file.name, file.name) for file in files),
        RECIPE: json.dumps(recipe.to_mapping(), separators=(",", ":")),
        _RECIPE_HASH: recipe.hash,
        _MERGE_RECIPE: json.dumps(_a1111_recipe(recipe)),
        _MERGE_MODELS: json.dumps(_a1111_models(recipe, made.inputs, titles)),
    }
    if made.prediction:
        told["modelspec.prediction_type"] = "epsilon" if made.prediction == NOISE else "v"
    architecture = made.source.metadata.get("modelspec.architecture")
    title = {"modelspec.title": recipe.name} if recipe.name else {}
    return {
        **made.source.metadata,
        **told,
        **title,
        **({"modelspec.architecture": architecture} if architecture else {}),
    }


def recipe_in(metadata: Mapping[str, str]) -> Recipe | None:
    """The recipe that a file was made by, or None. Raises RequestError for one that cannot be read."""
    text = metadata.get(RECIPE)
    return None if text is None else parse_recipe(text)


def _a1111_recipe(recipe: Recipe) -> dict[str, Any]:
    """As A1111 and Forge write it, which knows merges of up to three files by one number."""
    root = _inner(recipe.root)
    merge = root if isinstance(root, Merge) else None
    models = [_first_file(model) for model in merge.models] if merge is not None else [_first_file(root)]
    hashes = [file.sha256 or None for file in models] + [None] * 3
    values = dict(merge.parameters) if merge is not None else {}
    alpha = values.get("alpha")
    is_theirs = merge is None or (
        merge.rule in _A1111_NAMES
        and all(isinstance(model, CheckpointInput) for model in merge.models)
        and not (alpha is not None and alpha.overrides)
        and merge.normalisation == "none"
    )
    vae = recipe.root.vae.name if isinstance(recipe.root, WithVae) else "None"
    return {
        "type": "webui" if is_theirs else "emulsion",
        "primary_model_hash": hashes[0],
        "secondary_model_hash": hashes[1],
        "tertiary_model_hash": hashes[2],
        "interp_method": "No interpolation" if merge is None else _A1111_NAMES.get(merge.rule, merge.rule),
        "multiplier": alpha.base if alpha is not None else None,
        "save_as_half": recipe.dtype is StoredDtype.FLOAT16,
        "custom_name": recipe.name,
        "config_source": 0,
        "bake_in_vae": vae,
        "discard_weights": "",
        "is_inpainting": False,
        "is_instruct_pix2pix": False,
    }


def _a1111_models(
    recipe: Recipe, inputs: Mapping[str, Mapping[str, str]], titles: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """By hash, every model that went in, and what those say of the models that they were made of."""
    models: dict[str, dict[str, Any]] = {}
    for file in recipe.files():
        metadata = inputs.get(file.name)
        if metadata is None:  # an adapter or an autoencoder
            continue
        ancestors = _json_object(metadata.get(_MERGE_MODELS, ""))
        if len(metadata.get(_MERGE_MODELS, "")) <= _MOST:
            models |= {digest: found for digest, found in ancestors.items() if isinstance(found, dict)}
        models[file.sha256 or file.name] = {
            "name": titles.get(file.name, file.name),
            "legacy_hash": None,
            "sd_merge_recipe": _json_object(metadata.get(_MERGE_RECIPE, "")) or None,
        }
    return models


def _json_object(text: str) -> dict[str, Any]:
    """What other programs wrote: {} for what is none."""
    try:
        found: Any = json.loads(text) if text and len(text) <= _MOST else {}
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _inner(node: Node) -> Node:
    while isinstance(node, (WithVae, WithAdapters)):
        node = node.model
    return node


def _first_file(node: Node) -> FileRef:
    node = _inner(node)
    while isinstance(node, Merge):
        node = _inner(node.models[0])
    assert isinstance(node, CheckpointInput)
    return node.file
