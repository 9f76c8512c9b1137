"""T5's text encoder: a prompt as one sequence of tokens to the states that diffusion transformers attend to."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from backend.nn.t5 import T5Encoder
from backend.text.emphasis import Break, EmphasisMode, Segment, is_weighted
from backend.text.t5_tokenizer import END, PADDING, T5Tokenizer


@dataclass(frozen=True, kw_only=True)
class T5Prompt:
    """tokens: ids with the end mark, padded. weights: an emphasis for each.

    num_tokens: those that are no padding, the end mark included. num_lost: tokens that did not fit, from the end.
    """

    tokens: tuple[int, ...]
    weights: tuple[float, ...]
    num_tokens: int
    num_lost: int


@dataclass(frozen=True, kw_only=True)
class T5Encoding:
    """states: [1, N, D] float32. mask: [1, N] bool, False for padding. num_lost: tokens that did not fit."""

    states: Tensor
    mask: Tensor
    num_lost: int = 0


def compile_t5(
    segments: Sequence[Segment | Break], tokenizer: T5Tokenizer, *, min_length: int, max_length: int
) -> T5Prompt:
    """Tokenise the whole text at once, so that emphasis changes weights and never tokens.

    min_length, max_length: of the sequence, end mark and padding included. There are no chunks: BREAK is a space.
    """
    text, starts, weights = _joined(segments)
    found = tokenizer.encode(text)
    kept = found[: max_length - 1]
    padding = max(0, min_length - len(kept) - 1)
    return T5Prompt(
        tokens=(*(token.id for token in kept), END, *[PADDING] * padding),
        weights=(
            *(weights[bisect_right(starts, token.position) - 1] for token in kept),
            *[1.0] * (padding + 1),
        ),
        num_tokens=len(kept) + 1,
        num_lost=len(found) - len(kept),
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
) -> T5Encoding:
    """ignores_padding: whether tokens attend to no padding (PixArt), or to all of it (SD 3, FLUX.1).

    device, dtype: where and in which type the network computes.
    """
    tokens = torch.tensor([prompt.tokens], device=device)
    mask = torch.arange(tokens.shape[1], device=device)[None] < prompt.num_tokens
    states = encoder(tokens, mask if ignores_padding else None, dtype=dtype).float()
    weights = torch.tensor(prompt.weights, device=device)
    states = emphasis.apply(states, weights) if is_weighted(weights) else states
    return T5Encoding(states=states, mask=mask, num_lost=prompt.num_lost)


def _joined(segments: Sequence[Segment | Break]) -> tuple[str, list[int], list[float]]:
    """The text of all segments, where each begins, and what it weighs."""
    pieces = [
        (segment.text, segment.weight) if isinstance(segment, Segment) else (" ", 1.0) for segment in segments
    ] or [("", 1.0)]
    ends = accumulate(len(text) for text, _ in pieces)
    return "".join(text for text, _ in pieces), [0, *ends][:-1], [weight for _, weight in pieces]
