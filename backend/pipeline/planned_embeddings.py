"""The textual inversions of a picture, and what is written into it about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from backend.adapter_row import NameHash
from backend.text.embeddings import TextualInversion

PREFIX = "embedding:"  # of their names among those of other files
_SHORT = 12  # hex digits, as A1111 writes


@dataclass(frozen=True, kw_only=True)
class PlannedEmbeddings:
    """What the two prompts mention and the model reads. notices: what the user should know of them."""

    prompt: tuple[TextualInversion, ...] = ()
    negative_prompt: tuple[TextualInversion, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[TextualInversion, ...]:
        return tuple(dict.fromkeys((*self.prompt, *self.negative_prompt)))

    @property
    def name_hashes(self) -> tuple[NameHash, ...]:
        """Which files the names in the prompts mean."""
        return tuple(NameHash(name=PREFIX + used.name, hash=used.file_hash) for used in self.all if used.file_hash)

    @property
    def infotext(self) -> str | None:
        """A1111's "TI hashes": names, without the marks between them, and hashes."""
        pairs = [f"{_plain(used.name)}: {used.file_hash[:_SHORT]}" for used in self.all if used.file_hash]
        return ", ".join(pairs) or None

    def facts(self) -> list[dict[str, object]]:
        """JSON values for the exact metadata of a picture."""
        return [
            {"name": used.name, "sha256": used.file_hash, "vectors": used.num_vectors, "made_for": used.made_for}
            for used in self.all
        ]


def of_other_files(name_hashes: Iterable[NameHash]) -> tuple[NameHash, ...]:
    """Those that are none of textual inversions."""
    return tuple(known for known in name_hashes if not known.name.startswith(PREFIX))


def _plain(name: str) -> str:
    return name.replace(":", "").replace(",", "")
