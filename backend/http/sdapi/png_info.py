"""POST png-info: what a picture says about how it was made."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from fastapi import APIRouter

from backend.errors import RequestError
from backend.http.json_body import JsonObject
from backend.images.picture_text import read_picture_text
from backend.pipeline.infotext import read_infotext
from backend.pipeline.metadata import INFOTEXT_KEY


def png_info_router() -> APIRouter:
    router = APIRouter()

    @router.post("/png-info")
    def png_info(body: JsonObject) -> dict[str, Any]:
        texts = read_picture_text(_decoded(body.get("image")))
        text = texts.get(INFOTEXT_KEY, "")
        return {"info": text, "items": texts, "parameters": _parameters(text) if text else {}}

    return router


def _parameters(text: str) -> dict[str, str]:
    """A1111's: prompts among the rest, sizes also as two numbers."""
    infotext = read_infotext(text)
    prompts = {"Prompt": infotext.prompt, "Negative prompt": infotext.negative_prompt}
    return prompts | infotext.parameters | infotext.sizes()


def _decoded(image: Any) -> bytes:
    """The file in a base64 text or a data URI. Addresses are refused: this server fetches nothing."""
    if not isinstance(image, str) or not image:
        raise RequestError("image", "must be a picture's file in base64")
    if image[:8].casefold().startswith(("http:", "https:", "file:", "ftp:")):
        raise RequestError("image", "is an address, and Emulsion fetches nothing. Send the picture's file in base64")
    head, comma, rest = image.partition(",")
    packed = rest if comma and head.startswith("data:") else image
    try:
        return base64.b64decode("".join(packed.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError("image", f"is not base64 ({error})") from error
