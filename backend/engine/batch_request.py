"""What a user asks for when many pictures are to be made from: one request, and a folder or uploaded pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from backend.engine.loopback import Loopback, check_round_trip
from backend.errors import RequestError
from backend.field_checks import check_name, check_picture, checked_value, plain_values
from backend.init_image import InitImage, MaskInput
from backend.request import GenerationRequest

MAX_ITEMS = 10_000
READ_FIELDS = (
    "prompt",
    "negative_prompt",
    "seed",
    "steps",
    "sampler",
    "schedule",
    "guidance_scale",
    "clip_skip",
    "checkpoint",
    "vae",
    "size",
)
_NO_PICTURE = "0" * 64  # stands in the base request, where every item has a picture of its own


@dataclass(frozen=True, kw_only=True)
class BatchItem:
    """picture, mask: hashes of stored pictures, or names of files in the folders. name: what the user calls it."""

    picture: str
    mask: str = ""

    @property
    def name(self) -> str:
        return self.picture[:16] if len(self.picture) == 64 and "." not in self.picture else self.picture


@dataclass(frozen=True, kw_only=True)
class BatchRequest:
    """A picture of `request` for every item, which takes the place of the picture to begin with.

    folder, mask_folder: on the machine that Emulsion runs on; "" for uploaded pictures.
    mask: one stored mask for all of them. items: filled in when the batch is queued, where a folder is given.
    reads: fields that each picture says itself, as far as it does; "size" is width and height.
    """

    request: GenerationRequest
    folder: str = ""
    items: tuple[BatchItem, ...] = ()
    mask_folder: str = ""
    mask: str = ""
    reads: tuple[str, ...] = ()
    loopback: Loopback | None = None

    def __post_init__(self) -> None:
        request = self.request
        for field in ("folder", "mask_folder", "mask"):
            check_name(field, getattr(self, field), optional=False)
        if not self.folder and not self.items:
            raise RequestError("pictures", "are missing: name a folder, or uploaded pictures")
        if len(self.items) > MAX_ITEMS:
            raise RequestError("pictures", f"are {len(self.items)}; at most {MAX_ITEMS} are possible")
        if self.mask:
            check_picture("mask", self.mask)
        if self.mask and self.mask_folder:
            raise RequestError("mask", "is there beside mask_folder; give one of them")
        if unknown := sorted(set(self.reads) - set(READ_FIELDS)):
            raise RequestError("reads", f'"{unknown[0]:.60}" cannot be read. Known: {", ".join(READ_FIELDS)}')
        if request.init is None:
            request = dataclasses.replace(request, init=InitImage(picture=_NO_PICTURE))
        if request.batch_size * request.batch_count != 1:
            request = dataclasses.replace(request, batch_size=1, batch_count=1)
        object.__setattr__(self, "request", request)
        if self.loopback is not None:
            check_round_trip(request)

    @property
    def sizes(self) -> tuple[int, ...]:
        return (len(self.items), *([] if self.loopback is None else [self.loopback.rounds]))

    def labels(self, axis: int) -> list[str]:
        if axis:
            return [f"Round {number + 1}" for number in range(self.sizes[1])]
        return [item.name for item in self.items]

    def item_request(self, picture: str, mask: str) -> GenerationRequest:
        """The request for an item; picture and mask are hashes, the mask "" for none of its own."""
        assert self.request.init is not None
        before = self.request.init.mask
        masked = before
        if mask:
            masked = MaskInput(picture=mask) if before is None else dataclasses.replace(before, picture=mask)
        init = dataclasses.replace(self.request.init, picture=picture, mask=masked)
        return dataclasses.replace(self.request, init=init)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> BatchRequest:
        """Read JSON values. `pictures` are hashes of uploaded pictures. Raises RequestError."""
        known = {"request", "folder", "pictures", "items", "mask_folder", "mask", "reads", "loopback"}
        if unknown := sorted(str(name)[:60] for name in values.keys() - known):
            raise RequestError(unknown[0], f"is not known here. Known: {', '.join(sorted(known - {'items'}))}")
        request = values.get("request")
        if not isinstance(request, Mapping):
            raise RequestError("request", "must be an object, as a job's request")
        pictures = _list(values.get("pictures", []), "pictures")
        for sha256 in pictures:
            check_picture("pictures", sha256)
        items = [BatchItem(picture=sha256) for sha256 in pictures]
        items += [checked_value("items", BatchItem, item) for item in _list(values.get("items", []), "items")]
        reads = _list(values.get("reads", []), "reads")
        if not all(isinstance(field, str) for field in reads):
            raise RequestError("reads", "must be a list of fields")
        loopback = values.get("loopback")
        return cls(
            request=GenerationRequest.from_mapping(cast("Mapping[str, Any]", request)),
            folder=values.get("folder", ""),
            items=tuple(items),
            mask_folder=values.get("mask_folder", ""),
            mask=values.get("mask", ""),
            reads=tuple(reads),
            loopback=None if loopback is None else checked_value("loopback", Loopback, loopback),
        )

    def to_mapping(self) -> dict[str, Any]:
        """JSON values; `from_mapping` gives the same request back."""
        return {
            "request": self.request.to_mapping(),
            "folder": self.folder,
            "items": [plain_values(item) for item in self.items],
            "mask_folder": self.mask_folder,
            "mask": self.mask,
            "reads": list(self.reads),
            "loopback": plain_values(self.loopback),
        }


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise RequestError(where, "must be a list")
    return list(cast("list[Any]", value))
