"""Jobs that make pictures."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from backend.engine.components import find_components
from backend.engine.job import JobView, SavedImage
from backend.engine.job_report import JobReport
from backend.engine.library import CheckpointEntry, Library, TextEncoderEntry, VaeEntry
from backend.engine.models import Models, added_adapters, has_curves
from backend.engine.outputs import Outputs
from backend.engine.preferences import Preferences
from backend.errors import EmulsionError, NumericalError, OutputError
from backend.families.family import Machine, Model
from backend.pipeline.generate import GeneratedImage, generate
from backend.pipeline.means import Means, OpenedModels
from backend.pipeline.metadata import INFOTEXT_KEY, picture_texts
from backend.pipeline.passes import ModelOfStep
from backend.pipeline.plan import GenerationPlan, RefinerPlan
from backend.request import GenerationRequest
from backend.weights.hashing import SHORT

Enlarge: TypeAlias = Callable[
    [str, Image.Image, int, int, "Callable[[int, int], None] | None", Callable[[], bool]], Image.Image
]
"""(name of an upscaler, picture, width, height, progress in tiles, whether the job is cancelled) -> picture."""

_log = logging.getLogger(__name__)


class GenerationJobs:
    """save_image: told of every picture when it lies on the disk."""

    def __init__(
        self,
        library: Library,
        models: Models,
        machine: Machine,
        outputs: Outputs,
        plan: Callable[[GenerationRequest], GenerationPlan],
        preferences: Callable[[], Preferences],
        save_image: Callable[[str, SavedImage], None],
        picture: Callable[[str], Image.Image],
        enlarge: Enlarge,
        detect: Callable[[str, Image.Image], Sequence[Image.Image]],
    ) -> None:
        self._library = library
        self._models = models
        self._machine = machine
        self._outputs = outputs
        self._plan = plan
        self._preferences = preferences
        self._save_image = save_image
        self._picture = picture
        self._enlarge = enlarge
        self._detect = detect

    def run(self, view: JobView, request: GenerationRequest, report: JobReport) -> None:
        """Make the pictures that are missing. Raises EmulsionError."""
        self._machine.residency.begin_job()
        try:
            with self._machine.notices.told_to(report.notice):
                self._make_images(view, request, report)
            return
        except NumericalError as error:
            problem = error.with_traceback(None)
        raise self._explained(problem, request)  # outside of the handler: the traceback holds what was computed so far

    def _make_images(self, view: JobView, request: GenerationRequest, report: JobReport) -> None:
        library, models = self._library, self._models
        plan = self._plan(request)
        report.adapters(adapter.facts() for adapter in plan.adapters.acting)
        self._outputs.check()
        if plan.guidance_scale == 1 and plan.negative_prompt and not view.images:
            report.notice("The negative prompt has no effect at guidance scale 1.")
        report.stage("loading the model")
        files = find_components(plan.model, library)
        entry, vae = files.checkpoint, files.vae
        for text in (*plan.notices, *models.notices(entry)):
            report.notice(text)
        opened = self.opened(plan, reads_ahead=True)
        images = generate(
            plan,
            opened.model,
            report,
            report.is_cancelled,
            models=opened.models,
            refiner=opened.refiner,
            refiner_models=opened.refiner_models,
            encode_prompt=models.encode_prompt,
            first_image=len(view.images),
            preview_every=self._preferences().preview_every,
            device=self._machine.device.torch_device,
            residency=self._machine.residency,
            means=Means(
                open_models=partial(self.opened, reads_ahead=True),
                picture=self._picture,
                enlarge=lambda name, picture, width, height: self._enlarge(
                    name, picture, width, height, None, report.is_cancelled
                ),
                detect=self._detect,
            ),
        )
        began = time.monotonic()
        for image in images:
            report.stage("saving")
            hashed = self._hashed(entry, report)
            model = dataclasses.replace(
                plan.model,
                recipe=entry.recipe if hashed is None else hashed.recipe,
                checkpoint_hash=None if hashed is None else (hashed.sha256 or "")[:SHORT] or None,
                vae_hash=self._short_hash(lambda: library.hash_of(vae.path), vae.name, report) if vae else None,
            )
            self._save(dataclasses.replace(plan, model=model), image, report)
            _log.info("image %d of %d: %.1f s", image.index + 1, plan.num_images, time.monotonic() - began)
            began = time.monotonic()

    def opened(self, plan: GenerationPlan, *, reads_ahead: bool = False) -> OpenedModels:
        """The models of a plan; their weights are read when they are first used.

        reads_ahead: have the system begin to read the files. Raises UnknownName, FileError.
        """
        models, files = self._models, find_components(plan.model, self._library)

        def model_at(step: int, num_steps: int) -> Model:
            return models.open(
                files.checkpoint,
                files.vae,
                files.text_encoders,
                use_ema=plan.model.use_ema,
                prediction=plan.model.prediction,
                adapters=added_adapters(plan, step=step, num_steps=num_steps),
                hypernetworks=plan.hypernetworks.acting,
                reads_ahead=reads_ahead and step == 0,
            )

        refiner_at = self._refiner_at(plan, plan.refiner, files.checkpoint, reads_ahead) if plan.refiner else None
        return OpenedModels(
            model=model_at(0, plan.steps),
            models=model_at if has_curves(plan) else None,
            refiner=refiner_at(0, plan.steps) if refiner_at else None,
            refiner_models=refiner_at if has_curves(plan, for_refiner=True) else None,
        )

    def _refiner_at(
        self, plan: GenerationPlan, refiner: RefinerPlan, entry: CheckpointEntry, reads_ahead: bool
    ) -> ModelOfStep:
        files = find_components(refiner.model, self._library)

        def model_at(step: int, num_steps: int) -> Model:
            return self._models.open(
                files.checkpoint,
                files.vae,
                files.text_encoders,
                vae_of=entry,
                adapters=added_adapters(plan, for_refiner=True, step=step, num_steps=num_steps),
                reads_ahead=reads_ahead and step == 0,
            )

        return model_at

    def _explained(self, error: NumericalError, request: GenerationRequest) -> EmulsionError:
        """Whether damaged weights are to blame, which only reading all of them tells."""
        try:
            found = self._models.first_bad_weight(self._files(self._plan(request)))
        except EmulsionError as problem:
            return problem.with_traceback(None)
        return NumericalError(f"{found}. Download the file again, or choose another.") if found else error

    def _files(self, plan: GenerationPlan) -> list[CheckpointEntry | VaeEntry | TextEncoderEntry]:
        """Everything that has weights in it."""
        files: list[CheckpointEntry | VaeEntry | TextEncoderEntry] = []
        refiners = [each.refiner.model for each in plan.all_plans if each.refiner]
        for name in (*(each.model for each in plan.all_plans), *refiners):
            found = find_components(name, self._library)
            files += [found.checkpoint, *([found.vae] if found.vae else []), *found.text_encoders]
        return files

    def _hashed(self, entry: CheckpointEntry, report: JobReport) -> CheckpointEntry | None:
        """The entry with its hash, of a recipe with those of its files; None when they are gone."""
        try:
            return self._library.hash(entry)
        except OSError as error:
            report.notice(_no_hash(entry.name, error))
            return None

    def _short_hash(self, find: Callable[[], str], name: str, report: JobReport) -> str | None:
        """The hash for the metadata; a file that is gone by now costs the hash and not the finished picture."""
        try:
            return find()[:SHORT]
        except OSError as error:
            report.notice(_no_hash(name, error))
            return None

    def _save(self, plan: GenerationPlan, image: GeneratedImage, report: JobReport) -> None:
        texts = picture_texts(plan, image.seed)
        path = self._outputs.save(image.pixels, image.seed, texts)
        height, width = image.pixels.shape[:2]
        saved = SavedImage(
            path=path,
            seed=image.seed,
            infotext=texts[INFOTEXT_KEY],
            width=width,
            height=height,
            before_hires=self._saved_before(path, plan, image, report),
        )
        self._save_image(report.job_id, saved)

    def _saved_before(self, path: Path, plan: GenerationPlan, image: GeneratedImage, report: JobReport) -> Path | None:
        """The file of the picture before its second pass; without one, the finished picture counts all the same."""
        if image.before_hires is None:
            return None
        texts = picture_texts(dataclasses.replace(plan, hires=None, details=(), refiner=None), image.seed)
        try:
            return self._outputs.save_beside(path, "before-hires", image.before_hires, texts)
        except OutputError as error:
            report.notice(f"The picture as it was before hires fix was not kept. {error}")
            return None


def _no_hash(name: str, error: OSError) -> str:
    return f"{name} could not be read again for its hash ({error.strerror}); the metadata go without it."
