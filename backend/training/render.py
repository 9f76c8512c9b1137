"""Draw training pictures from icon packages: rasterised, recoloured, placed on white."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import resvg_py
from PIL import Image

from backend.training.concepts import COLOUR_ENDS, COLOURS, CONCEPTS, STYLES, Subject, TrainingError

Pixels = npt.NDArray[np.uint8]

_RASTER = 256  # icons are rasterised once at this size and then placed at the size of the pictures
_DOMINANT_SHARE = 0.6  # of the coloured pixels must have one hue before an icon is recoloured
_HUE_WINDOW = 35.0


@dataclass(frozen=True)
class Rendering:
    """A picture [size, size, 3] and what it shows."""

    pixels: Pixels
    subject: Subject


def read_icons(tarball: Path) -> dict[str, Any]:
    """The icons.json of an iconify package. Raises TrainingError when it has none."""
    try:
        with tarfile.open(tarball) as archive:
            member = archive.extractfile("package/icons.json")
            if member is None:
                raise TrainingError(f"{tarball.name} holds no icons.json; fetch it again")
            return json.load(member)
    except (OSError, KeyError, tarfile.TarError, ValueError) as error:
        raise TrainingError(f"{tarball.name} cannot be read ({error}); fetch it again") from error


def rasterise(icons: dict[str, Any], name: str) -> Pixels:
    """One icon as RGBA [256, 256, 4]."""
    icon = icons["icons"][icons.get("aliases", {}).get(name, {}).get("parent", name)]
    width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
    png = resvg_py.svg_to_bytes(svg_string=svg, width=_RASTER, height=_RASTER)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))


def dominant_hue(rgba: Pixels) -> float | None:
    """The hue, in degrees, that most coloured pixels share, or None.

    The mean is taken in a window around the fullest bin: the bin itself would make a red with an orange edge orange.
    """
    hue, weight = _hue_and_colourfulness(rgba)
    total = float(weight.sum())
    if total < 0.02 * weight.size:
        return None
    masses = np.histogram(hue, bins=36, range=(0, 360), weights=weight)[0]
    peak = float(np.argmax(masses)) * 10 + 5
    offset = (hue - peak + 180) % 360 - 180
    inside = np.abs(offset) <= _HUE_WINDOW
    mass = float(weight[inside].sum())
    if mass < _DOMINANT_SHARE * total:
        return None
    return float(peak + (offset * weight)[inside].sum() / mass) % 360


def recolour(rgba: Pixels, hue_from: float, hue_to: float) -> Pixels:
    """Turn all hues by the angle between two hues, in degrees."""
    hsv = np.asarray(Image.fromarray(rgba[..., :3]).convert("HSV")).astype(np.int16)
    hsv[..., 0] = (hsv[..., 0] + round((hue_to - hue_from) * 256 / 360)) % 256
    rgb = np.asarray(Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB"))
    return np.concatenate([rgb, rgba[..., 3:]], axis=-1)


def colour_name(hue: float) -> str:
    """The name of the colour with this hue, in degrees."""
    return next((name for name, end in COLOUR_ENDS.items() if hue < end), "red")


def render_all(tarballs: Path, *, size: int, placements: int, seed: int) -> Iterator[Rendering]:
    """Every concept in every style and colour, `placements` times each: scaled and shifted a little, on white."""
    rng = random.Random(seed)
    for style in STYLES:
        matches = sorted(tarballs.glob(f"iconify-json-{style.package}-[0-9]*.tgz"))
        if not matches:
            raise TrainingError(f"there is no {style.package} package in {tarballs}; run the fetch step first")
        icons = read_icons(matches[-1])
        for concept in CONCEPTS:
            rgba = rasterise(icons, concept.icon)
            hue = dominant_hue(rgba)
            own = colour_name(hue) if hue is not None and not _is_dark(rgba) else None
            coloured = [(own, rgba, False)]
            if hue is not None and own is not None:  # a dark colour turns into no colour that has a name
                coloured += [
                    (name, recolour(rgba, hue, target), True) for name, target in COLOURS.items() if name != own
                ]
            for colour, image, is_recoloured in coloured:
                subject = Subject(concept, style, colour, is_recoloured)
                for _ in range(placements):
                    yield Rendering(_placed(image, size, rng), subject)


def _hue_and_colourfulness(rgba: Pixels) -> tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.floating[Any]]]:
    hsv = np.asarray(Image.fromarray(rgba[..., :3]).convert("HSV")).astype(np.float32)
    weight = (hsv[..., 1] / 255) * (hsv[..., 2] / 255) * (rgba[..., 3] / 255.0).astype(np.float32)
    return hsv[..., 0] * (360 / 256), weight * (hsv[..., 1] > 64)


def _is_dark(rgba: Pixels) -> bool:
    """Whether the coloured pixels are mostly dark: brown is a dark orange, and nobody calls it that."""
    hsv = np.asarray(Image.fromarray(rgba[..., :3]).convert("HSV")).astype(np.float32)
    coloured = (hsv[..., 1] > 64) & (rgba[..., 3] > 128)
    return bool(coloured.any()) and float(hsv[..., 2][coloured].mean()) < 150


def _placed(rgba: Pixels, size: int, rng: random.Random) -> Pixels:
    side = round(size * rng.uniform(0.86, 0.95))
    free = size - side
    left, top = (max(0, min(free, free // 2 + rng.randint(-size // 42, size // 42))) for _ in range(2))
    icon = Image.fromarray(rgba).resize((side, side), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (size, size), "white")
    canvas.alpha_composite(icon, (left, top))
    return np.asarray(canvas.convert("RGB"))
