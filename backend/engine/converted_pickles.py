"""Small legacy files (textual inversions, hypernetworks, upscalers) as safetensors files, converted once, when needed.

The conversion happens in a process of its own (backend/weights/pickle_conversion.py); the result is kept under the hash
of the original, so that nothing is read again and a file that changed is another one.
"""

from __future__ import annotations

import threading
from pathlib import Path

from backend.errors import FileError, PickleRefused
from backend.weights.pickle_conversion import convert_pickle
from backend.weights.safetensors_file import open_safetensors
from backend.weights.source import Renamed, WeightSource

PICKLES = (".pt", ".bin", ".pth", ".ckpt")
_LARGEST = 1 << 30  # bytes: more than any hypernetwork has
_TIMEOUT = 60.0  # seconds


class ConvertedPickles:
    """folder: where results are kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def open(self, path: Path, sha256: str) -> WeightSource:
        """The tensors of a file, converted if need be. sha256: of it.

        Raises FileError, PickleRefused for one that holds more than weights, and OutputError.
        """
        try:
            return open_safetensors(path)  # whatever its name
        except PickleRefused:
            return self._converted(path, sha256)

    def find(self, path: Path, sha256: str) -> WeightSource | None:
        """What a file with this hash was converted to before; None where it was not, or where that is damaged."""
        try:
            return _OfFile(open_safetensors(self._copy(sha256)), path)
        except FileError:
            return None

    def _copy(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.safetensors"

    def _converted(self, path: Path, sha256: str) -> WeightSource:
        output = self._copy(sha256)
        if path.stat().st_size > _LARGEST:
            raise PickleRefused(
                path, "it is too large to be converted by the way. Convert it with `./launch.sh convert` first."
            )
        with self._lock:  # two jobs may want it at the same time
            if not output.exists():
                self._folder.mkdir(parents=True, exist_ok=True)
                convert_pickle(path, output, timeout=_TIMEOUT)
        try:
            return _OfFile(open_safetensors(output), path)
        except FileError as error:
            output.unlink(missing_ok=True)  # damaged meanwhile; it is made again the next time
            raise type(error)(path, f"its converted copy was damaged ({error.problem}). Try again.") from error


class _OfFile(Renamed):
    """A converted copy, of which messages tell as of the file that it was made of."""

    def __init__(self, copy: WeightSource, path: Path) -> None:
        super().__init__(copy, str)
        self._path = path

    @property
    def origin(self) -> Path:
        return self._path
