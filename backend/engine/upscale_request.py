"""What a user asks of upscaling: which pictures, how large they become, and by what."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from backend.errors import RequestError
from backend.field_checks import check_bool, check_int, check_name, check_number, check_picture, plain_values

MAX_PICTURES = 500
MAX_SCALE = 16.0
MAX_SIDE = 16_384
DEFAULT_SCALE = 4.0


@dataclass(frozen=True, kw_only=True)
class UpscaleRequest:
    """Stored pictures made larger, each as a result of its own.

    pictures: SHA-256 of their files. scale: how many times as large along a side; it counts where neither width nor
    height is given. width, height: pixels; with one of them the other one follows from the picture.
    crop: with both, the middle of a picture that covers them; else the whole of it, which may be larger along a side.
    upscaler: by name; None for the first network that there is, or else Lanczos.
    second_upscaler, second_visibility: another one, and how much of its result is mixed in.
    """

    kind: ClassVar[str] = "upscale"
    pictures: tuple[str, ...]
    scale: float = DEFAULT_SCALE
    width: int | None = None
    height: int | None = None
    crop: bool = True
    upscaler: str | None = None
    second_upscaler: str | None = None
    second_visibility: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(cast(object, self.pictures), list | tuple) or not 1 <= len(self.pictures) <= MAX_PICTURES:
            raise RequestError("pictures", f"must be a list of 1 to {MAX_PICTURES} stored pictures")
        for picture in self.pictures:
            check_picture("pictures", picture)
        object.__setattr__(self, "pictures", tuple(self.pictures))
        check_number("scale", self.scale, 1, MAX_SCALE, optional=False)
        check_int("width", self.width, 1, MAX_SIDE)
        check_int("height", self.height, 1, MAX_SIDE)
        check_bool("crop", self.crop, optional=False)
        check_name("upscaler", self.upscaler)
        check_name("second_upscaler", self.second_upscaler)
        check_number("second_visibility", self.second_visibility, 0, 1, optional=False)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> UpscaleRequest:
        """Read JSON values. Raises RequestError."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(str(name)[:60] for name in values.keys() - known):
            raise RequestError(unknown[0], f"is not known here. Known: {', '.join(sorted(known))}")
        if "pictures" not in values:
            raise RequestError("pictures", "is missing; name stored pictures by their SHA-256")
        return cls(**values)

    def to_mapping(self) -> dict[str, Any]:
        return plain_values(self)

    @property
    def mixes_second(self) -> bool:
        return self.second_upscaler is not None and self.second_visibility > 0
