"""From the adapters that a request asks for to files of the library and how much of them is added where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from backend.adapter_row import AdapterRow, NameHash
from backend.engine.adapted_model import AdaptableModel
from backend.engine.adapter_reports import AdapterReports
from backend.engine.library import Library, LoraEntry
from backend.errors import AmbiguousName, EmulsionError, FileError, UnknownName
from backend.merging.lora_block_weights import block_weights
from backend.merging.selectors import check_weights
from backend.pipeline.planned_adapters import PlannedAdapter, PlannedAdapters
from backend.recipe import AdapterUse, FileRef
from backend.request import GenerationRequest
from backend.text.network_tags import NetworkTag, read_tags
from backend.weights.hashing import SHORT_OF_TENSORS

_LORA = "lora"
_REFINER = "sdxl-refiner"


@dataclass(frozen=True, kw_only=True)
class WantedAdapter:
    """A file that was found. tag: what asks for it in the prompt, None for a row. short_hash: see `PlannedAdapter`."""

    row: AdapterRow
    path: Path
    short_hash: str
    tag: NetworkTag | None = None


@dataclass(frozen=True, kw_only=True)
class ResolvedAdapters:
    """What a request asks for, as the library knows it.

    wanted: what acts: tags in their order, then rows. rows: those of the request, also without effect.
    words, negative_words: the prompts without tags. name_hashes: of the names in tags, all that are known.
    skipped: names that were not found. notices: for the user. replaced: those of them that are about files in place of
    others, which the request as it is queued, with the hashes of what is here, says no more.
    """

    words: str
    negative_words: str
    wanted: tuple[WantedAdapter, ...] = ()
    rows: tuple[AdapterRow, ...] = ()
    name_hashes: tuple[NameHash, ...] = ()
    skipped: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()


def resolve_adapters(request: GenerationRequest, library: Library) -> ResolvedAdapters:
    """Find every file, by the hash of its tensors, that of the file, or else its name. Hashes files the first time.

    Raises UnknownName and AmbiguousName, which list what there is, unless the request skips what is missing.
    """
    prompt, negative = read_tags(request.prompt), read_tags(request.negative_prompt)
    finder = _Finder(library, request.skips_missing_adapters, {known.name: known.hash for known in request.name_hashes})
    tags = [finder.tag(tag) for tag in prompt.tags]
    rows = [finder.row(row) for row in request.adapters]
    return ResolvedAdapters(
        words=prompt.words,
        negative_words=negative.words,
        wanted=(*(found for found in tags if found), *(found for _, found in rows if found)),
        rows=tuple(row for row, _ in rows),
        name_hashes=tuple(NameHash(name=name, hash=digits) for name, digits in finder.name_hashes.items()),
        skipped=tuple(finder.skipped),
        notices=(*prompt.notices, *map(_without_effect, negative.tags), *finder.notices, *finder.replaced),
        replaced=tuple(finder.replaced),
    )


def plan_adapters(
    resolved: ResolvedAdapters, *, skips_missing: bool, models: Sequence[AdaptableModel], reports: AdapterReports
) -> PlannedAdapters:
    """Look at every file beside its model. models: the first, and that of the refiner.

    Raises FileError for one that fits no model or is damaged, RequestError for weights of blocks that there are not.
    """
    return PlannedAdapters(
        words=resolved.words,
        negative_words=resolved.negative_words,
        acting=tuple(_planned(wanted, models, reports) for wanted in resolved.wanted),
        rows=resolved.rows,
        name_hashes=resolved.name_hashes,
        skips_missing=skips_missing,
        skipped=resolved.skipped,
    )


def adapter_notices(planned: PlannedAdapters) -> Iterator[str]:
    """What the user should know of the adapters."""
    for adapter in planned.acting:
        for text in adapter.notices:
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
    row = _with_weights(wanted, model)
    # Where a strength changes over the steps, what counts is that there is one.
    use = row.use if row.curve is None else replace(row.use, strength=1.0)
    widened = model.widened_by(use, reports.adapter(wanted.path))
    return PlannedAdapter(
        row=row,
        report=report,
        costs=widened.notice if widened else "",
        tag=wanted.tag.name if wanted.tag else "",
        short_hash=wanted.short_hash,
        is_for_refiner=is_for_refiner,
    )


def _with_weights(wanted: WantedAdapter, model: AdaptableModel) -> AdapterRow:
    """The row with the weights by block that its tag writes as text. Raises RequestError."""
    row, tag = wanted.row, wanted.tag
    if tag is not None and (tag.block_weights or tag.elemental):
        weights = block_weights(tag.block_weights, tag.elemental, model.layout, x=tag.x, drawn_from=tag.text)
        return replace(row, use=replace(row.use, weights=weights))
    if row.use.weights is not None:
        check_weights(row.use.weights, model.layout, f"LoRA {row.use.file.name}")
    return row


def _without_effect(tag: NetworkTag) -> str:
    return f"{tag.text} stands in the negative prompt, where it has no effect."


@dataclass
class _Finder:
    """Finds files. All lists fill on the way, and `name_hashes`, which at first has those that are known of names."""

    library: Library
    skips_missing: bool
    name_hashes: dict[str, str]
    skipped: list[str] = field(default_factory=list[str])
    notices: list[str] = field(default_factory=list[str])
    replaced: list[str] = field(default_factory=list[str])

    def tag(self, tag: NetworkTag) -> WantedAdapter | None:
        """None for one that adds nothing. Raises UnknownName, AmbiguousName."""
        use = AdapterUse(
            file=FileRef(name=tag.name),
            strength=tag.strength,
            text_encoder_strength=tag.text_encoder_strength,
            max_rank=tag.max_rank,
        )
        row = AdapterRow(use=use, curve=tag.curve)
        if not acts(row):
            return None
        if tag.kind != _LORA:  # backend/engine/hypernetworks.py finds the others
            return None
        wanted = self._wanted(row, self.name_hashes.get(tag.name, ""))
        if wanted is None:
            return None
        file = wanted.row.use.file
        self.name_hashes[tag.name] = file.tensors or file.sha256
        return replace(wanted, tag=tag)

    def row(self, row: AdapterRow) -> tuple[AdapterRow, WantedAdapter | None]:
        """The row as the library names its file, and the file if it acts. Raises UnknownName, AmbiguousName."""
        file = row.use.file
        wanted = self._wanted(row, file.tensors or file.sha256) if acts(row) else None
        return (row, None) if wanted is None else (wanted.row, wanted)

    def _wanted(self, row: AdapterRow, digits: str) -> WantedAdapter | None:
        """digits: of a hash that decides before the name, "" for none. None for what is missing and may be."""
        name = row.use.file.name
        try:
            entry = self._with_contents(name, digits) if digits else self._named(name)
            tensors = self.library.lora_hash(entry)
            file = FileRef(name=entry.name, sha256=self.library.hash_of(entry.path), tensors=tensors)
        except (UnknownName, AmbiguousName) as error:
            return self._missing(name, error)
        except OSError as error:
            problem = FileError(name, f"it cannot be read ({error.strerror}). Look whether it is still there.")
            return self._missing(name, problem)
        found = replace(row, use=replace(row.use, file=file))
        return WantedAdapter(row=found, path=entry.path, short_hash=tensors[:SHORT_OF_TENSORS])

    def _missing(self, name: str, error: EmulsionError) -> None:
        """Raises the error unless the job may go on without."""
        if not self.skips_missing:
            raise error
        self.skipped.append(name)
        self.notices.append(f"The picture is made without {name}. {error}")

    def _named(self, name: str) -> LoraEntry:
        digits = name.removeprefix("#")
        return self.library.find_lora_by_hash(digits) if digits != name else self.library.find_lora(name)

    def _with_contents(self, name: str, digits: str) -> LoraEntry:
        """The file with these contents, whatever it is called here, or else that of this name."""
        try:
            named = self._named(name)
        except (UnknownName, AmbiguousName):
            return self._hashed(digits) or self._named(name)
        if any(known.startswith(digits) for known in self._hashes(named)):
            return named
        found = self._hashed(digits)
        if found is None:
            self.replaced.append(f"LoRA {named.name} is another file than the one that was meant: its contents differ.")
        return found or named

    def _hashed(self, digits: str) -> LoraEntry | None:
        """Raises AmbiguousName for digits that several files begin with, which are no copies of one another."""
        try:
            return self.library.find_lora_by_hash(digits)
        except UnknownName:
            return None

    def _hashes(self, entry: LoraEntry) -> tuple[str, str]:
        return self.library.hash_of(entry.path), self.library.lora_hash(entry)
