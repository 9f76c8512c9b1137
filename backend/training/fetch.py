"""Fetch the icon packages that the small model is trained on, with `npm pack`, and check what came."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from backend.training.concepts import TrainingError
from backend.weights.hashing import sha256_of

# package, version, file that `npm pack` writes, its SHA-256
PACKAGES = (
    (
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "iconify-json-fluent-emoji-flat-1.2.6.tgz",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    (
        "@iconify-json/noto",
        "1.2.9",
        "iconify-json-noto-1.2.9.tgz",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    ),
)


def fetch_packages(folder: Path) -> None:
    """Download what is not in `folder` yet. Raises TrainingError without npm or when a file is not the expected one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, version, file, digest in PACKAGES:
        path = folder / file
        if not path.exists():
            _pack(f"{name}@{version}", folder)
        if not path.exists() or sha256_of(path) != digest:
            raise TrainingError(f"{path} is not the file that the model was trained on; remove it and fetch again")


def _pack(package: str, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise TrainingError("npm was not found; install Node.js, which the icons are fetched with")
    result = subprocess.run([npm, "pack", "--silent", package], cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        raise TrainingError(f"npm could not fetch {package}: {result.stderr.strip()[-500:]}")
