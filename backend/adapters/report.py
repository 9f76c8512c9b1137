"""What there is to say about an adapter and a model before it is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backend.adapters.matching import Reason, Unmatched
from backend.errors import AdapterDoesNotFit, BadCheckpoint

_NAMED = 5  # modules that a text names before it counts
_CONTROL = (
    "It is a control LoRA: its first layer takes a control picture beside the noise, and FLUX cannot be given one yet. "
    "It acts as with an empty one, so it does not follow anything."
)


@dataclass(frozen=True, kw_only=True)
class AdapterReport:
    """An adapter beside a model.

    family: of the model. trained_for: the family that the adapter was made for, "" where nothing tells.
    formats: what it is made of, label -> number of modules; the most frequent first.
    matched, totals: modules by component ("denoiser", "clip_l" ...).
    ranks, alphas: lowest and highest, None where there are none. num_without_alpha: modules whose scale is 1.
    not_finite: keys of tensors with NaN or infinity. untrained: modules that add nothing, for their up is zero.
    silent: modules with an alpha of 0. doubled: modules for what another one is for, too; both count.
    hint: what the LoRA of a distilled model needs to be used with, "" for others.
    needs_control: whether it follows a control picture, which is not there.
    embeddings: textual inversions that come with it.
    others: keys that belong to no module. left_out: names of metadata that are too large to be read.
    """

    path: Path
    family: str
    trained_for: str
    formats: Mapping[str, int]
    matched: Mapping[str, int]
    totals: Mapping[str, int]
    unmatched: tuple[Unmatched, ...] = ()
    ranks: tuple[int, int] | None = None
    alphas: tuple[float, float] | None = None
    num_without_alpha: int = 0
    not_finite: tuple[str, ...] = ()
    untrained: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()
    hint: str = ""
    needs_control: bool = False
    embeddings: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    num_bytes: int = 0

    @property
    def num_matched(self) -> int:
        return sum(self.matched.values())

    @property
    def num_modules(self) -> int:
        return sum(self.totals.values())

    def require_fit(self) -> None:
        """Raises BadCheckpoint for numbers that are none, AdapterDoesNotFit for a model of another family."""
        if self.not_finite:
            raise not_finite_error(self.path, self.not_finite)
        is_for_another = bool(self.trained_for) and self.trained_for != self.family
        has_other_shapes = any(module.reason is Reason.OTHER_SHAPE for module in self.unmatched)
        if not self.num_matched or (is_for_another and has_other_shapes):
            made_for = f"it was made for {self.trained_for or 'another kind of'} models and this one is {self.family}"
            raise AdapterDoesNotFit(
                self.path,
                f"{made_for}: {self.num_matched} of its {self.num_modules} modules fit. "
                f"{self._why()}Choose a {self.family} LoRA or another model.",
            )

    def notices(self) -> tuple[str, ...]:
        """What the user should know, in sentences."""
        found: list[str] = []
        if self.unmatched:
            found.append(f"{self.num_matched} of {self.num_modules} modules fit the model. {self._why()}".rstrip())
        if self.trained_for and self.trained_for != self.family:
            found.append(f"It was made for {self.trained_for} models, and this one is {self.family}.")
        for modules, what in (
            (self.untrained, "add nothing: they were not trained"),
            (self.silent, "add nothing: their alpha is 0"),
            (self.doubled, "are there under two names, and both are added"),
            (self.others, "are not read: their names are not known"),
        ):
            if modules:
                found.append(f"{len(modules)} of its {'tensors' if modules is self.others else 'modules'} {what} "
                             f"({_listed(modules)}).")  # fmt: skip
        if self.hint:
            found.append(self.hint)
        if self.needs_control:
            found.append(_CONTROL)
        if self.embeddings:
            found.append(f"It brings textual inversions: {_listed(self.embeddings)}.")
        if self.left_out:
            found.append(f"Texts of more than 4 MiB in its metadata are not read: {_listed(self.left_out)}.")
        return tuple(found)

    def _why(self) -> str:
        """The reasons for what does not fit, each with some modules."""
        counts = Counter(module.reason for module in self.unmatched)
        return "".join(
            f"{count}: {reason.value} ({_listed([m.module for m in self.unmatched if m.reason is reason])}). "
            for reason, count in counts.most_common()
        )


def not_finite_error(path: Path, keys: tuple[str, ...]) -> BadCheckpoint:
    return BadCheckpoint(
        path,
        f"{len(keys)} of its tensors hold values that are no numbers ({_listed(keys)}). "
        "Its training went wrong; use an earlier epoch of it.",
    )


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
