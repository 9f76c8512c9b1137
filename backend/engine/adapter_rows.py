"""From the adapters that a request asks for to files of the library and how much of them is added where."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backend.adapter_row import AdapterRow
from backend.engine.adapted_model import AdaptableModel
from backend.engine.adapter_reports import AdapterReports
from backend.engine.library import Library, LoraEntry
from backend.errors import AmbiguousName, UnknownName
from backend.merging.selectors import check_weights
from backend.pipeline.planned_adapters import PlannedAdapter, PlannedAdapters
from backend.recipe import AdapterUse, FileRef
from backend.request import GenerationRequest

_REFINER = "sdxl-refiner"


@dataclass(frozen=True, kw_only=True)
class WantedAdapter:
    """A file that was found. tag: see `PlannedAdapter`."""

    row: AdapterRow
    path: Path
    tag: str = ""


@dataclass(frozen=True, kw_only=True)
class ResolvedAdapters:
    """What a request asks for, as the library knows it.

    wanted: what acts: tags in their order, then rows. rows: those of the request, also without effect.
    words, negative_words: the prompts without tags. skipped: names that were not found. notices: for the user.
    """

    words: str
    negative_words: str
    wanted: tuple[WantedAdapter, ...] = ()
    rows: tuple[AdapterRow, ...] = ()
    skipped: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


def resolve_adapters(request: GenerationRequest, library: Library) -> ResolvedAdapters:
    """Find every file, by its hash before its name. Hashes files the first time.

    Raises UnknownName and AmbiguousName, which list what there is, unless the request skips what is missing.
    """
    finder = _Finder(library, skips_missing=request.skips_missing_adapters)
    rows = [finder.row(row) for row in request.adapters]
    return ResolvedAdapters(
        words=request.prompt,
        negative_words=request.negative_prompt,
        wanted=tuple(found for _, found in rows if found is not None),
        rows=tuple(row for row, _ in rows),
        skipped=tuple(finder.skipped),
        notices=tuple(finder.notices),
    )


def plan_adapters(
    resolved: ResolvedAdapters, request: GenerationRequest, models: Sequence[AdaptableModel], reports: AdapterReports
) -> PlannedAdapters:
    """Look at every file beside its model. models: the first, and that of the refiner.

    Raises FileError for one that fits no model or is damaged, RequestError for weights of blocks that there are not.
    """
    return PlannedAdapters(
        words=resolved.words,
        negative_words=resolved.negative_words,
        acting=tuple(_planned(wanted, models, reports) for wanted in resolved.wanted),
        rows=resolved.rows,
        name_hashes=request.name_hashes,
        skips_missing=request.skips_missing_adapters,
        skipped=resolved.skipped,
    )


def adapter_notices(planned: PlannedAdapters) -> Iterator[str]:
    """What the user should know of the adapters."""
    for adapter in planned.acting:
        for text in adapter.report.notices():
            yield f"LoRA {adapter.file.name}: {text}"


def acts(row: AdapterRow) -> bool:
    """Whether it adds anything at any step."""
    use = row.use
    strengths = [use.strength] if row.curve is None else [strength for _, strength in row.curve.points]
    text = use.strength if use.text_encoder_strength is None else use.text_encoder_strength
    return any(strengths) or bool(text)


def _planned(wanted: WantedAdapter, models: Sequence[AdaptableModel], reports: AdapterReports) -> PlannedAdapter:
    # What was trained for the refiner acts on it, and everything else on the first model.
    is_for_refiner = len(models) > 1 and reports.adapter(wanted.path).trained_for == _REFINER
    model = models[-1] if is_for_refiner else models[0]
    report = reports.report(wanted.path, model)
    report.require_fit()
    if wanted.row.use.weights is not None:
        check_weights(wanted.row.use.weights, model.layout, f"LoRA {wanted.row.use.file.name}")
    return PlannedAdapter(row=wanted.row, report=report, tag=wanted.tag, is_for_refiner=is_for_refiner)


@dataclass
class _Finder:
    """Finds files; `skipped` and `notices` fill on the way."""

    library: Library
    skips_missing: bool
    skipped: list[str] = field(default_factory=list[str])
    notices: list[str] = field(default_factory=list[str])

    def row(self, row: AdapterRow) -> tuple[AdapterRow, WantedAdapter | None]:
        """The row as the library names its file, and the file if it acts. Raises UnknownName, AmbiguousName."""
        if not acts(row):
            return row, None
        entry = self._entry(row.use.file)
        if entry is None:
            return row, None
        found = _with_file(row, FileRef(name=entry.name, sha256=self.library.hash_of(entry.path)))
        return found, WantedAdapter(row=found, path=entry.path)

    def _entry(self, file: FileRef) -> LoraEntry | None:
        """None for one that is missing and may be."""
        try:
            return self._found(file)
        except (UnknownName, AmbiguousName) as error:
            if not self.skips_missing:
                raise
            self.skipped.append(file.name)
            self.notices.append(f"The picture is made without LoRA {file.name}. {error}")
            return None

    def _found(self, file: FileRef) -> LoraEntry:
        """The file with these contents, whatever it is called here, or else that of this name."""
        if not file.sha256:
            return self.library.find_lora(file.name)
        try:
            named = self.library.find_lora(file.name)
        except (UnknownName, AmbiguousName):
            return self._with_hash(file.sha256) or self.library.find_lora(file.name)
        if self.library.hash_of(named.path) == file.sha256:
            return named
        found = self._with_hash(file.sha256)
        if found is None:
            self.notices.append(f"LoRA {named.name} is another file than the one that was meant: its contents differ.")
        return found or named

    def _with_hash(self, sha256: str) -> LoraEntry | None:
        """What was hashed before comes first."""
        entries = self.library.loras()
        known = next((entry for entry in entries if self.library.known_hash(entry.path) == sha256), None)
        return known or next((entry for entry in entries if self.library.hash_of(entry.path) == sha256), None)


def _with_file(row: AdapterRow, file: FileRef) -> AdapterRow:
    use: AdapterUse = dataclasses.replace(row.use, file=file)
    return dataclasses.replace(row, use=use)
