"""What the editor of masks holds: stored pictures by their hashes, and new borders, as JSON text.

The page keeps this text, and sends it; nothing in it is trusted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from backend.errors import RequestError
from backend.field_checks import check_int, check_picture
from backend.init_image import MAX_BORDER

_SIDES = ("left", "top", "right", "bottom")


@dataclass(frozen=True, kw_only=True)
class CanvasValue:
    """What is on a canvas.

    picture: hash of the picture, with the colours that were painted on it. mask: hash of a grey picture of the same
    size, white where it is to change; None where nothing is masked.
    width, height: of the picture in pixels; None where nobody has looked yet.
    borders: left, top, right and bottom in pixels; None for no new ones.
    base, paint: hashes of the picture without the colours, and of the colours; None where none were painted.
    """

    picture: str | None = None
    mask: str | None = None
    width: int | None = None
    height: int | None = None
    borders: tuple[int, int, int, int] | None = None
    base: str | None = None
    paint: str | None = None

    def __post_init__(self) -> None:
        for name in ("picture", "mask", "base", "paint"):
            if getattr(self, name) is not None:
                check_picture(name, getattr(self, name))
        check_int("width", self.width, 1, 65_536)
        check_int("height", self.height, 1, 65_536)
        for side, pixels in zip(_SIDES, self.borders or (), strict=bool(self.borders)):
            check_int(f"borders.{side}", pixels, 0, MAX_BORDER, optional=False)

    def text(self) -> str:
        """The value of the component; "" for an empty canvas."""
        if self.picture is None:
            return ""
        borders = dict(zip(_SIDES, self.borders, strict=True)) if self.borders else None
        shown = {"picture": self.picture, "mask": self.mask, "width": self.width, "height": self.height}
        painted = {"base": self.base, "paint": self.paint} if self.paint else {}
        return json.dumps({**shown, "borders": borders, **painted})


def read_canvas(field: str, text: object) -> CanvasValue:
    """What the component sent as the field called `field`. Raises RequestError."""
    if text in (None, ""):
        return CanvasValue()
    try:
        given: object = json.loads(text) if isinstance(text, str) else text
    except ValueError as error:
        raise RequestError(field, f"is no JSON: {error}") from error
    if not isinstance(given, Mapping):
        raise RequestError(field, f"must be an object, not {type(given).__name__}")
    values = cast("Mapping[str, Any]", given)
    names = ("picture", "mask", "width", "height", "base", "paint")
    try:
        return CanvasValue(
            **{name: values.get(name) for name in names},  # pyright: ignore[reportArgumentType]
            borders=_borders(values.get("borders")),
        )
    except RequestError as error:
        raise RequestError(f"{field}.{error.field}", error.problem) from error


def _borders(given: object) -> tuple[int, int, int, int] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise RequestError("borders", f"must be an object, not {type(given).__name__}")
    sides = cast("Mapping[str, Any]", given)
    left, top, right, bottom = (sides.get(side, 0) for side in _SIDES)
    return (left, top, right, bottom) if any((left, top, right, bottom)) else None
