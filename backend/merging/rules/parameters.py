"""Numbers that several rules have in common, and how a rule says which model its result is with some of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from backend.merging.rule import Parameter

LETTERS = "abcdefghijklmnop"  # of models, in order

ALPHA = Parameter(name="alpha", label="Alpha", default=0.5, explanation="The share of B: 0 is A, 1 is B.")
STRENGTH = Parameter(
    name="alpha",
    label="Strength",
    default=1.0,
    maximum=2.0,
    explanation="How much of the difference is added: 0 adds nothing.",
)
DENSITY = Parameter(
    name="density",
    label="Density",
    default=0.5,
    minimum=0.01,
    explanation="The share of every difference that is kept.",
)
RESCALE = Parameter(
    name="rescale",
    label="Rescale",
    default=1.0,
    by_block=False,
    explanation="1 makes up for what is dropped, as published; 0 does not, which is gentler.",
)


def these(*parameters: Parameter) -> Callable[[int], tuple[Parameter, ...]]:
    """The same ones whatever the number of models."""
    return lambda _: parameters


def one_each(count: int) -> tuple[Parameter, ...]:
    """A weight for every model."""
    return tuple(
        Parameter(
            name=f"weight_{letter}",
            label=f"Weight of {letter.upper()}",
            default=1.0,
            explanation="Its share, against the sum of all weights.",
        )
        for letter in LETTERS[:count]
    )


def first_or_second(values: Mapping[str, float]) -> int | None:
    """Alpha 0 is the first model and 1 the second."""
    return {0.0: 0, 1.0: 1}.get(values["alpha"])


def first_without_strength(values: Mapping[str, float]) -> int | None:
    return 0 if values["alpha"] == 0 else None
