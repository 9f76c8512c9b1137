"""What an axis of a plot can change: any field of a request, words of the prompt, LoRAs, and the merge."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from backend.engine.axis_values import Value, ValueKind
from backend.errors import RequestError
from backend.init_image import Borders, InitImage, MaskInput
from backend.merging.rule import Rule
from backend.registry import Registry
from backend.request import GenerationRequest
from backend.second_pass import HiresFix, Tiles


class Cost(IntEnum):
    """What another value costs; the dearest axis changes last."""

    NOTHING = 0
    PROMPT = 1  # is read by the text encoders again
    ADAPTERS = 2
    MODEL = 3


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """One value of an axis. values: all of them. target: what of the kind is meant, "" for kinds that need none."""

    value: Value
    values: tuple[Value, ...]
    target: str
    rules: Registry[Rule]


Change = Callable[[GenerationRequest, Chosen], GenerationRequest]


@dataclass(frozen=True, kw_only=True)
class AxisKind:
    """name: of the field, dotted inside of `init` and its like. label: A1111's where it has one.

    target: what a target of it is, for the user; "" for kinds without. needs_target: whether it must be given.
    expand: makes more values of those that were written.
    """

    name: str
    label: str
    aliases: tuple[str, ...] = ()
    values: ValueKind
    cost: Cost
    change: Change
    group: str = ""
    target: str = ""
    needs_target: bool = False
    expand: Callable[[tuple[Value, ...], str], tuple[Value, ...]] = lambda values, where: values

    @property
    def has_names(self) -> bool:
        """Whether a value says by itself what it is."""
        return self.values in (ValueKind.NAME, ValueKind.TEXT)


_PARTS: dict[str, type] = {
    "init": InitImage,
    "init.mask": MaskInput,
    "init.borders": Borders,
    "hires": HiresFix,
    "tiles": Tiles,
}
_GROUPS = {
    "": "Picture",
    "init": "Picture to begin with",
    "init.mask": "Mask",
    "init.borders": "Borders",
    "hires": "Hires fix",
    "tiles": "Tiles",
}
_ABSENT = {
    "init": "there is no picture to begin with",
    "init.mask": "there is no mask",
    "init.borders": "there are no borders",
    "hires": "the hires fix is off",
    "tiles": "there are no tiles",
}
_LEFT_OUT = frozenset({"batch_size", "batch_count", "skips_missing_adapters"})
_OF_MODEL = frozenset({"checkpoint", "vae", "refiner", "use_ema", "prediction", "hires.checkpoint"})
_OF_PROMPT = frozenset({"prompt", "negative_prompt", "clip_skip", "emphasis", "hires.prompt", "hires.negative_prompt"})
_NAMES = frozenset({"checkpoint", "vae", "refiner", "sampler", "schedule", "emphasis", "noise_source", "upscaler"})
_MAY_BE_NONE = frozenset({"vae", "refiner"})
_LABELS = {
    "seed": "Seed",
    "steps": "Steps",
    "guidance_scale": "CFG Scale",
    "sampler": "Sampler",
    "schedule": "Schedule type",
    "checkpoint": "Checkpoint name",
    "vae": "VAE",
    "clip_skip": "Clip skip",
    "use_ema": "Averaged weights",
    "refiner": "Refiner checkpoint",
    "refiner_switch": "Refiner switch at",
    "noise_source": "RNG source",
    "init.picture": "Picture",
    "init.denoising_strength": "Denoising",
    "init.noise_multiplier": "Initial noise multiplier",
    "init.extra_noise": "Extra noise",
    "init.image_guidance": "Image CFG Scale",
    "init.mask.conditioning_weight": "Cond. Image Mask Weight",
    "init.mask.picture": "Mask",
    "hires.steps": "Hires steps",
    "hires.sampler": "Hires sampler",
    "hires.upscaler": "Hires upscaler",
}


def field_kinds() -> Iterator[AxisKind]:
    """One kind for each field of a request that is a number, a name, a switch or a text."""
    yield from _kinds_in(GenerationRequest, "")
    for part, kind in _PARTS.items():
        yield from _kinds_in(kind, part)


def _kinds_in(kind: type, part: str) -> Iterator[AxisKind]:
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name = f"{part}.{field.name}" if part else field.name
        values = _value_kind(field.name, hints[field.name])
        if values is None or name in _LEFT_OUT:
            continue
        yield AxisKind(
            name=name,
            label=_LABELS.get(name) or _in_words(name),
            values=values,
            cost=Cost.MODEL if name in _OF_MODEL else Cost.PROMPT if name in _OF_PROMPT else Cost.NOTHING,
            change=_changes(name),
            group=_GROUPS[part],
        )


def _value_kind(field: str, hint: Any) -> ValueKind | None:
    """None for what no single value is."""
    found = [one for one in get_args(hint) if one is not NoneType] if _is_union(hint) else [hint]
    if len(found) != 1 or get_origin(found[0]) is not None or not isinstance(found[0], type):
        return None
    if issubclass(found[0], Enum):
        return ValueKind.NAME
    kinds = {bool: ValueKind.SWITCH, int: ValueKind.WHOLE, float: ValueKind.NUMBER}
    if found[0] is str:
        return ValueKind.NAME if field in _NAMES else ValueKind.TEXT
    return kinds.get(found[0])


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def _in_words(name: str) -> str:
    part, _, field = name.rpartition(".")
    words = field.replace("_", " ")
    return f"{part.rpartition('.')[2].capitalize()} {words}" if part else words.capitalize()


def _changes(name: str) -> Change:
    def change(request: GenerationRequest, chosen: Chosen) -> GenerationRequest:
        return with_field(request, name, chosen.value)

    return change


def with_field(request: GenerationRequest, name: str, value: Value) -> GenerationRequest:
    """The request with one field changed, dotted inside of its parts.

    Raises RequestError for a value that does not belong there, and when the part is not used.
    """
    part = name.rpartition(".")[0]
    given = None if name in _MAY_BE_NONE and str(value).casefold() in ("none", "automatic") else value
    if not part:
        # A checkpoint of its own takes the place of what makes the model.
        others: dict[str, Any] = {"recipe": None} if name == "checkpoint" else {}
        return dataclasses.replace(request, **{name: given}, **others)
    return _replaced(request, name, 0, given)


def _replaced(holder: Any, name: str, depth: int, value: Any) -> Any:
    path = name.split(".")
    if depth == len(path) - 1:
        return dataclasses.replace(holder, **{path[depth]: value})
    inner: Any = getattr(holder, path[depth])
    if inner is None:
        raise RequestError(name, f"{_ABSENT['.'.join(path[: depth + 1])]}, so that this has no effect")
    return dataclasses.replace(holder, **{path[depth]: _replaced(inner, name, depth + 1, value)})
