"""Have the system read a file into its cache before it is wanted, beside everything else."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path

_log = logging.getLogger(__name__)


def read_ahead(files: Sequence[Path], most_bytes: int) -> threading.Thread | None:
    """Begin to read `files`, one after the other, as far as they make up `most_bytes` bytes at the most.

    Page faults read a disk in small pieces, one after the other; this reads it as fast as it goes. None where the
    system offers nothing of the kind.
    """
    if not hasattr(os, "posix_fadvise"):
        return None
    thread = threading.Thread(target=_read, args=(tuple(files), most_bytes), name="read ahead", daemon=True)
    thread.start()
    return thread


def _read(files: Sequence[Path], most_bytes: int) -> None:
    for path in files:
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size > most_bytes:
                    return
                most_bytes -= size
                os.posix_fadvise(file.fileno(), 0, size, os.POSIX_FADV_WILLNEED)
        except OSError as error:  # whoever needs the file is told
            _log.debug("%s cannot be read ahead: %s", path.name, error)
