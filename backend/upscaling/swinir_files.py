"""Files of SwinIR, as it was published for photographs, for clean pictures, light, and for noise and JPEG."""

from __future__ import annotations

import math
import re

from backend.errors import UnsupportedCheckpoint
from backend.nn.swinir import Enlarging, SwinIR, SwinIRConfig
from backend.upscaling.architecture import Architecture, UpscalerNetwork
from backend.upscaling.wrappers import unwrapped
from backend.weights.source import Renamed, WeightSource

_TABLE = "layers.0.residual_group.blocks.0.attn.relative_position_bias_table"
_BLOCK = re.compile(r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.norm1\.weight")
_COMPUTED = ("relative_position_index", "attn_mask")  # in files, though they follow from the window's size
_OF_JPEG = 7  # pixels of a window in the networks that were trained on numbers up to 255, against JPEG
_CONTEXT = 64  # eight windows of eight pixels; twice what its authors' own tiles overlap by


def _recognise(file: WeightSource) -> bool:
    keys = set(unwrapped(file).keys())
    return {"conv_first.weight", _TABLE} <= keys and not any("overlap_attn" in key for key in keys)


def _open(file: WeightSource) -> UpscalerNetwork:
    source = Renamed(unwrapped(file), lambda key: None if key.endswith(_COMPUTED) else key)
    try:
        config = _config(source)
    except KeyError as error:
        raise UnsupportedCheckpoint(
            source.origin, f"it is half of a SwinIR upscaler: {error.args[0]} is missing. Download it again."
        ) from error
    return UpscalerNetwork(
        label="SwinIR",
        source=source,
        build=lambda: SwinIR(config),
        scale=config.scale,
        channels=config.colours,
        side_step=config.window,
        context=_CONTEXT,
    )


def _config(source: WeightSource) -> SwinIRConfig:
    """Raises KeyError for a weight that is not there."""
    channels, colours = source.spec("conv_first.weight").shape[:2]
    positions, heads = source.spec(_TABLE).shape
    window = (math.isqrt(positions) + 1) // 2
    found = [(int(block[1]), int(block[2])) for key in source.keys() if (block := _BLOCK.fullmatch(key))]
    depths = [
        1 + max(block for layer, block in found if layer == number) for number in sorted({one for one, _ in found})
    ]
    enlarging, steps = _enlarging(source, colours)
    return SwinIRConfig(
        channels=channels,
        heads=heads,
        window=window,
        hidden=source.spec("layers.0.residual_group.blocks.0.mlp.fc1.weight").shape[0],
        depths=tuple(depths),
        enlarging=enlarging,
        steps=steps,
        colours=colours,
        has_bottleneck="conv_after_body.0.weight" in source.keys(),
        range=255.0 if window == _OF_JPEG else 1.0,
    )


def _enlarging(source: WeightSource, colours: int) -> tuple[Enlarging, tuple[int, ...]]:
    keys = set(source.keys())
    if "conv_up1.weight" in keys:
        return Enlarging.NEAREST, (2,) * (1 + ("conv_up2.weight" in keys))
    if "conv_before_upsample.0.weight" in keys:
        factors = (
            source.spec(key).shape for key in sorted(keys) if key.startswith("upsample.") and key.endswith("weight")
        )
        return Enlarging.SHUFFLE, tuple(math.isqrt(shape[0] // shape[1]) for shape in factors)
    if "upsample.0.weight" in keys:
        return Enlarging.DIRECT, (math.isqrt(source.spec("upsample.0.weight").shape[0] // colours),)
    return Enlarging.NONE, ()


SWINIR = Architecture(name="swinir", label="SwinIR", recognise=_recognise, open=_open)
