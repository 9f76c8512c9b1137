"""The composition root: flags -> settings -> engine -> extensions -> server and page."""

from __future__ import annotations

import logging
import os
import socket
import sys
from functools import partial
from pathlib import Path

from backend.commands.announce import announce
from backend.commands.flags import StartOptions, read_flags
from backend.commands.minimum_versions import outdated_packages
from backend.errors import EmulsionError
from backend.http.port import open_port
from backend.http.security import Security

_SECONDS_TO_STOP = 4  # for the step that runs; service managers kill what takes longer
_log = logging.getLogger("app")


def main(arguments: list[str]) -> int:
    """Serve until the program is stopped: 0; 1 when it cannot start, which is told in one line."""
    options = read_flags(arguments, root=Path(__file__).resolve().parent)
    server = options.server
    logging.basicConfig(level=server.log_level, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    for note in (*options.notes, *(f"{package}. Run ./launch.sh doctor." for package in outdated_packages())):
        _log.warning("%s", note)
    if server.visible_device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = server.visible_device  # is read when torch is imported
    try:
        security = Security.with_token_if_needed(
            host=server.host,
            port=server.port,
            token=server.token,
            credentials=server.credentials,
            allowed_hosts=server.allowed_hosts,
            allowed_origins=server.allowed_origins,
        )
        run(options, security, open_port(server.host, server.port))
    except EmulsionError as error:
        _log.error("%s", error)
        return 1
    except KeyboardInterrupt:  # before the server took the signals over
        return 130
    return 0


def run(options: StartOptions, security: Security, port: socket.socket) -> None:
    """Put the program together and serve on `port`. What is slow to import is imported now that the port is ours."""
    from backend.engine.engine import Engine
    from backend.extensions.loader import load_extensions
    from backend.http.server import Serving, build_app, serve

    settings, server = options.settings, options.server
    engine = Engine.open(settings, start=False)
    with load_extensions(settings.extensions_dir, engine, safe_mode=server.safe_mode) as extensions:
        engine.start()  # not before: queued jobs may use what extensions registered; closed before those are withdrawn
        try:
            if server.web_ui:
                from ui.environment import prepare_environment

                prepare_environment(settings)  # before gradio is imported
                from ui.mount import mount_page
                from ui.page import build_page
                from ui.scripts import ASSETS_FOLDER, ASSETS_URL

                app = build_app(engine, security, folders={ASSETS_URL: ASSETS_FOLDER})
                mount_page(app, build_page(engine, extensions))
            else:
                app = build_app(engine, security)
            serving = Serving(subpath=server.subpath, tls_key=server.tls_key, tls_certificate=server.tls_certificate)
            serve(app, security, partial(announce, options=server), serving=serving, port=port)
        finally:
            engine.close(timeout=_SECONDS_TO_STOP)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
