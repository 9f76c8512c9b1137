"""Files of TAESD, which show pictures while they form, for the latents that they were made for."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.errors import EmulsionError, KeysDoNotMatch
from backend.nn.tiny_autoencoder import TinyDecoder
from backend.weights.source import WeightSource

_log = logging.getLogger(__name__)

_ENDINGS = (".safetensors", ".sft", ".pth", ".pt", ".bin")
_MOST_LATENTS = 64  # along a side of a preview
# Names of layers in published files of the decoder, of both halves, and of diffusers, which does not count the first.
_LAYER = re.compile(r"(?:(?:taesd_)?decoder\.)?(?P<diffusers>layers\.)?(?P<number>\d+)\.(?P<rest>.+)")


@dataclass(frozen=True, kw_only=True)
class TinyKind:
    """name: of its files. channels, factor, shift: of the latents that it reads, see `LatentScaling`."""

    name: str
    channels: int
    factor: float
    shift: float = 0.0


TAESD = TinyKind(name="taesd", channels=4, factor=0.18215)
TAESDXL = TinyKind(name="taesdxl", channels=4, factor=0.13025)
TAESD3 = TinyKind(name="taesd3", channels=16, factor=1.5305, shift=0.0609)
TAEF1 = TinyKind(name="taef1", channels=16, factor=0.3611, shift=0.1159)
KINDS = (TAESD, TAESDXL, TAESD3, TAEF1)


@dataclass(frozen=True, kw_only=True)
class TinyPreview:
    """A `Preview`. to_tiny: what the decoder reads, of diffusion latents."""

    decoder: TinyDecoder
    to_tiny: Callable[[Tensor], Tensor]

    @torch.inference_mode()
    def rgb(self, latents: Tensor) -> Tensor:
        """On the CPU, so that it takes nothing of the memory that was planned, and at no more than is shown."""
        batch, _, height, width = latents.shape
        shrink = _MOST_LATENTS / max(height, batch * width)
        read = self.to_tiny(latents)
        if shrink < 1:
            size = max(1, round(shrink * height)), max(1, round(shrink * width))
            read = F.interpolate(read, size, mode="area")
        return self.decoder(read)


class TinyDecoders:
    """The files below `folders`. open: the tensors of one; raises EmulsionError.

    Looked for whenever a model is first shown, so that a file that was put there is found without a new start.
    """

    def __init__(self, folders: Sequence[Path] = (), open: Callable[[Path], WeightSource] | None = None) -> None:
        self._folders = tuple(folders)
        self._open = open
        self._loaded: dict[tuple[Path, int], TinyDecoder | None] = {}

    def find(self, kind: TinyKind) -> TinyDecoder | None:
        """The decoder, on the CPU in float32; None where there is no file, or none that can be used: the log tells."""
        for path in self._files(kind):
            key = (path, path.stat().st_mtime_ns)
            if key not in self._loaded:
                self._loaded[key] = self._opened(path, kind)
            if (found := self._loaded[key]) is not None:
                return found
        return None

    def _opened(self, path: Path, kind: TinyKind) -> TinyDecoder | None:
        assert self._open is not None  # there are no files without it
        try:
            return tiny_decoder(self._open(path), kind.channels)
        except (EmulsionError, OSError) as error:
            _log.warning("Previews go without %s: %s", path.name, error)
            return None

    def _files(self, kind: TinyKind) -> list[Path]:
        found = (path for folder in self._folders if self._open and folder.is_dir() for path in folder.rglob("*"))
        return sorted(path for path in found if path.suffix.lower() in _ENDINGS and _is_of(kind, path))


def _is_of(kind: TinyKind, path: Path) -> bool:
    """Published files are named after their kind; those of diffusers lie in a folder that is."""
    names = (kind.name, f"{kind.name}_decoder")
    is_of_diffusers = path.stem == "diffusion_pytorch_model" and path.parent.name.lower() in names
    return path.stem.lower() in names or is_of_diffusers


def tiny_decoder(source: WeightSource, channels: int) -> TinyDecoder:
    """The decoder in a file of any layout, in float32. Raises KeysDoNotMatch, and BadCheckpoint where reading does."""
    with torch.device("meta"):
        decoder = TinyDecoder(channels)
    wanted = {name: tensor.shape for name, tensor in decoder.state_dict().items()}
    names = {ours: key for key in source.keys() if (ours := _name(key)) in wanted}
    missing = [name for name in wanted if name not in names]
    misshaped = [name for name, key in names.items() if tuple(source.spec(key).shape) != tuple(wanted[name])]
    if missing or misshaped:
        raise KeysDoNotMatch(source.origin, "TAESD decoder", missing=missing, misshaped=misshaped)
    weights: dict[str, Tensor] = {}
    for name, key in names.items():
        weights[name] = torch.empty(wanted[name])
        source.read_into(key, weights[name])
    decoder.load_state_dict(weights, assign=True)
    return decoder.eval().requires_grad_(False)


def _name(key: str) -> str:
    """The name of a layer of the decoder as published; "" for what belongs to the other half."""
    found = _LAYER.fullmatch(key)
    if found is None:
        return ""
    number = int(found["number"]) + (1 if found["diffusers"] else 0)
    return f"{number}.{found['rest']}"
