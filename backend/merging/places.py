"""The place of each weight of a file: from its name alone, or from those of the whole file where that does not do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from backend.families.diffusers_layout import unet_names
from backend.merging.block_layout import Place
from backend.merging.kinds import OTHER, UNET, layer_in
from backend.merging.network_blocks import NetworkBlocks, Stack

_ENCODERS = {
    "cond_stage_model.": "TE1",
    "conditioner.embedders.0.": "TE1",
    "conditioner.embedders.1.": "TE2",
    "text_encoders.clip_l.": "TE1",
    "text_encoders.clip_h.": "TE1",
    "text_encoders.clip_g.": "TE2",
    "text_encoders.t5xxl.": "T5",
    "text_encoders.t5.": "T5",
}
_AUTOENCODER = ("first_stage_model.", "vae.")
_AVERAGES = "model_ema."
_PART = re.compile(r"(\d+)\.(?:transformer_blocks\.(\d+)\.)?")


class Places:
    """Where in a model of one family each key lies.

    keys: of the file. Needed only for those of U-Nets in diffusers' layout and for averaged weights.
    """

    def __init__(self, network: NetworkBlocks, keys: Sequence[str]) -> None:
        self._network = network
        names = [self._network_name(key) for key in keys if not key.startswith((*_ENCODERS, *_AUTOENCODER))]
        is_diffusers = network.layers is UNET and "conv_in.weight" in names
        self._translated = unet_names(names) if is_diffusers else str
        self._plain = {
            _AVERAGES + key.removeprefix("model.").replace(".", ""): key
            for key in keys
            if key.startswith("model.diffusion_model.")
        }

    def of(self, key: str) -> Place:
        key = self._plain.get(key, key)
        for prefix, block in _ENCODERS.items():
            if key.startswith(prefix):
                return Place(block=block if block in self._network.encoders else next(iter(self._network.encoders)))
        if key.startswith(_AUTOENCODER):
            return Place(block="VAE")
        name = self._translated(self._network_name(key))
        return Place() if name is None else self._in_network(name)

    def _network_name(self, key: str) -> str:
        prefix = next((prefix for prefix in self._network.prefixes if key.startswith(prefix)), "")
        return key[len(prefix) :]

    def _in_network(self, name: str) -> Place:
        for stack in self._network.stacks:
            for number, rest in _in_stack(name, stack):
                layer = layer_in(rest, self._network.layers)
                kind, stream = (OTHER, "") if layer is None else (layer.kind, layer.stream)
                part = _part(rest) if stack.has_parts else ""
                return Place(block=f"{stack.group}{number:02}", kind=kind, stream=stream, part=part)
        for prefix, (block, stream) in self._network.ends.items():
            if name.startswith(prefix):
                return Place(block=block, kind=OTHER, stream=stream)
        return Place()


def _in_stack(name: str, stack: Stack) -> Iterator[tuple[int, str]]:
    """The number of the block and the rest of the name, where the weight lies in one of the stack."""
    for prefix in stack.prefixes:
        if name.startswith(prefix):
            number, _, rest = name[len(prefix) :].partition(".")
            if not stack.is_numbered:
                yield 0, name[len(prefix) :]
            elif number.isdecimal():
                yield int(number), rest


def _part(rest: str) -> str:
    found = _PART.match(rest)
    return "" if found is None else ".".join(number for number in found.groups() if number is not None)
