"""A prompt matrix: every combination of the parts of a prompt that "|" separates, the first of which is in all."""

from __future__ import annotations

from collections.abc import Sequence

from backend.engine.plot_request import Axis
from backend.engine.prompt_axes import AT_END, AT_START
from backend.errors import RequestError

MAX_PARTS = 10
_KINDS = {"prompt": "prompt_parts", "negative_prompt": "negative_parts"}


def matrix_axes(field: str, prompt: str, *, at_start: bool = False) -> tuple[str, tuple[Axis, ...]]:
    """What stays of the prompt, and one or two axes over the combinations of the rest.

    field: which prompt it is. The first half of the parts goes along x, the second along y, as in A1111's picture.
    Raises RequestError for a prompt without parts, or with more than ten.
    """
    first, *parts = (part.strip().strip(",").strip() for part in prompt.split("|"))
    if not parts:
        raise RequestError(field, 'has no parts; write "a cat|in snow|at night"')
    if len(parts) > MAX_PARTS:
        raise RequestError(field, f"has {len(parts)} parts after the first; at most {MAX_PARTS} can be combined")
    half = (len(parts) + 1) // 2
    target = AT_START if at_start else AT_END
    halves = [half_parts for half_parts in (parts[:half], parts[half:]) if half_parts]
    axes = tuple(Axis(kind=_KINDS[field], values=_combinations(some), target=target) for some in halves)
    return first, axes


def _combinations(parts: Sequence[str]) -> tuple[str, ...]:
    """All of them; the first part changes fastest."""
    counts = range(2 ** len(parts))
    return tuple(", ".join(part for bit, part in enumerate(parts) if count >> bit & 1) for count in counts)
