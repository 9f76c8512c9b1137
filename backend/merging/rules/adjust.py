"""Small changes to a model's first and last layers, which show as detail, contrast and colour.

The factors and the two tables of colours are those of supermerger's "Adjust".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from backend.merging.rule import MergeFunction, Operands, Parameter, Rule, Settings
from backend.merging.rules.parameters import these

_IN = "model.diffusion_model.input_blocks.0.0."
_NORM = "model.diffusion_model.out.0."
_OUT = "model.diffusion_model.out.2."

# What brightness, cyan-red, magenta-green and yellow-blue do to the second to fourth latent channel, a row for each.
_SD1 = ((-1, 1 / 3, 2 / 3), (1, 1, 0), (0, -1, -1), (1, 0, 1))
_SDXL = ((0, 0, 1), (1, 0, 0), (-1, -1, 0), (-1, 1, 0))
_COLOURS = ("brightness", "cyan_red", "magenta_green", "yellow_blue")


def _number(name: str, label: str, explanation: str) -> Parameter:
    return Parameter(
        name=name, label=label, default=0.0, minimum=-10.0, maximum=10.0, by_block=False, explanation=explanation
    )


_PARAMETERS = these(
    _number("detail_in", "Detail (first layer)", "Above 0: more and finer detail."),
    _number("detail_out", "Detail (last norm)", "Above 0: more detail."),
    _number("sharpness", "Noise (last layer)", "Above 0: less of the noise is taken away."),
    _number("contrast", "Contrast", "Shifts the first latent channel."),
    _number("brightness", "Brightness", "Shifts the other latent channels."),
    _number("cyan_red", "Cyan to red", "Below 0 cyan, above 0 red."),
    _number("magenta_green", "Magenta to green", "Below 0 magenta, above 0 green."),
    _number("yellow_blue", "Yellow to blue", "Below 0 yellow, above 0 blue."),
)


def _adjusting(table: Sequence[Sequence[float]]) -> MergeFunction:
    def shift(values: Mapping[str, float]) -> Tensor:
        colours = torch.tensor([values[name] for name in _COLOURS]) @ torch.tensor(table, dtype=torch.float32)
        return 0.02 * torch.cat((torch.tensor([values["contrast"]]), colours))

    def merge(operands: Operands, settings: Settings) -> Iterator[Tensor]:
        values, key = settings.values, operands.key
        for (piece,) in operands.pieces():
            if key == f"{_OUT}bias" and piece.shape == (4,):
                piece.add_(shift(values))
            yield piece.mul_(_factor(key, values))

    return merge


def _factor(key: str, values: Mapping[str, float]) -> float:
    return {
        f"{_IN}weight": 1 - 0.01 * values["detail_in"],
        f"{_IN}bias": 1 + 0.02 * values["detail_in"],
        f"{_NORM}weight": 1 - 0.01 * values["detail_out"],
        f"{_NORM}bias": 1 + 0.02 * values["detail_out"],
        f"{_OUT}weight": 1 - 0.01 * values["sharpness"],
    }.get(key, 1.0)


def _unchanged(values: Mapping[str, float]) -> int | None:
    return None if any(values.values()) else 0


_FORMULA = (
    "IN00: weight·(1 − 0.01·in), bias·(1 + 0.02·in); out.0 likewise with out; out.2: weight·(1 − 0.01·noise), "
    "bias + 0.02·(contrast, brightness and colours)"
)

RULES = (
    Rule(
        name="adjust",
        label="Adjust (SD 1.x, 2.x)",
        formula=_FORMULA,
        explanation="Detail, brightness and colour of one U-Net, for pictures of any prompt.",
        roles=("A",),
        parameters=_PARAMETERS,
        merge=_adjusting(_SD1),
        same_as=_unchanged,
    ),
    Rule(
        name="adjust_xl",
        label="Adjust (SDXL)",
        formula=_FORMULA,
        explanation="The same with the colours of SDXL's latents.",
        roles=("A",),
        parameters=_PARAMETERS,
        merge=_adjusting(_SDXL),
        same_as=_unchanged,
    ),
)
