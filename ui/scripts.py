"""The page's own style sheets and scripts, and how a component finds its script."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

ASSETS_FOLDER = Path(__file__).parent / "assets"


def _fingerprint() -> str:
    """Changes with every file of the folder, so that no browser mixes the scripts of two versions."""
    digest = hashlib.sha256()
    for path in sorted(ASSETS_FOLDER.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


ASSETS_URL = f"/ui-{_fingerprint()}"  # where the server has to serve the folder


def mounts(script: str, *events: str) -> str:
    """The `js_on_load` of a gr.HTML that hands itself to the function `mount` of a script.

    Gradio makes listeners for the names in `events` because they stand in the code, in quotes.
    """
    sends = ", ".join(f"'{event}': (data) => trigger('{event}', data)" for event in events)
    return f"{_module(script)}.then((script) => script.mount({{element, props, watch, server, send: {{{sends}}}}}));"


def calls(script: str, function: str, *constants: object) -> str:
    """The `js` of an event that passes `constants` and its inputs to a function of a script and takes its result."""
    given = "".join(f"{json.dumps(constant)}, " for constant in constants)
    return f"async (...values) => (await {_module(script)}).{function}({given}...values)"


def style_sheet() -> str:
    """All style sheets in one text, in the order of their names."""
    return "\n".join(path.read_text("utf-8") for path in sorted(ASSETS_FOLDER.glob("*.css")))


def _module(script: str) -> str:
    if not (ASSETS_FOLDER / script).is_file():
        raise ValueError(f"there is no script {script}")
    return f"import(new URL('{ASSETS_URL.lstrip('/')}/{script}', document.baseURI).href)"
