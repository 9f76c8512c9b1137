"""What a person at the terminal is told about the start, and the browser that is opened for them."""

from __future__ import annotations

import threading
import webbrowser

from backend.commands.server_options import ServerOptions


def announce(url: str, options: ServerOptions) -> None:
    """Print the address, which may hold the token, and open it where that was not switched off."""
    if options.web_ui and options.theme != "system":
        url += f"{'&' if '?' in url else '?'}__theme={options.theme}"  # Gradio's own switch
    what = "Emulsion" if options.web_ui else "The API of Emulsion"
    print(f"{what} runs at {url}", flush=True)
    if options.open_browser:
        # Some browsers return from being opened only when they are closed.
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
