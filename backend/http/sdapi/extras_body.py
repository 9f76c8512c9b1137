"""The bodies of extra-single-image and extra-batch-images, with A1111's names and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from backend.engine.upscale_request import MAX_PICTURES, MAX_SCALE, MAX_SIDE
from backend.engine.upscalers import Upscalers
from backend.errors import NotSupported, RequestError, UnknownName
from backend.field_checks import check_bool, check_int, check_number
from backend.http.sdapi.base64_picture import decoded_picture

_NONE = "None"
_FACTOR, _TARGET = 0, 1
_KNOWN = frozenset(
    {
        "resize_mode", "show_extras_results", "gfpgan_visibility", "codeformer_visibility", "codeformer_weight",
        "upscaling_resize", "upscaling_resize_w", "upscaling_resize_h", "upscaling_crop", "upscaler_1", "upscaler_2",
        "extras_upscaler_2_visibility", "upscale_first", "image", "imageList",
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ExtrasCall:
    """fields: of an UpscaleRequest, but for its pictures. files: pictures with the names that messages give them.

    notices: what of the body was not used.
    """

    fields: Mapping[str, Any]
    files: tuple[tuple[str, bytes], ...]
    notices: tuple[str, ...]


def read_extras(body: Mapping[str, Any], upscalers: Upscalers, *, is_batch: bool) -> ExtrasCall:
    """Raises RequestError, which names A1111's field, and NotSupported where faces are to be restored."""
    given = {name: value for name, value in body.items() if value is not None}
    _refuse_faces(given)
    return ExtrasCall(
        fields={**_size_fields(given), **_upscaler_fields(given, upscalers)},
        files=_list_of_files(given) if is_batch else (("image", decoded_picture("image", given.get("image"))),),
        notices=tuple(f"{name[:100]} is not known here and changes nothing." for name in given if name not in _KNOWN),
    )


def _size_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    mode: Any = given.get("resize_mode", _FACTOR)
    if isinstance(mode, bool) or mode not in (_FACTOR, _TARGET):
        raise RequestError("resize_mode", f"must be 0 (by a factor) or 1 (to a size), not {mode!r:.60}")
    if mode == _FACTOR:
        scale = given.get("upscaling_resize", 2)
        check_number("upscaling_resize", scale, 1, MAX_SCALE, optional=False)
        return {"scale": scale}
    width, height, crop = (
        given.get(name, usual)
        for name, usual in (("upscaling_resize_w", 512), ("upscaling_resize_h", 512), ("upscaling_crop", True))
    )
    check_int("upscaling_resize_w", width, 0, MAX_SIDE, optional=False)
    check_int("upscaling_resize_h", height, 0, MAX_SIDE, optional=False)
    check_bool("upscaling_crop", crop, optional=False)
    if not width and not height:
        raise RequestError("upscaling_resize_w", "and upscaling_resize_h are both 0; give a size in pixels")
    return {"width": width or None, "height": height or None, "crop": crop}


def _upscaler_fields(given: Mapping[str, Any], upscalers: Upscalers) -> dict[str, Any]:
    first = _found(given, "upscaler_1", upscalers)
    second = _found(given, "upscaler_2", upscalers)
    visibility = given.get("extras_upscaler_2_visibility", 0)
    check_number("extras_upscaler_2_visibility", visibility, 0, 1, optional=False)
    if "none" in (first, second):  # with no first one A1111 does nothing, with no second one it mixes nothing in
        return {"upscaler": first}
    return {"upscaler": first, "second_upscaler": second, "second_visibility": visibility}


def _found(given: Mapping[str, Any], field: str, upscalers: Upscalers) -> str:
    asked = given.get(field) or _NONE
    if not isinstance(asked, str):
        raise RequestError(field, f"must be the name of an upscaler, not {asked!r:.60}")
    try:
        return upscalers.find(asked).name
    except UnknownName as error:
        raise RequestError(field, str(error)) from error


def _refuse_faces(given: Mapping[str, Any]) -> None:
    for name, network in (("gfpgan_visibility", "GFPGAN"), ("codeformer_visibility", "CodeFormer")):
        value = given.get(name, 0)
        check_number(name, value, 0, 1, optional=False)
        if value:
            raise NotSupported(name, f"asks for {network}, and this version restores no faces. Send 0")


def _list_of_files(given: Mapping[str, Any]) -> tuple[tuple[str, bytes], ...]:
    listed: object = given.get("imageList")
    if not isinstance(listed, list) or not 1 <= len(cast("list[Any]", listed)) <= MAX_PICTURES:
        raise RequestError("imageList", f'must be a list of 1 to {MAX_PICTURES} objects {{"data", "name"}}')
    return tuple(_file(number, one) for number, one in enumerate(cast("list[Any]", listed)))


def _file(number: int, value: Any) -> tuple[str, bytes]:
    field = f"imageList[{number}]"
    if not isinstance(value, Mapping):
        raise RequestError(field, 'must be an object {"data", "name"}')
    content = cast("Mapping[str, Any]", value)
    name: object = content.get("name")
    return name[:200] if isinstance(name, str) and name else field, decoded_picture(field, content.get("data"))
