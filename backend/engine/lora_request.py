"""What a user asks of the tools for LoRAs: several into one, one out of two models, and one at another rank."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, cast

from backend.engine.result_name import checked_name
from backend.errors import RequestError
from backend.merging.lora_tools.rank_choice import RankBy, RankChoice
from backend.recipe import HIGHEST, LOWEST

MAX_LORAS = 16


@dataclass(frozen=True, kw_only=True)
class LoraUse:
    """A LoRA of the library. text_encoder_strength: None for the same as `strength`."""

    name: str
    strength: float = 1.0
    text_encoder_strength: float | None = None


@dataclass(frozen=True, kw_only=True)
class LoraMerge:
    """Several LoRAs as one. rank: None for an exact sum. model: a checkpoint that all are for, or ""."""

    kind: ClassVar[str] = "lora_merge"
    loras: tuple[LoraUse, ...]
    name: str
    rank: RankChoice | None = None
    model: str = ""
    replace: bool = False

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> LoraMerge:
        """Read JSON values. Raises RequestError."""
        _check_known(values, {"loras", "name", "rank", "model", "replace"})
        loras: object = values.get("loras")
        if not isinstance(loras, list) or not 1 <= len(cast("list[Any]", loras)) <= MAX_LORAS:
            raise RequestError("loras", f"must be a list of 1 to {MAX_LORAS} LoRAs")
        return cls(
            loras=tuple(_use(value) for value in cast("list[Any]", loras)),
            name=checked_name("name", values.get("name")),
            rank=_rank("rank", values.get("rank")),
            model=_text("model", values.get("model", ""), needed=False),
            replace=_flag("replace", values.get("replace", False)),
        )

    def to_mapping(self) -> dict[str, Any]:
        uses = [
            {"name": use.name, "strength": use.strength, "text_encoder_strength": use.text_encoder_strength}
            for use in self.loras
        ]
        return {
            "loras": uses,
            "name": self.name,
            "rank": _rank_mapping(self.rank),
            "model": self.model,
            "replace": self.replace,
        }


@dataclass(frozen=True, kw_only=True)
class LoraExtraction:
    """The LoRA that makes the checkpoint `base` into `tuned`. conv_rank: None leaves out convolutions.

    has_text_encoders, has_differences: see backend/merging/lora_tools/extract_lora.py.
    """

    kind: ClassVar[str] = "lora_extract"
    tuned: str
    base: str
    name: str
    rank: RankChoice
    conv_rank: RankChoice | None = None
    has_text_encoders: bool = True
    has_differences: bool = False
    replace: bool = False

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> LoraExtraction:
        """Read JSON values. Raises RequestError."""
        flags = ("has_text_encoders", "has_differences", "replace")
        _check_known(values, {"tuned", "base", "name", "rank", "conv_rank", *flags})
        return cls(
            tuned=_text("tuned", values.get("tuned", "")),
            base=_text("base", values.get("base", "")),
            name=checked_name("name", values.get("name")),
            rank=_needed_rank(values.get("rank")),
            conv_rank=_rank("conv_rank", values.get("conv_rank")),
            has_text_encoders=_flag("has_text_encoders", values.get("has_text_encoders", True)),
            has_differences=_flag("has_differences", values.get("has_differences", False)),
            replace=_flag("replace", values.get("replace", False)),
        )

    def to_mapping(self) -> dict[str, Any]:
        return {
            "tuned": self.tuned,
            "base": self.base,
            "name": self.name,
            "rank": _rank_mapping(self.rank),
            "conv_rank": _rank_mapping(self.conv_rank),
            "has_text_encoders": self.has_text_encoders,
            "has_differences": self.has_differences,
            "replace": self.replace,
        }


@dataclass(frozen=True, kw_only=True)
class LoraResize:
    """A LoRA at another rank. model: a checkpoint that it is for, or ""."""

    kind: ClassVar[str] = "lora_resize"
    lora: str
    name: str
    rank: RankChoice
    model: str = ""
    replace: bool = False

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> LoraResize:
        """Read JSON values. Raises RequestError."""
        _check_known(values, {"lora", "name", "rank", "model", "replace"})
        return cls(
            lora=_text("lora", values.get("lora", "")),
            name=checked_name("name", values.get("name")),
            rank=_needed_rank(values.get("rank")),
            model=_text("model", values.get("model", ""), needed=False),
            replace=_flag("replace", values.get("replace", False)),
        )

    def to_mapping(self) -> dict[str, Any]:
        return {
            "lora": self.lora,
            "name": self.name,
            "rank": _rank_mapping(self.rank),
            "model": self.model,
            "replace": self.replace,
        }


LoraToolRequest: TypeAlias = LoraMerge | LoraExtraction | LoraResize


def _check_known(values: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(str(name)[:60] for name in values.keys() - known):
        raise RequestError(unknown[0], f"is not known here. Known: {', '.join(sorted(known))}")


def _use(value: Any) -> LoraUse:
    if isinstance(value, str):
        return LoraUse(name=_text("loras", value))
    if not isinstance(value, Mapping):
        raise RequestError("loras", "must hold names, or objects with a name and a strength")
    found = cast("Mapping[str, Any]", value)
    _check_known(found, {"name", "strength", "text_encoder_strength"})
    text = found.get("text_encoder_strength")
    return LoraUse(
        name=_text("loras", found.get("name", "")),
        strength=_number("strength", found.get("strength", 1.0), LOWEST, HIGHEST),
        text_encoder_strength=None if text is None else _number("text_encoder_strength", text, LOWEST, HIGHEST),
    )


def _needed_rank(value: Any) -> RankChoice:
    rank = _rank("rank", value)
    if rank is None:
        raise RequestError("rank", 'must be a number, or an object such as {"by": "sv_fro", "value": 0.98}')
    return rank


def _rank(name: str, value: Any) -> RankChoice | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return RankChoice(by=RankBy.RANK, value=_number(name, value, 1, 2**16))
    found = cast("Mapping[str, Any]", value)
    _check_known(found, {"by", "value", "largest"})
    kinds = {kind.value: kind for kind in RankBy}
    by: object = found.get("by", RankBy.RANK.value)
    if not isinstance(by, str) or by not in kinds:
        raise RequestError(name, f"by must be one of {', '.join(kinds)}, not {by!r:.60}")
    largest = found.get("largest")
    return RankChoice(
        by=kinds[by],
        value=_number(name, found.get("value"), 0, 2**16),
        largest=None if largest is None else int(_number(name, largest, 1, 2**16)),
    )


def _rank_mapping(rank: RankChoice | None) -> dict[str, Any] | None:
    return None if rank is None else {"by": rank.by.value, "value": rank.value, "largest": rank.largest}


def _number(name: str, value: Any, low: float, high: float) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise RequestError(name, f"must be a number, not {value!r:.60}")
    if not low <= value <= high:
        raise RequestError(name, f"{value:g} is outside {low:g} to {high:g}")
    return value


def _text(name: str, value: Any, *, needed: bool = True) -> str:
    if not isinstance(value, str) or len(value) > 500 or (needed and not value.strip()):
        raise RequestError(name, f"must be a name, not {value!r:.60}")
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise RequestError(name, f"must be true or false, not {value!r:.60}")
    return value
