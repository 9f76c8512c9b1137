"""safetensors files whose tensors are made while they are written, by several threads, with little of them in memory.

The header says where each tensor lies before any is made, so the bytes of a file do not depend on who makes them when.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, wait
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from backend.errors import Cancelled, DiskFull, OutputError
from backend.weights.atomic import atomic_file
from backend.weights.safetensors_header import DTYPES, is_possible_name
from backend.weights.single_threads import single_threaded_pool
from backend.weights.source import TensorSpec

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_SPARE = 64 * 2**20  # bytes of a disk that are left free
_LARGE = 2**26  # numbers from which on a tensor is made while no other large one is
_TICK = 0.1  # seconds between two reports
_FLUSH = 0.2  # seconds after which what is written by then is sent to the disk, so that little waits for the end

Chunks = Callable[[str], Iterator[Tensor]]


def stream_safetensors(
    path: Path,
    specs: Mapping[str, TensorSpec],
    chunks: Chunks,
    *,
    metadata: Mapping[str, str],
    replace: bool = False,
    workers: int = 2,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Write a file atomically.

    chunks: the bytes of one tensor in order, uint8, each overwritten when the next is asked for; called by `workers`
    threads. on_progress: bytes that are written, and all. Both callbacks are called by this thread alone.
    Raises DiskFull (before anything is made where that can be foreseen), NotWritable or OutputError, FileExistsError as
    `atomic_file` does, Cancelled, and what `chunks` raises; and then leaves no trace.
    """
    header, places = _layout(path, specs, metadata)
    size = len(header) + sum(spec.num_bytes for spec in specs.values())
    _refuse_full(path, size)
    with atomic_file(path, replace=replace) as file:
        file.write(header)
        file.flush()
        file.truncate(size)
        writing = _Writing(file.fileno(), chunks, specs, places)
        writing.run(workers, lambda done: on_progress(done, size), is_cancelled)
        on_progress(size, size)


def _layout(path: Path, specs: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """The header, and where each tensor begins in the file, in order: the largest types first, so all are aligned."""
    for name, spec in specs.items():
        if not is_possible_name(name) or spec.dtype not in _NAMES:
            raise OutputError(f"{path.name} was not written: {name[:100]!a} ({spec.dtype}) fits no safetensors file.")
    names = sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name))
    content: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    begins: dict[str, int] = {}
    position = 0
    for name in names:
        begins[name] = position
        end = position + specs[name].num_bytes
        offsets = [position, end]
        content[name] = {"dtype": _NAMES[specs[name].dtype], "shape": list(specs[name].shape), "data_offsets": offsets}
        position = end
    raw = json.dumps(content, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    header = len(raw).to_bytes(8, "little") + raw
    return header, {name: len(header) + begin for name, begin in begins.items()}


def _refuse_full(path: Path, size: int) -> None:
    folder = next((parent for parent in path.absolute().parents if parent.exists()), None)
    free = shutil.disk_usage(folder).free if folder is not None else size + _SPARE
    if free < size + _SPARE:
        raise DiskFull(
            f"The disk of {path.parent} has {free / 1e9:.2f} GB free, and {path.name} takes {size / 1e9:.2f} GB. Free "
            "some space or choose another folder."
        )


@dataclass
class _Writing:
    """The tensors of one file on their way into it."""

    descriptor: int
    chunks: Chunks
    specs: Mapping[str, TensorSpec]
    places: Mapping[str, int]
    _is_over: threading.Event = field(default_factory=threading.Event)
    _large: threading.Lock = field(default_factory=threading.Lock)
    _one: threading.Lock = field(default_factory=threading.Lock)  # of those that share the file's position
    _done: list[int] = field(default_factory=list[int])  # bytes, by worker

    def run(self, workers: int, on_progress: Callable[[int], None], is_cancelled: Callable[[], bool]) -> None:
        waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        for name in self.places:
            waiting.put(name)
        self._done = [0] * workers
        with single_threaded_pool(workers + 1, "writes a model") as pool:
            try:
                jobs = [pool.submit(self._work, waiting, number) for number in range(workers)]
                flushing = pool.submit(self._flush)
                pending = set(jobs)
                while pending and not any(job.done() and job.exception() for job in jobs):
                    _, pending = wait(jobs, timeout=_TICK, return_when=FIRST_EXCEPTION)
                    if is_cancelled():
                        raise Cancelled()
                    on_progress(sum(self._done))
            finally:
                self._is_over.set()
        for job in (*jobs, flushing):
            job.result()

    def _work(self, waiting: queue.SimpleQueue[str], number: int) -> None:
        while not self._is_over.is_set():
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                return
            with self._large if self.specs[name].num_elements >= _LARGE else nullcontext():
                self._write(name, number)

    def _flush(self) -> None:
        while not self._is_over.wait(_FLUSH):
            os.fsync(self.descriptor)

    def _write(self, name: str, number: int) -> None:
        begin = position = self.places[name]
        for chunk in self.chunks(name):
            if self._is_over.is_set():
                return
            self._put(chunk, position)
            position += chunk.numel()
            self._done[number] += chunk.numel()
        if position - begin != self.specs[name].num_bytes:
            raise ValueError(f'"{name}" came to {position - begin} bytes instead of {self.specs[name].num_bytes}')

    def _put(self, chunk: Tensor, position: int) -> None:
        rest = chunk.numpy().data
        if not hasattr(os, "pwrite"):
            with self._one:
                os.lseek(self.descriptor, position, os.SEEK_SET)
                while rest:
                    rest = rest[os.write(self.descriptor, rest) :]
            return
        while rest:
            count = os.pwrite(self.descriptor, rest, position)
            rest, position = rest[count:], position + count
