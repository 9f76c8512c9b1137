"""How the server of this program runs: what the command line decides beside the engine's settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

DEFAULT_PORT = 7860
LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"

Credentials = tuple[tuple[str, str], ...]  # names and passwords
Theme = Literal["system", "light", "dark"]


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Where the server listens, whom it lets in and what it serves.

    port: 0 takes any free one. subpath: where a proxy serves us, "/emulsion" or "".
    credentials: names and passwords; token: lets anyone in who knows it.
    allowed_hosts: names under which the server may be reached; allowed_origins: web pages that may call the API.
    visible_device: number of the one GPU that the program sees.
    """

    host: str = LOOPBACK
    port: int = DEFAULT_PORT
    subpath: str = ""
    web_ui: bool = True
    credentials: Credentials = field(default=(), repr=False)
    token: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    tls_key: Path | None = None
    tls_certificate: Path | None = None
    theme: Theme = "system"
    open_browser: bool = True
    safe_mode: bool = False
    log_level: str = "INFO"
    visible_device: str | None = None
