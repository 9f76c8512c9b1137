"""The kinds of upscalers that Emulsion runs."""

from __future__ import annotations

from backend.upscaling.rrdbnet_files import ESRGAN
from backend.upscaling.srvgg_files import COMPACT
from backend.upscaling.swinir_files import SWINIR

BUILTIN = (ESRGAN, COMPACT, SWINIR)
