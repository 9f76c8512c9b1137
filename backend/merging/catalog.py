"""What a recipe may name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from backend.families.family import Family
from backend.merging.rule import MergeFunction, Rule
from backend.registry import Named, Registry


class Normalisation(Named, Protocol):
    def around(self, merge: MergeFunction) -> MergeFunction: ...


@dataclass(frozen=True, kw_only=True)
class MergeCatalog:
    """Registries, to which extensions add."""

    rules: Registry[Rule]
    normalisations: Registry[Normalisation]
    families: Registry[Family]
