"""The pictures of a batch: found in folders, checked and stored when their turn comes, and what they say themselves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from backend.diffusion.names import split_sampler_name
from backend.engine.batch_request import MAX_ITEMS, BatchItem, BatchRequest
from backend.engine.catalog import Catalog
from backend.errors import BadImage, RequestError
from backend.images.picture_text import read_picture_text
from backend.images.safe_open import MAX_BYTES
from backend.pipeline.infotext import read_infotext, request_from_infotext
from backend.pipeline.metadata import INFOTEXT_KEY, REQUEST_KEY
from backend.request import GenerationRequest

_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp"})


class BatchItems:
    """keep: stores a picture's file under the name that errors call it, and gives its hash. data: of a stored one."""

    def __init__(self, catalog: Catalog, keep: Callable[[bytes, str], str], data: Callable[[str], bytes]) -> None:
        self._catalog = catalog
        self._keep = keep
        self._data = data

    def found(self, batch: BatchRequest) -> BatchRequest:
        """The batch with the pictures of its folder as items. Raises RequestError."""
        if batch.mask_folder:
            _pictures_in(batch.mask_folder, "mask_folder")
        if not batch.folder:
            return batch
        names = _pictures_in(batch.folder, "folder")
        return dataclasses.replace(batch, items=tuple(BatchItem(picture=name) for name in names))

    def request(self, batch: BatchRequest, index: int) -> GenerationRequest:
        """What is made of one item, whose picture is stored now.

        Raises BadImage for a broken picture, RequestError for one without a mask or with settings that cannot be.
        """
        item = batch.items[index]
        if batch.folder:
            data = _read(Path(batch.folder) / item.picture)
            picture = self._keep(data, item.picture)
        else:
            picture, data = item.picture, self._data(item.picture)
        request = batch.item_request(picture, self._mask(batch, item))
        return self._with_own(request, batch.reads, data, item.name) if batch.reads else request

    def _mask(self, batch: BatchRequest, item: BatchItem) -> str:
        if not batch.mask_folder:
            return batch.mask
        path = _mask_for(Path(batch.mask_folder), Path(item.picture).stem)
        return self._keep(_read(path), path.name)

    def _with_own(self, request: GenerationRequest, reads: Sequence[str], data: bytes, name: str) -> GenerationRequest:
        """With what the picture says of itself, as far as it does."""
        own = self._said_in(read_picture_text(data, name))
        wanted = [field for read in reads for field in (("width", "height") if read == "size" else (read,))]
        changes = {field: own[field] for field in wanted if field in own}
        if "checkpoint" in changes:
            changes["recipe"] = None
        return dataclasses.replace(request, **changes)

    def _said_in(self, texts: Mapping[str, str]) -> dict[str, Any]:
        if (exact := _exact_request(texts.get(REQUEST_KEY, ""))) is not None:
            return exact
        if not texts.get(INFOTEXT_KEY):
            return {}
        read = read_infotext(texts[INFOTEXT_KEY])
        fields = request_from_infotext(read).fields
        if isinstance(sampler := fields.get("sampler"), str):
            found, schedule = split_sampler_name(sampler, self._catalog.samplers, self._catalog.schedules)
            fields = {**fields, "sampler": found.name}
            if schedule and "Schedule type" not in read.parameters:  # older texts have it in the sampler's name
                fields["schedule"] = schedule
        return fields


def _exact_request(text: str) -> dict[str, Any] | None:
    """The fields of the request in our own metadata; None where there is none that this version reads."""
    try:
        content: Any = json.loads(text)
        request = GenerationRequest.from_mapping(cast("Mapping[str, Any]", content["request"]))
    except (ValueError, TypeError, KeyError, RecursionError, RequestError):
        return None
    return {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}


def _pictures_in(folder: str, field: str) -> list[str]:
    """Names of the picture files in a folder, in their order. Raises RequestError."""
    path = Path(folder)
    if not path.is_absolute() or not path.is_dir():
        raise RequestError(
            field, f'must be the whole path of a folder on the machine of Emulsion; "{folder:.200}" is none'
        )
    try:
        names = [one.name for one in path.iterdir() if one.suffix.casefold() in _ENDINGS and one.is_file()]
    except OSError as error:
        raise RequestError(field, f"cannot be read ({error.strerror}); change its permissions") from error
    if not names:
        raise RequestError(field, f"{path.name} holds no PNG, JPEG or WebP files")
    if len(names) > MAX_ITEMS:
        raise RequestError(field, f"{path.name} holds {len(names)} pictures; at most {MAX_ITEMS} are possible")
    return sorted(names, key=lambda name: (name.casefold(), name))


def _mask_for(folder: Path, stem: str) -> Path:
    """The mask of the picture's name, or the only one that there is. Raises RequestError."""
    # Asked for by name: a folder of thousands is not read again for each of thousands of pictures.
    named = (folder / f"{stem}{ending}" for lower in sorted(_ENDINGS) for ending in (lower, lower.upper()))
    if (same := next((path for path in named if path.is_file()), None)) is not None:
        return same
    names = _pictures_in(str(folder), "mask_folder")
    if len(names) != 1:
        raise RequestError("mask_folder", f"has no mask called {stem:.100}")
    return folder / names[0]


def _read(path: Path) -> bytes:
    """Raises BadImage."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadImage(path, f"it is larger than {MAX_BYTES // 2**20} MiB.")
        return path.read_bytes()
    except OSError as error:
        raise BadImage(path, f"it cannot be read ({error.strerror}).") from error
