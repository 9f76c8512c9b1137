"""A picture made larger by a network: as a whole where that fits into the memory, or else tile by tile, without seams.

A tile is computed with the pixels around it that decide what becomes of its edge, which are then cut off.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.errors import Cancelled, NumericalError, OutOfMemory, UnsupportedCheckpoint
from backend.families.family import Machine
from backend.families.parts import network_part, target_for
from backend.memory.part import Part
from backend.memory.placement import place
from backend.memory.planner import working_bytes
from backend.memory.retrying import retrying
from backend.upscaling.architecture import Architecture, UpscalerNetwork
from backend.upscaling.known_kinds import kind_by_its_keys
from backend.weights.source import WeightSource

_log = logging.getLogger(__name__)

_SIDES = (1024, 768, 512, 384, 256, 192, 128, 96, 64)  # of tiles, without what is around them, the largest first
_MEASURED = 192  # side of the square whose cost is calculated; it grows with the area
_ATTEMPTS = 2  # at a tile, before it is taken apart

OnTile = Callable[[int, int], None]
"""Told of how many tiles are done, and of how many there are."""


def open_upscaler(source: WeightSource, architectures: tuple[Architecture, ...], machine: Machine) -> Upscaler:
    """Raises UnsupportedCheckpoint for a file of no known kind, KeysDoNotMatch for one that is not complete."""
    for architecture in architectures:
        if architecture.recognise(source):
            upscaler = Upscaler(architecture.open(source), machine)
            upscaler.check()
            return upscaler
    known = ", ".join(architecture.label for architecture in architectures)
    kind = kind_by_its_keys(source)
    found = f"it is a {kind} file, which this version does not run" if kind else "it is no upscaler of a known kind"
    raise UnsupportedCheckpoint(source.origin, f"{found}. Those that run are {known}. Choose another file.")


@dataclass(frozen=True, kw_only=True)
class _Tile:
    """Of a picture: rows and columns [top:bottom, left:right]."""

    top: int
    bottom: int
    left: int
    right: int

    def widened(self, context: int, height: int, width: int) -> _Tile:
        return _Tile(
            top=max(0, self.top - context),
            bottom=min(height, self.bottom + context),
            left=max(0, self.left - context),
            right=min(width, self.right + context),
        )


class Upscaler:
    """label: its kind. scale: pixels of the result for one of the picture, along a side. channels: of a picture."""

    def __init__(self, network: UpscalerNetwork, machine: Machine) -> None:
        self._network = network
        self._machine = machine
        self._dtype = torch.float16 if machine.policy.unet == torch.float16 else torch.float32
        self._parts: dict[torch.dtype, Part] = {}
        self.label = network.label
        self.scale = network.scale
        self.channels = network.channels

    def check(self) -> None:
        """Raises KeysDoNotMatch when the file does not hold exactly the weights of the network."""
        self._machine.residency.sizes(self._part())

    @torch.inference_mode()
    def upscale(
        self,
        image: Tensor,
        *,
        tile: int | None = None,
        on_tile: OnTile = lambda _done, _all: None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Tensor:
        """[channels, H, W] -> [channels, scale * H, scale * W], both uint8 and on the host.

        tile: side of the tiles, None for the largest that fit into the memory.
        Raises OutOfMemory, Cancelled and NumericalError.
        """
        height, width = image.shape[1:]
        step, scale = self._network.side_step, self.scale
        padded = _padded(image[None], step)
        rows, columns = padded.shape[2:]
        tiles = list(_tiles(rows, columns, tile or self._side(rows, columns), step))
        result = image.new_empty(image.shape[0], rows * scale, columns * scale)
        for number, area in enumerate(tiles):
            for part, made in self._made(padded, area, is_cancelled):
                _put(result, part, made, scale)
            on_tile(number + 1, len(tiles))
        return result[:, : height * scale, : width * scale]

    def _made(self, image: Tensor, area: _Tile, is_cancelled: Callable[[], bool]) -> Iterator[tuple[_Tile, Tensor]]:
        """A tile's pixels [C, H, W], uint8; those of its quarters where the memory turns out to be too small for it."""
        try:
            made = self._tile(image, area, is_cancelled)
        except OutOfMemory:
            parts = list(_quarters(area, self._network.side_step))
            if len(parts) == 1:
                raise
        else:
            yield area, made
            return
        for part in parts:  # outside of the handler, whose traceback holds tensors
            yield from self._made(image, part, is_cancelled)

    def _tile(self, image: Tensor, area: _Tile, is_cancelled: Callable[[], bool]) -> Tensor:
        """In float32 from the first tile on whose activations are too large for float16."""
        try:
            return self._computed(image, area, is_cancelled)
        except NumericalError:
            if self._dtype == torch.float32:
                raise
        _log.warning("%s overflows float16 and runs in float32", self._network.source.origin.name)
        self._dtype = torch.float32
        return self._computed(image, area, is_cancelled)

    def _computed(self, image: Tensor, area: _Tile, is_cancelled: Callable[[], bool]) -> Tensor:
        seen = area.widened(self._context, *image.shape[2:])
        rows, columns = seen.bottom - seen.top, seen.right - seen.left
        residency, part, scale = self._machine.residency, self._part(), self.scale
        given = image[:, :, seen.top : seen.bottom, seen.left : seen.right].to(part.target.device, part.target.dtype)
        given = given.div_(255).contiguous(memory_format=torch.channels_last)

        def call() -> Tensor:
            network = residency.get(part, self._working_bytes(rows, columns))
            with _stoppable(network, is_cancelled):
                return network(given)

        top, left = (area.top - seen.top) * scale, (area.left - seen.left) * scale
        bottom, right = top + (area.bottom - area.top) * scale, left + (area.right - area.left) * scale
        made = retrying(call, residency, attempts=_ATTEMPTS)[0, :, top:bottom, left:right]
        if not bool(made.isfinite().all()):
            raise NumericalError(
                f"The picture of {self._network.source.origin.name} holds values that are not numbers: the file is "
                "damaged. Choose another upscaler."
            )
        return made.float().clamp_(0, 1).mul_(255).round_().to("cpu", torch.uint8)

    @property
    def _context(self) -> int:
        return _whole_steps(self._network.context, self._network.side_step)

    def _part(self) -> Part:
        if self._dtype not in self._parts:
            network, target = self._network, target_for(self._machine, self._dtype)
            self._parts[self._dtype] = network_part("upscaler", network.source, target, network.build)
        return self._parts[self._dtype]

    def _side(self, height: int, width: int) -> int:
        """The largest that fits; the smallest where none does, for what is told then."""
        longest = max(height, width)
        sides = [longest, *(side for side in _SIDES if side < longest)]
        return next((side for side in sides[:-1] if self._fits(side, height, width)), sides[-1])

    def _fits(self, side: int, height: int, width: int) -> bool:
        around = 2 * self._context if side < max(height, width) else 0
        residency, part = self._machine.residency, self._part()
        free = residency.budget - self._working_bytes(min(side + around, height), min(side + around, width))
        try:
            place(residency.sizes(part), free, keeps_once=self._machine.device.is_host, title=part.title)
        except OutOfMemory:
            return False
        return True

    def _working_bytes(self, height: int, width: int) -> int:
        part = self._part()
        cost = self._machine.costs.of(part, f"upscale {self._measured}", self._call)
        return working_bytes(cost.peak_bytes * height * width // self._measured**2)

    @property
    def _measured(self) -> int:
        return _whole_steps(_MEASURED, self._network.side_step)

    def _call(self, network: nn.Module, device: torch.device) -> object:
        side = self._measured
        image = torch.empty(1, self.channels, side, side, dtype=self._dtype, device=device)
        return network(image.to(memory_format=torch.channels_last))


@contextmanager
def _stoppable(network: nn.Module, is_cancelled: Callable[[], bool]) -> Generator[None]:
    """Ask before every layer: a tile may take a minute. Raises Cancelled in the middle of a call."""

    def ask(_layer: nn.Module, _inputs: object) -> None:
        if is_cancelled():
            raise Cancelled()

    handles = [layer.register_forward_pre_hook(ask) for layer in network.modules() if not list(layer.children())]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _whole_steps(length: int, step: int) -> int:
    """Rounded up to a multiple."""
    return -(-length // step) * step


def _put(result: Tensor, area: _Tile, made: Tensor, scale: int) -> None:
    result[:, area.top * scale : area.bottom * scale, area.left * scale : area.right * scale] = made


def _padded(image: Tensor, step: int) -> Tensor:
    """With sides that are multiples of `step`: the last pixels repeated."""
    height, width = image.shape[2:]
    if step == 1:
        return image
    return F.pad(image.float(), (0, -width % step, 0, -height % step), mode="replicate").to(image.dtype)


def _tiles(height: int, width: int, side: int, step: int) -> Iterator[_Tile]:
    """Of nearly one size, row by row."""
    for top, bottom in _cuts(height, side, step):
        for left, right in _cuts(width, side, step):
            yield _Tile(top=top, bottom=bottom, left=left, right=right)


def _quarters(area: _Tile, step: int) -> Iterator[_Tile]:
    """The tile itself, once it is small."""
    height, width = area.bottom - area.top, area.right - area.left
    side = max(_SIDES[-1], -(-max(height, width) // 2))
    for tile in _tiles(height, width, side, step):
        yield _Tile(
            top=area.top + tile.top,
            bottom=area.top + tile.bottom,
            left=area.left + tile.left,
            right=area.left + tile.right,
        )


def _cuts(length: int, side: int, step: int) -> list[tuple[int, int]]:
    count = -(-length // side)
    bounds = [round(index * length / count / step) * step for index in range(count)] + [length]
    return list(pairwise(bounds))
