"""`convert FILE`: an old pickle file becomes a safetensors file."""

from __future__ import annotations

import argparse
from pathlib import Path

from backend.commands.terminal import as_line
from backend.weights.pickle_conversion import convert_pickle


def run(values: argparse.Namespace, root: Path) -> int:
    """Convert `values.file`. Raises FileError or OutputError."""
    written = convert_pickle(values.file, values.output, replace=values.force)
    print(as_line(f"{values.file.name} was written as {written}", 1000))
    return 0
