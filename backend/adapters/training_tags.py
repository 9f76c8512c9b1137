"""The tags that an adapter was trained with, from the metadata that kohya's scripts and ai-toolkit write."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, cast

MAX_CHARACTERS = 8 * 2**20  # of what is read; more is no list of tags
MAX_TAGS = 50
_MAX_TAG = 200  # characters: whole sentences are captions, and no use as tags


def trained_tags(text: str) -> tuple[tuple[str, int], ...]:
    """`ss_tag_frequency`, {folder: {tag: count}} -> the most frequent tags over all folders, with their counts.

    What cannot be read holds no tags: the text comes from anywhere.
    """
    counts: Counter[str] = Counter()
    for tags in _object(text if len(text) <= MAX_CHARACTERS else "").values():
        if isinstance(tags, dict):
            for tag, count in cast("dict[str, Any]", tags).items():
                word = " ".join(tag[: _MAX_TAG + 1].split())
                if word and len(word) <= _MAX_TAG and isinstance(count, int) and count > 0:
                    counts[word] += int(count)
    return tuple(sorted(counts.items(), key=lambda found: (-found[1], found[0]))[:MAX_TAGS])


def _object(text: str) -> dict[str, Any]:
    try:
        found: Any = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
