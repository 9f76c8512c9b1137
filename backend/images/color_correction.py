"""A result in the colours of the picture that it was made from: loops do not drift and patches do not stand out.

Each CIELAB channel gets the distribution of the picture's (histogram matching), and then the lightness of the result
comes back: what was light stays light, hues move.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_TO_XYZ = np.array(  # linear sRGB to XYZ, D65 (IEC 61966-2-1), divided by the white point
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
) / np.array([[0.95047], [1.0], [1.08883]])
_CUT, _SLOPE, _OFFSET = (6 / 29) ** 3, (29 / 6) ** 2 / 3, 4 / 29  # CIE 15: the straight part near black
_LUMINOSITY = np.array([0.3, 0.59, 0.11], np.float32)  # of W3C's compositing
_LEVELS = 4096  # of a channel, so many that none shows
_RANGES = ((0.0, 100.0), (-128.0, 128.0), (-128.0, 128.0))  # of L, a, b


def with_colours_of(picture: Pixels, result: Pixels) -> Pixels:
    """`result` with the colours of `picture` and its own luminosity. Both uint8 [H, W, 3], sizes may differ."""
    source, target = rgb_to_lab(result), rgb_to_lab(picture)
    channels = [_matched(source[..., c], target[..., c], *_RANGES[c]) for c in range(3)]
    return _with_luminosity_of(lab_to_rgb(np.stack(channels, axis=-1)), result)


def rgb_to_lab(pixels: Pixels) -> Floats:
    """sRGB uint8 [..., 3] as CIELAB (D65): L 0..100, a and b about -128..128."""
    levels = np.arange(256) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4).astype(np.float32)
    xyz = linear[pixels] @ _TO_XYZ.T.astype(np.float32)
    f = np.where(xyz > _CUT, np.cbrt(xyz), _SLOPE * xyz + _OFFSET)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def lab_to_rgb(lab: Floats) -> Floats:
    """CIELAB [..., 3] as sRGB, 0..255, not rounded; what sRGB cannot show is clipped."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, (f - _OFFSET) / _SLOPE)
    linear = np.clip(xyz @ np.linalg.inv(_TO_XYZ).T.astype(np.float32), 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _matched(source: Floats, target: Floats, low: float, high: float) -> Floats:
    """`source` through the monotonous curve that gives it the distribution of `target`."""
    source_levels, target_levels = (_quantised(values, low, high) for values in (source, target))
    source_counts, target_counts = (np.bincount(of.ravel(), minlength=_LEVELS) for of in (source_levels, target_levels))
    occurring = np.flatnonzero(target_counts)
    middles = low + (occurring + 0.5) * (high - low) / _LEVELS
    curve = np.interp(_shares_below(source_counts), _shares_below(target_counts)[occurring], middles)
    return curve.astype(np.float32)[source_levels]


def _quantised(values: Floats, low: float, high: float) -> npt.NDArray[np.int32]:
    return np.clip((values - low) * (_LEVELS / (high - low)), 0, _LEVELS - 1).astype(np.int32)


def _shares_below(counts: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """What share of all lies below the middle of each level's own: so that one single colour goes to the median."""
    return (np.cumsum(counts) - counts / 2) / max(1, counts.sum())


def _with_luminosity_of(colours: Floats, light: Pixels) -> Pixels:
    """W3C Compositing Level 1, blend mode luminosity: hue and saturation of `colours`, brightness of `light`."""
    wanted = light.astype(np.float32) @ _LUMINOSITY
    shifted = colours + (wanted - colours @ _LUMINOSITY)[..., None]
    red, green, blue = (shifted[..., channel] for channel in range(3))
    lowest, highest = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    with np.errstate(divide="ignore", invalid="ignore"):  # only taken where the colour leaves 0..255
        scale = np.minimum(
            np.where(lowest < 0, wanted / (wanted - lowest), 1),
            np.where(highest > 255, (255 - wanted) / (highest - wanted), 1),
        )
    clipped = wanted[..., None] + (shifted - wanted[..., None]) * scale[..., None]
    return np.clip(np.rint(clipped), 0, 255).astype(np.uint8)
