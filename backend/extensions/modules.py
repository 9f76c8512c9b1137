"""The code of an extension as a package of its own, `emulsion_extensions.<id>`, whatever else is on the import path."""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType

from backend.extensions.manifest import Manifest

ROOT = "emulsion_extensions"


def package_name(manifest: Manifest) -> str:
    """The package of an extension. Ids have no underscores, so no two share one."""
    return f"{ROOT}.{manifest.id.replace('-', '_')}"


def import_module(manifest: Manifest, name: str) -> ModuleType:
    """Run the file `name`.py of the extension's folder, once. Raises whatever the file does."""
    _make_package(ROOT, folder=None)
    _make_package(package_name(manifest), folder=manifest.folder)
    importlib.invalidate_caches()  # the folder may be younger than what Python knows of the disk
    return importlib.import_module(f"{package_name(manifest)}.{name}")


def forget(manifest: Manifest) -> None:
    """Take every module of the extension out of Python's memory."""
    package = package_name(manifest)
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]


def _make_package(name: str, *, folder: Path | None) -> None:
    """A package without code. Its modules are looked for in `folder` alone."""
    if name in sys.modules:
        return
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [] if folder is None else [str(folder.resolve())]
    sys.modules[name] = module_from_spec(spec)
