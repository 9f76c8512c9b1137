"""The hypernetworks of a picture with nothing left open."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from backend.adapter_row import NameHash
from backend.families.hypernetwork_files import HypernetworkFile

HYPERNET = "hypernet:"  # of their names among those of other files


@dataclass(frozen=True, kw_only=True)
class PlannedHypernetwork:
    """name: as the folder has it. tag: the name as the prompt has it."""

    name: str
    tag: str
    sha256: str
    strength: float
    file: HypernetworkFile = field(compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class PlannedHypernetworks:
    """Those that act, in the order in which they change contexts. notices: what the user should know of them."""

    acting: tuple[PlannedHypernetwork, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def name_hashes(self) -> tuple[NameHash, ...]:
        """Which files the names in tags mean."""
        return tuple(NameHash(name=HYPERNET + one.tag, hash=one.sha256) for one in self.acting)

    def facts(self) -> list[dict[str, object]]:
        """JSON values for the exact metadata of a picture."""
        return [
            {"name": one.name, "tag": one.tag, "sha256": one.sha256, "strength": one.strength} for one in self.acting
        ]


def not_of_hypernetworks(name_hashes: Iterable[NameHash]) -> tuple[NameHash, ...]:
    return tuple(known for known in name_hashes if not known.name.startswith(HYPERNET))
