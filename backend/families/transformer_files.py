"""Where the diffusion transformer of a file lies, and what is known of the file beside its shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from backend.errors import UnsupportedCheckpoint
from backend.families.distilled import distillation_of
from backend.families.family import Defaults
from backend.weights.source import Renamed, WeightSource

_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.", "")
# What else lies in files in which the names of the transformer's weights have no prefix.
_OTHER_PARTS = ("first_stage_model.", "vae.", "text_encoders.", "cond_stage_model.", "conditioner.", "model_ema.")


def transformer_prefix(source: WeightSource, *markers: str) -> str | None:
    """What the names of a transformer begin with, of whose weights all `markers` are some, or None."""
    keys = frozenset(source.keys())
    return next((prefix for prefix in _PREFIXES if all(prefix + marker in keys for marker in markers)), None)


def transformer_in(source: WeightSource, prefix: str, *, without: Sequence[str] = ()) -> Renamed:
    """The transformer behind `prefix` under its own names. without: tensors that are none of its weights."""

    def rename(key: str) -> str | None:
        name = key[len(prefix) :]
        is_other = not key.startswith(prefix) or name in without or (not prefix and key.startswith(_OTHER_PARTS))
        return None if is_other else name

    return Renamed(source, rename)


def layers_used_once(keys: Iterable[str], is_used_once: Callable[[str], bool]) -> tuple[str, ...]:
    """The layers, of those whose weights have the names `keys`, that `is_used_once` names."""
    layers = dict.fromkeys(key.rpartition(".")[0] for key in keys)
    return tuple(layer for layer in layers if is_used_once(layer))


def with_few_steps(defaults: Defaults, source: WeightSource) -> Defaults:
    """The defaults of a family, or fewer steps without guidance for a file that says it was distilled to them.

    Sampler and schedule stay: those of distilled U-Nets are not for flows.
    """
    found = distillation_of(source)
    if found is None:
        return defaults
    method, who = found
    reason = f"{method.label}, as {who} says: distilled to {method.steps} steps without guidance"
    return dataclasses.replace(defaults, steps=method.steps, guidance_scale=1.0, reason=reason)


def check_width(encoder: WeightSource, found: int, wanted: int) -> None:
    """Raises UnsupportedCheckpoint for a text encoder whose states are not as wide as those that are read."""
    if found != wanted:
        raise UnsupportedCheckpoint(
            encoder.origin,
            f"its text encoder makes states of width {found}, but this model reads {wanted}. Choose the text encoder "
            "that belongs to the model.",
        )
