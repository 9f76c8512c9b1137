"""LoRAs of FLUX that kohya's trainer trained as several side by side, and wrote as one (`split_qkv`).

Queries, keys and values (and the feed-forward layer of single blocks) had products of their own, each with a scale of
alpha / rank. In the file they are one product of three (or four) times the rank, with the same alpha, so alpha / rank
of the file is a third (or a quarter) of what was trained. The metadata say which files these are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

_ARGUMENTS = "ss_network_args"
_MAX_CHARACTERS = 2**16
_PARTS = {"_img_attn_qkv": 3, "_txt_attn_qkv": 3, "_linear1": 4}


def num_parts_of(metadata: Mapping[str, str], module: str) -> int:
    """How many products lie side by side in the one of a module."""
    parts = next((count for end, count in _PARTS.items() if module.endswith(end)), 1)
    return parts if parts > 1 and _is_split(metadata.get(_ARGUMENTS, "")) else 1


def _is_split(arguments: str) -> bool:
    if "split_qkv" not in arguments or len(arguments) > _MAX_CHARACTERS:
        return False
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and str(found.get("split_qkv")).lower() == "true"
