"""Fields of a request from what `generate` was told of pictures, second passes and tiles."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backend.engine.picture_store import PictureStore
from backend.errors import BadImage, RequestError
from backend.images.safe_open import MAX_BYTES
from backend.init_image import MAX_BORDER, Borders
from backend.second_pass import TileMethod, Tiles

# Fields by the options that they are called by.
_INIT = {
    "strength": "denoising_strength",
    "exact_steps": "exact_steps",
    "resize": "resize",
    "init_upscaler": "upscaler",
    "noise_multiplier": "noise_multiplier",
    "extra_noise": "extra_noise",
    "color_correction": "color_correction",
    "image_guidance": "image_guidance",
}
_MASK = {
    "invert_mask": "inverted",
    "mask_blur": "blur",
    "fill": "content",
    "inpaint": "area",
    "padding": "padding",
    "soft_inpainting": "soft",
    "mask_weight": "conditioning_weight",
}
_HIRES = {
    "hires": "scale",
    "hires_width": "width",
    "hires_height": "height",
    "hires_upscaler": "upscaler",
    "hires_strength": "denoising_strength",
    "hires_steps": "steps",
    "hires_sampler": "sampler",
    "hires_schedule": "schedule",
    "hires_guidance": "guidance_scale",
    "hires_checkpoint": "checkpoint",
    "hires_prompt": "prompt",
    "hires_negative": "negative_prompt",
}
_HIRES_SIZES = ("hires", "hires_width", "hires_height")


def picture_fields(
    values: argparse.Namespace, names: Mapping[str, str | None], pictures: PictureStore
) -> dict[str, Any]:
    """What is in force of init, hires and tiles. The files are put into the store, so that a page can show them again.

    names: of files, in place of what the options of these names say.
    Raises RequestError for options without the one that they belong to, BadImage, OutputError.
    """
    asked = argparse.Namespace(**{**vars(values), **names})
    fields = {"init": _init(asked, pictures), "hires": _hires(asked), "tiles": _tiles(asked)}
    return {name: value for name, value in fields.items() if value is not None}


def _init(values: argparse.Namespace, pictures: PictureStore) -> dict[str, Any] | None:
    given, of_mask = _given(values, _INIT), _given(values, _MASK)
    if values.mask is None and of_mask:
        raise _alone(of_mask, _MASK, "--mask FILE")
    if values.init is None:
        if values.mask is not None or values.outpaint is not None or given:
            raise RequestError("init", "is missing; name the picture to begin with, as --init FILE")
        return None
    init: dict[str, Any] = {**given, "picture": pictures.add(_read(values.init), values.init.name).sha256}
    if values.mask is not None:
        init["mask"] = {**of_mask, "picture": pictures.add(_read(values.mask), values.mask.name).sha256}
    if values.outpaint is not None:
        init["borders"] = _borders(values.outpaint)
    return init


def _hires(values: argparse.Namespace) -> dict[str, Any] | None:
    given = _given(values, _HIRES)
    if given and all(getattr(values, name) is None for name in _HIRES_SIZES):
        raise _alone(given, _HIRES, "--hires X")
    return given or None


def _tiles(values: argparse.Namespace) -> dict[str, Any] | None:
    if values.tiles is None:
        if values.tile_overlap is not None or values.separate_tiles:
            raise RequestError("tiles", "is missing; say how large they are, as --tiles 768")
        return None
    usual = min(Tiles.overlap, values.tiles // 2 // 8 * 8)  # no more than small tiles can have
    overlap = usual if values.tile_overlap is None else values.tile_overlap
    tiles: dict[str, Any] = {"size": values.tiles, "overlap": overlap}
    if values.separate_tiles:
        tiles["method"] = TileMethod.SEPARATE
    return tiles


def _given(values: argparse.Namespace, names: Mapping[str, str]) -> dict[str, Any]:
    """What is neither left out nor a switch that is off."""
    found = {ours: getattr(values, name) for name, ours in names.items()}
    return {ours: value for ours, value in found.items() if value is not None and value is not False}


def _alone(given: Mapping[str, Any], names: Mapping[str, str], needed: str) -> RequestError:
    option = next(name for name, ours in names.items() if ours in given)
    return RequestError(f"--{option.replace('_', '-')}", f"means nothing without {needed}")


def _borders(text: str) -> Borders:
    """Read "left=128,right=128,fill=mirror". Raises RequestError."""
    fields: dict[str, Any] = {}
    for part in text.split(","):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign or name not in Borders.__dataclass_fields__:
            known = ", ".join(Borders.__dataclass_fields__)
            raise RequestError("outpaint", f'"{part[:40]}" must be NAME=NUMBER, with one of: {known}')
        if name != "fill" and not value.isdecimal():
            raise RequestError("outpaint", f'"{part[:40]}" must be a number of pixels from 0 to {MAX_BORDER}')
        fields[name] = value if name == "fill" else int(value)
    return Borders(**fields)


def _read(path: Path) -> bytes:
    """No more than a picture may have. Raises BadImage."""
    try:
        with path.expanduser().open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadImage(path, f"it cannot be read ({error.strerror}).") from error
