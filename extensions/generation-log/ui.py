"""The tab with the newest rows and the whole table for download."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from backend.extensions.api import extension_data_dir, write_atomically
from ui.api import Engine, PageApi, Tab

from .log_file import FILE_NAME, LogFile
from .rows import COLUMNS

EXTENSION = "generation-log"
NUM_SHOWN = 100

_CLICK_HIDDEN_BUTTON = "() => document.querySelector('#generation-log-file')?.click()"


def setup_page(api: PageApi) -> None:
    api.add_tab(Tab(name="generation-log", label="Generation log", build=build))


def build(engine: Engine) -> None:
    log = LogFile(extension_data_dir(engine.settings, EXTENSION) / FILE_NAME)
    with gr.Row():
        refresh, download = gr.Button("Refresh", size="sm"), gr.Button("Download as CSV", size="sm")
    table = gr.Dataframe(
        headers=list(COLUMNS), type="array", interactive=False, label=f"The newest {NUM_SHOWN} pictures", max_chars=80
    )
    file = gr.DownloadButton(elem_id="generation-log-file", visible="hidden")

    def newest_rows() -> list[list[str]]:
        return log.newest(NUM_SHOWN)

    def put_file() -> str:
        """A copy where Gradio may send it from; always the same one, so that copies do not pile up."""
        copy = Path(file.GRADIO_CACHE) / EXTENSION / FILE_NAME
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(copy, log.as_csv())
        return str(copy)

    gr.on(None, newest_rows, outputs=table, show_progress="hidden", api_visibility="private")  # when the page opens
    refresh.click(newest_rows, outputs=table, api_visibility="private")
    download.click(put_file, outputs=file, api_visibility="private").then(
        None, js=_CLICK_HIDDEN_BUTTON, api_visibility="private"
    )
