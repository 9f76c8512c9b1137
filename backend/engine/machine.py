"""The machine as the settings want it used: device, data types, memory, compiler."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from backend.engine.converted_pickles import ConvertedPickles
from backend.engine.remembered_device import remembered_device
from backend.engine.settings import Settings
from backend.families.family import Machine
from backend.families.tiny_decoders import TinyDecoders
from backend.memory.budget import residency_for
from backend.memory.dry_run import CallCosts
from backend.memory.dtype_policy import policy_for
from backend.nn.compilation import BlockCompiler
from backend.weights.hashing import sha256_of
from backend.weights.source import WeightSource


def machine_for(
    settings: Settings, *, wants_compiling: Callable[[], bool], on_compiler_failure: Callable[[str], None]
) -> Machine:
    """wants_compiling is asked before each run; on_compiler_failure is told why it went on without."""
    # Where PyTorch keeps what it compiled, so that the next start need not compile again. It reads it from here only.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(settings.data_dir / "compiled"))
    device = remembered_device(settings.data_dir / "device.json", force_cpu=settings.force_cpu)
    return Machine(
        device=device,
        policy=policy_for(device, full_precision=settings.full_precision),
        residency=residency_for(device, cap=settings.memory_budget, low_memory=settings.low_memory),
        costs=CallCosts(settings.data_dir / "costs.json"),
        compiler=BlockCompiler(wants_compiling, on_compiler_failure),
        tiny_decoders=TinyDecoders(
            settings.preview_dirs, partial(_opened, ConvertedPickles(settings.data_dir / "converted"))
        ),
    )


def _opened(pickles: ConvertedPickles, path: Path) -> WeightSource:
    """A small file of weights, of today or of yesterday."""
    return pickles.open(path, sha256_of(path))
