"""Pictures that are larger than the model was trained for, made in tiles."""

from __future__ import annotations

import gradio as gr

from backend.second_pass import TileMethod, Tiles
from ui.binding import Fields
from ui.components.number_field import number_field

_USUAL = Tiles()
_METHODS = [
    ("Every step in all tiles (MultiDiffusion)", TileMethod.MULTI_DIFFUSION.value),
    ("Tile after tile (SD upscale)", TileMethod.SEPARATE.value),
]


def tile_fields(form: str, *, has_picture: bool) -> Fields:
    """has_picture: whether the form begins with a picture, without which tiles cannot be made one after the other."""
    is_on = gr.Checkbox(
        value=False,
        label="Tiled diffusion",
        info="For pictures that are much larger than the model's own size.",
        elem_classes=["em-switch"],
    )
    method = gr.Dropdown(
        _METHODS if has_picture else _METHODS[:1], value=_USUAL.method.value, label="Tile method", min_width=160
    )
    with gr.Row():
        size = number_field(
            "tiles.size",
            "Tile size",
            form=form,
            minimum=128,
            maximum=4096,
            step=8,
            slider=(128, 2048),
            value=_USUAL.size,
        )
        overlap = number_field(
            "tiles.overlap",
            "Tile overlap",
            form=form,
            minimum=0,
            maximum=2048,
            step=8,
            slider=(0, 512),
            value=_USUAL.overlap,
        )
    return {"tiles.is_on": is_on, "tiles.method": method, "tiles.size": size, "tiles.overlap": overlap}
