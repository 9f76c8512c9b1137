"""The presets for LoRAs by block that sd-webui-lora-block-weight made known, as lists of numbers.

They are for BASE and the blocks of SD 1.x that LoRAs change, and one is for FLUX.1.
"""

from __future__ import annotations

from backend.merging.preset_files import NamedNumbers


def _runs(name: str, *runs: tuple[float, int]) -> NamedNumbers:
    return NamedNumbers(name=name, numbers=tuple(float(value) for value, repeats in runs for _ in range(repeats)))


BUILTIN: tuple[NamedNumbers, ...] = (
    _runs("NONE", (0, 17)),
    _runs("ALL", (1, 17)),
    _runs("INS", (1, 4), (0, 13)),
    _runs("IND", (1, 1), (0, 3), (1, 3), (0, 10)),
    _runs("INALL", (1, 7), (0, 10)),
    _runs("MIDD", (1, 1), (0, 3), (1, 8), (0, 5)),
    _runs("OUTD", (1, 1), (0, 7), (1, 4), (0, 5)),
    _runs("OUTS", (1, 1), (0, 11), (1, 5)),
    _runs("OUTALL", (1, 1), (0, 7), (1, 9)),
    _runs("ALL0.5", (0.5, 17)),
    _runs("FLUXALL", (1, 61)),
)
