"""What a recipe may name."""

from __future__ import annotations

from dataclasses import dataclass

from backend.families.family import Family
from backend.merging.normalisation import Normalisation
from backend.merging.rule import Rule
from backend.registry import Registry


@dataclass(frozen=True, kw_only=True)
class MergeCatalog:
    """Registries, to which extensions add."""

    rules: Registry[Rule]
    normalisations: Registry[Normalisation]
    families: Registry[Family]
