"""GET and POST options: our preferences under A1111's names."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from backend.engine.engine import Engine
from backend.errors import EmulsionError
from backend.http.json_body import JsonObject
from backend.http.sdapi.generation_body import OWN_VAE, noise_source_name
from backend.http.sdapi.names import told_by_a1111_names

_PREFERENCES = {
    "sd_model_checkpoint": "checkpoint",
    "sd_vae": "vae",
    "CLIP_stop_at_last_layers": "clip_skip",
    "emphasis": "emphasis",
    "randn_source": "noise_source",
    "show_progress_every_n_steps": "preview_every",
    "emulsion_exact_batches": "exact_batches",
}


def options_router(engine: Engine) -> APIRouter:
    router = APIRouter()

    @router.get("/options")
    def read() -> dict[str, Any]:
        return _options(engine)

    @router.post("/options")
    def change(body: JsonObject) -> dict[str, Any]:
        """Clients send back all they were given with one value changed, so only differences count."""
        known = _options(engine)
        wanted = {name: value for name, value in body.items() if name not in known or not _is_same(value, known[name])}
        changes = {_PREFERENCES[name]: _ours(name, value) for name, value in wanted.items() if name in _PREFERENCES}
        with told_by_a1111_names():
            if changes:
                engine.change_preferences(**changes)
        return {"ignored": [name[:100] for name in wanted if name not in _PREFERENCES]}

    return router


def _options(engine: Engine) -> dict[str, Any]:
    preferences = engine.preferences
    title, sha256 = _checkpoint(engine)
    return {
        "sd_model_checkpoint": title,
        "sd_checkpoint_hash": sha256,
        "sd_vae": preferences.vae or "Automatic",
        "CLIP_stop_at_last_layers": preferences.clip_skip or 1,
        "emphasis": engine.catalog.emphasis_modes[preferences.emphasis].label,
        "randn_source": engine.catalog.noise_sources[preferences.noise_source].label,
        "show_progress_every_n_steps": preferences.preview_every,
        "emulsion_exact_batches": preferences.exact_batches,
        # What clients look at to know how pictures come.
        "samples_save": True,
        "samples_format": "png",
        "save_images_add_number": True,
        "grid_save": False,
        "enable_pnginfo": True,
        "return_grid": False,
    }


def _checkpoint(engine: Engine) -> tuple[str | None, str | None]:
    """Title and hash of the one that is used when a request names none."""
    try:
        entry = engine.checkpoint()
    except EmulsionError:  # there is none, or the one that was chosen is gone
        return None, None
    return entry.title, entry.sha256


def _is_same(value: Any, known: Any) -> bool:
    return value == known and isinstance(value, bool) is isinstance(known, bool)


def _ours(name: str, value: Any) -> Any:
    match name:
        case "sd_vae":
            return None if value in OWN_VAE else value
        case "randn_source":
            return noise_source_name(value)
        case _:
            return value
