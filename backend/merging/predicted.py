"""What a model was trained to predict, which its weights do not show to those who merge them."""

from __future__ import annotations

from backend.families.family import Family
from backend.families.file_facts import FileFacts
from backend.families.sd2 import predicts_velocity
from backend.weights.source import WeightSource

NOISE = "noise (eps)"
_U_NETS = frozenset({"sd1", "sd2", "sdxl", "sdxl-refiner"})


def predicted_by(source: WeightSource, family: Family) -> str:
    """For the user: NOISE, "v" or "v with zero terminal SNR"; "" where the family leaves no choice.

    Reads a few numbers. Raises BadCheckpoint.
    """
    if family.name not in _U_NETS:
        return ""
    facts = FileFacts(source)
    is_velocity = predicts_velocity(source) if family.name == "sd2" else facts.is_velocity
    if not is_velocity:
        return NOISE
    return "v with zero terminal SNR" if facts.has_zero_terminal_snr else "v"
