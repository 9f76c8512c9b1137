"""U-Nets and autoencoders as diffusers names their weights, under the names of single-file (LDM) checkpoints.

LDM counts the blocks of a U-Net one by one where diffusers counts levels, so the names are translated with the numbers
of residual blocks a level, which the names themselves tell. Autoencoders differ in the order of levels on the way up,
and in that their attention's 1x1 convolutions may be stored as linear layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torch import Tensor

from backend.weights.source import PlainStorage, Renamed, TensorSpec, WeightSource

_UNET_ENDS = {
    "conv_in.": "input_blocks.0.0.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "time_embedding.cond_proj.": "time_embed.cond_proj.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "class_embedding.linear_1.": "label_emb.0.0.",
    "class_embedding.linear_2.": "label_emb.0.2.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}
_UNET_RESNET = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "conv_shortcut.": "skip_connection.",
}
_VAE_ENDS = {
    "mid_block.resnets.0.": "mid.block_1.",
    "mid_block.resnets.1.": "mid.block_2.",
    "mid_block.attentions.0.": "mid.attn_1.",
    "conv_norm_out.": "norm_out.",
}
# The second of each pair of names is that of files from before diffusers 0.15.
_VAE_ATTENTION = {
    "group_norm.": "norm.",
    "to_q.": "q.", "query.": "q.",
    "to_k.": "k.", "key.": "k.",
    "to_v.": "v.", "value.": "v.",
    "to_out.0.": "proj_out.", "proj_attn.": "proj_out.",
}  # fmt: skip
_LEVEL = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")


def unet_in_ldm_layout(source: WeightSource) -> WeightSource:
    """The source itself when its keys are those of LDM already."""
    if "conv_in.weight" not in frozenset(source.keys()):
        return source
    return Renamed(source, unet_names(source.keys()))


def unet_names(keys: Sequence[str]) -> Callable[[str], str | None]:
    """LDM's name for each of the `keys` of one U-Net in diffusers' layout. None for what LDM has no name for."""
    return _UNetNames(keys).translated


def autoencoder_in_ldm_layout(source: WeightSource) -> WeightSource:
    """An autoencoder of either layout, with its attention's weights as 1x1 convolutions."""
    keys = frozenset(source.keys())
    if "decoder.up_blocks.0.resnets.0.conv1.weight" in keys:
        num_levels = len({found[1] for key in keys if (found := re.match(r"decoder\.up_blocks\.(\d+)\.", key))})
        source = Renamed(source, lambda key: _vae_name(key, num_levels))
    flat = [key for key in source.keys() if ".mid.attn_1." in key and len(source.spec(key).shape) == 2]
    return AsConvolutions(source, flat) if flat else source


class AsConvolutions(PlainStorage):
    """A source in which the weights [out, in] of some linear layers are those of 1x1 convolutions [out, in, 1, 1]."""

    def __init__(self, source: WeightSource, keys: Sequence[str]) -> None:
        self._source = source
        self._flat = frozenset(keys)
        self.metadata = source.metadata
        self.origin = source.origin

    def keys(self) -> Sequence[str]:
        return self._source.keys()

    def spec(self, key: str) -> TensorSpec:
        spec = self._source.spec(key)
        return TensorSpec((*spec.shape, 1, 1), spec.dtype) if key in self._flat else spec

    def read(self, key: str) -> Tensor:
        tensor = self._source.read(key)
        return tensor[:, :, None, None] if key in self._flat else tensor

    def read_into(self, key: str, out: Tensor) -> None:
        self._source.read_into(key, out[:, :, 0, 0] if key in self._flat else out)

    def identity(self, key: str) -> str:
        return self._source.identity(key)


class _UNetNames:
    """The LDM name of each key of one U-Net."""

    def __init__(self, keys: Sequence[str]) -> None:
        found = [match.groups() for key in keys if (match := _LEVEL.match(key))]
        self._with_attention = {(way, level, index) for way, level, part, index, _ in found if part == "attentions"}
        self._first = {way: self._first_blocks(found, way) for way in ("down", "up")}

    def translated(self, key: str) -> str | None:
        if match := _LEVEL.match(key):
            return self._block_name(*match.groups())
        for theirs, ours in _UNET_ENDS.items():
            if key.startswith(theirs):
                rest = key.removeprefix(theirs)
                return ours + (_renamed(rest, _UNET_RESNET) if ".resnets." in theirs else rest)
        return key

    def _block_name(self, way: str, level: str, part: str, index: str, rest: str) -> str:
        first, blocks = self._first[way][level]
        block = f"{'input' if way == 'down' else 'output'}_blocks."
        match part:
            case "resnets":
                return f"{block}{first + int(index)}.0.{_renamed(rest, _UNET_RESNET)}"
            case "attentions":
                return f"{block}{first + int(index)}.1.{rest}"
            case "downsamplers":
                return f"{block}{first + blocks}.0.op.{rest.removeprefix('conv.')}"
            case _:
                behind = 2 if (way, level, str(blocks - 1)) in self._with_attention else 1
                return f"{block}{first + blocks - 1}.{behind}.{rest}"

    @staticmethod
    def _first_blocks(found: Sequence[tuple[str, ...]], way: str) -> dict[str, tuple[int, int]]:
        """By level, LDM's number of its first block, and how many residual blocks it has."""
        resnets = {(int(level), int(index)) for w, level, part, index, _ in found if (w, part) == (way, "resnets")}
        first: dict[str, tuple[int, int]] = {}
        number = 1 if way == "down" else 0
        for level in sorted({level for level, _ in resnets}):
            blocks = sum(other == level for other, _ in resnets)
            first[str(level)] = (number, blocks)
            number += blocks + (1 if way == "down" else 0)  # on the way down, the step to the next level is a block
        return first


def _vae_name(key: str, num_levels: int) -> str:
    side, _, rest = key.partition(".")
    if side not in ("encoder", "decoder"):
        return key
    if match := _LEVEL.match(rest):
        way, number, part, index, name = match.groups()
        level = f"down.{number}" if way == "down" else f"up.{num_levels - 1 - int(number)}"
        step = {"resnets": f"block.{index}", "downsamplers": "downsample", "upsamplers": "upsample"}.get(part, part)
        return f"{side}.{level}.{step}.{name.replace('conv_shortcut.', 'nin_shortcut.')}"
    for theirs, ours in _VAE_ENDS.items():
        if rest.startswith(theirs):
            name = rest.removeprefix(theirs)
            name = _renamed(name, _VAE_ATTENTION) if "attentions" in theirs else name
            return f"{side}.{ours}{name}"
    return key


def _renamed(name: str, starts: dict[str, str]) -> str:
    start = next((start for start in starts if name.startswith(start)), "")
    return starts[start] + name.removeprefix(start) if start else name
