"""Where in a model a weight lies: its block, what kind of layer it belongs to, and which stream it works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Place:
    """Of one weight. block: "IN04"; "" for weights that belong to none (they take the base value).

    kind: "resblock", "self_attention", "cross_attention", "feed_forward", "norm", "resample" or "", perhaps with a
    part behind a point: "self_attention.q". stream: "image", "text" or "". part: where inside of its block it lies, as
    a checkpoint has it: module, and of a transformer the number of its own block ("1.0"); "" where blocks are one.
    Overrides may name it behind the block's name: "IN04.1.0".
    """

    block: str = ""
    kind: str = ""
    stream: str = ""
    part: str = ""


@dataclass(frozen=True, kw_only=True)
class Block:
    """What a slider is for. group: which sliders stand together ("IN", "M", "OUT", "TE", "VAE", "REST").

    hint: what these layers do, for the user.
    """

    name: str
    label: str
    group: str
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class BlockLayout:
    """The blocks of one family of models. name: the family's.

    blocks: in the order in which a picture passes them, and then those outside of the network that denoises.
    kinds, streams: what overrides may name, with labels for the user.
    place_of: of a key of the single-file layout.
    """

    name: str
    blocks: tuple[Block, ...]
    kinds: Mapping[str, str]
    streams: Mapping[str, str]
    place_of: Callable[[str], Place]
