"""The adapters of a picture with nothing left open, and what is told about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.adapter_row import AdapterRow, NameHash, row_mapping
from backend.adapters.report import AdapterReport
from backend.recipe import FileRef


@dataclass(frozen=True, kw_only=True)
class PlannedAdapter:
    """An adapter that acts.

    row: with the name and the hash that the file has in the library. report: of the file beside the model.
    tag: the name as a tag of the prompt has it, "" for a row. is_for_refiner: whether it acts on the second model.
    short_hash: what A1111 knows the file by, "" where it has none. costs: what it takes beside its own weights, in a
    sentence, "" for nothing.
    """

    row: AdapterRow
    report: AdapterReport
    tag: str = ""
    short_hash: str = ""
    is_for_refiner: bool = False
    costs: str = ""

    @property
    def file(self) -> FileRef:
        return self.row.use.file

    @property
    def notices(self) -> tuple[str, ...]:
        return (*self.report.notices(), *([self.costs] if self.costs else []))

    def facts(self) -> dict[str, Any]:
        """JSON values for pictures and jobs."""
        report = self.report
        return {
            **row_mapping(self.row),
            "tag": self.tag,
            "is_for_refiner": self.is_for_refiner,
            "trained_for": report.trained_for,
            "matched": report.num_matched,
            "modules": report.num_modules,
            "formats": dict(report.formats),
            "ranks": None if report.ranks is None else list(report.ranks),
            "notices": list(self.notices),
        }


@dataclass(frozen=True, kw_only=True)
class PlannedAdapters:
    """What a request has to do with adapters.

    acting: tags in their order, then rows. words, negative_words: the prompts without tags, which are encoded.
    rows: those of the request, also without effect, as the library names their files.
    name_hashes: of the names in the prompt's tags. skipped: names that were not found, where that is allowed.
    """

    words: str
    negative_words: str
    acting: tuple[PlannedAdapter, ...] = ()
    rows: tuple[AdapterRow, ...] = ()
    name_hashes: tuple[NameHash, ...] = ()
    skips_missing: bool = False
    skipped: tuple[str, ...] = ()

    def facts(self) -> Mapping[str, Any]:
        """JSON values for the exact metadata of a picture."""
        return {"acting": [adapter.facts() for adapter in self.acting], "skipped": list(self.skipped)}
