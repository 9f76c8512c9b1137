"""What PEFT and diffusers say about an adapter's scale beside its tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from backend.adapters.format import Rotation, Scaling

_METADATA = "lora_adapter_metadata"  # diffusers' key in the header of a file
_MAX_BYTES = 2**20
_OF_SCALES = ("lora_alpha", "alpha", "alpha_pattern", "r", "rank_pattern", "use_rslora")
_OF_ROTATIONS = ("use_cayley_neumann", "num_cayley_neumann_terms", "coft", "eps")


def peft_config(path: Path, metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """The configuration in the header, or in PEFT's adapter_config.json beside the file; empty where there is none.

    diffusers puts the component before each name ("transformer.lora_alpha").
    """
    if _METADATA in metadata:
        return _parsed(metadata[_METADATA])
    beside = path.with_name("adapter_config.json")
    if path.name.startswith("adapter_model.") and beside.is_file() and beside.stat().st_size <= _MAX_BYTES:
        return _parsed(beside.read_text(encoding="utf-8", errors="replace"))
    return {}


def scaling_of(config: Mapping[str, Any], module: str) -> Scaling:
    """What it says about one module. A pattern names the end of a module's path."""
    for prefix in ("", f"{module.split('.')[0]}."):
        own = {name: config[f"{prefix}{name}"] for name in (*_OF_SCALES, *_OF_ROTATIONS) if f"{prefix}{name}" in config}
        if own:
            return _scaling(own, module)
    return Scaling()


def _scaling(config: Mapping[str, Any], module: str) -> Scaling:
    alpha = _number(config.get("lora_alpha", config.get("alpha")))
    rank = _number(config.get("r"))
    return Scaling(
        alpha=_by_pattern(config.get("alpha_pattern"), module, alpha),
        is_rank_stabilised=config.get("use_rslora") is True,
        rank=int(rank) if (rank := _by_pattern(config.get("rank_pattern"), module, rank)) and rank >= 1 else None,
        rotation=_rotation(config),
    )


def _rotation(config: Mapping[str, Any]) -> Rotation:
    num_terms, max_norm = _number(config.get("num_cayley_neumann_terms")), _number(config.get("eps"))
    is_series = config.get("use_cayley_neumann") is not False
    return Rotation(
        num_terms=(Rotation.num_terms if num_terms is None else int(num_terms)) if is_series else None,
        max_norm=max_norm if config.get("coft") is True else None,
    )


def _by_pattern(patterns: Any, module: str, default: float | None) -> float | None:
    found = cast("Mapping[str, Any]", patterns) if isinstance(patterns, Mapping) else {}
    return next(
        (_number(value) for end, value in found.items() if module == end or module.endswith(f".{end}")), default
    )


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _parsed(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}
