"""Emphasis and BREAK of the prompt language: how much words weigh, and how the weights act on encoded text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

ROUND = 1.1
SQUARE = 1 / 1.1
_SPECIAL = frozenset("()[]\\:")
_ESCAPABLE = frozenset("()[]\\")
_MAX_DEPTH = 64  # deeper brackets are plain text: each one multiplies all pieces inside it again
_MAX_NUMBER = 32  # characters of a weight, or of white space beside it
_SIGNED_NUMBER = frozenset("+-.0123456789")


@dataclass(frozen=True)
class Segment:
    """A stretch of text that has one weight."""

    text: str
    weight: float


@dataclass(frozen=True)
class Break:
    """BREAK: what follows goes into a new chunk."""


def parse_emphasis(text: str) -> tuple[Segment | Break, ...]:
    """Read `(more)`, `[less]`, `(this much:1.3)`, escapes and BREAK, in one pass from left to right.

    As A1111 reads them, except that a weighted BREAK is a BREAK, and that `(a:1.2.3)`, whose weight is no number, is
    text in round brackets. Brackets that are never closed reach to the end.
    """
    return _joined(_with_breaks(_weighted(text)))


def whole_text(text: str) -> tuple[Segment | Break, ...]:
    """The text as it stands: brackets and BREAK are words."""
    return (Segment(text, 1.0),)


class _Pieces:
    """Pieces of a text with weights, of which a bracket multiplies all since it was opened."""

    def __init__(self, capacity: int) -> None:
        self.texts: list[str] = []
        self._weights = np.ones(capacity)  # float64: multiplied in bulk, with the results of Python's floats

    def add(self, text: str) -> None:
        self.texts.append(text)

    def multiply(self, start: int, factor: float) -> None:
        self._weights[start : len(self.texts)] *= factor

    def segments(self) -> list[Segment]:
        weights: list[float] = self._weights[: len(self.texts)].tolist()
        return [Segment(text, weight) for text, weight in zip(self.texts, weights, strict=True)]


def _weighted(text: str) -> list[Segment]:
    pieces, round_starts, square_starts = _Pieces(len(text)), list[int](), list[int]()
    position = 0
    while position < len(text):
        character = text[position]
        end = position + 1
        if character == "\\":
            escaped = text[end] if end < len(text) and text[end] in _ESCAPABLE else ""
            pieces.add(escaped)  # a backslash before anything else is dropped
            end += len(escaped)
        elif character == "(" and len(round_starts) < _MAX_DEPTH:
            round_starts.append(len(pieces.texts))
        elif character == "[" and len(square_starts) < _MAX_DEPTH:
            square_starts.append(len(pieces.texts))
        elif character == ":" and round_starts and (weight := _weight_at(text, position)) is not None:
            factor, end = weight
            pieces.multiply(round_starts.pop(), factor)
        elif character == ")" and round_starts:
            pieces.multiply(round_starts.pop(), ROUND)
        elif character == "]" and square_starts:
            pieces.multiply(square_starts.pop(), SQUARE)
        elif character in _SPECIAL:
            pieces.add(character)
        else:
            while end < len(text) and text[end] not in _SPECIAL:
                end += 1
            pieces.add(text[position:end])
        position = end
    for start in round_starts:
        pieces.multiply(start, ROUND)
    for start in square_starts:
        pieces.multiply(start, SQUARE)
    return pieces.segments()


def _weight_at(text: str, colon: int) -> tuple[float, int] | None:
    """The number of `: 1.3 )` at `colon` and the position behind the bracket, or None when that is no weight."""
    start = _skip_spaces(text, colon + 1)
    end = start
    while end < len(text) and text[end] in _SIGNED_NUMBER and end - start < _MAX_NUMBER:
        end += 1
    close = _skip_spaces(text, end)
    if start == end or text[close : close + 1] != ")":
        return None
    try:
        return float(text[start:end]), close + 1
    except ValueError:
        return None


def _skip_spaces(text: str, position: int) -> int:
    limit = min(len(text), position + _MAX_NUMBER)
    while position < limit and text[position].isspace():
        position += 1
    return position


def _with_breaks(segments: list[Segment]) -> list[Segment | Break]:
    found: list[Segment | Break] = []
    for segment in segments:
        for index, part in enumerate(_split_at_break(segment.text)):
            if index:
                found.append(Break())
            found.append(Segment(part, segment.weight))
    return found


def _split_at_break(text: str) -> list[str]:
    """The parts of a text between the words BREAK, without the white space around those."""
    parts: list[str] = []
    start = search = 0
    while (found := text.find("BREAK", search)) >= 0:
        end = found + len("BREAK")
        search = end
        if _is_word(text[found - 1 : found]) or _is_word(text[end : end + 1]):
            continue
        parts.append(text[start:found].strip() if parts else text[start:found].rstrip())
        start = end
    rest = text[start:]
    return [*parts, rest.lstrip() if parts else rest]


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _joined(segments: list[Segment | Break]) -> tuple[Segment | Break, ...]:
    """Neighbours of equal weight are one segment; nothing at all is an empty one."""
    joined: list[Segment | Break] = []
    for weight, group in groupby(
        segments, key=lambda segment: segment.weight if isinstance(segment, Segment) else None
    ):
        if weight is None:
            joined.extend(group)
        else:
            joined.append(Segment("".join(segment.text for segment in group if isinstance(segment, Segment)), weight))
    return tuple(joined) or (Segment("", 1.0),)


@dataclass(frozen=True, kw_only=True)
class EmphasisMode:
    """A registered way to weigh words.

    parse: prompt -> segments. apply: (states [1, 77, D] of a chunk, weights [77]) -> states.
    """

    name: str
    label: str
    aliases: tuple[str, ...] = ()
    parse: Callable[[str], tuple[Segment | Break, ...]]
    apply: Callable[[Tensor, Tensor], Tensor]


def restore_mean(states: Tensor, weights: Tensor) -> Tensor:
    """Multiply, then scale the chunk so that its mean is what it was; a mean near 0 is left alone."""
    weighted = scale_states(states, weights)
    before, after = states.mean(), weighted.mean()
    return weighted if bool(after.abs() < 1e-6) else weighted * (before / after)


def scale_states(states: Tensor, weights: Tensor) -> Tensor:
    """Multiply the state of each token by its weight."""
    return states * weights[None, :, None]


def unchanged(states: Tensor, weights: Tensor) -> Tensor:
    return states


def is_weighted(weights: Tensor) -> bool:
    return not torch.equal(weights, torch.ones_like(weights))


BUILTIN = (
    EmphasisMode(name="original", label="Original", parse=parse_emphasis, apply=restore_mean),
    EmphasisMode(name="no_norm", label="No norm", parse=parse_emphasis, apply=scale_states),
    EmphasisMode(name="ignore", label="Ignore", parse=parse_emphasis, apply=unchanged),
    EmphasisMode(name="none", label="None", parse=whole_text, apply=unchanged),
)
