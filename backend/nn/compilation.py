"""torch.compile for the blocks that networks repeat: one compilation serves all blocks of a kind ("regional")."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from backend.nn.flux import DoubleBlock, SingleBlock
from backend.nn.mmdit import JointBlock
from backend.nn.pixart import Block as PixArtBlock
from backend.nn.unet import ResBlock, TransformerBlock

_log = logging.getLogger(__name__)
_BLOCKS = (TransformerBlock, ResBlock, JointBlock, DoubleBlock, SingleBlock, PixArtBlock)
T = TypeVar("T", bound=Callable[..., Any])


class BlockCompiler:
    """Compiles networks' blocks while `is_wanted` says so, and goes on without when that fails.

    on_failure is told why, once; a new attempt is made after the wish was withdrawn and made again.
    """

    def __init__(self, is_wanted: Callable[[], bool], on_failure: Callable[[str], None]) -> None:
        self._is_wanted = is_wanted
        self._on_failure = on_failure
        self._has_failed = False
        self._is_used = False

    @property
    def is_used(self) -> bool:
        """Whether anything was compiled."""
        return self._is_used

    def around(self, network: nn.Module, evaluate: T) -> T | Callable[..., Any]:
        """`evaluate`, which calls `network`, in which the network's blocks run compiled."""
        if not self._is_wanted():
            self._has_failed = False
            return _plainly(evaluate) if self._is_used else evaluate
        if self._has_failed:
            return _plainly(evaluate)
        if is_streamed(network):
            self._on_failure("its layers come and go, and only a network that stays in memory can be compiled")
            return _plainly(evaluate) if self._is_used else evaluate
        for block in network.modules():
            if isinstance(block, _BLOCKS) and not _is_compiled(block):
                block.compile()
        self._is_used = True

        def compiled(*arguments: Any) -> Any:
            if self._has_failed or is_streamed(network):  # the budget may shrink in the middle of a job
                return _plainly(evaluate)(*arguments)
            try:
                return evaluate(*arguments)
            except Exception as error:  # the compiler raises of all kinds; what is not its own goes on as it was
                if not _is_of_compiler(error):
                    raise
                problem = str(error).strip().partition("\n")[0] or type(error).__name__
            self._has_failed = True
            _log.warning("torch.compile failed: %s", problem)
            self._on_failure(problem)
            return _plainly(evaluate)(*arguments)

        return compiled


def is_streamed(network: nn.Module) -> bool:
    """Whether layers of a block come and go: something then happens before each of them."""
    return any(
        module._forward_pre_hooks  # pyright: ignore[reportPrivateUsage] - PyTorch has no other way to ask
        for block in network.modules()
        if isinstance(block, _BLOCKS)
        for module in block.modules()
    )


def _plainly(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    def plain(*arguments: Any) -> Any:
        with torch.compiler.set_stance("force_eager"):
            return evaluate(*arguments)

    return plain


def _is_compiled(block: nn.Module) -> bool:
    return block._compiled_call_impl is not None  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]


def _is_of_compiler(error: Exception) -> bool:
    """Whether the compiler raised it, or had it raised by what it calls."""
    causes: list[BaseException | None] = [error, error.__cause__, error.__context__]
    return any(type(cause).__module__.startswith(("torch._dynamo", "torch._inductor")) for cause in causes if cause)
