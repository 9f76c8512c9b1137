"""Jobs that write LoRAs: merged, extracted, resized."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from backend.adapters.aliases import specs_of
from backend.adapters.lora_file import Adapter, open_adapter
from backend.engine.job_report import JobReport
from backend.engine.library import Library
from backend.engine.lora_request import LoraExtraction, LoraMerge, LoraResize, LoraToolRequest
from backend.engine.made_models import MadeModels
from backend.errors import RequestError
from backend.merging.lora_tools.extract_lora import Extraction, extract_lora
from backend.merging.lora_tools.merge_loras import ModelKeys, WeightedLora, merge_loras, resize_lora
from backend.merging.lora_tools.progress import Progress
from backend.merging.lora_tools.tool_report import LoraToolReport
from backend.merging.made_model import MadeModel
from backend.recipe import CheckpointInput, FileRef, Recipe


class LoraJobs:
    """folder: where new LoRAs go. changed: called when there is one."""

    def __init__(self, library: Library, made: MadeModels, folder: Path, changed: Callable[[], None]) -> None:
        self._library = library
        self._made = made
        self._folder = folder
        self._changed = changed

    def check(self, request: LoraToolRequest) -> None:
        """Refuse what cannot be done before it is queued. Raises UnknownName, FileError, RequestError."""
        match request:
            case LoraMerge():
                for use in request.loras:
                    self._lora(use.name)
                self._keys(request.model)
            case LoraResize():
                self._lora(request.lora)
                self._keys(request.model)
            case LoraExtraction():
                for name in (request.tuned, request.base):
                    self._model(name)
        path = self._path(request)
        if path.exists() and not request.replace:
            raise _exists(path)

    def run(self, request: LoraToolRequest, report: JobReport) -> None:
        """From the beginning, also after a restart. Raises EmulsionError."""
        report.stage("writing the LoRA")
        progress = Progress(on_progress=report.bytes_done, is_cancelled=report.is_cancelled)
        try:
            told = self._write(request, self._path(request), progress)
        except FileExistsError as error:
            raise _exists(self._path(request)) from error
        report.notice(_told(told))
        self._changed()

    def _write(self, request: LoraToolRequest, path: Path, progress: Progress) -> LoraToolReport:
        match request:
            case LoraMerge():
                loras = [
                    WeightedLora(
                        adapter=self._lora(use.name),
                        strength=use.strength,
                        text_encoder_strength=use.text_encoder_strength,
                    )
                    for use in request.loras
                ]
                keys = self._keys(request.model)
                return merge_loras(
                    loras, path, rank=request.rank, model=keys, progress=progress, replace=request.replace
                )
            case LoraResize():
                keys = self._keys(request.model)
                lora = self._lora(request.lora)
                return resize_lora(lora, path, request.rank, model=keys, progress=progress, replace=request.replace)
            case LoraExtraction():
                tuned, base = self._model(request.tuned), self._model(request.base)
                if tuned.family.name != base.family.name:
                    raise RequestError("base", f"is {base.family.label}, and {request.tuned} is {tuned.family.label}")
                extraction = Extraction(
                    rank=request.rank,
                    conv_rank=request.conv_rank,
                    has_text_encoders=request.has_text_encoders,
                    has_differences=request.has_differences,
                )
                return extract_lora(
                    tuned.source, base.source, base.family.name, path, extraction,
                    progress=progress, replace=request.replace,
                )  # fmt: skip

    def _lora(self, name: str) -> Adapter:
        return open_adapter(self._library.find_lora(name).path)

    def _keys(self, checkpoint: str) -> ModelKeys | None:
        if not checkpoint:
            return None
        model = self._model(checkpoint)
        return ModelKeys(specs=specs_of(model.source), family=model.family.name)

    def _model(self, name: str) -> MadeModel:
        """A checkpoint in the single-file layout of its family."""
        return self._made.make(Recipe(root=CheckpointInput(file=FileRef(name=name)))).model

    def _path(self, request: LoraToolRequest) -> Path:
        return self._folder / f"{request.name}.safetensors"


def _told(report: LoraToolReport) -> str:
    ranks = sorted(report.ranks.values()) or [0]
    rank = f"rank {ranks[0]}" if ranks[0] == ranks[-1] else f"ranks {ranks[0]} to {ranks[-1]}"
    left_out = f", {len(report.left_out)} left out" if report.left_out else ""
    return f"{len(report.ranks)} layers, {rank}, relative error {report.relative_error:.2g}{left_out}."


def _exists(path: Path) -> RequestError:
    return RequestError("name", f"{path.name} exists already. Choose another name, or allow it to be replaced")
