"""A page with canvases on a server that stores pictures by their hashes, and nothing else: no engine, no models."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import gradio as gr
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.staticfiles import StaticFiles
from PIL import Image

from backend.http.port import open_port
from ui.components.mask_canvas import mask_canvas
from ui.mount import mount_page
from ui.scripts import ASSETS_FOLDER, ASSETS_URL, calls


@dataclass
class Store:
    """What came, in the order in which it came; `generated` is what Generate was clicked with."""

    files: dict[str, bytes] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)
    generated: list[str] = field(default_factory=list)
    is_broken: bool = False

    def picture(self, sha256: str) -> Image.Image:
        return Image.open(io.BytesIO(self.files[sha256]))


@contextmanager
def served_canvases() -> Generator[tuple[Store, str]]:
    """The store, and the address of the page: canvas-inpaint in the first tab, canvas-sketch in the second."""
    store = Store()
    app = FastAPI()
    app.mount(ASSETS_URL, StaticFiles(directory=ASSETS_FOLDER))

    @app.post("/api/v1/pictures")
    async def add(request: Request) -> dict[str, object]:
        data = await request.body()
        if store.is_broken:
            raise HTTPException(507, "the disk is full")
        sha256 = hashlib.sha256(data).hexdigest()
        store.files[sha256] = data
        store.uploads.append(sha256)
        size = store.picture(sha256).size
        return {"sha256": sha256, "width": size[0], "height": size[1], "has_alpha": False, "url": ""}

    @app.get("/api/v1/pictures/{sha256}")
    def get(sha256: str) -> Response:
        if sha256 not in store.files:
            raise HTTPException(404)
        return Response(store.files[sha256], media_type="image/png")

    mount_page(app, _page(store))
    listener = open_port("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.02)
        yield store, f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(20)


def _page(store: Store) -> gr.Blocks:
    def generate(value: str) -> str:
        store.generated.append(value)
        return value

    def fill(text: str) -> str:
        return text

    with gr.Blocks(title="Canvases", analytics_enabled=False, fill_width=True) as page:
        with gr.Tabs(elem_id="em-tabs"):
            with gr.Tab("Inpaint"), gr.Row(elem_classes=["em-columns"]):
                with gr.Column(elem_classes=["em-form"], scale=0):
                    gr.Textbox(label="Prompt")
                    button = gr.Button("Generate")
                    shown = gr.Textbox(label="Generated with")
                    filled = gr.Textbox(label="Fill with")
                with gr.Column(scale=1):
                    canvas = mask_canvas("inpaint", "Picture and mask", has_paint=True, has_borders=True)
            with gr.Tab("Sketch"), gr.Row(elem_classes=["em-columns"]):
                with gr.Column(elem_classes=["em-form"], scale=0):
                    mask_canvas("sketch", "Sketch", has_mask=False, has_paint=True)
                with gr.Column(scale=1):
                    gr.Markdown("Results")
        flushed = button.click(None, None, canvas, js=calls("mask_canvas.js", "flushed", "canvas-inpaint"), queue=False)
        flushed.success(generate, canvas, shown, queue=False, preprocess=False)
        filled.submit(fill, filled, canvas, queue=False)
    return page
