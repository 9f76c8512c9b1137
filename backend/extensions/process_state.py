"""State that belongs to the whole process: no extension may leave it changed."""

from __future__ import annotations

import locale
import os
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One piece of state. is_told: whether a change is a fault; using a shared random generator is none."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    is_told: bool = True


class ProcessState:
    """A snapshot of the process."""

    def __init__(self) -> None:
        self._values = [part.read() for part in _PARTS]
        self._modules = _own_modules()
        self._definitions = _definitions_in(self._modules)

    def restore(self) -> list[str]:
        """Put everything back; returns the names of what had been changed."""
        changed: list[str] = []
        for part, before in zip(_PARTS, self._values, strict=True):
            if not _same(part.read(), before):
                part.write(before)
                if part.is_told:
                    changed.append(part.name)
        return changed + self._restore_code()

    def _restore_code(self) -> list[str]:
        changed = [name for name, module in self._modules.items() if sys.modules.get(name) is not module]
        sys.modules.update(self._modules)
        for (holder, name), before in self._definitions.items():
            if vars(holder).get(name) is not before:
                setattr(holder, name, before)
                changed.append(f"{_name_of(holder)}.{name}")
        return changed


def _own_modules() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name.split(".")[0] in ("backend", "ui")}


def _definitions_in(modules: Mapping[str, ModuleType]) -> dict[tuple[Any, str], Any]:
    """Every function and class of `modules`, and every method, by where it is kept."""
    found: dict[tuple[Any, str], Any] = {}
    for module_name, module in modules.items():
        for name, value in vars(module).items():
            if isinstance(value, FunctionType | type) and value.__module__ == module_name:
                found[module, name] = value
                if isinstance(value, type):
                    found |= {(value, method): code for method, code in vars(value).items() if _is_code(code)}
    return found


def _is_code(value: object) -> bool:
    return isinstance(value, FunctionType | classmethod | staticmethod | property)


def _name_of(holder: Any) -> str:
    return f"{holder.__module__}.{holder.__qualname__}" if isinstance(holder, type) else str(holder.__name__)


def _same(now: Any, before: Any) -> bool:
    if isinstance(now, torch.Tensor):
        return torch.equal(now, before)
    return now == before


def _working_folder() -> str | None:
    with suppress(FileNotFoundError):  # somebody deleted it
        return os.getcwd()
    return None


def _go_back_to(folder: str | None) -> None:
    if folder is not None:
        os.chdir(folder)


def _set_streams(streams: tuple[Any, Any]) -> None:
    sys.stdout, sys.stderr = streams


def _set_import_path(path: Sequence[str]) -> None:
    sys.path[:] = path


def _set_default_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)  # None takes torch's hook out again


_PARTS = (
    _Part(name="the working folder", read=_working_folder, write=_go_back_to),
    _Part(
        name="the locale",
        read=lambda: locale.setlocale(locale.LC_ALL),
        write=lambda to: locale.setlocale(locale.LC_ALL, to),
    ),
    _Part(name="sys.stdout or sys.stderr", read=lambda: (sys.stdout, sys.stderr), write=_set_streams),
    _Part(name="sys.path", read=lambda: list(sys.path), write=_set_import_path),
    _Part(name="torch's default dtype", read=torch.get_default_dtype, write=torch.set_default_dtype),
    _Part(name="torch's default device", read=torch.get_default_device, write=_set_default_device),
    _Part(name="torch's number of threads", read=torch.get_num_threads, write=torch.set_num_threads),
    _Part(name="torch's gradient mode", read=torch.is_grad_enabled, write=torch.set_grad_enabled),
    _Part(name="torch's random numbers", read=torch.get_rng_state, write=torch.set_rng_state, is_told=False),
    _Part(name="Python's random numbers", read=random.getstate, write=random.setstate, is_told=False),
)
