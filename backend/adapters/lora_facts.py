"""What the header of an adapter's file tells by itself, for lists of files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backend.adapters.aliases import FAMILIES
from backend.adapters.lora_file import Adapter
from backend.adapters.training_tags import trained_tags
from backend.errors import FileError, UnsupportedCheckpoint
from backend.weights.safetensors_file import open_safetensors

MAX_TENSORS = 50_000  # ten times what a LoRA for every layer of FLUX.1 has
MAX_TEXT = 2_000  # characters of a title or a trigger phrase
THUMBNAIL = "modelspec.thumbnail"


@dataclass(frozen=True, kw_only=True)
class LoraFacts:
    """problem: why the file cannot be used, "" when it can. Of a file that is no LoRA nothing else is known.

    family: that it was trained for, by the name that families are registered under, or that of a kind of models that
    is not known here; "" where nothing tells.
    formats: label -> number of modules. ranks: lowest and highest, None where the formats have none.
    alias: what its trainer called it. trained_tags: the most frequent ones, with how often they were trained.
    claimed_hash: 64 hex digits that it says to be those of its tensors; "" where it says none.
    """

    problem: str = ""
    family: str = ""
    formats: Mapping[str, int]
    ranks: tuple[int, int] | None = None
    alias: str = ""
    title: str = ""
    description: str = ""
    trigger_phrase: str = ""
    trained_tags: tuple[tuple[str, int], ...] = ()
    claimed_hash: str = ""
    has_thumbnail: bool = False


def lora_facts(path: Path) -> LoraFacts:
    """Reads the header alone. Every file has facts: what cannot be used has a problem."""
    try:
        source = open_safetensors(path)
        if (found := len(source.keys())) > MAX_TENSORS:
            raise UnsupportedCheckpoint(path, f"it has {found:,} tensors, which no LoRA has.")
        return _facts(Adapter(source))
    except FileError as error:
        return LoraFacts(problem=str(error), formats={})


def metadata_of(path: Path) -> dict[str, str]:
    """All that the header says of the file in words; nothing for a file that cannot be used."""
    try:
        return dict(open_safetensors(path).metadata)
    except FileError:
        return {}


def _facts(adapter: Adapter) -> LoraFacts:
    metadata = adapter.metadata
    claimed = metadata.get("sshs_model_hash", "").lower()
    family = adapter.trained_for
    return LoraFacts(
        problem=_problem(adapter.origin, family),
        family=family,
        formats=adapter.formats(),
        ranks=adapter.ranks(),
        alias=_text(metadata, "ss_output_name"),
        title=_text(metadata, "modelspec.title"),
        description=_text(metadata, "modelspec.description"),
        trigger_phrase=_text(metadata, "modelspec.trigger_phrase"),
        trained_tags=trained_tags(metadata.get("ss_tag_frequency", "")),
        claimed_hash=claimed if len(claimed) == 64 and all(digit in "0123456789abcdef" for digit in claimed) else "",
        has_thumbnail=metadata.get(THUMBNAIL, "").startswith("data:image/"),
    )


def _problem(path: Path, family: str) -> str:
    if not family or family in FAMILIES:
        return ""
    return f"{path.name}: it was made for {family} models, which this version does not run with LoRAs."


def _text(metadata: Mapping[str, str], key: str) -> str:
    return metadata.get(key, "").strip()[:MAX_TEXT]
