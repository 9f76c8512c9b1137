"""The kinds of upscalers that Emulsion runs."""

from __future__ import annotations

from backend.upscaling.rrdbnet_files import ESRGAN
from backend.upscaling.srvgg_files import COMPACT

BUILTIN = (ESRGAN, COMPACT)
