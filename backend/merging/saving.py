"""Save a made model as a checkpoint, with little of it in memory at any time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from backend.errors import Cancelled, OutputError
from backend.merging.combined import Combined
from backend.merging.made_model import MadeModel
from backend.weights.streamed_writing import stream_safetensors


def save_model(
    made: MadeModel,
    path: Path,
    *,
    metadata: Mapping[str, str],
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
    is_cancelled: Callable[[], bool] = lambda: False,
    replace: bool = False,
    workers: int = 2,
) -> None:
    """Compute and write all of it: a whole file, or none. The bytes depend on the recipe and its files alone.

    on_progress: bytes that are done, and all. workers: threads that compute and write.
    Raises FileExistsError when there is a file and `replace` is false; OutputError for a file that the model is made
    of, DiskFull, NotWritable, Cancelled, BadCheckpoint for values in a file that are no numbers, and NumericalError.
    """
    for file in made.files:
        if path.exists() and file.exists() and path.samefile(file):
            raise OutputError(f"{path.name} is one of the files that the model is made of. Choose another name.")

    def go_on(_: Combined) -> None:
        if is_cancelled():
            raise Cancelled()

    for survey in made.surveys:
        survey.statistics(on_weight=go_on)
    stream_safetensors(
        path,
        {key: made.source.spec(key) for key in made.source.keys()},
        made.source.chunks,
        metadata=metadata,
        replace=replace,
        workers=workers,
        on_progress=on_progress,
        is_cancelled=is_cancelled,
    )
