"""Writes a line into a table for every picture that is saved."""

from __future__ import annotations

from datetime import datetime

from backend.extensions.api import Event, ExtensionApi, ImageSaved

from .log_file import FILE_NAME, LogFile
from .rows import row_for


def setup(api: ExtensionApi) -> None:
    def write_down(event: Event) -> None:
        if isinstance(event, ImageSaved):
            log = LogFile(api.data_dir / FILE_NAME)
            log.append(row_for(event, output_dir=api.output_dir, time=datetime.now()))

    api.observe(write_down)
