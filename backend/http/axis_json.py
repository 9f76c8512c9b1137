"""What an axis can change, as JSON: its kind, and the names that there are."""

from __future__ import annotations

from enum import Enum
from typing import Any

from backend.diffusion.latent_upscaling import BUILTIN as LATENT_UPSCALERS
from backend.engine.axis_kinds import AxisKind
from backend.engine.engine import Engine
from backend.init_image import BorderFill, InpaintArea, MaskedContent, ResizeMode
from backend.request import PredictionKind
from backend.second_pass import TileMethod

_MEMBERS: dict[str, type[Enum]] = {
    "init.resize": ResizeMode,
    "init.mask.content": MaskedContent,
    "init.mask.area": InpaintArea,
    "init.borders.fill": BorderFill,
    "tiles.method": TileMethod,
    "prediction": PredictionKind,
}


def axis_kind_json(engine: Engine, kind: AxisKind) -> dict[str, Any]:
    """choices: [name, label] pairs, empty for what is no name."""
    return {
        "kind": kind.name,
        "label": kind.label,
        "group": kind.group,
        "values": kind.values.value,
        "target": kind.target,
        "needs_target": kind.needs_target,
        "choices": _choices(engine, kind),
    }


def _choices(engine: Engine, kind: AxisKind) -> list[tuple[str, str]]:
    if kind.name in _MEMBERS:
        return [(str(one.value), str(one.value).replace("_", " ")) for one in _MEMBERS[kind.name]]
    catalog, library = engine.catalog, engine.library
    match kind.name.rpartition(".")[2]:
        case "checkpoint" | "refiner":
            return [(entry.name, entry.name) for entry in library.checkpoints() if not entry.problem]
        case "vae":
            return [("Automatic", "Automatic"), *((entry.name, entry.name) for entry in library.vaes())]
        case "sampler":
            return [(entry.name, entry.label) for entry in catalog.samplers]
        case "schedule":
            return [(entry.name, entry.label) for entry in catalog.schedules]
        case "emphasis":
            return [(entry.name, entry.label) for entry in catalog.emphasis_modes]
        case "noise_source":
            return [(entry.name, entry.label) for entry in catalog.noise_sources]
        case "rule":
            return [(entry.name, entry.label) for entry in catalog.rules]
        case "upscaler":
            latent = LATENT_UPSCALERS if kind.name.startswith("hires") else ()
            return [(entry.name, entry.label) for entry in latent] + [(name, name) for name in engine.upscalers.names()]
        case _:
            return []
