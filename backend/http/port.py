"""The port that the server listens on, opened before anything slow is started for it."""

from __future__ import annotations

import errno
import os
import socket

from backend.errors import ServerError


def open_port(host: str, port: int) -> socket.socket:
    """A listening socket. host: a name or an address, "" for all; port: 0 for any free one.

    Raises ServerError, which says what is in the way.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ServerError(f"{host} is no address of this machine ({error.strerror}). Use --server-name.") from error
    listening = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except OSError as error:
        listening.close()
        raise ServerError(_told(error, host, port)) from error
    return listening


def _told(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"Port {port} is in use by another program, perhaps by Emulsion itself. "
                f"Stop that program, or choose another port with --port {port + 1}."
            )
        case errno.EACCES:
            return f"Port {port} may not be used without special rights. Choose one from 1024 on with --port."
        case errno.EADDRNOTAVAIL:
            return f"{host} is no address of this machine. Choose another with --server-name."
        case _:
            return f"The server cannot listen on {host}:{port} ({error.strerror}). Choose another port with --port."
