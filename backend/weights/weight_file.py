"""Weight files of any format that is read here, known by their content."""

from __future__ import annotations

from pathlib import Path

from backend.weights.four_bits import with_four_bits
from backend.weights.gguf_file import open_gguf
from backend.weights.gguf_header import MAGIC
from backend.weights.safetensors_file import open_safetensors
from backend.weights.scaled_fp8 import with_scaled_fp8
from backend.weights.shards import Joined, shards_of
from backend.weights.source import WeightSource
from backend.weights.stored_file import opened

ENDINGS = (".safetensors", ".sft", ".gguf")  # of file names that are worth opening


def open_weights(path: Path) -> WeightSource:
    """Open a file by its header alone; what its name ends in does not matter. Quantised weights are packed ones.

    A file that is one of several parts by its name, such as model-00001-of-00003.safetensors, stands for all of them.
    Raises BadCheckpoint, PickleRefused or UnsupportedCheckpoint, which say what the file is instead.
    """
    sources = [_open_one(shard) for shard in shards_of(path)]
    return with_scaled_fp8(with_four_bits(sources[0] if len(sources) == 1 else Joined(sources)))


def _open_one(path: Path) -> WeightSource:
    with opened(path) as (file, _):
        is_gguf = file.read(len(MAGIC)) == MAGIC
    return open_gguf(path) if is_gguf else open_safetensors(path)
