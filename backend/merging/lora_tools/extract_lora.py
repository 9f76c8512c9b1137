"""A LoRA out of two checkpoints: what one has that the other has not, layer by layer, as products of low rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from backend.adapters.aliases import named_targets, specs_of
from backend.adapters.format import as_matrix
from backend.adapters.patched import Original, pieces
from backend.adapters.target import DENOISER, Named
from backend.errors import BadCheckpoint, UnsupportedMerge
from backend.merging.lora_tools.lora_metadata import lora_metadata
from backend.merging.lora_tools.lora_writer import LoraWriter, lora_writer, product_shapes
from backend.merging.lora_tools.progress import Progress
from backend.merging.lora_tools.rank_choice import RankChoice
from backend.merging.lora_tools.singular import factors_of
from backend.merging.lora_tools.tool_report import LoraToolReport, relative
from backend.weights.source import WeightSource

# Tables that are looked up and not multiplied: no program adds a product to them.
_TABLES = ("token_embedding.weight", "position_embedding.weight", "shared.weight", "relative_attention_bias.weight")


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """rank: of linear layers. conv_rank: of convolutions larger than 1x1; None leaves them out.

    has_text_encoders: whether those belong into the file. has_differences: whether norms, biases and embeddings are
    written as plain differences, without which the LoRA is not all that was trained.
    least_change: layers in which no number differs by more are taken as the same.
    """

    rank: RankChoice
    conv_rank: RankChoice | None = None
    has_text_encoders: bool = True
    has_differences: bool = False
    least_change: float = 0.0


def extract_lora(
    tuned: WeightSource,
    base: WeightSource,
    family: str,
    path: Path,
    extraction: Extraction,
    *,
    dtype: torch.dtype = torch.float16,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    replace: bool = False,
) -> LoraToolReport:
    """Write the LoRA that makes `base` into `tuned`, both in the single-file layout of the family.

    One layer is in memory at a time, and what its decomposition takes. Raises UnsupportedMerge for models that are of
    different kinds or the same; UnknownName for a family that takes no LoRAs; BadCheckpoint for NaN; Cancelled; and as
    `lora_writer` does. Nothing is written then.
    """
    progress = progress or Progress()
    named = [layer for layer in named_targets(specs_of(base), family) if layer.kohya]
    _require_same_kind(named, tuned, base)
    sizes = [base.spec(layer.target.weight).num_elements for layer in named]
    work = _Extracting(tuned, base, extraction)
    with lora_writer(path, _largest(named, extraction), dtype, replace=replace) as writer:
        for index, layer in enumerate(named):
            progress.step(sum(sizes[:index]), sum(sizes))
            work.extract(layer, writer)
        if not work.ranks and not work.differences:
            raise UnsupportedMerge(
                f"{tuned.origin.name} and {base.origin.name} are the same in all layers that a LoRA can hold."
            )
        writer.metadata |= {**lora_metadata(family, work.ranks.values(), path.stem), **(metadata or {})}
        progress.step(sum(sizes), sum(sizes))
    handled = {key for layer in named for key in (layer.target.weight, layer.target.bias)}
    return LoraToolReport(
        ranks=work.ranks,
        relative_error=relative(work.errors, work.norms),
        differences=tuple(work.differences),
        left_out=(*work.left_out, *_differing(tuned, base, handled)),
    )


class _Extracting:
    """What has come out so far."""

    def __init__(self, tuned: WeightSource, base: WeightSource, extraction: Extraction) -> None:
        self.ranks: dict[str, int] = {}
        self.differences: list[str] = []
        self.left_out: list[str] = []
        self.errors = self.norms = 0.0  # sums of squares
        self._tuned, self._base, self._options = tuned, base, extraction

    def extract(self, layer: Named, writer: LoraWriter) -> None:
        target = layer.target
        if target.component != DENOISER and not self._options.has_text_encoders:
            return
        is_table = target.weight.endswith(_TABLES)
        kinds = [(target.weight, "w_norm" if len(target.shape) == 1 else "diff"), (target.bias, "diff_b")]
        for key, name in kinds:
            if not key or (change := self._change(layer, key)) is None:
                continue
            if change.ndim > 1 and not is_table:
                self._write_product(layer, change, writer)
            elif self._options.has_differences:
                writer.write(f"{layer.kohya}.{_difference_name(layer, name)}", change)
                self.differences.append(f"{layer.kohya}.{name}")
            else:
                self.left_out.append(key)

    def _change(self, layer: Named, key: str) -> Tensor | None:
        """float32, as the adapter sees it; None where nothing differs. Raises BadCheckpoint."""
        if self._tuned.identity(key) == self._base.identity(key):
            return None
        change = layer.target.cut(_difference(self._tuned, self._base, key))
        largest = float(change.abs().max()) if change.numel() else 0.0
        if largest != largest or largest == float("inf"):
            raise BadCheckpoint(self._tuned.origin, f"{key} holds values that are no numbers, here or in "
                                f"{self._base.origin.name}. Choose other checkpoints.")  # fmt: skip
        return change if largest > self._options.least_change else None

    def _write_product(self, layer: Named, change: Tensor, writer: LoraWriter) -> None:
        choice = _choice(layer, self._options)
        if choice is None:
            self.left_out.append(layer.target.weight)
            return
        factors = factors_of(as_matrix(change), choice)
        writer.write_product(layer.kohya, factors.up, factors.down, tuple(change.shape))
        self.ranks[layer.kohya] = factors.rank
        self.errors, self.norms = self.errors + factors.error**2, self.norms + factors.norm**2


def _difference(tuned: WeightSource, base: WeightSource, key: str) -> Tensor:
    """Of a weight in both, float32, without either of them beside it."""
    first, second = Original(tuned, key), Original(base, key)
    out = torch.empty(first.shape)
    for rows in pieces(first.shape):
        torch.sub(first.rows(rows), second.rows(rows), out=out[rows])
    return out


def _choice(layer: Named, extraction: Extraction) -> RankChoice | None:
    is_convolution = any(size > 1 for size in layer.target.shape[2:])
    return extraction.conv_rank if is_convolution else extraction.rank


def _difference_name(layer: Named, name: str) -> str:
    """LyCORIS has names of its own for norms."""
    return "b_norm" if name == "diff_b" and len(layer.target.shape) == 1 else name


def _largest(named: Sequence[Named], extraction: Extraction) -> dict[str, tuple[int, ...]]:
    """What the file can come to hold at most."""
    return {name: shape for layer in named for name, shape in _largest_of(layer, extraction)}


def _largest_of(layer: Named, extraction: Extraction) -> Iterator[tuple[str, tuple[int, ...]]]:
    shape = layer.target.shape
    if extraction.has_differences:
        yield f"{layer.kohya}.{'w_norm' if len(shape) == 1 else 'diff'}", shape
        yield f"{layer.kohya}.{_difference_name(layer, 'diff_b')}", shape[:1]
    choice = _choice(layer, extraction)
    if len(shape) > 1 and choice is not None:
        rank = min(shape[0], torch.Size(shape[1:]).numel(), choice.limit or shape[0])
        yield from product_shapes(layer.kohya, shape, rank).items()


def _require_same_kind(named: Sequence[Named], tuned: WeightSource, base: WeightSource) -> None:
    present = frozenset(tuned.keys())
    wanted = [key for layer in named for key in (layer.target.weight, layer.target.bias) if key]
    wrong = [key for key in wanted if key not in present or tuned.spec(key).shape != base.spec(key).shape]
    if wrong or not wanted:
        raise UnsupportedMerge(
            f"{tuned.origin.name} and {base.origin.name} are not of the same kind: "
            f"{len(wrong)} of {len(wanted)} weights are missing or have other shapes ({', '.join(wrong[:3])}). "
            "Choose the checkpoint that the other was trained from."
        )


def _differing(tuned: WeightSource, base: WeightSource, handled: set[str]) -> Iterator[str]:
    """Keys of both that no LoRA can hold (such as those of autoencoders) and that differ."""
    present = frozenset(tuned.keys())
    for key in base.keys():
        if key in handled or key not in present or tuned.identity(key) == base.identity(key):
            continue
        if tuned.spec(key).shape != base.spec(key).shape or _differs(tuned, base, key):
            yield key


def _differs(tuned: WeightSource, base: WeightSource, key: str) -> bool:
    first, second = Original(tuned, key), Original(base, key)
    return any(not torch.equal(first.rows(rows), second.rows(rows)) for rows in pieces(first.shape))
