"""Save and resume a training: one file with everything that decides how it goes on, replaced atomically."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backend.training.concepts import TrainingError


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state beside `path` and put it in place in one step, so that a killed training keeps the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def load_state(path: Path) -> dict[str, Any] | None:
    """The saved state, or None when there is none. Raises TrainingError when it cannot be read."""
    if not path.exists():
        return None
    try:
        return torch.load(path, weights_only=True)
    except Exception as error:
        raise TrainingError(f"{path.name} is damaged ({error}); remove it to start over") from error


class Average:
    """Exponential moving average of a module's parameters, with a start-up that follows the training closely."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values: dict[str, Tensor] = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in module.named_parameters():
            self.values[name].lerp_(parameter.detach(), 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        for name, parameter in module.named_parameters():
            parameter.copy_(self.values[name])
