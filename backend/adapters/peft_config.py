"""What PEFT and diffusers say about an adapter's scale beside its tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from backend.adapters.format import Scaling

_METADATA = "lora_adapter_metadata"  # diffusers' key in the header of a file
_MAX_BYTES = 2**20


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
        if f"{prefix}lora_alpha" not in config and f"{prefix}alpha_pattern" not in config:
            continue
        patterns = config.get(f"{prefix}alpha_pattern")
        alpha = _by_pattern(patterns, module) if isinstance(patterns, Mapping) else None
        return Scaling(
            alpha=_number(config.get(f"{prefix}lora_alpha")) if alpha is None else alpha,
            is_rank_stabilised=config.get(f"{prefix}use_rslora") is True,
        )
    return Scaling()


def _by_pattern(patterns: Mapping[Any, Any], module: str) -> float | None:
    return next(
        (_number(alpha) for end, alpha in patterns.items() if module == end or module.endswith(f".{end}")), None
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _parsed(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}
