"""Adapters beside models: opened once, read once, and remembered by what is in the files."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from backend.adapters.lora_file import Adapter, open_adapter
from backend.adapters.report import AdapterReport
from backend.engine.adapted_model import AdaptableModel

_KEPT_ADAPTERS = 64  # headers: at most a megabyte each
_KEPT_REPORTS = 256


class AdapterReports:
    """May be called by several threads."""

    def __init__(self) -> None:
        self._adapters: OrderedDict[str, Adapter] = OrderedDict()
        self._reports: OrderedDict[tuple[str, str], AdapterReport] = OrderedDict()
        self._lock = threading.Lock()

    def adapter(self, path: Path) -> Adapter:
        """The file as it is now. Raises FileError."""
        identity = identity_of(path)
        with self._lock:
            known = self._adapters.get(identity)
        opened = open_adapter(path) if known is None else known
        with self._lock:
            self._adapters[identity] = opened
            self._adapters.move_to_end(identity)
            while len(self._adapters) > _KEPT_ADAPTERS:
                self._adapters.popitem(last=False)
        return opened

    def report(self, path: Path, model: AdaptableModel) -> AdapterReport:
        """Reads the whole file the first time. Raises FileError for one that is none or is damaged."""
        key = (identity_of(path), model.identity)
        with self._lock:
            known = self._reports.get(key)
        report = self.adapter(path).report(model.specs, model.family.name) if known is None else known
        with self._lock:
            self._reports[key] = report
            self._reports.move_to_end(key)
            while len(self._reports) > _KEPT_REPORTS:
                self._reports.popitem(last=False)
        return report


def identity_of(path: Path) -> str:
    """Equal ones mean the same file, unchanged. Of one that is gone, its path: opening it says so."""
    try:
        status = path.stat()
    except OSError:
        return str(path)
    return f"{path}:{status.st_size}:{status.st_mtime_ns}"
