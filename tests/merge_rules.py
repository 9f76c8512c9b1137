"""Two rules for tests of everything around them, and a catalog of these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from backend.families.builtin import BUILTIN as FAMILIES
from backend.merging.catalog import MergeCatalog
from backend.merging.made_model import MadeModel
from backend.merging.merged import make_model
from backend.merging.normalisation import BUILTIN as NORMALISATIONS
from backend.merging.rule import MergeFunction, Operands, Parameter, Rule, Settings, Survey
from backend.recipe import CheckpointInput, FileRef, Merge, Node, Recipe, StoredDtype, Weights
from backend.registry import Registry
from backend.weights.weight_file import open_weights


def _alpha(_: int) -> tuple[Parameter, ...]:
    return (Parameter(name="alpha", label="Alpha", default=0.5),)


def _lerp(operands: Operands, settings: Settings) -> Iterator[Tensor]:
    for a, b in operands.pieces():
        yield a + settings.values["alpha"] * (b - a)


def _same(values: Mapping[str, float]) -> int | None:
    return {0.0: 0, 1.0: 1}.get(values["alpha"])


def _difference(operands: Operands, settings: Settings) -> Iterator[Tensor]:
    for a, b, c in operands.pieces():
        yield a + settings.values["alpha"] * (b - c)


def _smooth(operands: Operands, settings: Settings) -> Iterator[Tensor]:
    """Each row with those before and after it."""
    for (a, b), rows in operands.pieces_with_halo(1):
        mean = (a + b) / 2
        above, below = mean.roll(1, 0), mean.roll(-1, 0)
        yield ((above + mean + below) / 3)[rows]


def _largest(operands: Operands, settings: Settings) -> Iterator[Tensor]:
    for a, b in operands.pieces():
        yield (a + b) / settings.statistics["largest"]


def _rule(name: str, merge: MergeFunction, *, roles: tuple[str, ...] = ("A", "B"), **others: object) -> Rule:
    return Rule(
        name=name, label=name, formula="", explanation="", roles=roles, parameters=_alpha, merge=merge, **others
    )  # type: ignore[arg-type]


RULES = (
    _rule("lerp", _lerp, same_as=_same),
    _rule("add_difference", _difference, roles=("A", "B", "C")),
    _rule("smooth", _smooth),
    _rule(
        "largest",
        _largest,
        survey=Survey(
            measure=lambda operands, _: [max(float(b.abs().max()) for _, b in operands.pieces())],
            combine=lambda measured: {"largest": max(found[0] for found in measured)},
        ),
    ),
)
CATALOG = MergeCatalog(
    rules=Registry("merge rule", RULES),
    normalisations=Registry("normalisation", NORMALISATIONS),
    families=Registry("model family", FAMILIES),
)


def checkpoint(path: Path, **options: bool) -> CheckpointInput:
    return CheckpointInput(file=FileRef(name=str(path)), **options)


def merge(rule: str, *models: Node | Path, alpha: float | Weights = 0.5) -> Merge:
    nodes = tuple(checkpoint(model) if isinstance(model, Path) else model for model in models)
    weights = alpha if isinstance(alpha, Weights) else Weights(base=alpha)
    return Merge(rule=rule, models=nodes, parameters=(("alpha", weights),))


def made(root: Node, dtype: StoredDtype = StoredDtype.AS_FIRST) -> MadeModel:
    return make_model(Recipe(root=root, dtype=dtype, name="made"), opened, CATALOG)


def opened(file: FileRef):
    return open_weights(Path(file.name))
