"""LoRAs merged with one another, and one with fewer ranks: the sum of what each adds, exactly or with a known error.

Products are put side by side: up = [sqrt|c_1| up_1, ...] with the sign of c on up, and down likewise, which adds
exactly what the LoRAs add one by one. (Ups and downs that are summed by themselves give products of unrelated LoRAs.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from backend.adapters.aliases import aliases_of, named_targets
from backend.adapters.format import ALL_ROWS, Part, as_matrix, tucker
from backend.adapters.formats.builtin import format_of
from backend.adapters.formats.full import FULL
from backend.adapters.formats.lora import LORA
from backend.adapters.lora_file import Adapter
from backend.adapters.matching import Unmatched, match
from backend.adapters.target import DENOISER, Target
from backend.errors import RequestError, UnsupportedMerge
from backend.merging.lora_tools.lora_metadata import lora_metadata
from backend.merging.lora_tools.lora_writer import LoraWriter, lora_writer, product_shapes
from backend.merging.lora_tools.progress import Progress
from backend.merging.lora_tools.rank_choice import RankBy, RankChoice
from backend.merging.lora_tools.singular import Factors, factors_of, product_factors
from backend.merging.lora_tools.tool_report import LoraToolReport, relative
from backend.weights.source import TensorSpec

_EVERYTHING = RankChoice(by=RankBy.FROBENIUS, value=1.0)


@dataclass(frozen=True, kw_only=True)
class WeightedLora:
    """text_encoder_strength: None for the same as `strength`."""

    adapter: Adapter
    strength: float = 1.0
    text_encoder_strength: float | None = None


@dataclass(frozen=True, kw_only=True)
class ModelKeys:
    """A model to which all LoRAs of a merge belong: with it, they may use different names for the same layers."""

    specs: Mapping[str, TensorSpec]
    family: str


@dataclass(frozen=True, kw_only=True)
class _Summand:
    """One module of one LoRA. target: None where no model is given."""

    adapter: Adapter
    module: str
    weight: float
    target: Target | None


@dataclass(kw_only=True)
class _Sum:
    """All that is added to one layer. shape: of its weight; None where no model is given."""

    name: str
    shape: tuple[int, ...] | None
    summands: list[_Summand] = field(default_factory=list["_Summand"])


def merge_loras(
    loras: Sequence[WeightedLora],
    path: Path,
    *,
    rank: RankChoice | None = None,
    model: ModelKeys | None = None,
    dtype: torch.dtype = torch.float16,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    replace: bool = False,
) -> LoraToolReport:
    """Write the LoRA that adds what all of these add with their strengths.

    rank: of the result by the singular values of each layer; None for an exact sum, whose rank is the sum of theirs.
    model: what all are for; names are then kohya's, as trainers use them for its family. Without it, names stay as
    they are in the files, which must agree.
    Raises RequestError; UnsupportedMerge for what only a model's weights give a meaning (DoRA, OFT, IA3 ...);
    Cancelled; BadCheckpoint; and as `lora_writer` does. Nothing is written then.
    """
    if not loras:
        raise RequestError("loras", "must name at least one LoRA")
    progress = progress or Progress()
    sums, left_out = _sums(loras, model)
    family = model.family if model else next((f for lora in loras if (f := lora.adapter.trained_for)), "")
    ranks: dict[str, int] = {}
    differences: list[str] = []
    errors = norms = 0.0
    with lora_writer(path, _largest(sums), dtype, replace=replace) as writer:
        for index, layer in enumerate(sums):
            progress.step(index, len(sums))
            if _write_differences(layer, writer):
                differences.append(layer.name)
            if (factors := _summed(layer, rank)) is not None:
                writer.write_product(layer.name, factors.up, factors.down, layer.shape or _shape_of_first(layer))
                ranks[layer.name] = factors.rank
                errors, norms = errors + factors.error**2, norms + factors.norm**2
        writer.metadata |= {**lora_metadata(family, ranks.values(), path.stem), **(metadata or {})}
        progress.step(len(sums), len(sums))
    return LoraToolReport(
        ranks=ranks,
        relative_error=relative(errors, norms),
        differences=tuple(differences),
        left_out=tuple(left_out),
    )


def resize_lora(
    lora: Adapter,
    path: Path,
    rank: RankChoice,
    *,
    model: ModelKeys | None = None,
    dtype: torch.dtype = torch.float16,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    replace: bool = False,
) -> LoraToolReport:
    """Write the LoRA with fewer ranks that is nearest to this one. Raises as `merge_loras` does."""
    return merge_loras(
        [WeightedLora(adapter=lora)],
        path,
        rank=rank,
        model=model,
        dtype=dtype,
        metadata=metadata,
        progress=progress,
        replace=replace,
    )


def _sums(loras: Sequence[WeightedLora], model: ModelKeys | None) -> tuple[list[_Sum], list[str]]:
    """By layer, and the modules that fit none."""
    if model is None:
        _require_common_names([lora.adapter for lora in loras])
        aliases, names, whole = None, {}, {}
    else:
        named = list(named_targets(model.specs, model.family))
        aliases = aliases_of(named)
        names = {(n.target.weight, n.target.rows): n for n in named if n.kohya}
        whole = {n.target.weight: n for n in named if n.kohya and n.target.rows is None}
    sums: dict[str, _Sum] = {}
    left_out: list[str] = []
    for lora in loras:
        for module in lora.adapter.modules:
            name, shape, target = module, None, None
            if aliases is not None:
                found = match(module, lora.adapter.shapes(module), aliases)
                if isinstance(found, Unmatched):
                    left_out.append(f"{lora.adapter.origin.name}: {module}: {found.reason.value}")
                    continue
                target = found.target
                layer = names.get((target.weight, target.rows)) or whole[target.weight]
                name, shape = layer.kohya, layer.target.shape
            summand = _Summand(
                adapter=lora.adapter, module=module, weight=_strength(lora, module, target), target=target
            )
            sums.setdefault(name, _Sum(name=name, shape=shape)).summands.append(summand)
    if not sums:
        raise UnsupportedMerge(f"No module of these LoRAs fits the model: {'; '.join(left_out[:5])}.")
    return list(sums.values()), left_out


def _strength(lora: WeightedLora, module: str, target: Target | None) -> float:
    is_text = target.component != DENOISER if target else module.startswith(("lora_te", "text_encoder"))
    text = lora.text_encoder_strength
    return text if is_text and text is not None else lora.strength


def _require_common_names(adapters: Sequence[Adapter]) -> None:
    first = adapters[0]
    for other in adapters[1:]:
        if not first.modules.keys() & other.modules.keys():
            raise RequestError(
                "loras",
                f"{first.origin.name} and {other.origin.name} have no layer's name in common "
                f"({next(iter(first.modules))}, {next(iter(other.modules))}). "
                "Name the checkpoint that both are for, by which their names can be translated",
            )


def _summed(layer: _Sum, choice: RankChoice | None) -> Factors | None:
    """The product that adds what all of them add; None where they add no products."""
    parts = [part for summand in layer.summands if (part := _product(summand, layer)) is not None]
    if not parts:
        return None
    if any(part[1].shape[1:] != parts[0][1].shape[1:] or part[0].shape[0] != parts[0][0].shape[0] for part in parts):
        raise UnsupportedMerge(f"{layer.name} has other shapes in other LoRAs: they are for different models.")
    up = torch.cat([as_matrix(up) for up, _ in parts], dim=1)
    down = torch.cat([as_matrix(down) for _, down in parts])
    if choice is not None:
        return product_factors(up, down, choice)
    return Factors(up=up, down=down, norm=1.0, error=0.0)


def _product(summand: _Summand, layer: _Sum) -> tuple[Tensor, Tensor] | None:
    """up [out, r], down [r, in, ...] with the strength in both, on the rows of the whole layer."""
    tensors = summand.adapter.read(summand.module)
    weighted = {name: tensor for name, tensor in tensors.items() if name not in ("diff_b", "b_norm", "bias", "up_bias")}
    format = format_of(weighted)
    if format is None or (format is FULL and _full(weighted).ndim < 2):
        return None
    if format.needs_weight:
        raise UnsupportedMerge(
            f"{summand.adapter.origin.name} is a {format.label}: what it adds depends on the model's weights. "
            "Add it to a checkpoint instead, and extract a LoRA from that."
        )
    if format is LORA:
        up, down, rank = as_matrix(weighted["up"]), weighted["down"], weighted["down"].shape[0]
        if "mid" in weighted:  # a core is a part of down
            mid = weighted["mid"]
            down = tucker(mid, torch.eye(mid.shape[0]), as_matrix(down))
        part = Part(
            tensors=weighted,
            shape=(),
            weight=_no_weight,
            strength=summand.weight,
            scaling=summand.adapter.scaling(summand.module),
        )
        scale = part.scale(rank)
        root = math.sqrt(abs(scale))
        up, down = math.copysign(root, scale) * up, root * down
    else:
        up, down = _decomposed(summand, weighted)
    return _in_place(up, summand.target, layer), down


def _decomposed(summand: _Summand, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What a format that is no product of two matrices adds, as one."""
    format = format_of(tensors)
    assert format is not None  # known before
    shape = summand.target.shape if summand.target else tuple(_full(tensors).shape) if format is FULL else None
    if shape is None:
        raise RequestError(
            "loras",
            f"{summand.adapter.origin.name} is a {format.label}: name the checkpoint that it is for, "
            "which says what shapes its layers have",
        )
    part = Part(
        tensors=tensors,
        shape=shape,
        weight=_no_weight,
        strength=summand.weight,
        scaling=summand.adapter.scaling(summand.module),
    )
    found = factors_of(as_matrix(format.delta(part, ALL_ROWS)), _EVERYTHING)
    return found.up, found.down.reshape(-1, *shape[1:])


def _in_place(up: Tensor, target: Target | None, layer: _Sum) -> Tensor:
    """Rows of the whole layer, where the module stands for some of them."""
    if target is None or layer.shape is None:
        return up
    if target.is_swapped:
        up = target.restored(up)
    if target.rows is None or up.shape[0] == layer.shape[0]:
        return up
    whole = up.new_zeros(layer.shape[0], up.shape[1])
    whole[target.rows[0] : target.rows[1]] = up
    return whole


def _write_differences(layer: _Sum, writer: LoraWriter) -> bool:
    """Of biases and norms, which are no matrices: their sums."""
    sums: dict[str, Tensor] = {}
    for summand in layer.summands:
        tensors = summand.adapter.read(summand.module)
        for name in ("diff_b", "b_norm", "w_norm", "diff"):
            if name in tensors and tensors[name].ndim < 2:
                part = summand.weight * tensors[name]
                sums[name] = sums[name] + part if name in sums else part
    for name, total in sums.items():
        writer.write(f"{layer.name}.{name}", total)
    return bool(sums)


def _largest(sums: Sequence[_Sum]) -> dict[str, tuple[int, ...]]:
    """What the file can come to hold at most."""
    found: dict[str, tuple[int, ...]] = {}
    for layer in sums:
        shapes = [summand.adapter.shapes(summand.module) for summand in layer.summands]
        for shape in shapes:
            found |= {
                f"{layer.name}.{name}": shape[name] for name in ("diff_b", "b_norm", "w_norm", "diff") if name in shape
            }
        if all(format_of(shape) is FULL and len(_full_shape(shape)) < 2 for shape in shapes if format_of(shape)):
            continue
        shape = layer.shape or _shape_of_first(layer)
        rank = sum(max(max(sizes, default=1) for sizes in shape.values()) for shape in shapes)
        found |= product_shapes(layer.name, shape, rank)
    return found


def _shape_of_first(layer: _Sum) -> tuple[int, ...]:
    """Of the layer's weight, as far as its LoRA tells."""
    for summand in layer.summands:
        shapes = summand.adapter.shapes(summand.module)
        if {"up", "down"} <= shapes.keys():
            kernel = shapes["mid"][2:] if "mid" in shapes else shapes["down"][2:]
            return (shapes["up"][0], shapes["down"][1], *kernel)
        if format_of(shapes) is FULL:
            return _full_shape(shapes)
    raise RequestError("loras", f"{layer.name} tells no shape: name the checkpoint that the LoRAs are for")


def _full(tensors: Mapping[str, Tensor]) -> Tensor:
    return tensors["diff"] if "diff" in tensors else tensors["w_norm"]


def _full_shape(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    return shapes["diff"] if "diff" in shapes else shapes["w_norm"]


def _no_weight(_: slice) -> Tensor:
    raise UnsupportedMerge("A LoRA's difference depends on the model's weights.")
