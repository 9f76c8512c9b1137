"""T5's text encoder: a prompt as one sequence of tokens to the states that diffusion transformers attend to."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from backend.nn.t5 import T5Encoder
from backend.text.emphasis import Break, EmphasisMode, Segment, is_weighted
from backend.text.mentions import NO_NAMES, Mention, Names
from backend.text.t5_tokenizer import END, PADDING, T5Tokenizer


@dataclass(frozen=True, kw_only=True)
class T5Prompt:
    """tokens: ids with the end mark, padded. weights: an emphasis for each.

    num_tokens: those that are no padding, the end mark included. num_lost: tokens that did not fit, from the end.
    mentions: (position, name) of textual inversions, whose vectors stand from that position on.
    """

    tokens: tuple[int, ...]
    weights: tuple[float, ...]
    num_tokens: int
    num_lost: int
    mentions: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class T5Encoding:
    """states: [1, N, D] float32. mask: [1, N] bool, False for padding. num_lost: tokens that did not fit."""

    states: Tensor
    mask: Tensor
    num_lost: int = 0


def compile_t5(
    segments: Sequence[Segment | Break],
    tokenizer: T5Tokenizer,
    *,
    min_length: int,
    max_length: int,
    num_vectors: Mapping[str, int] | None = None,
    names: Names = NO_NAMES,
) -> T5Prompt:
    """Tokenise the whole text at once, so that emphasis changes weights and never tokens.

    min_length, max_length: of the sequence, end mark and padding included. There are no chunks: BREAK is a space.
    num_vectors: of textual inversions by `names`. Text on both sides of one is tokenised by itself; of one that does
    not fit as a whole, nothing is read.
    """
    entries = list(_entries(segments, tokenizer, num_vectors or {}, names))
    length = 0
    for index, entry in enumerate(entries):
        if length + len(entry.tokens) > max_length - 1:
            kept, lost = entries[:index], entries[index:]
            break
        length += len(entry.tokens)
    else:
        kept, lost = entries, []
    padding = max(0, min_length - length - 1)
    positions = accumulate((len(entry.tokens) for entry in kept), initial=0)
    return T5Prompt(
        tokens=(*(token for entry in kept for token in entry.tokens), END, *[PADDING] * padding),
        weights=(*(entry.weight for entry in kept for _ in entry.tokens), *[1.0] * (padding + 1)),
        num_tokens=length + 1,
        num_lost=sum(len(entry.tokens) for entry in lost),
        mentions=tuple((at, entry.name) for at, entry in zip(positions, kept, strict=False) if entry.name),
    )


@torch.no_grad()
def encode_t5(
    encoder: T5Encoder,
    prompt: T5Prompt,
    *,
    emphasis: EmphasisMode,
    ignores_padding: bool,
    device: torch.device,
    dtype: torch.dtype,
    vectors: Mapping[str, Tensor] | None = None,
) -> T5Encoding:
    """ignores_padding: whether tokens attend to no padding (PixArt), or to all of it (SD 3, FLUX.1).

    device, dtype: where and in which type the network computes.
    vectors: [N, D] of the textual inversions that the prompt mentions, by name.
    """
    tokens = torch.tensor([prompt.tokens], device=device)
    mask = torch.arange(tokens.shape[1], device=device)[None] < prompt.num_tokens
    placed = [(position, (vectors or {})[name]) for position, name in prompt.mentions]
    states = encoder(tokens, mask if ignores_padding else None, dtype=dtype, placed=placed).float()
    weights = torch.tensor(prompt.weights, device=device)
    states = emphasis.apply(states, weights) if is_weighted(weights) else states
    return T5Encoding(states=states, mask=mask, num_lost=prompt.num_lost)


@dataclass(frozen=True)
class _Entry:
    """A token, or the places of a textual inversion's vectors, which stay together. name: of that, or ""."""

    tokens: tuple[int, ...]
    weight: float
    name: str = ""


def _entries(
    segments: Sequence[Segment | Break], tokenizer: T5Tokenizer, num_vectors: Mapping[str, int], names: Names
) -> Iterator[_Entry]:
    for stretch in _stretches(segments, names):
        if isinstance(stretch, _Entry):
            count = num_vectors.get(stretch.name, 0)
            if count:  # without vectors it is a name that this encoder does not know
                yield _Entry((PADDING,) * count, stretch.weight, stretch.name)
            continue
        text, starts, weights = _joined(stretch)
        for token in tokenizer.encode(text):
            yield _Entry((token.id,), weights[bisect_right(starts, token.position) - 1])


def _stretches(segments: Sequence[Segment | Break], names: Names) -> Iterator[list[Segment | Break] | _Entry]:
    """Text between mentions of textual inversions, and those."""
    stretch: list[Segment | Break] = []
    for segment in segments:
        if isinstance(segment, Break):
            stretch.append(segment)
            continue
        for piece in names.pieces(segment.text, finds_bare_names=True):
            if isinstance(piece, Mention):
                yield stretch
                yield _Entry((), segment.weight, piece.name)
                stretch = []
            else:
                stretch.append(Segment(piece, segment.weight))
    yield stretch


def _joined(segments: Sequence[Segment | Break]) -> tuple[str, list[int], list[float]]:
    """The text of all segments, where each begins, and what it weighs."""
    pieces = [
        (segment.text, segment.weight) if isinstance(segment, Segment) else (" ", 1.0) for segment in segments
    ] or [("", 1.0)]
    ends = accumulate(len(text) for text, _ in pieces)
    return "".join(text for text, _ in pieces), [0, *ends][:-1], [weight for _, weight in pieces]
