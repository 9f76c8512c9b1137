"""What a call of a network takes, found by running it on tensors without contents."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
import weakref
from collections.abc import Callable, Generator, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from backend.errors import OutputError
from backend.memory.leaves import Leaf, leaves_of, on_meta
from backend.memory.part import Part
from backend.weights.atomic import write_atomically
from backend.weights.packing import Packable, Packing

_log = logging.getLogger(__name__)
_META = torch.device("meta")
_HOST = torch.device("cpu")

Call = Callable[[nn.Module, torch.device], object]
"""Call a network as it will be called, with tensors of the same shapes and types that are made on that device."""


@dataclass(frozen=True, kw_only=True)
class CallCost:
    """What a call takes.

    peak_bytes: of tensors that live at the same time, the inputs included and the weights not; what libraries take for
    themselves comes on top. flops: floating-point operations. layers: names of those with weights, in the order in
    which they first run.
    """

    peak_bytes: int
    flops: int
    layers: tuple[str, ...]


@torch.no_grad()
def dry_run(part: Part, call: Call) -> CallCost:
    """Run `call` on the network of a part without memory or arithmetic: one to four seconds for the largest."""
    module = on_meta(part)
    leaves = leaves_of(module, part)
    is_on_host = part.target.device.type == "cpu"
    # Networks compute in other steps on a host, which tensors on the meta device would not take.
    device = _HOST if is_on_host else _META
    with FakeTensorMode() if is_on_host else contextlib.nullcontext():
        for leaf in leaves:
            leaf.place({tensor.attribute: tensor.layout.empty(device) for tensor in leaf.tensors})
            _unpack_nothing(leaf)
        ledger = _Ledger()
        order: dict[str, None] = {}
        for leaf in leaves:
            leaf.module.register_forward_pre_hook(partial(_note, order, leaf.name))
        with _FusedAttention(ledger), _Watching(ledger):
            call(module, device)
    return CallCost(peak_bytes=ledger.peak, flops=ledger.flops, layers=tuple(order))


def _unpack_nothing(leaf: Leaf) -> None:
    """Have packed weights become tensors of the right shape: unpacking looks into contents, of which there are none."""
    for tensor in leaf.tensors:
        if tensor.layout.packing is not None and isinstance(leaf.module, Packable) and tensor.slot is not None:
            columns = tensor.slot.shape[1:]
            leaf.module.unpack_weight = lambda rows, dtype, columns=columns: rows.new_empty(
                (rows.shape[0], *columns), dtype=dtype
            )


class CallCosts:
    """Costs that were found before, in a file. Without one they are remembered until the program ends."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._known = _read(file) if file else {}
        self._lock = threading.Lock()  # jobs, and whoever asks whether one fits, come from several threads

    def of(self, part: Part, shapes: str, call: Call) -> CallCost:
        """What `call` costs. shapes: everything that the cost depends on beside the part's weights and how they are
        held: sizes of the inputs, their type, and the network's configuration."""
        key = _key(part, shapes)
        with self._lock:
            known = self._known.get(key)
        if known is not None:
            return known
        cost = dry_run(part, call)
        with self._lock:
            self._known[key] = cost
            self._write()
        return cost

    def _write(self) -> None:
        if self._file is None:
            return
        try:
            write_atomically(self._file, json.dumps({key: asdict(cost) for key, cost in self._known.items()}).encode())
        except OutputError as error:  # they are found again, which takes a moment
            _log.warning("What networks cost is not remembered: %s", error)


def _note(order: dict[str, None], name: str, _module: nn.Module, _inputs: object) -> None:
    order.setdefault(name)


def _read(file: Path) -> dict[str, CallCost]:
    try:
        entries: dict[str, dict[str, Any]] = json.loads(file.read_bytes())
        return {
            key: CallCost(peak_bytes=int(entry["peak_bytes"]), flops=int(entry["flops"]), layers=tuple(entry["layers"]))
            for key, entry in entries.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("%s is damaged and is made anew: %s", file.name, error)
        return {}


def _key(part: Part, shapes: str) -> str:
    target = part.target
    specs = [(key, part.source.spec(key), _products(part.source.packing(key))) for key in part.source.keys()]
    facts = (torch.__version__, target.device.type, target.dtype, target.widens_on_use, shapes, specs)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _products(packing: Packing | None) -> str:
    """What a layer computes beside a packed weight; "" for nothing."""
    return "" if packing is None or packing.low_rank is None else packing.low_rank.way


class _Ledger:
    """Bytes of tensors that live, by the memory that they share."""

    def __init__(self) -> None:
        self.flops = self.peak = self._live = 0
        self._sizes: dict[int, int] = {}

    def add(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata  # pyright: ignore[reportPrivateUsage] - the only identity that views share
            if key not in self._sizes:
                self._sizes[key] = storage.nbytes()
                self._live += storage.nbytes()
                weakref.finalize(storage, self._remove, key)
        self.peak = max(self.peak, self._live)

    def _remove(self, key: int) -> None:
        self._live -= self._sizes.pop(key)


class _Watching(TorchDispatchMode):
    def __init__(self, ledger: _Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        out = func(*args, **options)
        if not func.is_view:
            self._ledger.add(_tensors_in(out))
        count = flop_registry.get(func._overloadpacket)
        if count is not None and isinstance(out, Tensor):
            self._ledger.flops += int(count(*args, **options, out_val=out))
        return out


class _FusedAttention(TorchFunctionMode):
    """Attention as one kernel that keeps no scores, as devices have it; without contents it would be taken apart."""

    def __init__(self, ledger: _Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **options)
        q, k, v = (*args, *(options[name] for name in ("query", "key", "value")[len(args) :]))[:3]
        self._ledger.flops += 2 * q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        return q.new_empty(*q.shape[:-1], v.shape[-1])


def _tensors_in(value: Any) -> Generator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _tensors_in(item)
