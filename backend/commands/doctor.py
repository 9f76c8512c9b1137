"""`doctor`: what is in order on this machine, what is not, and what to do about it."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from backend.commands.flags import read_settings
from backend.commands.minimum_versions import MINIMUMS, outdated_packages
from backend.commands.server_options import DEFAULT_PORT, LOOPBACK
from backend.commands.terminal import as_line
from backend.engine.library import Library
from backend.engine.settings import Settings
from backend.errors import ExtensionError, ServerError
from backend.extensions.manifest import extension_folders, read_manifest
from backend.families import builtin
from backend.http.port import open_port
from backend.memory.byte_sizes import as_text
from backend.memory.device import detect_device, free_host_bytes, total_host_bytes
from backend.weights.hashing import HashCache

_LITTLE_MEMORY = 3 * 2**30  # an SD 1.x checkpoint in half precision, and room to compute
_LITTLE_DISK = 2**30
_NEWER_PYTHON = "install Python 3.11 or newer, remove the folder .venv and start again"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report. remedy: what to do, "" when nothing needs to be done."""

    level: Literal["ok", "warn", "fail"]
    subject: str
    text: str
    remedy: str = ""


def run(values: argparse.Namespace, root: Path) -> int:
    """Print the report; 1 when anything fails."""
    findings: list[Finding] = []
    for finding in examine(read_settings(values, root), DEFAULT_PORT if values.port is None else values.port):
        print(_line(finding), flush=True)
        findings.append(finding)
    failures = sum(finding.level == "fail" for finding in findings)
    warnings = sum(finding.level == "warn" for finding in findings)
    print(f"{failures} to repair, {warnings} to know" if failures or warnings else "All is in order.")
    return 1 if failures else 0


def examine(settings: Settings, port: int) -> Iterator[Finding]:
    """Look at everything, the quick things first. Nothing is changed."""
    yield _python(sys.version_info[:2])
    yield from _packages(sys.version_info[:2])
    yield from _device(settings)
    yield _memory()
    yield from (_folder(folder, flag) for folder, flag in _folders(settings))
    yield from _models(settings)
    yield from _extensions(settings.extensions_dir)
    yield _port(port)


def _python(version: tuple[int, int]) -> Finding:
    text = f"{platform.python_version()}, {sys.executable}"
    if version < (3, 11):
        return Finding(
            level="warn", subject="Python", text=f"{text}: gets no security fixes any more",
            remedy=_NEWER_PYTHON,
        )  # fmt: skip
    return Finding(level="ok", subject="Python", text=text)


def _packages(python: tuple[int, int]) -> Iterator[Finding]:
    outdated = {one.minimum.package: one for one in outdated_packages()}
    for minimum in MINIMUMS:
        if one := outdated.get(minimum.package):
            remedy = "run ./launch.sh once without --skip-install; if that does not help, remove the folder .venv first"
            if python < (3, 11) and minimum.package == "pillow":  # has no such version for it
                remedy = _NEWER_PYTHON
            yield Finding(level="fail", subject="package", text=str(one), remedy=remedy)
        else:
            yield Finding(level="ok", subject="package", text=f"{minimum.package} {metadata.version(minimum.package)}")


def _device(settings: Settings) -> Iterator[Finding]:
    device = detect_device(force_cpu=settings.force_cpu)
    yield Finding(level="ok", subject="device", text=f"{device.kind}, {device.name}, {as_text(device.total_bytes)}")
    if device.has_bfloat16:
        yield Finding(level="ok", subject="bfloat16", text="fast on this device")
    else:
        without = "computes in float16" if device.has_float16 else "computes in float32"
        yield Finding(
            level="ok" if device.has_float16 else "warn", subject="bfloat16", text=f"missing or slow; {without}"
        )


def _memory() -> Finding:
    free, total = free_host_bytes(), total_host_bytes()
    text = f"{as_text(free)} free of {as_text(total)}"
    if free < _LITTLE_MEMORY:
        remedy = "end other programs, or use --lowvram and small checkpoints"
        return Finding(level="warn", subject="memory", text=text, remedy=remedy)
    return Finding(level="ok", subject="memory", text=text)


def _folders(settings: Settings) -> list[tuple[Path, str]]:
    return [(settings.output_dir, "--output-dir"), (settings.data_dir, "--data-dir")]


def _folder(folder: Path, flag: str) -> Finding:
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    remedy = f"choose another folder with {flag}"
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Finding(level="fail", subject="folder", text=f"{folder} cannot be written", remedy=remedy)
    free = shutil.disk_usage(there).free
    level = "warn" if free < _LITTLE_DISK else "ok"
    text = f"{folder}, {as_text(free)} free"
    return Finding(
        level=level, subject="folder", text=text, remedy=f"free some space, or {remedy}" if level == "warn" else ""
    )


def _models(settings: Settings) -> Iterator[Finding]:
    hashes = HashCache(settings.data_dir / "hashes.json")
    library = Library(settings.checkpoint_dirs, settings.vae_dirs, settings.text_encoder_dirs, builtin.BUILTIN, hashes,
                      lora_dirs=settings.lora_dirs, recipe_dirs=settings.recipe_dirs)  # fmt: skip
    entries = library.checkpoints()
    for entry in entries:
        if entry.problem:
            yield Finding(level="warn", subject="checkpoint", text=entry.problem)
        else:
            yield Finding(level="ok", subject="checkpoint", text=f"{entry.name}, {entry.family}, {as_text(entry.size)}")
    if all(entry.problem for entry in entries):
        yield Finding(
            level="warn", subject="checkpoint", text="there is none that can be used",
            remedy=f"put one into {settings.checkpoint_dirs[0]}, or name its folder with --ckpt-dir",
        )  # fmt: skip
    for vae in library.vaes():
        yield Finding(level="ok", subject="VAE", text=vae.name)


def _extensions(folder: Path) -> Iterator[Finding]:
    for path in extension_folders(folder):
        try:
            manifest = read_manifest(path)
        except ExtensionError as error:
            yield Finding(level="warn", subject="extension", text=str(error))
        else:
            yield Finding(level="ok", subject="extension", text=f"{manifest.id} {manifest.version}")


def _port(port: int) -> Finding:
    try:
        open_port(LOOPBACK, port).close()
    except ServerError as error:
        return Finding(level="warn", subject="port", text=str(error))
    return Finding(level="ok", subject="port", text=f"{port} is free")


def _line(finding: Finding) -> str:
    remedy = f" -> {finding.remedy}" if finding.remedy else ""
    return f"{finding.level:<5} {finding.subject:<11} {as_line(finding.text, 1000)}{remedy}"
