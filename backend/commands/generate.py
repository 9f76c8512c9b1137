"""`generate "PROMPT" -o FILE`: one job through the engine, without the page."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.adapter_row import AdapterRow
from backend.commands.delivery import deliver, refuse_existing
from backend.commands.flags import named_file, read_settings
from backend.commands.interrupts import terminable
from backend.commands.merge_recipe import read_lora
from backend.commands.picture_fields import picture_fields
from backend.commands.progress_line import ProgressLine
from backend.engine.engine import Engine
from backend.engine.job import JobState, JobView, SavedImage
from backend.engine.picture_store import PictureStore
from backend.engine.settings import Settings
from backend.errors import Cancelled, EmulsionError, RequestError
from backend.extensions.loader import load_extensions
from backend.recipe import AdapterUse, FileRef
from backend.request import GenerationRequest
from backend.weights.atomic import told_as_output_errors

_SECONDS_TO_STOP = 30  # the running step ends first


def run(values: argparse.Namespace, root: Path) -> int:
    """Make pictures and put them where they were asked for; also those that were finished before a job failed.

    Raises EmulsionError when the job cannot be queued or fails, Cancelled when it was stopped.
    """
    settings, names = _settings(values, root)
    request = _request(values, settings, names)
    targets = output_files(values.output, request.batch_size * request.batch_count)
    refuse_existing(targets, force=values.force)
    folder = targets[0].parent
    with told_as_output_errors(targets[0]):
        folder.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=".emulsion-", dir=folder)
    with scratch as output_dir, terminable():
        view = _make(dataclasses.replace(settings, output_dir=Path(output_dir)), request, safe_mode=values.safe_mode)
        written = [
            _delivered(image, target, force=values.force) for image, target in zip(view.images, targets, strict=False)
        ]
    _report(view, written, as_json=values.json)
    match view.state:
        case JobState.DONE:
            return 0
        case JobState.FAILED:
            raise EmulsionError(view.error)
        case _:
            raise Cancelled


def output_files(output: Path, count: int) -> list[Path]:
    """The files that `count` pictures go to. Raises RequestError for a name that is no PNG's."""
    path = output.expanduser().absolute()
    if path.suffix.lower() != ".png":
        raise RequestError("output", f'"{output.name}" must end in .png')
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, count + 1)]


@dataclass(frozen=True, kw_only=True)
class _Names:
    """How the library knows the files, which may lie anywhere, that a command line names.

    of_pictures: by the options that name them.
    """

    vae: str | None
    refiner: str | None
    of_pictures: Mapping[str, str | None]
    text_encoders: tuple[str, ...]
    adapters: tuple[AdapterRow, ...]


def _settings(values: argparse.Namespace, root: Path) -> tuple[Settings, _Names]:
    settings = read_settings(values, root)
    vae, vae_file = named_file(values.vae)
    refiner, refiner_file = named_file(values.refiner)
    encoders = [named_file(encoder) for encoder in values.text_encoders]
    loras = [_lora(text) for text in values.loras]
    hires_checkpoint, hires_file = named_file(values.hires_checkpoint)
    upscaler, upscaler_file = named_file(values.init_upscaler)
    hires_upscaler, hires_upscaler_file = named_file(values.hires_upscaler)
    settings = dataclasses.replace(
        settings,
        lora_dirs=(*settings.lora_dirs, *(file for _, files in loras for file in files)),
        checkpoint_dirs=(*settings.checkpoint_dirs, *refiner_file, *hires_file),
        upscaler_dirs=(*settings.upscaler_dirs, *upscaler_file, *hires_upscaler_file),
        vae_dirs=(*settings.vae_dirs, *vae_file),
        text_encoder_dirs=(*settings.text_encoder_dirs, *(file for _, files in encoders for file in files)),
    )
    return settings, _Names(
        vae=vae,
        refiner=refiner,
        of_pictures={
            "init_upscaler": upscaler,
            "hires_upscaler": hires_upscaler,
            "hires_checkpoint": hires_checkpoint,
        },
        text_encoders=tuple(name for name, _ in encoders if name is not None),
        adapters=tuple(row for row, _ in loras),
    )


def _lora(text: str) -> tuple[AdapterRow, list[Path]]:
    """A row, and the file that it names if that is a path. Raises RequestError."""
    asked = read_lora(text)
    name, file = named_file(asked.file)
    use = AdapterUse(
        file=FileRef(name=name or asked.file),
        strength=asked.strength,
        text_encoder_strength=asked.text_encoder_strength,
    )
    return AdapterRow(use=use), file


def _request(values: argparse.Namespace, settings: Settings, names: _Names) -> GenerationRequest:
    width, height = values.size or (None, None)
    return GenerationRequest(
        **picture_fields(values, names.of_pictures, PictureStore(settings.pictures_dir)),
        prompt=values.prompt,
        negative_prompt=values.negative,
        checkpoint=settings.checkpoint,
        vae=names.vae,
        text_encoders=names.text_encoders,
        adapters=names.adapters,
        sampler=values.sampler,
        schedule=values.schedule,
        steps=values.steps,
        width=values.width or width,
        height=values.height or height,
        guidance_scale=values.guidance,
        distilled_guidance=values.distilled_guidance,
        guidance_rescale=values.guidance_rescale,
        prediction=values.prediction,
        shift=values.shift,
        refiner=names.refiner,
        refiner_switch=values.refiner_switch,
        refiner_switch_timestep=values.refiner_switch_timestep,
        seed=values.seed,
        batch_size=values.batch_size,
        batch_count=values.batch_count,
        clip_skip=values.clip_skip,
        emphasis=values.emphasis,
        noise_source=values.noise_source,
        use_ema=values.ema,
        exact_batches=values.exact_batches,
    )


def _make(settings: Settings, request: GenerationRequest, *, safe_mode: bool) -> JobView:
    """Run one job to its end. Ctrl-C and SIGTERM cancel it; a second time they end the program.

    Extensions bring their samplers and schedules; the pictures' names are not final, so their observers are not told.
    """
    engine = Engine.open(settings, persistent=False)
    line = ProgressLine(sys.stderr)
    try:
        with load_extensions(settings.extensions_dir, engine, safe_mode=safe_mode, with_events=False):
            engine.subscribe(line)
            job_id = engine.submit(request)
            try:
                return engine.wait(job_id)
            except KeyboardInterrupt:
                engine.cancel(job_id)
                return engine.wait(job_id, _SECONDS_TO_STOP)
    finally:
        engine.close()
        line.close()


def _delivered(image: SavedImage, target: Path, *, force: bool) -> SavedImage:
    """Also what its first pass left, under its name with "-before-hires" behind."""
    saved = deliver(image, target, force=force)
    if image.before_hires is None:
        return saved
    beside = saved.path.with_stem(f"{saved.path.stem}-before-hires")
    first = deliver(dataclasses.replace(image, path=image.before_hires), beside, force=force)
    return dataclasses.replace(saved, before_hires=first.path)


def _report(view: JobView, written: Sequence[SavedImage], *, as_json: bool) -> None:
    if not as_json:
        for image in written:
            print(image.path)
        return
    images = [
        {**dataclasses.asdict(image), "path": str(image.path), "before_hires": _text(image.before_hires)}
        for image in written
    ]
    facts = {"state": view.state.value, "seconds": view.seconds, "notices": view.notices, "error": view.error}
    print(json.dumps({**facts, "images": images}, indent=2))


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
