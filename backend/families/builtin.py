"""The families that ship. The first that recognises a file names it."""

from __future__ import annotations

from backend.families.flux import FLUX
from backend.families.known import KNOWN
from backend.families.pixart import PIXART
from backend.families.sd1 import SD1
from backend.families.sd2 import SD2
from backend.families.sd3 import SD3
from backend.families.sdxl import SDXL
from backend.families.sdxl_refiner import SDXL_REFINER

BUILTIN = (SD1, SD2, SDXL, SDXL_REFINER, SD3, FLUX, PIXART, *KNOWN)
