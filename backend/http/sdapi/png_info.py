"""POST png-info: what a picture says about how it was made."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from backend.http.json_body import JsonObject
from backend.http.sdapi.base64_picture import decoded_picture
from backend.images.picture_text import read_picture_text
from backend.pipeline.infotext import read_infotext
from backend.pipeline.metadata import INFOTEXT_KEY


def png_info_router() -> APIRouter:
    router = APIRouter()

    @router.post("/png-info")
    def png_info(body: JsonObject) -> dict[str, Any]:
        texts = read_picture_text(decoded_picture("image", body.get("image")))
        text = texts.get(INFOTEXT_KEY, "")
        return {"info": text, "items": texts, "parameters": _parameters(text) if text else {}}

    return router


def _parameters(text: str) -> dict[str, str]:
    """A1111's: prompts among the rest, sizes also as two numbers."""
    infotext = read_infotext(text)
    prompts = {"Prompt": infotext.prompt, "Negative prompt": infotext.negative_prompt}
    return prompts | infotext.parameters | infotext.sizes()
