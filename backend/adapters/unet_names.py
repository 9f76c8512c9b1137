"""The modules of a U-Net in LDM layout, and what adapters call them.

LDM numbers blocks one by one, diffusers numbers levels; where a level ends is told by the layers that change the
resolution, so this holds for any U-Net of the kind.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from backend.adapters.target import Named, module_target
from backend.weights.source import TensorSpec

_ENDS = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "time_embed.cond_proj": "time_embedding.cond_proj",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
_BLOCK = re.compile(r"(input|output)_blocks\.(\d+)\.(\d+)\.(.+)")
_ATTENTION = re.compile(r"(.+\.attn[12])\.(to_[qkv]|to_out)(?:\.0)?")


def unet_names(specs: Mapping[str, TensorSpec], prefix: str, *, has_ldm_names: bool) -> Iterator[Named]:
    """has_ldm_names: whether kohya's trainer names the modules of this family as LDM does (SDXL), or as diffusers."""
    modules = modules_behind(specs, prefix)
    translate = DiffusersNames(modules)
    for module in modules:
        theirs = translate(module)
        target = module_target(specs, prefix + module)
        if target is None or theirs is None:
            continue
        ldm, diffusers = f"lora_unet_{flat(module)}", f"lora_unet_{flat(theirs)}"
        kohya = ldm if has_ldm_names else diffusers
        yield Named(target=target, kohya=kohya, names=(ldm, diffusers, *_other_names(module, theirs)))


def modules_behind(specs: Mapping[str, TensorSpec], prefix: str) -> tuple[str, ...]:
    """Paths, without the prefix, of the modules that have a weight (or a scale, as FLUX calls those of its norms)."""
    found = (key.removeprefix(prefix).rpartition(".") for key in specs if key.startswith(prefix))
    return tuple(module for module, _, ending in found if module and ending in ("weight", "scale"))


def flat(module: str) -> str:
    return module.replace(".", "_")


def _other_names(module: str, theirs: str) -> Iterator[str]:
    for name in (theirs, _old(theirs)):
        yield from (name, f"unet.{name}")
    yield from (f"base_model.model.{theirs}", f"unet.base_model.model.{theirs}")
    yield from (f"lycoris_{flat(theirs)}", f"oft_unet_{flat(theirs)}", f"oft_unet_{flat(module)}")
    yield from (f"diffusion_model.{module}", f"model.diffusion_model.{module}")


def _old(name: str) -> str:
    """diffusers before 0.20 kept LoRA layers in the processors of its attention."""
    found = _ATTENTION.fullmatch(name)
    return f"{found[1]}.processor.{found[2]}" if found else name


class DiffusersNames:
    """The path in diffusers of each module of one U-Net in LDM layout."""

    def __init__(self, modules: Collection[str]) -> None:
        self._modules = frozenset(modules)
        self._places = {"input": self._levels_down(), "output": self._levels_up()}

    def __call__(self, module: str) -> str | None:
        if module in _ENDS:
            return _ENDS[module]
        if module.startswith("middle_block."):
            _, part, rest = module.split(".", 2)
            return f"mid_block.{_MIDDLE[part]}.{_RESNET.get(rest, rest)}" if part in _MIDDLE else None
        found = _BLOCK.fullmatch(module)
        return self._in_a_block(found[1], int(found[2]), found[3], found[4]) if found else None

    def _in_a_block(self, way: str, number: int, part: str, rest: str) -> str:
        level, index = self._places[way][number]
        blocks = f"{'down' if way == 'input' else 'up'}_blocks.{level}"
        match part, rest:
            case "0", "op":
                return f"{blocks}.downsamplers.0.conv"
            case _, "conv":
                return f"{blocks}.upsamplers.0.conv"
            case "0", _:
                return f"{blocks}.resnets.{index}.{_RESNET.get(rest, rest)}"
            case _:
                return f"{blocks}.attentions.{index}.{rest}"

    def _levels_down(self) -> dict[int, tuple[int, int]]:
        places: dict[int, tuple[int, int]] = {}
        level, index = 0, 0
        for number in self._numbers("input")[1:]:  # block 0 is conv_in
            places[number] = (level, index)
            ends = f"input_blocks.{number}.0.op" in self._modules
            level, index = (level + 1, 0) if ends else (level, index + 1)
        return places

    def _levels_up(self) -> dict[int, tuple[int, int]]:
        places: dict[int, tuple[int, int]] = {}
        level, index = 0, 0
        for number in self._numbers("output"):
            places[number] = (level, index)
            ends = any(f"output_blocks.{number}.{part}.conv" in self._modules for part in (1, 2))
            level, index = (level + 1, 0) if ends else (level, index + 1)
        return places

    def _numbers(self, way: str) -> list[int]:
        return sorted({int(m.split(".")[1]) for m in self._modules if m.startswith(f"{way}_blocks.")})
