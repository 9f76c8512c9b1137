"""Files of hypernetworks, as A1111 trains them: "320.0.linear.0.weight" and so on, and how they are put together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.errors import BadCheckpoint, UnsupportedCheckpoint
from backend.nn.hypernetwork import ACTIVATIONS, LINEAR, PRELU, HypernetworkConfig
from backend.weights.finite import first_bad_tensor
from backend.weights.pickle_conversion import converted_values
from backend.weights.source import WeightSource
from backend.weights.views import View, Viewed

# width of the context, 0 for keys and 1 for values, place in the sequence of layers, tensor
_KEY = re.compile(r"(\d{1,5})\.([01])\.(?:linear\.(\d{1,3})|linear([12]))\.(weight|bias)")
_MAX_WIDTH = 1 << 16
_OPTIMIZER = "optimizer_state_dict."
_FAMILIES = {768: "SD 1", 1024: "SD 2", 2048: "SDXL"}


@dataclass(frozen=True, kw_only=True)
class HypernetworkFile:
    """source: under the names of `Hypernetwork`. step, checkpoint: of its training, None where it does not say."""

    config: HypernetworkConfig
    source: WeightSource
    step: int | None = None
    checkpoint: str | None = None

    @property
    def made_for(self) -> str:
        """The family of models whose texts are as wide, "SD 1" for example; "" where none is."""
        return next((label for width, label in _FAMILIES.items() if width in self.config.widths), "")


@dataclass(frozen=True, kw_only=True)
class HypernetworkUse:
    file: HypernetworkFile
    strength: float


def read_hypernetwork(source: WeightSource) -> HypernetworkFile:
    """Look at a file, all of whose numbers are read once.

    Raises UnsupportedCheckpoint for a file without a hypernetwork, or with an activation that cannot be used here, and
    BadCheckpoint for layers that do not follow each other and for values that are not numbers.
    """
    places = _places(source)
    said = converted_values(source.metadata)
    views: dict[str, View] = {}
    widths: dict[int, tuple[int, ...]] = {}
    has_norms: set[bool] = set()
    has_slopes = False
    for (width, branch), layers in sorted(places.items()):
        read = _Branch(source, width, layers)
        if widths.setdefault(width, read.outputs) != read.outputs:
            raise BadCheckpoint(source.origin, f"its layers for keys and for values of width {width} differ.")
        has_norms.add(read.has_norms)
        has_slopes = has_slopes or read.has_slopes
        views |= {f"pairs.{width}.{branch}.{name}": View(key) for name, key in read.names.items()}
    if lonely := sorted(width for width in widths if {(width, 0), (width, 1)} - places.keys()):
        raise BadCheckpoint(source.origin, f"it lacks the layers for keys or values of width {lonely[0]}.")
    if len(has_norms) > 1:
        raise BadCheckpoint(source.origin, "only some of its layers are followed by a norm.")
    named = Viewed(source, views)
    if bad := first_bad_tensor(named):
        raise BadCheckpoint(source.origin, f'"{bad}" holds values that are not numbers. Download it again.')
    return HypernetworkFile(
        config=HypernetworkConfig(
            widths=widths,
            activation=_activation(source.origin, said, has_slopes=has_slopes),
            activates_output=said.get("activate_output", True) is not False,
            has_norms=has_norms == {True},
        ),
        source=named,
        step=_whole_number(said.get("step")),
        checkpoint=_text(said.get("sd_checkpoint_name")),
    )


class _Branch:
    """The layers of one sequence, whose kinds their shapes tell: dropouts and plain activations have no weights.

    names: in `Hypernetwork` -> keys.
    """

    def __init__(self, source: WeightSource, width: int, layers: Mapping[int, Mapping[str, str]]) -> None:
        self.names: dict[str, str] = {}
        self.has_slopes = False
        outputs: list[int] = []
        norms = 0
        for _, tensors in sorted(layers.items()):
            shape = tuple(source.spec(tensors["weight"]).shape if "weight" in tensors else ())
            before = outputs[-1] if outputs else width
            dimensions = len(shape)
            match dimensions, "bias" in tensors:
                case 2, True if shape[1] == before and source.spec(tensors["bias"]).shape == shape[:1]:
                    outputs.append(shape[0])
                    part = "linear"
                case 1, True if outputs and shape == (before,) == source.spec(tensors["bias"]).shape:
                    norms += 1
                    part = "norm"
                case 1, False if outputs and shape == (1,):
                    self.has_slopes = True
                    part = "activation"
                case _:
                    raise BadCheckpoint(
                        source.origin,
                        f"a layer of its part for width {width} is {list(shape)}, which does not follow {before} "
                        "numbers. Download it again.",
                    )
            self.names |= {f"layers.{len(outputs) - 1}.{part}.{name}": key for name, key in tensors.items()}
        if not outputs or outputs[-1] != width:
            raise BadCheckpoint(source.origin, f"what it makes of {width} numbers are not as many. Download it again.")
        if norms not in (0, len(outputs)):
            raise BadCheckpoint(source.origin, "only some of its layers are followed by a norm.")
        self.outputs = tuple(outputs)
        self.has_norms = norms > 0


def _places(source: WeightSource) -> dict[tuple[int, int], dict[int, dict[str, str]]]:
    """(width, 0 for keys or 1 for values) -> place in the sequence -> tensor -> key."""
    places: dict[tuple[int, int], dict[int, dict[str, str]]] = {}
    for key in source.keys():
        if key.startswith(_OPTIMIZER):
            continue
        found = _KEY.fullmatch(key)
        if found is None or not 0 < int(found[1]) <= _MAX_WIDTH:
            raise UnsupportedCheckpoint(
                source.origin, f'it is no hypernetwork that is known: it holds "{key[:100]}". Choose another file.'
            )
        place = int(found[3]) if found[3] is not None else int(found[4]) - 1  # "linear1" is the first in old files
        places.setdefault((int(found[1]), int(found[2])), {}).setdefault(place, {})[found[5]] = key
    if not places:
        raise UnsupportedCheckpoint(source.origin, "it is no hypernetwork: it holds no weights. Choose another file.")
    return places


def _activation(origin: Path, said: Mapping[str, Any], *, has_slopes: bool) -> str:
    name: Any = said.get("activation_func") or LINEAR
    if name not in (LINEAR, PRELU, *ACTIVATIONS):
        raise UnsupportedCheckpoint(
            origin, f"its activation {name!r:.60} is not known, or depends on the other pictures of a batch. Known: "
            f"{_listed((LINEAR, PRELU, *ACTIVATIONS))}.")  # fmt: skip
    if has_slopes != (name == PRELU):
        raise BadCheckpoint(origin, f'its layers do not go with its activation "{name}". Download it again.')
    return name


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _whole_number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
