"""What there is to say about a merge before anything of it is computed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MergeReport:
    """matched: weights that are merged. copied: those that stay as one of the models has them.

    padded: merged in the channels that all models have; the others stay. dropped: left out of the result.
    notices: for the user. family: its label. parameters: how many numbers the result has, in num_bytes bytes.
    """

    family: str
    matched: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()
    padded: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    parameters: int = 0
    num_bytes: int = 0
