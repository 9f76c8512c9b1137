"""A simulated accelerator: real numbers, a byte budget, running out of memory, and a clock of its own.

Tensors on `DEVICE` wrap a tensor on the host, so that what is computed has the host's bits; or, inside of
`shapes_only`, one without contents, so that networks of full size cost next to nothing. PyTorch knows the device as a
backend that is written in Python (PrivateUse1), and mixing it with the host is an error as on a GPU.

Time passes as on a card of so many FLOP/s and bytes/s: each kernel takes the larger of both costs, each copy from the
host its bytes over the link, and streams run side by side unless one waits for the other. A kernel that would read
memory into which a copy has not ended, or a copy that would write where a kernel still reads, is an error.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from torch.utils.flop_counter import flop_registry

from backend.memory.transport import Mark

aten = torch.ops.aten
_GRANULE = 512
_COPIES = {aten._to_copy.default, aten.copy_.default, aten._copy_from.default}
_INDEXED = {aten.index.Tensor, aten.index_put_.default}


@dataclass(frozen=True, kw_only=True)
class Card:
    """flops: sustained, per second. memory, link: bytes per second, of its own memory and from the host."""

    flops: float = 1e12
    memory: float = 100e9
    link: float = 10e9


@dataclass
class _Stream:
    time: float = 0.0  # until when it is busy
    busy: float = 0.0  # seconds of work


@dataclass
class _Access:
    begin: int
    end: int
    time: float


class _Block:
    """Memory on the card; all views of it hold it, and it is free when they are gone."""

    def __init__(self) -> None:
        self.reads: list[_Access] = []
        self.writes: list[_Access] = []


@dataclass
class SimulatedGpu:
    """The card's state. budget: bytes that can be taken. fails_at: which allocation does not succeed, from 1."""

    budget: int = 2**62
    card: Card = field(default_factory=Card)
    fails_at: int | None = None
    used: int = 0
    peak: int = 0
    allocations: int = 0
    copied: int = 0
    flops: int = 0
    compute: _Stream = field(default_factory=_Stream)
    copies: _Stream = field(default_factory=_Stream)
    is_copying: bool = False
    _blocks: dict[int, weakref.ref[_Block]] = field(default_factory=dict)

    def reset(self, *, budget: int = 2**62, card: Card | None = None, fails_at: int | None = None) -> None:
        """As new, but for what is still in memory."""
        self.budget, self.card, self.fails_at = budget, card or Card(), fails_at
        self.peak, self.allocations, self.copied, self.flops = self.used, 0, 0, 0
        self.compute, self.copies = _Stream(), _Stream()
        for block in (reference() for reference in self._blocks.values()):
            if block is not None:
                block.reads.clear()
                block.writes.clear()

    def block_of(self, payload: Tensor) -> _Block:
        storage = payload.untyped_storage()
        key = storage._cdata
        found = self._blocks.get(key)
        if found is not None and (block := found()) is not None:
            return block
        self._take(size := -(-storage.nbytes() // _GRANULE) * _GRANULE)
        block = _Block()
        reference = weakref.ref(block)
        self._blocks[key] = reference
        weakref.finalize(block, self._free, key, reference, size)
        return block

    def spend(self, seconds: float) -> float:
        """Work on the stream that is in use; returns when it ends."""
        stream = self.copies if self.is_copying else self.compute
        stream.time += seconds
        stream.busy += seconds
        return stream.time

    def _take(self, num_bytes: int) -> None:
        self.allocations += 1
        if self.allocations == self.fails_at or self.used + num_bytes > self.budget:
            raise torch.OutOfMemoryError(
                f"simulated card out of memory. Tried to allocate {num_bytes / 2**20:.2f} MiB; "
                f"{self.used / 2**20:.2f} of {self.budget / 2**20:.2f} MiB are in use"
            )
        self.used += num_bytes
        self.peak = max(self.peak, self.used)

    def _free(self, key: int, reference: weakref.ref[_Block], size: int) -> None:
        self.used -= size
        if self._blocks.get(key) is reference:
            del self._blocks[key]


GPU = SimulatedGpu()


class _Module:
    """What PyTorch asks of a backend (torch.simgpu)."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Random numbers are made on the host."""


_setup_privateuseone_for_python_backend("simgpu", backend_module=_Module())
DEVICE = torch.device("simgpu", 0)


class SimulatedTensor(Tensor):
    payload: Tensor
    block: _Block

    @staticmethod
    def __new__(cls, payload: Tensor) -> SimulatedTensor:
        block = GPU.block_of(payload)
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            payload.shape,
            strides=payload.stride(),
            storage_offset=payload.storage_offset(),
            dtype=payload.dtype,
            layout=payload.layout,
            device=DEVICE,
            requires_grad=False,
        )
        tensor.payload, tensor.block = payload, block
        return tensor

    def __repr__(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"SimulatedTensor({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: object, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:  # one kernel: dispatched, it would be the products it consists of
            return _attention(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _attention(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **options: Any) -> Tensor:
    tensors = [t for t in (q, k, v, *rest, *options.values()) if isinstance(t, Tensor)]
    _refuse_mixture(tensors, "scaled_dot_product_attention")
    payloads = tree_map_only(SimulatedTensor, _payload, ((q, k, v, *rest), options))
    out = F.scaled_dot_product_attention(*payloads[0], **payloads[1])
    _account(2 * q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1]), tensors, [out])
    return SimulatedTensor(out)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operator, on the payloads, with its cost; or those that it consists of."""
    if func._overloadpacket not in flop_registry:
        out = func.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    wanted = kwargs.get("device")
    is_to_host = wanted is not None and torch.device(wanted).type == "cpu"
    if func not in _COPIES and func not in _INDEXED:
        _refuse_mixture(tensors, str(func))
    payload_args, payload_kwargs = tree_map_only(SimulatedTensor, _payload, (args, kwargs))
    if wanted is not None:
        payload_kwargs = {**payload_kwargs, "device": "cpu"}
    out = func(*payload_args, **payload_kwargs)
    outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
    if func in _COPIES:
        _account_copy(func, args, is_to_host=is_to_host, is_on_card=wanted is not None)
    elif not func.is_view and "empty" not in func._schema.name:
        registered = flop_registry.get(func._overloadpacket)
        counted = registered is not None and not isinstance(out, tuple)
        _account(registered(*args, **kwargs, out_val=out) if registered and counted else 0, tensors, outputs)
    if is_to_host:
        return out
    is_in_place = func is aten.copy_.default or func._schema.name.endswith("_")
    if is_in_place and args and isinstance(args[0], Tensor):
        return args[0]
    return kwargs["out"] if "out" in kwargs else tree_map_only(Tensor, SimulatedTensor, out)


def _refuse_mixture(tensors: Iterable[Tensor], name: str) -> None:
    on_card = [isinstance(tensor, SimulatedTensor) for tensor in tensors if tensor.dim()]
    if any(on_card) and not all(on_card):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found simgpu:0 and cpu (in {name})")


def _account(flops: int, inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> None:
    moved = sum(t.nbytes for t in (*inputs, *outputs) if t.dim())
    GPU.flops += flops
    begin = GPU.compute.time
    end = GPU.spend(max(flops / GPU.card.flops, moved / GPU.card.memory))
    for tensor in inputs:
        if isinstance(tensor, SimulatedTensor):
            _read(tensor, begin, end)


def _account_copy(func: Any, args: Any, *, is_to_host: bool, is_on_card: bool) -> None:
    source = args[1] if func is aten.copy_.default else args[0]
    if func is aten.copy_.default:
        is_onto_card = isinstance(args[0], SimulatedTensor)
    else:
        is_onto_card = not is_to_host and (is_on_card or isinstance(source, SimulatedTensor))
    if isinstance(source, SimulatedTensor) and is_onto_card:
        _account(0, [source, source], [])
        return
    begin = GPU.copies.time if GPU.is_copying else GPU.compute.time
    end = GPU.spend(source.nbytes / GPU.card.link)
    if is_onto_card:
        GPU.copied += source.nbytes
    if func is aten.copy_.default and isinstance(args[0], SimulatedTensor) and GPU.is_copying:
        _write(args[0], begin, end)


def _extent(tensor: SimulatedTensor) -> tuple[int, int]:
    begin = tensor.payload.storage_offset() * tensor.dtype.itemsize
    return begin, begin + tensor.nbytes


def _read(tensor: SimulatedTensor, begin: float, end: float) -> None:
    low, high = _extent(tensor)
    if any(access.begin < high and low < access.end and access.time > begin for access in tensor.block.writes):
        raise RuntimeError("a kernel would read memory into which a copy has not ended")
    reads = tensor.block.reads
    if reads and (reads[-1].begin, reads[-1].end) == (low, high):
        reads[-1].time = end
    elif tensor.block.writes:  # only what copies write to can be in danger
        reads.append(_Access(low, high, end))


def _write(tensor: SimulatedTensor, begin: float, end: float) -> None:
    low, high = _extent(tensor)
    touched = [access for access in tensor.block.reads if access.begin < high and low < access.end]
    if any(access.time > begin for access in touched):
        raise RuntimeError("a copy would write where a kernel still reads")
    block = tensor.block
    block.reads = [access for access in block.reads if access not in touched]
    block.writes = [access for access in block.writes if access.begin >= high or low >= access.end]
    block.writes.append(_Access(low, high, end))


def _payload(tensor: SimulatedTensor) -> Tensor:
    return tensor.payload


# Operators without a tensor on the card among their arguments: factories, and copies from the host.
_library = torch.library.Library("_", "IMPL")
_library.fallback(lambda func, *args, **kwargs: _run(func, args, kwargs), "PrivateUse1")


class _Intercepted(TorchDispatchMode):
    """Above a FakeTensorMode, which knows nothing of the card."""

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        wanted = kwargs.get("device")
        is_on_card = wanted is not None and torch.device(wanted).type == DEVICE.type
        if is_on_card or any(isinstance(leaf, SimulatedTensor) for leaf in tree_leaves((args, kwargs))):
            with self if _consists_of_others(func) else contextlib.nullcontext():
                return _run(func, args, kwargs)
        return func(*args, **kwargs)


def _consists_of_others(func: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


@contextlib.contextmanager
def shapes_only() -> Generator[None]:
    """Tensors that are made meanwhile have no contents, on the host and on the card; bytes and time are counted."""
    with FakeTensorMode(allow_non_fake_inputs=True), _Intercepted():
        yield


class SimulatedTransport:
    """A `Transport` to the simulated card, whose marks are times."""

    device = DEVICE

    def empty(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, device=DEVICE)

    def staging(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8)

    def now(self) -> Mark:
        return GPU.compute.time

    def copy(self, source: Tensor, out: Tensor, after: Mark) -> Mark:
        assert isinstance(after, float)
        GPU.copies.time = max(GPU.copies.time, after)
        GPU.is_copying = True
        try:
            out.copy_(source)
        finally:
            GPU.is_copying = False
        return GPU.copies.time

    def wait(self, mark: Mark) -> None:
        assert isinstance(mark, float)
        GPU.compute.time = max(GPU.compute.time, mark)

    def finish(self, mark: Mark) -> None:
        """What has been started has already happened; only its time has not come."""

    def give_back(self) -> None:
        """Nothing is kept."""
