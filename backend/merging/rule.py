"""What a merge rule is: a formula for one weight at a time, over models whose weights come in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

# One piece of the same weight in every model: float32, some rows of it (its first dimension), or for weights of fewer
# than two dimensions some elements. The tensors are buffers, overwritten when the next piece is asked for; a rule may
# overwrite them itself.
Piece = tuple[Tensor, ...]


class Operands(Protocol):
    """One weight in all models of a merge, of one shape. Nothing is read until pieces are asked for."""

    @property
    def key(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def count(self) -> int:
        """How many models there are."""
        ...

    def pieces(self) -> Iterator[Piece]:
        """All of the weight in order, from the beginning at each call: a rule may read it several times."""
        ...

    def pieces_with_halo(self, rows: int) -> Iterator[tuple[Piece, slice]]:
        """As `pieces`, each with up to `rows` rows more on both sides, and where in it the piece itself lies."""
        ...

    def whole(self) -> Piece:
        """The weight in one piece: for rules that cannot do with less."""
        ...


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a rule is told beside the weights.

    values: the number of every parameter of the rule, for this weight. seed: of this weight (made from the recipe's
    seed and the key, so that no two weights are alike and none depends on the order in which they are merged).
    statistics: what the rule's survey found in the whole models.
    """

    values: Mapping[str, float]
    seed: int = 0
    statistics: Mapping[str, float] = field(default_factory=dict[str, float])


# The result of a piece in the models' own float16 or bfloat16, written to the last argument: for formulas that PyTorch
# computes in float32 and rounds once in a single step, which gives the same bits in half the time.
NarrowFormula = Callable[[Piece, Mapping[str, float], Tensor], Tensor]

MergeFunction = Callable[[Operands, Settings], Iterator[Tensor]]  # the result in pieces, in order; float32, any sizes


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A number of a rule. by_block: whether it may differ from block to block. explanation: for the user."""

    name: str
    label: str
    default: float
    minimum: float = 0.0
    maximum: float = 1.0
    by_block: bool = True
    explanation: str = ""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a rule must know of whole models before it begins.

    measure: numbers of one weight; the settings hold none of the rule's own numbers, so that a slider that is moved
    does not make it necessary to measure all models again.
    combine: what they come to, by the names that the rule finds in its settings.
    """

    measure: Callable[[Operands, Settings], Sequence[float]]
    combine: Callable[[Sequence[Sequence[float]]], Mapping[str, float]]


def _never(_: Mapping[str, float]) -> int | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A registered merge rule.

    formula: as text, with A, B, C for the models. explanation: one sentence for the user, when to take it.
    roles: what its models are, in order ("A", "B", "C: what both were trained from"). extra_models: how many more
    models it takes, which are treated like the last role. per-model numbers are parameters named "weight_a" ...
    parameters(count): the parameters for so many models.
    narrow: the same formula for models in 16 bits that are stored in 16 bits, if there is one.
    same_as: the number of the model whose weight the result is, bit for bit, with these values; None when it is none.
    """

    name: str
    label: str
    formula: str
    explanation: str
    roles: tuple[str, ...]
    parameters: Callable[[int], tuple[Parameter, ...]]
    merge: MergeFunction
    aliases: tuple[str, ...] = ()
    extra_models: int = 0
    same_as: Callable[[Mapping[str, float]], int | None] = _never
    survey: Survey | None = None
    is_random: bool = False
    narrow: NarrowFormula | None = None
