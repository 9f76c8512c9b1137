"""Jobs that make pictures larger."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from backend import __version__
from backend.engine.job import JobView, SavedImage
from backend.engine.job_report import JobReport
from backend.engine.outputs import Outputs
from backend.engine.picture_store import PictureStore
from backend.engine.upscale_request import UpscaleRequest
from backend.engine.upscale_size import UpscaledSize, upscaled_size
from backend.engine.upscalers import Upscalers
from backend.errors import BadImage, EmulsionError, RequestError, UnknownName
from backend.families.family import Machine
from backend.images.picture_text import read_picture_text
from backend.pipeline.infotext import read_infotext, write_infotext
from backend.pipeline.metadata import INFOTEXT_KEY

EXTRAS_KEY = "extras"  # the PNG text in which A1111 keeps what was done to a finished picture
_NONE = "none"

_log = logging.getLogger(__name__)


class UpscaleJobs:
    """save_image: told of every picture when it lies on the disk."""

    def __init__(
        self,
        upscalers: Upscalers,
        pictures: PictureStore,
        machine: Machine,
        outputs: Outputs,
        save_image: Callable[[str, SavedImage], None],
    ) -> None:
        self._upscalers = upscalers
        self._pictures = pictures
        self._machine = machine
        self._outputs = outputs
        self._save_image = save_image

    def checked(self, request: UpscaleRequest) -> UpscaleRequest:
        """With the names of what will be used; what cannot be done at all is refused before it is queued.

        Raises UnknownName, FileError, OutputError, and RequestError when not one picture can be made.
        """
        upscaler = self._upscalers.look(request.upscaler or self._upscalers.default()).name
        second = self._upscalers.look(request.second_upscaler).name if request.second_upscaler else None
        problems = [problem for picture in request.pictures if (problem := self._problem(request, picture))]
        if len(problems) == len(request.pictures):
            raise problems[0]
        return dataclasses.replace(request, upscaler=upscaler, second_upscaler=second)

    def run(self, view: JobView, request: UpscaleRequest, report: JobReport) -> None:
        """Make the pictures that are missing; of one that cannot be read the user is told, and the rest goes on.

        Raises EmulsionError.
        """
        self._machine.residency.begin_job()
        self._outputs.check()
        progress = _Progress(report, len(request.pictures))
        made = len(view.images)  # before a restart, in the order of the request
        problems: list[EmulsionError] = []
        for number, picture in enumerate(request.pictures):
            if (problem := self._problem(request, picture)) is not None:
                problems.append(problem)
                report.notice(f"Picture {number + 1} of {len(request.pictures)} was left out. {problem}")
            elif made:
                made -= 1
            else:
                self._make(request, picture, report, progress)
            progress.next_picture()
        if len(problems) == len(request.pictures):
            raise problems[0]

    def _problem(self, request: UpscaleRequest, picture: str) -> EmulsionError | None:
        try:
            stored = self._pictures.describe(picture)
            upscaled_size(request, stored.width, stored.height)
        except (BadImage, UnknownName, RequestError) as error:
            return error.with_traceback(None)
        return None

    def _make(self, request: UpscaleRequest, picture: str, report: JobReport, progress: _Progress) -> None:
        began = time.monotonic()
        report.stage("enlarging the picture")
        image = self._pictures.open(picture)
        size = upscaled_size(request, *image.size)
        if _changes_nothing(request):
            made = image
        else:
            made = self._enlarged(request.upscaler or _NONE, image, size, report, progress)
        if request.mixes_second and request.second_upscaler is not None:
            second = self._enlarged(request.second_upscaler, image, size, report, progress)
            made = Image.blend(made, second, request.second_visibility)
        report.stage("saving")
        texts = self._texts(request, picture, size, report)
        infotext = texts.get(INFOTEXT_KEY, "")
        seed = _seed_in(infotext)
        path = self._outputs.save(np.asarray(made), seed, texts)
        saved = SavedImage(path=path, seed=seed, infotext=infotext, width=made.width, height=made.height)
        self._save_image(report.job_id, saved)
        _log.info("%d x %d pixels by %s: %.1f s", *made.size, request.upscaler, time.monotonic() - began)

    def _enlarged(
        self, upscaler: str, image: Image.Image, size: UpscaledSize, report: JobReport, progress: _Progress
    ) -> Image.Image:
        made = self._upscalers.enlarge(upscaler, image, size.width, size.height, progress.tile, report.is_cancelled)
        return size.cut(made)

    def _texts(self, request: UpscaleRequest, picture: str, size: UpscaledSize, report: JobReport) -> dict[str, str]:
        """What the picture carried already, with what was done to it."""
        try:
            texts = read_picture_text(self._pictures.data(picture))
        except BadImage as error:
            report.notice(f"What a picture says about how it was made could not be read. {error}")
            texts = {}
        if _changes_nothing(request):
            return texts
        done = write_infotext("", "", self._done(request, size))
        return {**texts, INFOTEXT_KEY: _with_pairs(texts.get(INFOTEXT_KEY, ""), done), EXTRAS_KEY: done}

    def _done(self, request: UpscaleRequest, size: UpscaledSize) -> dict[str, object]:
        """In A1111's words, but for the last."""
        is_target = bool(request.width or request.height)
        is_cut = size.kept != (size.width, size.height)
        second = request.second_upscaler if request.mixes_second else None
        return {
            "Postprocess upscale to": f"{size.width}x{size.height}" if is_target else None,
            "Postprocess crop to": f"{size.kept[0]}x{size.kept[1]}" if is_cut else None,
            "Postprocess upscale by": None if is_target else f"{request.scale:g}",
            "Postprocess upscaler": self._shown(request.upscaler or _NONE),
            "Postprocess upscaler 2": self._shown(second) if second else None,
            "Postprocess upscaler 2 visibility": f"{request.second_visibility:g}" if second else None,
        }

    def _shown(self, name: str) -> str:
        entry = self._upscalers.find(name)
        return entry.name if entry.path else entry.label


class _Progress:
    """Tiles of all pictures: those of the ones to come are taken to be as many as this one's."""

    def __init__(self, report: JobReport, num_pictures: int) -> None:
        self._report = report
        self._pictures_left = num_pictures
        self._before = 0
        self._last = (0, 0)
        self._began = time.monotonic()

    def tile(self, done: int, everything: int) -> None:
        if done <= self._last[0]:  # another network began with the same picture
            self._before += self._last[1]
        self._last = (done, everything)
        step, steps = self._before + done, self._before + everything * self._pictures_left
        seconds = (time.monotonic() - self._began) / max(1, step)
        self._report.progress(step, steps, seconds, seconds * (steps - step))

    def next_picture(self) -> None:
        if not self._last[0]:  # nothing was told of it
            self.tile(1, 1)
        self._before += self._last[1]
        self._last = (0, 0)
        self._pictures_left -= 1


def _changes_nothing(request: UpscaleRequest) -> bool:
    """A1111's "None" leaves a picture as it is, whatever the size asked for."""
    return request.upscaler == _NONE and not request.mixes_second


def _with_pairs(infotext: str, pairs: str) -> str:
    """Behind the pairs that a picture has; or alone, with the program's name, so that they are read as pairs."""
    if read_infotext(infotext).parameters:
        return f"{infotext.rstrip()}, {pairs}"
    own = f"{pairs}, Version: Emulsion {__version__}"
    return f"{infotext.rstrip()}\n{own}" if infotext.strip() else own


def _seed_in(infotext: str) -> int:
    """The picture's; 0 where nobody knows it."""
    seed = read_infotext(infotext).parameters.get("Seed", "")
    return int(seed) if seed.isdecimal() and len(seed) < 20 else 0
