"""Which weights of several models belong together, and what becomes of those that have no partner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backend.errors import UnsupportedMerge
from backend.families.family import Family
from backend.families.file_facts import MARKERS
from backend.merging.canonical import NETWORK, POSITION_IDS, component
from backend.merging.made_source import Slot
from backend.merging.operands import Columns, Weight

# What reads the latents, and further channels in models that are given more than latents (inpainting and the like).
FIRST_LAYERS = frozenset({f"{NETWORK}input_blocks.0.0.weight", f"{NETWORK}img_in.weight"})


@dataclass(frozen=True, kw_only=True)
class Ingredient:
    """A model that goes into a merge: a file, or made of others.

    title: for the user. prediction: see `predicted_by`.
    """

    title: str
    family: Family
    slots: Mapping[str, Slot]
    metadata: Mapping[str, str]
    origin: Path
    prediction: str = ""


@dataclass(frozen=True, kw_only=True)
class Partners:
    """One weight in all models. wide: the weight whose further columns stay, where some models have fewer."""

    slot: Slot
    weights: tuple[Weight, ...]
    wide: Weight | None = None


@dataclass
class Alignment:
    """matched: weights that all models have. copied: those that stay as one model has them.

    dropped: names that are left out. notices: for the user.
    """

    matched: dict[str, Partners] = field(default_factory=dict[str, Partners])
    copied: dict[str, Slot] = field(default_factory=dict[str, Slot])
    dropped: list[str] = field(default_factory=list[str])
    notices: list[str] = field(default_factory=list[str])


def align(models: Sequence[Ingredient]) -> Alignment:
    """Compare names and shapes. Raises UnsupportedMerge for models that do not belong together."""
    _refuse_other_families(models)
    found = Alignment(notices=_prediction_notices(models))
    first, others = models[0], models[1:]
    alone: Counter[tuple[str, str]] = Counter()
    for key, slot in first.slots.items():
        missing = [model for model in others if key not in model.slots]
        is_number = slot.dtype.is_floating_point and key not in MARKERS and component(key) != ""
        if is_number and not missing:
            found.matched[key] = _partners(key, models)
            continue
        found.copied[key] = slot
        if is_number:
            alone.update((component(key), model.title) for model in missing)
    found.notices += _alone_notices(alone, models)
    _add_missing(found, models)
    return found


def _refuse_other_families(models: Sequence[Ingredient]) -> None:
    first = models[0]
    for model in models[1:]:
        if model.family.name != first.family.name:
            raise UnsupportedMerge(
                f'"{first.title}" is a model of {first.family.label} and "{model.title}" one of {model.family.label}. '
                "Their networks have nothing in common that could be merged; choose models of one family."
            )


def _prediction_notices(models: Sequence[Ingredient]) -> list[str]:
    first = models[0]
    return [
        f'"{first.title}" predicts {first.prediction} and "{model.title}" {model.prediction}: what is between them may '
        f"predict neither. The result is used as one that predicts {first.prediction}."
        for model in models[1:]
        if model.prediction != first.prediction
    ]


def _partners(key: str, models: Sequence[Ingredient]) -> Partners:
    slot = models[0].slots[key]
    weights = tuple(model.slots[key].weight for model in models)
    shapes = [weight.shape for weight in weights]
    if len(set(shapes)) == 1:
        return Partners(slot=slot, weights=weights)
    least, most = min(shapes, key=_columns), max(shapes, key=_columns)
    is_wider = key in FIRST_LAYERS and all(shape in (least, most) for shape in shapes)
    if not is_wider or (least[0], *least[2:]) != (most[0], *most[2:]):
        other = next(model for model, shape in zip(models, shapes, strict=True) if shape != shapes[0])
        raise UnsupportedMerge(
            f'"{key}" has the shape {list(shapes[0])} in "{models[0].title}" and {list(other.slots[key].weight.shape)} '
            f'in "{other.title}": these are models of different sizes, which cannot be merged.'
        )
    narrow = tuple(weight if weight.shape == least else Columns(weight, _columns(least)) for weight in weights)
    return Partners(slot=slot, weights=narrow, wide=next(weight for weight in weights if weight.shape == most))


def _columns(shape: tuple[int, ...]) -> int:
    return shape[1] if len(shape) > 1 else 0


def _alone_notices(alone: Counter[tuple[str, str]], models: Sequence[Ingredient]) -> list[str]:
    titles = {model.title: {component(key) for key in model.slots} for model in models}
    return [
        f'"{title}" has no {_label(part)}; that of "{models[0].title}" is kept.'
        if part not in titles[title]
        else f'"{title}" lacks {count} of the weights of the {_label(part)} of "{models[0].title}"; they are kept.'
        for (part, title), count in alone.items()
    ]


def _add_missing(found: Alignment, models: Sequence[Ingredient]) -> None:
    """Whole parts that the first model lacks come from the first that has them; single weights are left out."""
    owned = {component(key) for key in models[0].slots}
    for model in models[1:]:
        parts = {component(key) for key in model.slots} - owned - {"", "network"}
        owned |= parts
        for part in sorted(parts):
            found.notices.append(f'"{models[0].title}" has no {_label(part)}; that of "{model.title}" is taken.')
        left: list[str] = []
        for key, slot in model.slots.items():
            if key in models[0].slots or key in found.copied or component(key) == "":
                continue
            if component(key) in parts or key.endswith(POSITION_IDS):
                found.copied[key] = slot
            else:
                left.append(key)
        if left:
            found.dropped += [key for key in left if key not in found.dropped]
            found.notices.append(
                f'{len(left)} weights of "{model.title}" have no partner in "{models[0].title}" and are left out '
                f"({', '.join(left[:3])}{', ...' if len(left) > 3 else ''})."
            )


def _label(part: str) -> str:
    return part if part in ("VAE", "network") else f"text encoder ({part.rstrip('.')})"
