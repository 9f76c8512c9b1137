"""Forge's `forge_additional_modules`: VAEs and text encoders in one list, by name or by a path on any machine."""

from __future__ import annotations

from pathlib import PureWindowsPath
from typing import Any, cast

from backend.engine.library import Library
from backend.errors import RequestError, UnknownName


def fields_of_modules(value: Any, library: Library) -> dict[str, Any]:
    """The fields of a request that the list stands for; an empty one leaves the checkpoint its own parts.

    Raises RequestError for a name that neither a VAE nor a text encoder has, and for a second VAE.
    """
    if not isinstance(value, list) or not all(isinstance(name, str) for name in cast(list[Any], value)):
        raise RequestError("forge_additional_modules", "must be a list of names")
    vaes: list[str] = []
    encoders: list[str] = []
    for asked in cast(list[str], value):
        name = PureWindowsPath(asked).name  # which knows both kinds of slashes
        if (encoder := _text_encoder(name, library)) is not None:
            encoders.append(encoder)
        elif (vae := _vae(name, library)) is not None:
            vaes.append(vae)
        else:
            known = [*(entry.name for entry in library.vaes()), *(entry.name for entry in library.text_encoders())]
            raise RequestError("forge_additional_modules", str(UnknownName("VAE or text encoder", name, known)))
    if len(vaes) > 1:
        raise RequestError("forge_additional_modules", f"names two VAEs, {vaes[0]} and {vaes[1]}; name one")
    fields: dict[str, Any] = {"vae": vaes[0]} if vaes else {}
    return {**fields, "text_encoders": encoders} if encoders else fields


def _text_encoder(name: str, library: Library) -> str | None:
    try:
        return library.find_text_encoder(name).name
    except UnknownName:
        return None


def _vae(name: str, library: Library) -> str | None:
    try:
        return library.find_vae(name).name
    except UnknownName:
        return None
