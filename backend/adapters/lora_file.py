"""An adapter's file: its modules, and what it adds to which weight of a model."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from backend.adapters.aliases import aliases_of, named_targets
from backend.adapters.base_model import trained_for
from backend.adapters.few_steps import hint_of
from backend.adapters.format import Scaling, Shapes
from backend.adapters.formats.builtin import format_of
from backend.adapters.formats.control_lora import CONTROL_LORA
from backend.adapters.formats.full import REPLACEMENT
from backend.adapters.matching import Match, Reason, Unmatched, match
from backend.adapters.peft_config import peft_config, scaling_of
from backend.adapters.report import AdapterReport, not_finite_error
from backend.adapters.split_training import num_parts_of
from backend.adapters.target import DENOISER, Target
from backend.adapters.tensor_names import bundled_embedding, modules_of
from backend.errors import BadCheckpoint, UnsupportedCheckpoint
from backend.weights.safetensors_file import open_safetensors
from backend.weights.source import TensorSpec, WeightSource

_Number = TypeVar("_Number", int, float)
_TEXT_ENCODERS = ("lora_te", "text_encoder", "oft_te")
_INTEGERS = frozenset(("alpha", "on_input", "bias_indices", "bias_size", "reshape_weight"))


def open_adapter(path: Path) -> Adapter:
    """Open a LoRA or any of its kin by its header alone; what its name ends in does not matter.

    Raises BadCheckpoint, PickleRefused or UnsupportedCheckpoint, which say what the file is instead.
    """
    source = open_safetensors(path)
    return Adapter(source, left_out=tuple(source.left_out))


class Adapter:
    """Modules of an adapter by name, none of which is read until it is asked for. Raises UnsupportedCheckpoint.

    left_out: names of metadata that are not among those of the source, as they are too large.
    """

    def __init__(self, source: WeightSource, *, left_out: tuple[str, ...] = ()) -> None:
        keys = source.keys()
        self.left_out = left_out
        self.source = source
        self.embeddings = tuple(dict.fromkeys(name for key in keys if (name := bundled_embedding(key))))
        self.modules, others = modules_of(dict.fromkeys(key for key in keys if not bundled_embedding(key)))
        self.others = others
        self._config = peft_config(source.origin, source.metadata)
        if not any(_is_of_an_adapter(tensors) for tensors in self.modules.values()):
            raise UnsupportedCheckpoint(
                source.origin,
                f"it is no LoRA: none of its {len(keys)} tensors is named like one of a LoRA or its kin"
                f"{_such_as(keys)}. "
                "If it is a checkpoint, choose it as the model.",
            )

    @property
    def origin(self) -> Path:
        return self.source.origin

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.source.metadata

    @property
    def trained_for(self) -> str:
        """The family of models that it was made for, "" where nothing tells."""
        return trained_for(self.metadata, {module: self.shapes(module) for module in self.modules})

    @property
    def num_bytes(self) -> int:
        return sum(self.source.spec(key).num_bytes for key in self.source.keys())

    def shapes(self, module: str) -> Shapes:
        return {name: self.source.spec(key).shape for name, key in self.modules[module].items()}

    def scaling(self, module: str) -> Scaling:
        """What the metadata say about a module's strength, and what its trainer did without saying so."""
        scaling = scaling_of(self._config, module)
        num_parts = num_parts_of(self.metadata, module)
        return scaling if num_parts == 1 else replace(scaling, num_parts=num_parts)

    def read(self, module: str) -> dict[str, Tensor]:
        """The module's tensors in float32, by what they are. Raises BadCheckpoint, also where they are no numbers."""
        tensors = {name: self.source.read(key).float() for name, key in self.modules[module].items()}
        bad = tuple(self.modules[module][name] for name, tensor in tensors.items() if not tensor.isfinite().all())
        if bad:
            raise not_finite_error(self.origin, bad)
        format = format_of(tensors)
        if format is not None and (problem := format.problem(tensors)):
            raise BadCheckpoint(self.origin, f"{module}: {problem}. The file is damaged; download it again.")
        return tensors

    def identity(self, module: str) -> str:
        """Equal identities mean that the module adds the same to the same weight."""
        scaling = self.scaling(module)
        parts = [f"{name}={self.source.identity(key)}" for name, key in sorted(self.modules[module].items())]
        return hashlib.sha256("\0".join([*parts, repr(scaling)]).encode()).hexdigest()

    def matches(self, aliases: Mapping[str, Target]) -> list[Match | Unmatched]:
        """Every module beside a model, in the file's order."""
        return [
            match(module, self.shapes(module), aliases)
            if self._is_of_numbers(module)
            else Unmatched(module=module, reason=Reason.NO_NUMBERS)
            for module in self.modules
        ]

    def _is_of_numbers(self, module: str) -> bool:
        """Integers are what some tensors are made of (alpha, places), and never those that are multiplied."""
        keys = (key for name, key in self.modules[module].items() if name not in _INTEGERS)
        return all(self.source.spec(key).dtype.is_floating_point for key in keys)

    def formats(self) -> dict[str, int]:
        """What the file is made of, label -> number of modules; the most frequent first."""
        return dict(Counter(_label(tensors) for tensors in self.modules.values()).most_common())

    def ranks(self) -> tuple[int, int] | None:
        """The lowest and the highest, None where no format has any."""
        found = ((format_of(tensors), self.shapes(module)) for module, tensors in self.modules.items())
        return _range([rank for format, shapes in found if format and (rank := format.rank(shapes)) is not None])

    def report(self, specs: Mapping[str, TensorSpec], family: str, *, reads_numbers: bool = True) -> AdapterReport:
        """The adapter beside a model.

        specs: of the model in the single-file layout of its family; where text encoders are files of their own,
        those of all its files. reads_numbers: whether to look for NaN, zeros and alphas, which reads the whole file.
        Raises UnknownName for a family that takes no adapters, BadCheckpoint for a damaged file.
        """
        matches = self.matches(aliases_of(named_targets(specs, family)))
        fitting = [found for found in matches if isinstance(found, Match)]
        numbers = _Numbers(self) if reads_numbers else None
        return AdapterReport(
            path=self.origin,
            family=family,
            trained_for=self.trained_for,
            formats=self.formats(),
            matched=dict(Counter(found.target.component for found in fitting)),
            totals=dict(Counter(_component(found) for found in matches)),
            unmatched=tuple(found for found in matches if isinstance(found, Unmatched)),
            ranks=self.ranks(),
            alphas=_range(numbers.alphas) if numbers else None,
            num_without_alpha=sum("alpha" not in tensors for tensors in self.modules.values()),
            not_finite=tuple(numbers.not_finite) if numbers else (),
            untrained=tuple(numbers.untrained) if numbers else (),
            silent=tuple(numbers.silent) if numbers else (),
            doubled=_doubled(fitting),
            hint=hint_of(self.origin.name, self.metadata),
            needs_control=any(found.format is CONTROL_LORA for found in fitting),
            embeddings=self.embeddings,
            others=self.others,
            left_out=self.left_out,
            num_bytes=self.num_bytes,
        )


class _Numbers:
    """What only the values of an adapter tell. Raises BadCheckpoint where a format finds them to be impossible."""

    def __init__(self, adapter: Adapter) -> None:
        self.not_finite: list[str] = []
        self.untrained: list[str] = []
        self.silent: list[str] = []
        self.alphas: list[float] = []
        for module, tensors in adapter.modules.items():
            format = format_of(tensors)
            if format is not None and format.checks_numbers:
                adapter.read(module)
            for name, key in tensors.items():
                self._look_at(module, name, key, adapter.source.read(key))

    def _look_at(self, module: str, name: str, key: str, tensor: Tensor) -> None:
        values = tensor.to(torch.bfloat16) if tensor.dtype.itemsize == 1 else tensor
        if not values.isfinite().all():
            self.not_finite.append(key)
        elif name == "alpha" and values.numel() == 1:
            self.alphas.append(float(values))
            if not float(values):
                self.silent.append(module)
        elif name in ("up", "hada_w2_a") and not values.any():
            self.untrained.append(module)


def _doubled(matches: Sequence[Match]) -> tuple[str, ...]:
    """Modules for rows that another one before them is for, too, in all or in part."""
    taken: dict[str, list[tuple[int, int]]] = {}
    found: list[str] = []
    for matched in matches:
        first, end = matched.target.rows or (0, matched.target.shape[0])
        others = taken.setdefault(matched.target.weight, [])
        if any(first < other_end and other < end for other, other_end in others):
            found.append(matched.module)
        others.append((first, end))
    return tuple(found)


def _such_as(keys: Sequence[str]) -> str:
    return f" (the first is {keys[0][:200]})" if keys else ""


def _is_of_an_adapter(tensors: Mapping[str, str]) -> bool:
    """Plain weights and biases are also what checkpoints are made of."""
    format = format_of(tensors)
    is_bias = bool({"diff_b", "b_norm"} & tensors.keys())
    return is_bias or (format is not None and (format is not REPLACEMENT or "set_weight" in tensors))


def _label(tensors: Mapping[str, str]) -> str:
    format = format_of([name for name in tensors if name not in ("diff_b", "b_norm", "bias", "up_bias")])
    return format.label if format else "bias" if {"diff_b", "b_norm"} & tensors.keys() else "unknown"


def _component(found: Match | Unmatched) -> str:
    """That of a module which fits nothing is guessed by its name."""
    if isinstance(found, Match):
        return found.target.component
    return "text encoder" if found.module.startswith(_TEXT_ENCODERS) else DENOISER


def _range(values: Sequence[_Number]) -> tuple[_Number, _Number] | None:
    return (min(values), max(values)) if values else None
