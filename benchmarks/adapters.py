"""A changed strength of a LoRA, against ComfyUI's way of doing it: `python -m benchmarks.adapters`.

A random U-Net with the exact names and shapes of SD 1.5, and a random LoRA of rank 32 over all its linear layers; from
the network with one strength to that with another. Ours composes the source of weights anew and fetches the network;
ComfyUI's puts the kept originals back and patches every weight again (comfy/model_patcher.py, as it was in 2026: to
float32, product, scale, sum, rounding, with the originals kept beside). Both in one process and with the same number
of threads, one after the other; the best of several rounds each.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from backend.adapters.lora_file import Adapter, open_adapter
from backend.adapters.patched import PlacedAdapter, patched
from backend.families.parts import network_part
from backend.families.unet_files import unet_in
from backend.families.unet_shapes import unet_config_from
from backend.memory.layouts import Target
from backend.memory.residency import Residency
from backend.nn.unet import UNet
from backend.weights.source import WeightSource
from backend.weights.weight_file import open_weights
from benchmarks.checkpoint import SHAPES, random_checkpoint

_RANK = 32
_GOAL = 0.5
_PREFIX = "model.diffusion_model."


def main() -> None:
    parser = argparse.ArgumentParser(description="A changed strength of a LoRA.")
    parser.add_argument("--work", type=Path, help="folder for the random files, kept; a temporary one otherwise")
    parser.add_argument("--output", type=Path, help="where to write all figures as JSON")
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        source = open_weights(random_checkpoint(work, SHAPES["sd15"], seed=0))
        adapter = open_adapter(_random_lora(source, work / f"random-lora-{_RANK}.safetensors"))
        ours = _Ours(source, adapter)
        theirs = _Repatching(source, adapter)
        figures = {"ours": list[float](), "repatching": list[float]()}
        for number in range(arguments.rounds):
            strength = 0.8 - 0.1 * number  # never one that was there before
            figures["ours"].append(_timed(ours.change, strength))
            figures["repatching"].append(_timed(theirs.change, strength))
        _check_equal(ours, theirs)
    best = {name: min(seconds[1:]) for name, seconds in figures.items()}
    ratio = best["ours"] / best["repatching"]
    print(f"{torch.get_num_threads()} threads; {len(theirs.keys)} weights, LoRA of {adapter.num_bytes / 1e6:.0f} MB")
    for name, seconds in figures.items():
        print(f"{name}: {', '.join(f'{value:.2f}' for value in seconds)} s")
    print(f"ratio {ratio:.2f} ({'met' if ratio <= _GOAL else 'MISSED'}, goal {_GOAL})")
    if arguments.output:
        arguments.output.write_text(json.dumps({**figures, "ratio": ratio}, indent=2) + "\n")


class _Ours:
    """As a job does it; the network with the strength before stays until its memory is needed."""

    def __init__(self, source: WeightSource, adapter: Adapter) -> None:
        self._source = source
        self._adapter = adapter
        self._residency = Residency(8 * 2**30)
        self.network: torch.nn.Module | None = None

    def change(self, strength: float) -> None:
        use = PlacedAdapter(adapter=self._adapter, strength=strength)
        unet = unet_in(patched(self._source, [use], "sd1"))
        config = unet_config_from(unet, num_heads=8, head_dim=None, norm_groups=32)
        target = Target(torch.device("cpu"), torch.float32, widens_on_use=True)
        self._residency.begin_job()
        self.network = self._residency.get(network_part("U-Net", unet, target, lambda: UNet(config)))


class _Repatching:
    """ComfyUI's procedure, for weights in float16 and one LoRA."""

    def __init__(self, source: WeightSource, adapter: Adapter) -> None:
        self._factors = {module: adapter.read(module) for module in adapter.modules}
        self._module_of = {key: _name(key) for key in _linear_keys(source)}
        self.weights = {key: source.read(key).clone() for key in self._module_of}
        self._kept: dict[str, Tensor] = {}

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self._module_of)

    def change(self, strength: float) -> None:
        self.weights |= self._kept
        self._kept = {}
        for key, module in self._module_of.items():
            weight, tensors = self.weights[key], self._factors[module]
            self._kept[key] = weight
            wide = weight.to(torch.float32, copy=True)
            up, down = tensors["up"].to(torch.float32), tensors["down"].to(torch.float32)
            scale = float(tensors["alpha"]) / down.shape[0]
            difference = torch.mm(up.flatten(1), down.flatten(1)).reshape(wide.shape)
            wide += ((strength * scale) * difference).to(wide.dtype)
            self.weights[key] = wide.to(weight.dtype)


def _linear_keys(source: WeightSource) -> list[str]:
    return [
        key
        for key in source.keys()
        if key.startswith(_PREFIX) and key.endswith(".weight") and len(source.spec(key).shape) == 2
    ]


def _name(key: str) -> str:
    return "diffusion_model." + key.removesuffix(".weight").removeprefix(_PREFIX)


def _random_lora(source: WeightSource, path: Path) -> Path:
    """Under the model's own names."""
    if path.exists():
        return path
    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, Tensor] = {}
    for key in _linear_keys(source):
        outputs, inputs = source.spec(key).shape
        name = _name(key)
        tensors[f"{name}.lora_up.weight"] = (torch.randn(outputs, _RANK, generator=generator) * 0.01).half()
        tensors[f"{name}.lora_down.weight"] = (torch.randn(_RANK, inputs, generator=generator) * 0.01).half()
        tensors[f"{name}.alpha"] = torch.tensor(float(_RANK))
    save_file(tensors, path)
    return path


def _timed(change: Callable[[float], None], strength: float) -> float:
    gc.collect()
    began = time.monotonic()
    change(strength)
    return time.monotonic() - began


def _check_equal(ours: _Ours, theirs: _Repatching) -> None:
    assert ours.network is not None
    parameters = dict(ours.network.named_parameters())
    for key, weight in theirs.weights.items():
        apart = (parameters[key.removeprefix(_PREFIX)].float() - weight.float()).abs().max()
        if apart > 1e-3 * weight.float().abs().max():
            raise SystemExit(f"{key} differs by {float(apart):g}")


if __name__ == "__main__":
    main()
