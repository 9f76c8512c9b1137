"""What makes pictures larger: networks in the folders of upscalers, and ways of resampling that need no file."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from backend.engine.converted_pickles import PICKLES, ConvertedPickles
from backend.errors import Cancelled, EmulsionError, FileError, PickleRefused, UnknownName
from backend.families.family import Machine
from backend.upscaling.builtin import BUILTIN
from backend.upscaling.pictures import upscaled_picture
from backend.upscaling.resampling import BUILTIN as RESAMPLERS
from backend.upscaling.resampling import Resampler, resampled
from backend.upscaling.upscaler import Upscaler, open_upscaler
from backend.weights.safetensors_file import open_safetensors
from backend.weights.source import WeightSource

LANCZOS = "lanczos"
MOST_PASSES = 3  # of a network over what it made itself
_ENDINGS = (".safetensors", ".sft", *PICKLES)
_MOST_PIXELS = 150_000_000  # of a picture on its way, where a smaller one does as well
_FACTOR = re.compile(r"(?:^|[^a-z0-9])(?:x([1-8])|([1-8])x)", re.IGNORECASE)
# A1111 has names of its own for files that it downloads.
_NAMES_IN_A1111 = {
    "r-esrgan 4x+": "realesrgan_x4plus",
    "r-esrgan 4x+ anime6b": "realesrgan_x4plus_anime_6b",
    "r-esrgan 2x+": "realesrgan_x2plus",
    "r-esrgan general 4xv3": "realesr-general-x4v3",
    "r-esrgan general wdn 4xv3": "realesr-general-wdn-x4v3",
    "r-esrgan animevideo": "realesr-animevideov3",
}

Report: TypeAlias = Callable[[int, int], None]
"""Told of how much is done, and of how much there is."""

_State: TypeAlias = tuple[Path, int, int]


class UpscalerKind(str, Enum):
    NETWORK = "network"
    RESAMPLING = "resampling"


@dataclass(frozen=True, kw_only=True)
class UpscalerEntry:
    """name: of a file without its ending, with the folder that it lies in.

    label: what kind of network it is; "" for a pickle file that was not used yet. scale: of a network; for resampling,
    which takes any factor, and where nobody knows yet, 0. problem: why the file cannot be used, "" when it can.
    """

    name: str
    label: str
    scale: int
    kind: UpscalerKind
    path: Path | None = None
    problem: str = ""


class Upscalers:
    """Files below `folders`, which may also be single files. sha256: of a file; raises OSError.

    known_hash: the same where it was computed before. Old pickle files are converted when they are used first, so that
    what is in them is not known before that.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        pickles: ConvertedPickles,
        machine: Machine,
        *,
        sha256: Callable[[Path], str],
        known_hash: Callable[[Path], str | None],
    ) -> None:
        self._folders = tuple(folders)
        self._pickles = pickles
        self._machine = machine
        self._sha256 = sha256
        self._known_hash = known_hash
        self._opened: dict[_State, Upscaler | FileError] = {}
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Try again what could not be used, and forget what is gone."""
        states = {_state_of(path) for _, path in self._files()}
        with self._lock:
            self._opened = {
                state: found
                for state, found in self._opened.items()
                if state in states and not isinstance(found, FileError)
            }

    def entries(self) -> list[UpscalerEntry]:
        """Ways of resampling, and what lies in the folders now, by name."""
        return [*map(_resampling_entry, RESAMPLERS), *(self._entry(name, path) for name, path in self._files())]

    def names(self) -> list[str]:
        """Of everything that can be used, as far as that is known."""
        return [entry.name for entry in self.entries() if not entry.problem]

    def find(self, name: str) -> UpscalerEntry:
        """By name or label, with or without folder and ending, or by A1111's name for it. Raises UnknownName."""
        asked = name.strip().replace("\\", "/").casefold()
        asked = _NAMES_IN_A1111.get(asked, asked)
        entries = self.entries()
        found = [entry for entry in entries if asked in _names_of(entry)]
        if not found:
            raise UnknownName("upscaler", name, [entry.name for entry in entries])
        return next((entry for entry in found if entry.name.casefold() == asked), found[0])

    def look(self, name: str) -> UpscalerEntry:
        """The same, with the kind of network and its factor. Raises UnknownName, FileError, OutputError."""
        entry = self.find(name)
        if entry.path is None:
            return entry
        return _network_entry(entry.name, entry.path, self._upscaler(entry.path))

    def default(self) -> str:
        """The first network that can be used, or else Lanczos."""
        networks = (entry for entry in self.entries() if entry.kind is UpscalerKind.NETWORK and not entry.problem)
        return next((entry.name for entry in networks), LANCZOS)

    def enlarge(
        self,
        name: str,
        image: Image.Image,
        width: int,
        height: int,
        report: Report | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Image.Image:
        """The picture (grey, RGB or RGBA) in this size.

        A network runs until the picture covers the size, at most three times, and what is then too large is made
        smaller by Lanczos. Raises UnknownName, FileError, OutputError, OutOfMemory, NumericalError, Cancelled.
        """
        entry = self.find(name)
        if is_cancelled():
            raise Cancelled()
        if entry.path is not None:
            image = _by_network(
                self._upscaler(entry.path), image, (width, height), report or _tell_nobody, is_cancelled
            )
        return resampled(image, width, height, _filter_of(entry))

    def _files(self) -> list[tuple[str, Path]]:
        found: dict[str, tuple[str, Path]] = {}
        for folder in self._folders:
            for path in [folder] if folder.is_file() else sorted(folder.rglob("*")):
                if path.suffix.lower() in _ENDINGS and not path.name.startswith(".") and path.is_file():
                    name = path.stem if path == folder else path.relative_to(folder).with_suffix("").as_posix()
                    found.setdefault(name.casefold(), (name, path))
        return [found[name] for name in sorted(found)]

    def _entry(self, name: str, path: Path) -> UpscalerEntry:
        """Nothing is converted for it."""
        try:
            with self._lock:
                known = self._opened.get(_state_of(path))
            if isinstance(known, FileError):
                raise known
            upscaler = known or self._opened_at_once(path)
        except EmulsionError as error:
            problem = str(error.with_traceback(None))
            return UpscalerEntry(name=name, label="", scale=0, kind=UpscalerKind.NETWORK, path=path, problem=problem)
        if upscaler is None:
            return UpscalerEntry(name=name, label="", scale=_scale_in(name), kind=UpscalerKind.NETWORK, path=path)
        return _network_entry(name, path, upscaler)

    def _opened_at_once(self, path: Path) -> Upscaler | None:
        """None for a file that must be converted first. Raises FileError."""
        try:
            source = open_safetensors(path)
        except PickleRefused:
            digest = self._known_hash(path)
            source = self._pickles.find(path, digest) if digest else None
        return None if source is None else self._opened_from(path, source)

    def _upscaler(self, path: Path) -> Upscaler:
        """Raises FileError, OutputError."""
        with self._lock:
            known = self._opened.get(_state_of(path))
        if isinstance(known, Upscaler):
            return known
        try:
            digest = self._sha256(path)
        except OSError as error:
            raise FileError(path, f"it cannot be read ({error.strerror}).") from error
        try:
            source = self._pickles.open(path, digest)
        except FileError as error:
            self._remember(path, error)
            raise
        return self._opened_from(path, source)

    def _opened_from(self, path: Path, source: WeightSource) -> Upscaler:
        try:
            upscaler = open_upscaler(source, BUILTIN, self._machine)
        except FileError as error:
            self._remember(path, error)
            raise
        self._remember(path, upscaler)
        return upscaler

    def _remember(self, path: Path, found: Upscaler | FileError) -> None:
        with self._lock:
            self._opened[_state_of(path)] = found


def _resampling_entry(resampler: Resampler) -> UpscalerEntry:
    return UpscalerEntry(name=resampler.name, label=resampler.label, scale=0, kind=UpscalerKind.RESAMPLING)


def _network_entry(name: str, path: Path, upscaler: Upscaler) -> UpscalerEntry:
    return UpscalerEntry(name=name, label=upscaler.label, scale=upscaler.scale, kind=UpscalerKind.NETWORK, path=path)


def _by_network(
    upscaler: Upscaler, image: Image.Image, size: tuple[int, int], report: Report, is_cancelled: Callable[[], bool]
) -> Image.Image:
    passes = _passes(image.size, size, upscaler.scale)
    for number in range(passes):

        def on_tile(done: int, everything: int, before: int = number) -> None:
            report(before * everything + done, passes * everything)

        given = _small_enough(image, size, upscaler.scale)
        image = upscaled_picture(given, upscaler, on_tile=on_tile, is_cancelled=is_cancelled)
    return image


def _filter_of(entry: UpscalerEntry) -> Image.Resampling:
    """Lanczos for what a network has made too large."""
    found = (resampler.filter for resampler in RESAMPLERS if entry.path is None and resampler.name == entry.name)
    return next(found, Image.Resampling.LANCZOS)


def _tell_nobody(_done: int, _everything: int) -> None:
    pass


def _names_of(entry: UpscalerEntry) -> set[str]:
    if entry.path is None:
        return {entry.name.casefold(), entry.label.casefold()}
    names = (entry.name, f"{entry.name}{entry.path.suffix}", entry.path.stem, entry.path.name, entry.path.as_posix())
    return {name.casefold() for name in names}


def _state_of(path: Path) -> _State:
    """What changes when the file does."""
    try:
        status = path.stat()
    except OSError:
        return path, 0, 0
    return path, status.st_size, status.st_mtime_ns


def _scale_in(name: str) -> int:
    """The factor that a file's name tells; 0 where it tells none."""
    found = _FACTOR.search(name)
    return int(found[1] or found[2]) if found else 0


def _passes(own: tuple[int, int], wanted: tuple[int, int], scale: int) -> int:
    """How often a network runs. One that does not enlarge, but cleans a picture up, runs once."""
    if scale == 1:
        return 1
    passes, (width, height) = 0, own
    while (width < wanted[0] or height < wanted[1]) and passes < MOST_PASSES:
        width, height, passes = width * scale, height * scale, passes + 1
    return passes


def _small_enough(image: Image.Image, wanted: tuple[int, int], scale: int) -> Image.Image:
    """Without pixels that the size asked for has no use for, where a pass would make a huge picture of them."""
    width, height = image.size
    needed = -(-wanted[0] // scale), -(-wanted[1] // scale)
    if width * height * scale**2 <= _MOST_PIXELS or (width <= needed[0] and height <= needed[1]):
        return image
    smaller = min(width, needed[0]), min(height, needed[1])
    return resampled(image, *smaller, Image.Resampling.LANCZOS)
