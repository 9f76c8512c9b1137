"""Files of RealESRGAN's compact upscalers: body.0, body.1 ..., convolutions and slopes in turns."""

from __future__ import annotations

import math

from backend.errors import UnsupportedCheckpoint
from backend.nn.srvgg import SRVGG, SRVGGConfig
from backend.upscaling.architecture import Architecture, UpscalerNetwork
from backend.upscaling.wrappers import unwrapped
from backend.weights.source import WeightSource


def _recognise(file: WeightSource) -> bool:
    source = unwrapped(file)
    keys = set(source.keys())
    return {"body.0.weight", "body.1.weight"} <= keys and source.spec("body.1.weight").shape == (
        source.spec("body.0.weight").shape[0],
    )


def _open(file: WeightSource) -> UpscalerNetwork:
    source = unwrapped(file)
    numbers = sorted({int(key.split(".")[1]) for key in source.keys() if key.startswith("body.")})
    first = source.spec("body.0.weight").shape
    last = source.spec(f"body.{numbers[-1]}.weight").shape
    scale = math.isqrt(last[0] // first[1])
    if numbers != list(range(len(numbers))) or len(last) != 4 or scale**2 * first[1] != last[0]:
        raise UnsupportedCheckpoint(
            source.origin, "some layers of this compact upscaler are missing. Download it again."
        )
    config = SRVGGConfig(channels=first[0], num_convs=(len(numbers) - 3) // 2, scale=scale, in_channels=first[1])
    return UpscalerNetwork(
        label="RealESRGAN compact",
        source=source,
        build=lambda: SRVGG(config),
        scale=scale,
        channels=config.in_channels,
        context=config.num_convs + 2,  # every convolution sees one pixel further, so that tiles are exact
    )


COMPACT = Architecture(name="compact", label="RealESRGAN compact", recognise=_recognise, open=_open)
