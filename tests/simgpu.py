"""A simulated accelerator: real numbers, a byte budget, running out of memory, and a clock of its own.

Tensors on `DEVICE` wrap a tensor on the host, so that what is computed has the host's bits; or, inside of
`shapes_only`, one without contents, so that networks of full size cost next to nothing. PyTorch knows the device as a
backend that is written in Python (PrivateUse1), and mixing it with the host is an error as on a GPU.

Time passes as on cards of so many FLOP/s and bytes/s, on several at once: each kernel takes the larger of both costs,
each copy from the host its bytes over the link, and streams run side by side unless one waits for the other. A kernel
that would read memory into which a copy has not ended, or a copy that would write where a kernel still reads, is an
error.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
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


Times = tuple[float, ...]
"""Seconds on each card."""


@dataclass
class _Access:
    begin: int
    end: int
    until: Times


class _Block:
    """Memory on the card; all views of it hold it, and it is free when they are gone."""

    def __init__(self) -> None:
        self.reads: list[_Access] = []
        self.writes: list[_Access] = []


@dataclass
class SimulatedGpu:
    """The card's state.

    budget: bytes that can be taken. fails_at: which allocation does not succeed, from 1. copied: bytes from the host.
    worked: seconds that kernels took.
    """

    budget: int = 2**62
    cards: tuple[Card, ...] = (Card(),)
    fails_at: int | None = None
    used: int = 0
    peak: int = 0
    allocations: int = 0
    copied: int = 0
    flops: int = 0
    worked: Times = (0.0,)
    computed_until: Times = (0.0,)
    copied_until: Times = (0.0,)
    is_copying: bool = False
    has_contents: bool = True
    _blocks: dict[int, weakref.ref[_Block]] = field(default_factory=dict)

    def reset(self, *, budget: int = 2**62, cards: tuple[Card, ...] = (Card(),), fails_at: int | None = None) -> None:
        """As new, but for what is still in memory."""
        self.budget, self.cards, self.fails_at = budget, cards, fails_at
        self.peak, self.allocations, self.copied, self.flops = self.used, 0, 0, 0
        self.worked = self.computed_until = self.copied_until = tuple(0.0 for _ in cards)
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

    def spend(self, seconds: Callable[[Card], float]) -> tuple[Times, Times]:
        """Work on the stream that is in use; returns when it begins and when it ends."""
        begin = self.copied_until if self.is_copying else self.computed_until
        end = tuple(time + seconds(card) for time, card in zip(begin, self.cards, strict=True))
        if self.is_copying:
            self.copied_until = end
        else:
            self.worked = tuple(
                done + until - start for done, start, until in zip(self.worked, begin, end, strict=True)
            )
            self.computed_until = end
        return begin, end

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


@dataclass(frozen=True)
class _Operator:
    """What is known of an operator of PyTorch. count_flops: None where it does no arithmetic to speak of."""

    consists_of_others: bool
    is_copy: bool
    is_free: bool
    is_in_place: bool
    takes_host_indices: bool
    count_flops: Callable[..., int] | None

    @classmethod
    @functools.cache
    def of(cls, func: Any) -> _Operator:
        counted = flop_registry.get(func._overloadpacket)
        is_composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
        return cls(
            consists_of_others=is_composite and counted is None,
            is_copy=func in _COPIES,
            is_free=func.is_view or "empty" in func._schema.name,
            is_in_place=func is aten.copy_.default or _is_in_place(func._schema.name),
            takes_host_indices=func in _INDEXED,
            count_flops=counted,
        )


def _is_in_place(name: str) -> bool:
    """By its name: `add_`, and not `__rshift__`."""
    return name.endswith("_") and not name.endswith("__")


def _attention(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **options: Any) -> Tensor:
    tensors = list(_tensors_in((q, k, v, *rest, *options.values())))
    _refuse_mixture(tensors, "scaled_dot_product_attention")
    if GPU.has_contents:
        out = F.scaled_dot_product_attention(*_payloads((q, k, v, *rest)), **_payloads(options))
    else:
        out = q.payload.new_empty(*q.shape[:-1], v.shape[-1]) if isinstance(q, SimulatedTensor) else q
    _account(2 * q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1]), tensors, [out])
    return SimulatedTensor(out)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operator, on the payloads, with its cost; or those that it consists of."""
    operator = _Operator.of(func)
    if operator.consists_of_others:
        return func._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
    tensors = list(_tensors_in((*args, *kwargs.values())))
    wanted = kwargs.get("device")
    is_to_host = wanted is not None and torch.device(wanted).type == "cpu"
    if not operator.is_copy and not operator.takes_host_indices:
        _refuse_mixture(tensors, str(func))
    payload_kwargs = _payloads(kwargs)
    if wanted is not None:
        payload_kwargs["device"] = "cpu" if is_to_host or GPU.has_contents else "meta"
    writes = operator.is_copy or operator.is_in_place or "out" in kwargs
    makes_tensor = not (GPU.has_contents or operator.is_free or writes)
    out, flops = (_shaped if makes_tensor else _computed)(operator, func, _payloads(args), payload_kwargs)
    if operator.is_copy:
        _account_copy(func, args, is_to_host=is_to_host, is_on_card=wanted is not None)
    elif not operator.is_free:
        _account(flops, tensors, list(_tensors_in((out,))))
    if is_to_host:
        return out
    if operator.is_in_place and args and isinstance(args[0], Tensor):
        return args[0]
    return kwargs["out"] if "out" in kwargs else _simulated(out)


def _computed(operator: _Operator, func: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, int]:
    out = func(*args, **kwargs)
    is_counted = operator.count_flops is not None and isinstance(out, Tensor)
    return out, operator.count_flops(*args, **kwargs, out_val=out) if operator.count_flops and is_counted else 0


_Shape = tuple[torch.Size, tuple[int, ...], torch.dtype]


def _shaped(operator: _Operator, func: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, int]:
    """The same for tensors without contents, whose shapes are remembered: a network repeats its blocks."""
    key = (func, _described(args), tuple((name, _described(value)) for name, value in kwargs.items()))
    if key not in _known_shapes:
        out, flops = _computed(operator, func, args, kwargs)
        if not isinstance(out, Tensor):
            return out, flops
        _known_shapes[key] = (out.shape, out.stride(), out.dtype), flops
        return out, flops
    (shape, stride, dtype), flops = _known_shapes[key]
    return torch.empty_strided(shape, stride, dtype=dtype, device="meta"), flops


_known_shapes: dict[Any, tuple[_Shape, int]] = {}


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    return tuple(_described(item) for item in value) if isinstance(value, (list, tuple)) else value


def _tensors_in(values: Iterable[Any]) -> Generator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors_in(value)


def _payloads(value: Any) -> Any:
    if isinstance(value, SimulatedTensor):
        return value.payload
    if isinstance(value, dict):
        return {name: _payloads(item) for name, item in value.items()}
    return [_payloads(item) for item in value] if isinstance(value, (list, tuple)) else value


def _simulated(value: Any) -> Any:
    if isinstance(value, Tensor):
        return SimulatedTensor(value)
    return type(value)(_simulated(item) for item in value) if isinstance(value, (list, tuple)) else value


def _refuse_mixture(tensors: Iterable[Tensor], name: str) -> None:
    on_card = [isinstance(tensor, SimulatedTensor) for tensor in tensors if tensor.dim()]
    if any(on_card) and not all(on_card):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found simgpu:0 and cpu (in {name})")


def _account(flops: int, inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> None:
    moved = sum(t.nbytes for t in (*inputs, *outputs) if t.dim())
    GPU.flops += flops
    begin, end = GPU.spend(lambda card: max(flops / card.flops, moved / card.memory))
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
    begin, end = GPU.spend(lambda card: source.nbytes / card.link)
    if is_onto_card:
        GPU.copied += source.nbytes
    if func is aten.copy_.default and isinstance(args[0], SimulatedTensor) and GPU.is_copying:
        _write(args[0], begin, end)


def _extent(tensor: SimulatedTensor) -> tuple[int, int]:
    payload = tensor.payload
    span = sum((size - 1) * stride for size, stride in zip(payload.shape, payload.stride(), strict=True)) + 1
    begin = payload.storage_offset() * payload.dtype.itemsize
    return begin, begin + span * payload.dtype.itemsize


def _touches(access: _Access, low: int, high: int) -> bool:
    return access.begin < high and low < access.end


def _outlasts(access: _Access, begin: Times) -> bool:
    return any(until > time for until, time in zip(access.until, begin, strict=True))


def _read(tensor: SimulatedTensor, begin: Times, end: Times) -> None:
    low, high = _extent(tensor)
    if any(_touches(access, low, high) and _outlasts(access, begin) for access in tensor.block.writes):
        raise RuntimeError("a kernel would read memory into which a copy has not ended")
    reads = tensor.block.reads
    if reads and (reads[-1].begin, reads[-1].end) == (low, high):
        reads[-1].until = end
    elif tensor.block.writes:  # only what copies write to can be in danger
        reads.append(_Access(low, high, end))


def _write(tensor: SimulatedTensor, begin: Times, end: Times) -> None:
    low, high = _extent(tensor)
    block = tensor.block
    if any(_touches(access, low, high) and _outlasts(access, begin) for access in block.reads):
        raise RuntimeError("a copy would write where a kernel still reads")
    block.reads = [access for access in block.reads if not _touches(access, low, high)]
    block.writes = [access for access in block.writes if not _touches(access, low, high)]
    block.writes.append(_Access(low, high, end))


# Operators without a tensor on the card among their arguments: factories, and copies from the host.
_library = torch.library.Library("_", "IMPL")
_library.fallback(lambda func, *args, **kwargs: _run(func, args, kwargs), "PrivateUse1")


@contextlib.contextmanager
def shapes_only() -> Generator[None]:
    """Tensors that are made on the card meanwhile have no contents; bytes and time are counted."""
    GPU.has_contents = False
    try:
        yield
    finally:
        GPU.has_contents = True


class SimulatedTransport:
    """A `Transport` to the simulated card, whose marks are times."""

    device = DEVICE

    def empty(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, device=DEVICE)

    def staging(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8)

    def now(self) -> Mark:
        return GPU.computed_until

    def copy(self, source: Tensor, out: Tensor, after: Mark) -> Mark:
        GPU.copied_until = _later(GPU.copied_until, after)
        GPU.is_copying = True
        try:
            out.copy_(source)
        finally:
            GPU.is_copying = False
        return GPU.copied_until

    def wait(self, mark: Mark) -> None:
        GPU.computed_until = _later(GPU.computed_until, mark)

    def finish(self, mark: Mark) -> None:
        """What has been started has already happened; only its time has not come."""

    def give_back(self) -> None:
        """Nothing is kept."""


def _later(times: Times, mark: Mark) -> Times:
    assert isinstance(mark, tuple)
    return tuple(max(one, other) for one, other in zip(times, mark, strict=True))
