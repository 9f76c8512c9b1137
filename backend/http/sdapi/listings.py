"""What can be named: GET sd-models, sd-vae, samplers, schedulers, hypernetworks, upscalers; and empty lists."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from backend.diffusion.latent_upscaling import BUILTIN as LATENT_UPSCALERS
from backend.diffusion.schedules import AUTOMATIC
from backend.engine.engine import Engine
from backend.weights.hashing import SHORT

_USUAL_SCALE = 4  # what A1111 says of upscalers that take any factor

# Clients ask for these and expect a list, or an object of lists.
_EMPTY: dict[str, list[Any] | dict[str, Any]] = {
    "face-restorers": [],
    "prompt-styles": [],
    "scripts": {"txt2img": [], "img2img": []},
    "script-info": [],
    "extensions": [],
}


def listings_router(engine: Engine) -> APIRouter:
    router = APIRouter()

    @router.get("/sd-models")
    def models() -> list[dict[str, Any]]:
        return [
            {
                "title": entry.title,
                "model_name": entry.name,
                "hash": entry.sha256[:SHORT] if entry.sha256 else None,
                "sha256": entry.sha256,
                "filename": entry.path.name if entry.recipe is None else entry.name,
                "config": None,
            }
            for entry in engine.library.checkpoints()
            if not entry.problem
        ]

    @router.get("/sd-vae")
    def vaes() -> list[dict[str, Any]]:
        return [{"model_name": entry.name, "filename": entry.path.name} for entry in engine.library.vaes()]

    @router.get("/sd-modules")
    def modules() -> list[dict[str, Any]]:
        """Forge's name for VAEs and text encoders together."""
        encoders = engine.library.text_encoders()
        return [*vaes(), *({"model_name": entry.name, "filename": entry.path.name} for entry in encoders)]

    @router.get("/samplers")
    def samplers() -> list[dict[str, Any]]:
        return [
            {"name": sampler.label, "aliases": [sampler.name, *sampler.aliases], "options": {}}
            for sampler in engine.catalog.samplers
        ]

    @router.get("/schedulers")
    def schedulers() -> list[dict[str, Any]]:
        known = [(schedule.name, schedule.label, schedule.aliases) for schedule in engine.catalog.schedules]
        return [
            {"name": name, "label": label, "aliases": list(aliases), "default_rho": -1, "need_inner_model": False}
            for name, label, aliases in [(AUTOMATIC, "Automatic", ()), *known]
        ]

    @router.get("/latent-upscale-modes")
    def latent_upscalers() -> list[dict[str, Any]]:
        return [{"name": upscaler.label} for upscaler in LATENT_UPSCALERS]

    @router.get("/hypernetworks")
    def hypernetworks() -> list[dict[str, Any]]:
        """Paths begin in the folder of hypernetworks: where that lies is nobody's business."""
        return [
            {"name": entry.name, "path": f"{entry.name}{entry.path.suffix}"} for entry in engine.hypernetworks.entries()
        ]

    @router.get("/upscalers")
    def upscalers() -> list[dict[str, Any]]:
        """Those that can be used. Paths begin in the folder of upscalers: where that lies is nobody's business."""
        return [
            {
                "name": entry.name if entry.path else entry.label,
                "model_name": entry.name if entry.path else None,
                "model_path": f"{entry.name}{entry.path.suffix}" if entry.path else None,
                "model_url": None,
                "scale": entry.scale or _USUAL_SCALE,
            }
            for entry in engine.upscalers.entries()
            if not entry.problem
        ]

    @router.get("/realesrgan-models")
    def networks() -> list[dict[str, Any]]:
        """A1111 lists what it downloads; these are the networks that there are."""
        return [
            {"name": entry.name, "path": f"{entry.name}{entry.path.suffix}", "scale": entry.scale or _USUAL_SCALE}
            for entry in engine.upscalers.entries()
            if entry.path and not entry.problem
        ]

    for name, content in _EMPTY.items():
        router.add_api_route(f"/{name}", _always(content), name=name)
    return router


def _always(content: list[Any] | dict[str, Any]) -> Any:
    def answer() -> list[Any] | dict[str, Any]:
        return content

    return answer
