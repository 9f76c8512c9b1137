"""`upscale PICTURE... -o FOLDER`: pictures made larger, without the page."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from backend.commands.delivery import deliver, refuse_existing
from backend.commands.flags import named_file, read_settings
from backend.commands.interrupts import terminable
from backend.commands.progress_line import ProgressLine
from backend.commands.terminal import as_line
from backend.engine.engine import Engine
from backend.engine.job import JobState, JobView, SavedImage
from backend.engine.settings import Settings
from backend.engine.upscale_request import UpscaleRequest
from backend.engine.upscalers import UpscalerEntry
from backend.errors import BadImage, Cancelled, EmulsionError, RequestError, UnknownPicture
from backend.weights.atomic import told_as_output_errors

_SECONDS_TO_STOP = 30  # what a network computes at the moment ends first
_ANY = "0" * 64  # stands for a picture while a request is checked


def run(values: argparse.Namespace, root: Path) -> int:
    """Make pictures larger, one after the other; 1 when one of them could not be made, which is told in a line.

    Raises EmulsionError for what no picture could be made with, Cancelled when it was stopped.
    """
    settings, names = _settings(values, root)
    if values.list_upscalers:
        return _list(values, settings)
    request = _request(values, names)
    targets = _targets(values)
    refuse_existing(targets, force=values.force)
    with told_as_output_errors(values.output):
        values.output.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=".emulsion-", dir=values.output)
    with scratch as output_dir, terminable(), _engine(settings, Path(output_dir)) as engine:
        for name in filter(None, (request.upscaler, request.second_upscaler)):
            engine.upscalers.look(name)  # before any picture
        pairs = zip(values.pictures, targets, strict=True)
        written = [_made(engine, request, picture, target, values) for picture, target in pairs]
    if values.json:
        print(json.dumps({"images": [_image_json(image) for image in written if image]}, indent=2))
    return 0 if all(written) else 1


def _settings(values: argparse.Namespace, root: Path) -> tuple[Settings, tuple[str | None, str | None]]:
    """Also how upscalers are called that are named by their paths, wherever they lie."""
    settings = read_settings(values, root)
    (first, file), (second, second_file) = named_file(values.upscaler), named_file(values.second_upscaler)
    dirs = (*settings.upscaler_dirs, *file, *second_file)
    return dataclasses.replace(settings, upscaler_dirs=dirs), (first, second)


def _request(values: argparse.Namespace, names: tuple[str | None, str | None]) -> UpscaleRequest:
    """Raises RequestError."""
    if not values.pictures:
        raise RequestError("pictures", "name at least one file, or --list to see what there is to enlarge it with")
    if values.output is None:
        raise RequestError("output", "is missing; name the folder to write to with -o FOLDER")
    width, height = values.size or (None, None)
    return UpscaleRequest(
        pictures=(_ANY,),
        scale=values.by,
        width=values.width or width,
        height=values.height or height,
        crop=not values.no_crop,
        upscaler=names[0],
        second_upscaler=names[1],
        second_visibility=values.second_visibility if names[1] else 0.0,
    )


def _targets(values: argparse.Namespace) -> list[Path]:
    """A PNG file for each picture; those of one name are numbered."""
    taken: set[str] = set()
    targets: list[Path] = []
    for picture in values.pictures:
        name, number = picture.stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{picture.stem}-{number}"
        taken.add(name.casefold())
        targets.append(values.output.expanduser().absolute() / f"{name}.png")
    return targets


@contextmanager
def _engine(settings: Settings, output_dir: Path) -> Generator[Engine]:
    engine = Engine.open(dataclasses.replace(settings, output_dir=output_dir), persistent=False)
    line = ProgressLine(sys.stderr)
    engine.subscribe(line)
    try:
        yield engine
    finally:
        engine.close()
        line.close()


def _made(
    engine: Engine, request: UpscaleRequest, picture: Path, target: Path, values: argparse.Namespace
) -> SavedImage | None:
    """The picture under its name; None for one that could not be made, which is told. Raises Cancelled."""
    try:
        with _stored(engine, picture) as sha256:
            view = _ended(engine, dataclasses.replace(request, pictures=(sha256,)))
        if view.state is JobState.FAILED:
            raise EmulsionError(view.error)
        if view.state is not JobState.DONE:
            raise Cancelled
        image = deliver(view.images[0], target, force=values.force)
    except Cancelled:
        raise
    except EmulsionError as error:
        print(f"upscale: {as_line(str(error), 2000)}", file=sys.stderr)
        return None
    if not values.json:
        print(as_line(str(image.path), 2000), flush=True)
    return image


@contextmanager
def _stored(engine: Engine, picture: Path) -> Generator[str]:
    """The picture in the store for as long as it is needed there. Raises BadImage, OutputError."""
    try:
        data = picture.read_bytes()
    except OSError as error:
        raise BadImage(picture, f"it cannot be read ({error.strerror}).") from error
    is_kept = _is_stored(engine, hashlib.sha256(data).hexdigest())
    sha256 = engine.pictures.add(data, picture.name).sha256
    try:
        yield sha256
    finally:
        if not is_kept:
            engine.pictures.path(sha256).unlink(missing_ok=True)


def _is_stored(engine: Engine, sha256: str) -> bool:
    try:
        engine.pictures.path(sha256)
    except UnknownPicture:
        return False
    return True


def _ended(engine: Engine, request: UpscaleRequest) -> JobView:
    """Ctrl-C and SIGTERM cancel it; a second time they end the program."""
    job_id = engine.submit(request)
    try:
        return engine.wait(job_id)
    except KeyboardInterrupt:
        engine.cancel(job_id)
        return engine.wait(job_id, _SECONDS_TO_STOP)


def _list(values: argparse.Namespace, settings: Settings) -> int:
    with tempfile.TemporaryDirectory() as folder, _engine(settings, Path(folder)) as engine:
        entries = engine.upscalers.entries()
    if values.json:
        print(json.dumps({"upscalers": [_entry_json(entry) for entry in entries]}, indent=2))
    else:
        print("\n".join(as_line(_entry_line(entry), 1000) for entry in entries))
    return 0


def _entry_line(entry: UpscalerEntry) -> str:
    if entry.problem:
        return f"{entry.name}: cannot be used. {entry.problem}"
    factor = f", {entry.scale}x" if entry.scale else ""
    return f"{entry.name}: {entry.label or 'not used yet'}{factor}"


def _entry_json(entry: UpscalerEntry) -> dict[str, object]:
    return {**dataclasses.asdict(entry), "kind": entry.kind.value, "path": str(entry.path) if entry.path else None}


def _image_json(image: SavedImage) -> dict[str, object]:
    return {**dataclasses.asdict(image), "path": str(image.path)}
