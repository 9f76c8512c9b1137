"""A model that a recipe makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backend.families.family import Family
from backend.merging.combined import SharedSurvey
from backend.merging.made_source import MadeSource
from backend.merging.report import MergeReport


@dataclass(frozen=True, kw_only=True)
class MadeModel:
    """Nothing of it is computed yet.

    inputs: the metadata of every checkpoint that it is made of, by the name in the recipe. files: every file it reads.
    surveys: what its rules must find out of whole models before its weights can be computed.
    prediction: see `predicted_by`.
    """

    source: MadeSource
    family: Family
    report: MergeReport
    inputs: Mapping[str, Mapping[str, str]]
    files: tuple[Path, ...] = ()
    surveys: tuple[SharedSurvey, ...] = ()
    prediction: str = ""
