"""The body of A1111's img2img as a request of ours. What it leaves out is as A1111 has it, but for the size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from backend.engine.catalog import Catalog
from backend.engine.library import Library
from backend.engine.picture_store import PictureStore
from backend.errors import BadImage, NotSupported, RequestError
from backend.http.sdapi.base64_picture import decoded_picture
from backend.http.sdapi.generation_body import GenerationBody, GenerationCall, read_body, whole
from backend.http.sdapi.hires_body import STRENGTH
from backend.init_image import InitImage, InpaintArea, MaskedContent, MaskInput, ResizeMode
from backend.pipeline.infotext_pictures import read_upscaler

_RESIZE = (ResizeMode.STRETCH, ResizeMode.CROP, ResizeMode.FILL, ResizeMode.LATENT)
_CONTENT = (MaskedContent.FILL, MaskedContent.ORIGINAL, MaskedContent.LATENT_NOISE, MaskedContent.LATENT_NOTHING)
_BLUR = 4
_SCRIPTS, _SOFT = "alwayson_scripts", "soft inpainting"
_READS = frozenset(
    {"init_images", "resize_mode", "denoising_strength", "image_cfg_scale", "initial_noise_multiplier", "mask"}
    | {"mask_blur", "mask_blur_x", "mask_blur_y", "inpainting_fill", "inpaint_full_res", "inpaint_full_res_padding"}
    | {"inpainting_mask_invert", "include_init_images"}
)
_NEUTRAL: dict[str, tuple[object, ...]] = {"enable_hr": (False,), "mask_round": (True,), "latent_mask": ("",)}
_NUMBERS = {
    "denoising_strength": "denoising_strength",
    "image_cfg_scale": "image_guidance",
    "initial_noise_multiplier": "noise_multiplier",
}
_SETTINGS = {
    "initial_noise_multiplier": "noise_multiplier",
    "img2img_extra_noise": "extra_noise",
    "img2img_fix_steps": "exact_steps",
    "img2img_color_correction": "color_correction",
    "upscaler_for_img2img": "upscaler",
    "inpainting_mask_weight": "conditioning_weight",
}
_OF_MASK = "conditioning_weight"
Member = TypeVar("Member")
Made = TypeVar("Made")


def read_img2img(body: Mapping[str, Any], catalog: Catalog, library: Library, pictures: PictureStore) -> GenerationCall:
    """Read a body, and put its pictures into the store. None counts as not given, and so does what hires fix reads.

    Raises RequestError, NotSupported for what asks for more than we can do, UnknownName, and OutputError.
    """
    reads = _READS | {name for name in body if name.startswith("hr_")}
    if _soft_inpainting(body) is not None:
        reads |= {_SCRIPTS}
    read = read_body(body, catalog, library, reads=reads, neutral=_NEUTRAL, settings=_SETTINGS)
    read.call({"init": None, "hires": None})  # what is wrong with the rest is told before a picture is kept
    return read.call({"init": _init(read, pictures), "hires": None})


def _init(read: GenerationBody, pictures: PictureStore) -> InitImage:
    """What the infotext says of a picture to begin with counts less than what is given."""
    given = read.given
    of_infotext: InitImage | None = read.fields.get("init")
    settings = {_SETTINGS[name]: _setting(name, value) for name, value in read.settings.items()}
    weight = settings.pop(_OF_MASK, 1.0)
    fields: dict[str, Any] = {"denoising_strength": STRENGTH, "resize": ResizeMode.STRETCH}
    fields |= {} if of_infotext is None else vars(of_infotext)
    fields |= settings
    fields |= {ours: given[theirs] for theirs, ours in _NUMBERS.items() if theirs in given}
    if "resize_mode" in given:
        fields["resize"] = _member("resize_mode", given["resize_mode"], _RESIZE)
    if "init_images" in given or of_infotext is None:
        fields |= {"picture": _stored("init_images", _only_one(given.get("init_images")), pictures), "borders": None}
        fields["mask"] = None
    if given.get("mask"):
        fields["mask"] = _mask(given, weight, _stored("mask", given["mask"], pictures))
    return _told("init", lambda: InitImage(**fields))


def _mask(given: Mapping[str, Any], conditioning_weight: Any, picture: str) -> MaskInput:
    is_cut_out = _is_on("inpaint_full_res", given.get("inpaint_full_res", True))
    fields: dict[str, Any] = {
        "picture": picture,
        "inverted": _is_on("inpainting_mask_invert", given.get("inpainting_mask_invert", 0)),
        "blur": _blur(given),
        "content": _member("inpainting_fill", given.get("inpainting_fill", 0), _CONTENT),
        "area": InpaintArea.MASKED if is_cut_out else InpaintArea.WHOLE,
        "padding": whole(given.get("inpaint_full_res_padding", 0)),
        "conditioning_weight": conditioning_weight,
        "soft": _soft_inpainting(given) or False,
    }
    return _told("init.mask", lambda: MaskInput(**fields))


def _soft_inpainting(given: Mapping[str, Any]) -> bool | None:
    """Whether A1111's script of this name is on; None where another one is asked for, or none.

    Its first argument says so, or an object does. Its numbers belong to another method and are passed over.
    """
    scripts = given.get(_SCRIPTS)
    if not isinstance(scripts, dict) or [name.casefold() for name in cast("dict[str, Any]", scripts)] != [_SOFT]:
        return None
    (script,) = cast("dict[str, Any]", scripts).values()
    args: Any = cast("dict[str, Any]", script).get("args") if isinstance(script, dict) else None
    first: Any = cast("list[Any]", args)[0] if isinstance(args, list) and args else None
    is_on: Any = cast("dict[str, Any]", first).get("Soft inpainting") if isinstance(first, dict) else first
    if not isinstance(is_on, bool):
        raise RequestError(_SCRIPTS, 'needs {"Soft inpainting": {"args": [true]}} or false')
    return is_on


def _blur(given: Mapping[str, Any]) -> Any:
    """`mask_blur` is for both directions; the other two are its later form."""
    if "mask_blur" in given:
        return given["mask_blur"]
    blurs = given.get("mask_blur_x", _BLUR), given.get("mask_blur_y", _BLUR)
    if blurs[0] != blurs[1]:
        raise NotSupported("mask_blur_y", "a mask is blurred in both directions alike; give both the same value")
    return blurs[0]


def _stored(field: str, value: Any, pictures: PictureStore) -> str:
    """The hash of the picture. Raises RequestError for what is none, OutputError."""
    try:
        return pictures.add(decoded_picture(field, value), field).sha256
    except BadImage as error:
        raise RequestError(field, error.problem) from error


def _only_one(value: Any) -> Any:
    """A1111 makes one batch of several; here each is a job of its own, so that one cannot spoil the others."""
    if value is None:
        raise RequestError("init_images", "is missing: img2img begins with a picture. Send its file in base64")
    if not isinstance(value, list):
        raise RequestError("init_images", f"must be a list of pictures in base64, not {type(value).__name__}")
    images = cast("list[Any]", value)
    if len(images) != 1:
        raise RequestError("init_images", f"holds {len(images)} pictures; send one in each request")
    return images[0]


def _setting(name: str, value: Any) -> Any:
    if name != "upscaler_for_img2img":
        return value
    if not isinstance(value, str):
        raise RequestError(name, f"must be a name, not {type(value).__name__}")
    return read_upscaler(value) if value and value != "None" else None


def _member(field: str, value: Any, members: Sequence[Member]) -> Member:
    """A1111 numbers them from 0."""
    number = whole(value)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(members):
        raise RequestError(field, f"must be a whole number from 0 to {len(members) - 1}, not {value!r:.50}")
    return members[number]


def _is_on(field: str, value: Any) -> bool:
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    raise RequestError(field, f"must be true, false, 0 or 1, not {value!r:.50}")


def _told(part: str, make: Callable[[], Made]) -> Made:
    """Fields in errors by their full names in a request."""
    try:
        return make()
    except RequestError as error:
        raise RequestError(f"{part}.{error.field}", error.problem) from error
