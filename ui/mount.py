"""Put the page into the server's application, with every door shut that Gradio would leave open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gradio as gr

from ui.scripts import ASSETS_FOLDER
from ui.theme import make_theme

if TYPE_CHECKING:
    from fastapi import FastAPI

_SESSIONS = 64  # page loads whose values Gradio remembers, at about a megabyte each
_MAX_UPLOAD = "64mb"


def mount_page(app: FastAPI, page: gr.Blocks) -> FastAPI:
    """Serve `page` at "/" of `app`, after the routes that `app` has already.

    `app` guards the page like everything else: hosts, origins, passwords and headers are its business. It must serve
    `ui.scripts.ASSETS_FOLDER` at `ui.scripts.ASSETS_URL`.
    """
    page.state_session_capacity = _SESSIONS
    served = gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        show_error=False,
        max_file_size=_MAX_UPLOAD,
        favicon_path=str(ASSETS_FOLDER / "favicon.svg"),
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
        theme=make_theme(),
    )
    # Without this Gradio takes the page for one that does not run yet and checks no path: whoever names a file in an
    # event's input could then read it.
    page.has_launched = True
    return served
