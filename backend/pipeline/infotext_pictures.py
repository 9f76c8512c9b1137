"""Pictures to begin with, second passes, tiles and details in an infotext: under A1111's keys where it has any."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from typing import Any

from backend.diffusion.latent_upscaling import BUILTIN as LATENT_UPSCALERS
from backend.errors import RequestError
from backend.field_checks import plain_values
from backend.init_image import InitImage, InpaintArea, MaskedContent, MaskInput, ResizeMode
from backend.pipeline.infotext_values import number_text, shown, split_size, without_hash
from backend.request import GenerationRequest
from backend.second_pass import Detailer, HiresFix, Tiles
from backend.upscaling.resampling import BUILTIN as RESAMPLERS

PICTURE = "Init image"  # full hashes; A1111 names neither
MASK = "Mask image"
_STRENGTH = "Denoising strength"  # of the second pass, unless there is a picture to begin with
_HIRES_STRENGTH = "Hires strength"
_HIRES_SIGNS = ("Hires upscale", "Hires scale", "Hires upscaler", "Hires resize")  # one of them, and there is one
_ANY = "0" * 64  # stands for a picture while values are checked
_USE_SAME = "Use same"  # how A1111 writes that something is the first pass's
# What says nothing without a picture that is named.
_OF_PICTURES = (
    *("Init image hash", "Resize mode", "Image CFG scale", "Noise multiplier", "Extra noise"),
    *("Mask mode", "Mask blur", "Masked content", "Inpaint area", "Masked area padding", "Conditional mask weight"),
)


@dataclass(frozen=True, kw_only=True)
class RestoredPictures:
    """fields: of a request, those that the text speaks of. keys: which were read. notices: what was not restored.

    settings: of a picture to begin with that the text does not name, by their places in a request, as
    "init.mask.blur"; a form can use them for the picture that it has.
    """

    fields: dict[str, Any] = field(default_factory=dict[str, Any])
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    keys: frozenset[str] = frozenset()
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """A key of the text, and the field that it is. others: keys of other programs, which are read, too.

    is_always_written: also at the field's default.
    """

    key: str
    field: str
    write: Callable[[Any], object] = str
    read: Callable[[str], Any] = str
    others: tuple[str, ...] = ()
    is_always_written: bool = False


def parameters_of(
    *, init: InitImage | None, hires: HiresFix | None, tiles: Tiles | None, detailers: Sequence[Detailer] = ()
) -> dict[str, object]:
    """The pairs of the infotext. What is at its default is left out where A1111 leaves it out.

    Of `hires`, sampler and schedule are written as they are: give their labels.
    """
    pairs: dict[str, object] = {}
    if init is not None:
        pairs |= {**_written(_INIT, init), PICTURE: init.picture}
        if init.mask is not None:
            pairs |= {**_written(_MASK, init.mask), MASK: init.mask.picture}
        if init.borders is not None:
            pairs["Borders"] = _json(init.borders)
    if hires is not None:
        pairs |= _written_hires(hires, _HIRES_STRENGTH if init else _STRENGTH)
    if tiles is not None:
        pairs["Tiles"] = _json(tiles)
    if detailers:
        pairs["Detailers"] = _json([_without_nothing(plain_values(one)) for one in detailers])
    return pairs


def pictures_from(parameters: Mapping[str, str]) -> RestoredPictures:
    """What the pairs of an infotext, whoever wrote it, say of pictures, second passes, tiles and details.

    Names of samplers, schedules, checkpoints and upscalers are as they were written, but for latent upscalers.
    """
    reading = _Reading(parameters)
    found: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    if (init := _read_init(reading)) is not None:
        found["init"] = init
    if any(key in parameters for key in _HIRES_SIGNS):
        found["hires"] = _read_hires(reading, has_init="init" in found)
    elif PICTURE not in parameters:
        settings = _read_settings(reading)
    if (tiles := reading.json("Tiles", lambda value: GenerationRequest(tiles=value).tiles)) is not None:
        found["tiles"] = tiles
    if (detailers := reading.json("Detailers", lambda value: GenerationRequest(detailers=value).detailers)) is not None:
        found["detailers"] = detailers
    reading.pass_over_the_rest()
    return RestoredPictures(
        fields=found, settings=settings, keys=frozenset(reading.keys), notices=tuple(reading.notices)
    )


class _Reading:
    """One reading of a text: which keys were read, and what is to be told."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self.parameters = parameters
        self.keys: set[str] = set()
        self.notices: list[str] = []

    def value(self, key: str, read: Callable[[str], Any]) -> Any:
        """What `read` makes of the key's text; None, and a notice, where that makes no sense; None without the key."""
        if (text := self.parameters.get(key)) is None:
            return None
        self.keys.add(key)
        try:
            return read(text)
        except RequestError as error:
            self.notices.append(f"{key}: {shown(text)} was not restored: {error.problem}.")
        except (ValueError, RecursionError):  # thousands of brackets
            self.notices.append(f"{key}: {shown(text)} was not restored; it is not what belongs there.")
        return None

    def json(self, key: str, check: Callable[[Any], Any]) -> Any:
        return self.value(key, lambda text: check(json.loads(text)))

    def fields(self, pairs: Sequence[_Pair], kind: Callable[..., object]) -> dict[str, Any]:
        """Fields of the value that `kind` makes of some of them."""
        found: dict[str, Any] = {}
        for pair in pairs:
            for key in (pair.key, *pair.others):
                value = self.value(key, lambda text, pair=pair: _checked(kind, pair.field, pair.read(text)))
                if value is not None:
                    found.setdefault(pair.field, value)
        return found

    def pass_over_the_rest(self) -> None:
        """What belongs to a picture that the text does not name, in one notice; and what says nothing."""
        lost = [key for key in (_STRENGTH, *_OF_PICTURES) if key in self.parameters]
        if lost and PICTURE not in self.parameters and not any(key in self.parameters for key in _HIRES_SIGNS):
            self.notices.append(f"{', '.join(lost)}: the text does not say which picture this began with.")
        self.keys.update(lost)
        self.keys.update(key for key, text in self.parameters.items() if _is_same_for_second_pass(key, text))


def _written(pairs: Sequence[_Pair], value: InitImage | MaskInput | HiresFix) -> dict[str, object]:
    defaults = {one.name: one.default for one in fields(value) if one.default is not MISSING}
    return {
        pair.key: pair.write(one)
        for pair in pairs
        if (one := getattr(value, pair.field)) != defaults.get(pair.field, MISSING) or pair.is_always_written
    }


def _written_hires(hires: HiresFix, strength_key: str) -> dict[str, object]:
    pairs: dict[str, object] = {strength_key: number_text(hires.denoising_strength)}
    has_size = hires.width is not None or hires.height is not None
    if has_size:
        pairs["Hires resize"] = f"{hires.width or 0}x{hires.height or 0}"
    if not has_size or hires.scale != HiresFix.scale:
        pairs["Hires upscale"] = number_text(hires.scale)
    return pairs | _written(_HIRES, hires)


def _read_init(reading: _Reading) -> InitImage | None:
    picture = reading.value(PICTURE, lambda text: InitImage(picture=text).picture)
    if picture is None:
        return None
    values = reading.fields(_INIT, partial(InitImage, picture=picture))
    mask = reading.value(MASK, lambda text: MaskInput(picture=text).picture)
    if mask is not None:
        found = reading.fields(_MASK, partial(MaskInput, picture=mask))
        values["mask"] = MaskInput(picture=mask, **found)
    borders = reading.json("Borders", lambda value: InitImage(picture=picture, borders=value).borders)
    return InitImage(picture=picture, borders=borders, **values)


def _read_settings(reading: _Reading) -> dict[str, Any]:
    """What A1111 says of img2img and inpainting, without the pictures."""
    init = reading.fields(_INIT, partial(InitImage, picture=_ANY))
    mask = reading.fields(_MASK, partial(MaskInput, picture=_ANY))
    return {f"init.{name}": value for name, value in init.items()} | {
        f"init.mask.{name}": value for name, value in mask.items()
    }


def _read_hires(reading: _Reading, *, has_init: bool) -> HiresFix:
    strengths = (_HIRES_STRENGTH,) if has_init else (_HIRES_STRENGTH, _STRENGTH)
    strength = _Pair(key=strengths[0], field="denoising_strength", read=float, others=strengths[1:])
    scale = _Pair(key="Hires upscale", field="scale", read=float, others=("Hires scale",))
    values = reading.fields((strength, scale, *_HIRES), HiresFix)
    size = reading.value("Hires resize", _read_sides)
    return HiresFix(**values, **(size or {}))


def _read_sides(text: str) -> dict[str, Any]:
    """Sides of "1024x0", in which 0 leaves one open. Raises ValueError, RequestError."""
    if (size := split_size(text)) is None:
        raise ValueError(text)
    sides: dict[str, Any] = {"width": int(size[0]) or None, "height": int(size[1]) or None}
    HiresFix(**sides)
    return sides


def _checked(kind: Callable[..., object], name: str, value: Any) -> Any:
    """The value as it came, or as `kind` turns it. Raises RequestError when it takes none like that."""
    return None if value is None else getattr(kind(**{name: value}), name)


def _is_same_for_second_pass(key: str, text: str) -> bool:
    return key.startswith("Hires ") and text.startswith(_USE_SAME)


def _json(value: Any) -> str:
    return json.dumps(plain_values(value), ensure_ascii=False, separators=(",", ":"))


def _without_nothing(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, [])}


def _read_flag(text: str) -> bool:
    if text not in ("True", "False"):
        raise ValueError(text)
    return text == "True"


def _read_name(text: str) -> str | None:
    return None if text.startswith(_USE_SAME) else text


def _read_checkpoint(text: str) -> str | None:
    return None if (name := _read_name(text)) is None else without_hash(name)


def _read_count(text: str) -> int | None:
    return int(text) or None  # A1111's 0 stands for the first pass's


def _one_of(labels: Mapping[Any, str]) -> tuple[Callable[[Any], str], Callable[[str], Any]]:
    """How members are written by their labels, and read again."""
    members = {label.casefold(): member for member, label in labels.items()}

    def read(text: str) -> Any:
        if (member := members.get(text.strip().casefold())) is None:
            raise ValueError(text)
        return member

    return (lambda member: labels[member]), read


def read_upscaler(text: str) -> str:
    """The name of an upscaler that A1111's label stands for; a network's stays as it is."""
    known = {label.casefold(): name for name, label in _UPSCALERS.items()}
    return known.get(text.strip().casefold(), text)


def _write_upscaler(name: str) -> str:
    return _UPSCALERS.get(name, name)


# As A1111 calls them. A network is called by its file.
_UPSCALERS = {one.name: one.label for one in (*LATENT_UPSCALERS, *RESAMPLERS)}
_write_resize, _read_resize = _one_of(
    {
        ResizeMode.STRETCH: "Just resize",
        ResizeMode.CROP: "Crop and resize",
        ResizeMode.FILL: "Resize and fill",
        ResizeMode.LATENT: "Just resize (latent upscale)",
    }
)
_write_content, _read_content = _one_of(
    {
        MaskedContent.FILL: "fill",
        MaskedContent.ORIGINAL: "original",
        MaskedContent.LATENT_NOISE: "latent noise",
        MaskedContent.LATENT_NOTHING: "latent nothing",
    }
)
_write_area, _read_area = _one_of({InpaintArea.WHOLE: "Whole picture", InpaintArea.MASKED: "Only masked"})
_write_mode, _read_mode = _one_of({False: "Inpaint masked", True: "Inpaint not masked"})

_INIT = (
    _Pair(key="Image CFG scale", field="image_guidance", write=number_text, read=float),
    _Pair(key=_STRENGTH, field="denoising_strength", write=number_text, read=float, is_always_written=True),
    _Pair(key="Exact steps", field="exact_steps", read=_read_flag),
    _Pair(key="Resize mode", field="resize", write=_write_resize, read=_read_resize, is_always_written=True),
    _Pair(key="Init upscaler", field="upscaler", write=_write_upscaler, read=read_upscaler),
    _Pair(key="Noise multiplier", field="noise_multiplier", write=number_text, read=float),
    _Pair(key="Extra noise", field="extra_noise", write=number_text, read=float),
    _Pair(key="Color correction", field="color_correction", read=_read_flag),
)
_MASK = (
    _Pair(key="Conditional mask weight", field="conditioning_weight", write=number_text, read=float),
    _Pair(key="Mask mode", field="inverted", write=_write_mode, read=_read_mode),
    _Pair(key="Mask blur", field="blur", write=number_text, read=float, is_always_written=True),
    _Pair(key="Masked content", field="content", write=_write_content, read=_read_content, is_always_written=True),
    _Pair(key="Inpaint area", field="area", write=_write_area, read=_read_area, is_always_written=True),
    _Pair(key="Masked area padding", field="padding", read=int),
    _Pair(key="Soft inpainting", field="soft", read=_read_flag, others=("Soft inpainting enabled",)),
)
_HIRES = (
    _Pair(key="Hires steps", field="steps", read=_read_count),
    _Pair(key="Hires upscaler", field="upscaler", write=_write_upscaler, read=read_upscaler, is_always_written=True),
    _Pair(key="Hires checkpoint", field="checkpoint", read=_read_checkpoint),
    _Pair(key="Hires sampler", field="sampler", read=_read_name),
    _Pair(key="Hires schedule type", field="schedule", read=_read_name),
    _Pair(key="Hires CFG Scale", field="guidance_scale", write=number_text, read=float),
    _Pair(key="Hires prompt", field="prompt"),
    _Pair(key="Hires negative prompt", field="negative_prompt"),
)
