"""What finds regions of a picture, such as faces, for details; extensions register such detectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Detector:
    """find: an RGB picture -> grey masks of its size, white in one region each; none where there is nothing."""

    name: str
    label: str
    aliases: tuple[str, ...] = ()
    find: Callable[[Image.Image], Sequence[Image.Image]]
