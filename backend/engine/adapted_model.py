"""A model's files under the names by which adapters know them, and the same files with adapters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from backend.adapters.aliases import FAMILIES, specs_of
from backend.adapters.lora_file import Adapter
from backend.adapters.patched import Patched, patched
from backend.adapters.text_encoder_names import ENCODERS
from backend.errors import RequestError
from backend.families.family import Family, ModelFiles
from backend.families.file_facts import averaged
from backend.memory.byte_sizes import as_text
from backend.merging.block_layout import BlockLayout
from backend.merging.canonical import NETWORK, beside_network, network_in
from backend.merging.layouts import layout_of
from backend.merging.placed import placed
from backend.recipe import AdapterUse
from backend.text.encoder_layouts import PROJECTION, T5, encoders_in
from backend.weights.assembled import Assembled, Component, PartOf
from backend.weights.source import TensorSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Widened:
    """Packed layers that an adapter needs unpacked. num_bytes: how much more memory they take so."""

    num_layers: int
    dtype: str
    num_bytes: int

    @property
    def notice(self) -> str:
        return (
            f"Packed layers of the model ({self.num_layers}) are kept in {self.dtype} while it acts, because what it "
            f"adds does not fit beside them in less: {as_text(self.num_bytes)} more memory."
        )


class AdaptableModel:
    """The network that denoises and the text encoders that are used, wherever they lie and in whatever layout.

    identity: equal ones mean equal weights. Reads headers only.
    Raises RequestError for a family that takes no adapters.
    """

    def __init__(self, files: ModelFiles, family: Family, identity: str) -> None:
        if family.name not in FAMILIES:
            raise RequestError(
                "adapters",
                f"models of {family.label} take no LoRAs here. Families that do: {', '.join(FAMILIES)}. Remove the "
                "LoRAs, or choose another model",
            )
        self.family = family
        self.identity = identity
        self._files = files
        checkpoint = averaged(files.checkpoint) if files.use_ema else files.checkpoint
        self._rest = beside_network(checkpoint, family.name)
        self._network = Component(source=network_in(checkpoint, family.name), name=f"{NETWORK}{{}}".format)
        self._encoders = _encoders(files, family.name)
        self._whole = Assembled((self._network, *self._encoders.values()))

    @cached_property
    def specs(self) -> Mapping[str, TensorSpec]:
        """As in a single file of the family that holds all of it."""
        return specs_of(self._whole)

    @cached_property
    def layout(self) -> BlockLayout:
        return layout_of(self.family.name, self._whole.keys())

    def widened_by(self, use: AdapterUse, adapter: Adapter) -> Widened | None:
        """What of the model an adapter needs unpacked, by headers alone; None for nothing."""
        if not self._is_packed:
            return None
        changed = patched(self._whole, [placed(use, adapter, self.layout)], self.family.name)
        if not isinstance(changed, Patched) or not changed.widened:
            return None
        dtype = str(changed.spec(changed.widened[0]).dtype).removeprefix("torch.")
        return Widened(num_layers=len(changed.widened), dtype=dtype, num_bytes=changed.bytes_of_widening)

    @cached_property
    def _is_packed(self) -> bool:
        return any(self._whole.packing(key) is not None for key in self._whole.keys())

    def with_adapters(self, uses: Sequence[tuple[AdapterUse, Adapter]]) -> ModelFiles:
        """The same files with what these add. Keys that none of them touches are those of the files."""
        changed = patched(self._whole, [placed(use, adapter, self.layout) for use, adapter in uses], self.family.name)
        if changed is self._whole:
            return self._files
        network = Component(source=PartOf(changed, self._network), name=self._network.name)
        return dataclasses.replace(
            self._files,
            # What a file says of itself stands beside its network.
            checkpoint=Assembled((Component(source=self._rest, name=str), network)),
            text_encoders={
                **self._files.text_encoders,
                **{kind: PartOf(changed, encoder) for kind, encoder in self._encoders.items()},
            },
            use_ema=False,
        )


def _encoders(files: ModelFiles, family: str) -> dict[str, Component]:
    """Those that are used, by kind, behind the names that they have in single files of the family."""
    own = encoders_in(files.checkpoint)
    found: dict[str, Component] = {}
    for encoder in ENCODERS[family]:
        source = files.text_encoders.get(encoder.kind, own.get(encoder.kind))
        if source is not None:
            found[encoder.kind] = Component(source=source, name=_name_in(encoder.prefixes[0], encoder.kind))
    return found


def _name_in(prefix: str, kind: str) -> Callable[[str], str]:
    if kind == T5:
        return f"{prefix}{{}}".format
    return lambda key: prefix + ("" if key == PROJECTION else "text_model.") + key
