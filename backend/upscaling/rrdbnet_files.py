"""Files of ESRGAN and RealESRGAN: three ways in which they name the layers of an RRDBNet.

RealESRGAN, BasicSR     conv_first, body.0.rdb1.conv1, conv_body, conv_up1, conv_up2, conv_hr, conv_last
ESRGAN, first release   conv_first, RRDB_trunk.0.RDB1.conv1, trunk_conv, upconv1, upconv2, HRconv, conv_last
ESRGAN, before that     model.0, model.1.sub.0.RDB1.conv1.0, model.1.sub.23, then numbers in the order of the layers
"""

from __future__ import annotations

import math
import re
from functools import partial

from backend.errors import UnsupportedCheckpoint
from backend.nn.rrdbnet import RRDBNet, RRDBNetConfig
from backend.upscaling.architecture import Architecture, UpscalerNetwork
from backend.upscaling.wrappers import unwrapped
from backend.weights.source import Renamed, WeightSource

_FIRST = "conv_first.weight"
_MARKS = ("body.0.rdb1.conv1.weight", "RRDB_trunk.0.RDB1.conv1.weight", "model.1.sub.0.RDB1.conv1.0.weight")
_BLOCK = re.compile(r"(?:body|RRDB_trunk|model\.1\.sub)\.(\d+)\.(?:rdb|RDB)([123])\.conv(\d)(?:\.0)?\.(weight|bias)")
_RELEASED = {"trunk_conv": "conv_body", "upconv1": "conv_up1", "upconv2": "conv_up2", "HRconv": "conv_hr"}
_NUMBERED = re.compile(r"model\.(\d+)\.(weight|bias)")
_TRUNK = re.compile(r"model\.1\.sub\.(\d+)\.(weight|bias)")
# Pixels around a tile beyond which its edge changes by less than a tenth of a level of 8 bits, as measured with the
# published weights of RealESRGAN on photographs: 64 for 6 blocks, 80 for 23. Its layers see further, but hardly
# anything there.
_LEAST_CONTEXT, _CONTEXT_OF_A_BLOCK, _MOST_CONTEXT = 58, 1, 80


def _recognise(source: WeightSource) -> bool:
    keys = set(unwrapped(source).keys())
    return any(mark in keys for mark in _MARKS)


def _open(file: WeightSource) -> UpscalerNetwork:
    plain = unwrapped(file)
    source = Renamed(plain, partial(_network_name, last=_last_number(plain)))
    config = _config(source)
    return UpscalerNetwork(
        label="ESRGAN",
        source=source,
        build=lambda: RRDBNet(config),
        scale=config.scale,
        channels=config.in_channels,
        side_step=config.unshuffle,
        context=config.unshuffle * min(_MOST_CONTEXT, _LEAST_CONTEXT + _CONTEXT_OF_A_BLOCK * config.num_blocks),
    )


def _network_name(key: str, *, last: int) -> str | None:
    """last: the highest number of the oldest layout's layers."""
    if (block := _BLOCK.fullmatch(key)) is not None:
        return f"body.{block[1]}.rdb{block[2]}.conv{block[3]}.{block[4]}"
    if (trunk := _TRUNK.fullmatch(key)) is not None:
        return f"conv_body.{trunk[2]}"
    if (numbered := _NUMBERED.fullmatch(key)) is not None:
        return f"{_numbered_layer(int(numbered[1]), last)}.{numbered[2]}"
    layer, _, kind = key.rpartition(".")
    return f"{_RELEASED.get(layer, layer)}.{kind}"


def _numbered_layer(number: int, last: int) -> str:
    """Of model.0, the doublings (a convolution at every third number from 3 on), and two convolutions at the end."""
    if number == 0:
        return "conv_first"
    if number == last:
        return "conv_last"
    return "conv_hr" if number == last - 2 else f"conv_up{number // 3}"


def _last_number(source: WeightSource) -> int:
    return max((int(found[1]) for key in source.keys() if (found := _NUMBERED.fullmatch(key))), default=0)


def _config(source: WeightSource) -> RRDBNetConfig:
    keys = source.keys()
    missing = [name for name in (_FIRST, "conv_hr.weight", "conv_last.weight", "conv_body.weight") if name not in keys]
    if missing:
        raise UnsupportedCheckpoint(source.origin, f"it is half of an ESRGAN upscaler: {missing[0]} is missing. "
                                    "Download it again.")  # fmt: skip
    first, last = source.spec(_FIRST).shape, source.spec("conv_last.weight").shape
    unshuffle = math.isqrt(first[1] // last[0])
    if last[0] not in (1, 3, 4) or unshuffle**2 * last[0] != first[1]:
        raise UnsupportedCheckpoint(
            source.origin,
            f"its first layer takes {first[1]} channels and its last gives {last[0]}, which is no picture's. "
            "Choose another upscaler.",
        )
    return RRDBNetConfig(
        channels=first[0],
        growth=source.spec("body.0.rdb1.conv1.weight").shape[0],
        num_blocks=1 + max(int(key.split(".")[1]) for key in keys if key.startswith("body.")),
        in_channels=last[0],
        out_channels=last[0],
        doublings=sum(key.startswith("conv_up") and key.endswith(".weight") for key in keys),
        unshuffle=unshuffle,
    )


ESRGAN = Architecture(name="esrgan", label="ESRGAN", recognise=_recognise, open=_open)
