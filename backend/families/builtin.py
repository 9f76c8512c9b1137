"""The families that ship. The first that recognises a file names it."""

from __future__ import annotations

from backend.families.known import KNOWN
from backend.families.sd1 import SD1

BUILTIN = (SD1, *KNOWN)
