"""The formats that are read. The first that recognises a module's tensors takes it."""

from __future__ import annotations

from collections.abc import Collection

from backend.adapters.format import Format
from backend.adapters.formats.dora import weight_decomposed
from backend.adapters.formats.full import FULL, REPLACEMENT
from backend.adapters.formats.glora import GLORA
from backend.adapters.formats.ia3 import IA3, PEFT_IA3
from backend.adapters.formats.loha import LOHA
from backend.adapters.formats.lokr import LOKR
from backend.adapters.formats.lora import LORA
from backend.adapters.formats.oft import OFT
from backend.adapters.formats.peft_boft import PEFT_BOFT
from backend.adapters.formats.peft_oft import PEFT_OFT
from backend.adapters.formats.sparse import SPARSE
from backend.adapters.formats.stored_rotation import STORED_ROTATION
from backend.adapters.formats.tlora import TLORA

BUILTIN = (
    weight_decomposed((LORA, LOHA, LOKR)),
    SPARSE,
    LORA,
    LOHA,
    LOKR,
    GLORA,
    OFT,
    STORED_ROTATION,
    PEFT_OFT,
    PEFT_BOFT,
    TLORA,
    FULL,
    IA3,
    PEFT_IA3,
    REPLACEMENT,
)


def format_of(names: Collection[str]) -> Format | None:
    """The format of a module with these tensors; None where no format can make a difference of them."""
    found = frozenset(names)
    return next((format for format in BUILTIN if format.recognise(found)), None)
