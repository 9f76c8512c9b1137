"""The body of A1111's txt2img as a request of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backend.engine.catalog import Catalog
from backend.engine.library import Library
from backend.http.sdapi.generation_body import GenerationCall, read_body
from backend.http.sdapi.hires_body import NEUTRAL, names_read, read_hires


def read_txt2img(body: Mapping[str, Any], catalog: Catalog, library: Library) -> GenerationCall:
    """Read a body. None counts as not given.

    Raises RequestError in our words, NotSupported for what asks for more than we can do, and UnknownName.
    """
    read = read_body(body, catalog, library, reads=names_read(body), neutral=NEUTRAL)
    notices: list[str] = []
    if read.fields.get("init") is not None:
        notices.append("The infotext begins with a picture, which txt2img has none of: send it to img2img.")
    hires = read_hires(read.given, read.fields.get("hires"), catalog, library)
    return read.call({"init": None, "hires": hires}, notices)
