"""The device as it was measured at the first start, so that every start computes alike."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import torch

from backend.errors import OutputError
from backend.memory.device import DeviceFacts, detect_device
from backend.weights.atomic import write_atomically

_log = logging.getLogger(__name__)


def remembered_device(file: Path, *, force_cpu: bool) -> DeviceFacts:
    """The device, with what was measured before by this version of PyTorch on the same processor.

    Without a readable file it is measured, and kept for the next time; a file that cannot be written costs only that.
    """
    known = _read(file)
    device = detect_device(force_cpu=force_cpu, measured=known)
    if device.is_host and known != device:
        content = {"torch": torch.__version__, "device": dataclasses.asdict(device)}
        try:
            write_atomically(file, json.dumps(content, indent=1).encode())
        except OutputError as error:
            _log.warning("what was measured of the processor is not kept: %s", error)
    return device


def _read(file: Path) -> DeviceFacts | None:
    try:
        content = json.loads(file.read_text("utf-8"))
        return DeviceFacts(**content["device"]) if content["torch"] == torch.__version__ else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
