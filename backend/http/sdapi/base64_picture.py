"""Pictures inside of a JSON body, as A1111's clients send them."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from backend.errors import RequestError

_ADDRESSES = ("http:", "https:", "file:", "ftp:")


def decoded_picture(field: str, value: Any) -> bytes:
    """The file in a base64 text or a data URI. Addresses are refused: this server fetches nothing.

    Raises RequestError, which names `field`. Whether it is a picture is not looked at.
    """
    if not isinstance(value, str) or not value:
        raise RequestError(field, "must be a picture's file in base64")
    if value[:8].casefold().startswith(_ADDRESSES):
        raise RequestError(field, "is an address, and Emulsion fetches nothing. Send the picture's file in base64")
    head, comma, rest = value.partition(",")
    packed = rest if comma and head.startswith("data:") else value
    try:
        return base64.b64decode("".join(packed.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(field, f"is not base64 ({error})") from error
