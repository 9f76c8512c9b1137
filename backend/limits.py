"""How large what is asked for may be."""

from __future__ import annotations

MAX_STEPS = 1000
MIN_SIDE = 64
MAX_SIDE = 16_384
MAX_PIXELS = 16_777_216
MAX_IMAGES = 64
MAX_GUIDANCE = 100.0
