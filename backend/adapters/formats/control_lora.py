"""The first layer of FLUX's control LoRAs, which takes the latents of a control picture beside those of the noise.

Where there is no such picture its latents are zeros. Then the columns that are for them add nothing, and what is left
is a LoRA on the layer as it is.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from backend.adapters.format import Format, Part, Shapes, always, width
from backend.adapters.formats.lora import LORA


def _delta(part: Part, rows: slice) -> Tensor:
    down = part.tensors["down"][:, : width(part.shape)]
    return LORA.delta(replace(part, tensors={**part.tensors, "down": down}), rows)


def _fits(shapes: Shapes, shape: tuple[int, ...]) -> bool:
    """Of a matrix, twice as wide as the model's: as much for the picture as for the noise."""
    up, down = shapes["up"], shapes["down"]
    is_twice = len(shape) == len(down) == len(up) == 2 and down[1] == 2 * shape[1]
    return is_twice and up == (shape[0], down[0]) and down[0] > 0


CONTROL_LORA = Format(
    name="control-lora",
    label="control LoRA",
    recognise=lambda names: LORA.recognise(names) and "mid" not in names,
    fits=_fits,
    delta=_delta,
    rank=LORA.rank,
    is_by_rows=always,
)
