"""Old LyCORIS' extraction: a LoRA, and the largest of what it leaves over, number by number ("sparse bias")."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from backend.adapters.format import Format, Part, Shapes, width
from backend.adapters.formats.lora import LORA

_TENSORS = frozenset(("bias_indices", "bias_values", "bias_size"))


def _delta(part: Part, rows: slice) -> Tensor:
    """(alpha / r) (up @ down + what is left over); indices [2, n] in the matrix [out, everything else]."""
    tensors = {name: tensor for name, tensor in part.tensors.items() if name not in _TENSORS}
    indices, values = part.tensors["bias_indices"].long(), part.tensors["bias_values"].reshape(-1)
    left_over = torch.zeros(part.shape[0], width(part.shape))
    left_over.index_put_((indices[0], indices[1]), values, accumulate=True)
    scale = part.scale(tensors["down"].shape[0])
    return LORA.delta(replace(part, tensors=tensors), rows) + part.shaped(scale * left_over)[rows]


def _fits(shapes: Shapes, shape: tuple[int, ...]) -> bool:
    return _is_list(shapes) and LORA.fits(shapes, shape)


def _is_list(shapes: Shapes) -> bool:
    indices, values, size = (shapes[name] for name in ("bias_indices", "bias_values", "bias_size"))
    is_product = len(shapes["up"]) >= 2 and len(shapes["down"]) >= 2
    return is_product and math.prod(size) == 2 and len(indices) == 2 and indices == (2, math.prod(values))


def _problem(tensors: Mapping[str, Tensor]) -> str:
    if not _is_list({name: tuple(tensor.shape) for name, tensor in tensors.items()}):
        return ""  # shapes are told by `fits`
    size = [int(value) for value in tensors["bias_size"].reshape(-1)]
    up, down = tensors["up"], tensors["down"]
    core = tensors.get("mid", torch.empty(1, 1))
    matrix = [up.shape[0], width(tuple(down.shape)) * width(tuple(core.shape[1:]))]
    if size != matrix:
        return f"its sparse numbers are for a matrix of {size}, and its product is one of {matrix}"
    indices = tensors["bias_indices"].long()
    is_inside = (indices >= 0) & (indices < torch.tensor(size).view(2, 1))
    return "" if is_inside.all() else "some of its sparse numbers lie outside of the layer"


SPARSE = Format(
    name="sparse",
    label="LoRA with sparse numbers",
    recognise=lambda names: names >= _TENSORS and LORA.recognise(names),
    fits=_fits,
    delta=_delta,
    rank=LORA.rank,
    problem=_problem,
)
