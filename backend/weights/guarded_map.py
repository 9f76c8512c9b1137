"""Memory maps of files whose views stay valid when somebody shortens or overwrites the file.

To touch a page of a map that is no longer in its file ends the process (SIGBUS). Where the system lends leases (Linux,
local file systems, files of ours), it tells us before anybody may open the file for writing, and lets the other wait
meanwhile. What is looked at is then read into memory, which takes the place of the file's pages at their addresses.
(Pages of a private map that were written to are no help: shortening the file takes those away, too.) Windows never lets
mapped files be shortened. Everywhere else there are no views, and weights are read into memory from the start.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import signal
import struct
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

if sys.platform == "linux":
    import fcntl

_log = logging.getLogger(__name__)

_SIGNAL = "SIGURG"  # goes to the watching thread alone, which waits for it; anybody else would ignore it
_SET_OWNER_EX, _OWNER_IS_THREAD = 15, 0  # F_SETOWN_EX and F_OWNER_TID of Linux's fcntl.h
_LOOK = 2.0  # seconds after which the watcher looks by itself
_MOST_SECONDS = 20.0  # for copying; the system takes a lease away after 45
_RESERVE = 512 * 2**20  # bytes of the machine that copying leaves free
_PART = 64 * 2**20  # bytes copied at a time
_BLANK = 16 * 2**20  # bytes of NaN that are shown again and again


class GuardedMap:
    """All bytes of a file; views of them live as long as anybody holds them, whatever becomes of the file."""

    def __init__(self, pages: mmap.mmap, lease: _Lease | None) -> None:
        self._pages = pages
        self._lease = lease

    def view(self, begin: int, num_bytes: int) -> Tensor | None:
        """Bytes as uint8, or None once the file was given away: then it has to be read."""
        part = memoryview(self._pages)[begin : begin + num_bytes]  # its owner: alive as long as a tensor looks at it
        if self._lease is not None and not self._lease.guards(_Span(begin, begin + num_bytes, weakref.ref(part))):
            return None
        return torch.frombuffer(part, dtype=torch.uint8)

    @property
    def is_lost(self) -> bool:
        """Whether views of it hold numbers that are not those of the file: the machine had no memory to keep them."""
        return self._lease is not None and self._lease.is_lost


def guarded_map(path: Path, state: tuple[int, int]) -> GuardedMap | None:
    """Map a file, whose size and time of change are `state`, or None where views of it would not be safe.

    Raises OSError, also where the system refuses to map so many pages, and ValueError when the file has changed.
    """
    if sys.platform == "win32":
        with path.open("rb") as file:
            return GuardedMap(_mapped(file.fileno(), state), None)
    if sys.platform != "linux":
        return None
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    lease = _Lease(path, descriptor)
    try:
        if not lease.take():
            _log.info("%s cannot be guarded against changes here; its weights are read into memory", path.name)
            lease.release()
            return None
        pages = _mapped(descriptor, state)
    except BaseException:
        lease.release()
        raise
    lease.attach(pages)
    return GuardedMap(pages, lease)


def _mapped(descriptor: int, state: tuple[int, int]) -> mmap.mmap:
    """The map is private: PyTorch asks for writable memory, and what is written to it never reaches the file."""
    status = os.fstat(descriptor)
    if (status.st_size, status.st_mtime_ns) != state:
        raise ValueError("the file has changed")
    return mmap.mmap(descriptor, status.st_size, access=mmap.ACCESS_COPY)


@dataclass(frozen=True)
class _Span:
    """A part of the file that is looked at as long as `owner` lives."""

    begin: int
    end: int
    owner: weakref.ref[memoryview]


class _Lease:
    """The system's promise to ask before anybody writes to a file, and the thread that answers."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._lock = threading.RLock()  # finalizers run in any thread, in this one, too
        self._spans: list[_Span] = []
        self._pruned_at = 64
        self._pages: weakref.ref[mmap.mmap] | None = None
        self._is_held = False
        self._is_closed = False
        self._watcher: threading.Thread | None = None
        self.is_lost = False

    def take(self) -> bool:
        """Start the thread that answers, and ask for the lease in its name. False where there is none to be had."""
        asked = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(asked,), name=f"lease of {self._path.name}", daemon=True)
        self._watcher = watcher
        watcher.start()
        asked.wait()
        return self._is_held

    def attach(self, pages: mmap.mmap) -> None:
        """Guard these pages, and give the lease back when nobody holds them any more."""
        self._pages = weakref.ref(pages)
        weakref.finalize(pages, self.release).atexit = False

    def guards(self, span: _Span) -> bool:
        """Remember that a part is looked at. False when the lease is gone."""
        with self._lock:
            if len(self._spans) >= self._pruned_at:
                self._spans = [known for known in self._spans if known.owner() is not None]
                self._pruned_at = 64 + 2 * len(self._spans)
            self._spans.append(span)
            return self._is_held

    def release(self) -> None:
        """Give the lease back, and end the thread."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed, self._is_held = True, False
            with suppress(OSError):
                fcntl.fcntl(self._descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            os.close(self._descriptor)
            watcher = self._watcher
            if watcher is not None and watcher.ident is not None:
                signal.pthread_kill(watcher.ident, signal.Signals[_SIGNAL])

    def _watch(self, asked: threading.Event) -> None:
        awaited = {signal.Signals[_SIGNAL]}
        signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
        self._is_held = self._ask()
        asked.set()
        while True:
            signal.sigtimedwait(awaited, _LOOK)
            with self._lock:
                if not self._is_held or fcntl.fcntl(self._descriptor, fcntl.F_GETLEASE) != fcntl.F_RDLCK:
                    break
        with self._lock:
            self._watcher = None  # nobody is to be woken any more
            try:
                if self._is_held:
                    self._answer()
            finally:
                self.release()

    def _ask(self) -> bool:
        owner = struct.pack("ii", _OWNER_IS_THREAD, threading.get_native_id())
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_SETSIG, signal.Signals[_SIGNAL])
            fcntl.fcntl(self._descriptor, _SET_OWNER_EX, owner)
            fcntl.fcntl(self._descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError:  # another's file, a file system without leases, or one that somebody writes to
            return False
        return True

    def _answer(self) -> None:
        """Somebody waits for the file: make what is looked at ours, before they go on."""
        pages = self._pages() if self._pages is not None else None
        if pages is None:
            return
        live = _merged([span for span in self._spans if span.owner() is not None], len(pages))
        size = sum(end - begin for begin, end in live)
        _log.warning(
            "%s is opened for writing while it is in use; %d MiB of it are read into memory",
            self._path.name,
            size // 2**20,
        )
        rest = _moved_to_memory(self._descriptor, pages, live)
        if rest:
            self.is_lost = True
            _log.error("No memory to keep %s, which another program changes; results will be refused", self._path.name)
            _make_nan(pages, rest)


def _merged(spans: Sequence[_Span], size: int) -> list[tuple[int, int]]:
    """The pages of spans, in order and without overlaps."""
    page = mmap.PAGESIZE
    ranges: list[tuple[int, int]] = []
    for begin, end in sorted((span.begin // page * page, min(-(-span.end // page) * page, size)) for span in spans):
        if ranges and begin <= ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], max(end, ranges[-1][1]))
        else:
            ranges.append((begin, end))
    return ranges


def _moved_to_memory(descriptor: int, pages: mmap.mmap, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Put memory with the same content in place of pages. Returns what there was no memory or no time for."""
    memory = _AddressSpace()
    start = torch.frombuffer(pages, dtype=torch.uint8).data_ptr()
    began = time.monotonic()
    rest: list[tuple[int, int]] = []
    for first, last in ranges:
        for begin in range(first, last, _PART):
            length = min(_PART, last - begin)
            is_possible = time.monotonic() - began < _MOST_SECONDS and _free_bytes() > _RESERVE + length
            if rest or not is_possible or not memory.replace(start + begin, length, descriptor, begin):
                rest.append((begin, begin + length))
    return rest


def _make_nan(pages: mmap.mmap, ranges: Sequence[tuple[int, int]]) -> None:
    """Put pages that are NaN in every floating-point format in place of those of the file, which cost no memory.

    What is computed with them is then refused, as every result is that is no number.
    """
    memory = _AddressSpace()
    start = torch.frombuffer(pages, dtype=torch.uint8).data_ptr()
    blank = os.memfd_create("blank")
    try:
        os.write(blank, b"\xff" * _BLANK)
        for first, last in ranges:
            for begin in range(first, last, _BLANK):
                memory.show(blank, start + begin, min(_BLANK, last - begin))
    finally:
        os.close(blank)


class _AddressSpace:
    """What the C library does with the memory of this process and Python does not offer."""

    _FIXED = 0x10  # MAP_FIXED
    _MOVE_TO = 1 | 2  # MREMAP_MAYMOVE and MREMAP_FIXED
    _FAILED = ctypes.c_void_p(-1).value

    def __init__(self) -> None:
        address, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        library = ctypes.CDLL(None, use_errno=True)
        self._map = library.mmap
        self._map.restype, self._map.argtypes = address, (address, size, number, number, number, ctypes.c_long)
        self._move = library.mremap
        self._move.restype, self._move.argtypes = address, (address, size, size, number, address)
        self._unmap = library.munmap
        self._unmap.argtypes = (address, size)

    def show(self, descriptor: int, place: int, length: int) -> None:
        """The beginning of a file at an address, in place of what is there."""
        self._map(place, length, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | self._FIXED, descriptor, 0)

    def replace(self, place: int, length: int, descriptor: int, begin: int) -> bool:
        """Bytes of a file as memory at an address, at once for all who look at it. False when it cannot be done."""
        kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        new = self._map(None, length, mmap.PROT_READ | mmap.PROT_WRITE, kind, -1, 0)
        if new == self._FAILED:
            return False
        content = memoryview((ctypes.c_ubyte * length).from_address(new))
        is_moved = _fill(content, descriptor, begin) and self._move(new, length, length, self._MOVE_TO, place) == place
        if not is_moved:
            self._unmap(new, length)
        return is_moved


def _fill(content: memoryview, descriptor: int, begin: int) -> bool:
    with suppress(OSError):
        while content:
            count = os.preadv(descriptor, [content], begin)
            if not count:
                return False
            content, begin = content[count:], begin + count
        return True
    return False


def _free_bytes() -> int:
    """Memory that can be taken: of the machine, and of the container if that has less."""
    free = [2**62]
    with suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        free.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(free)
