"""The names under which adapters know the weights of one model: made from its own keys, never by parsing names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from backend.adapters.target import Named, Target
from backend.adapters.text_encoder_names import ENCODERS, text_encoder_names
from backend.adapters.transformer_names import flux_names, sd3_names
from backend.adapters.unet_names import unet_names
from backend.errors import UnknownName
from backend.weights.source import TensorSpec, WeightSource

_DENOISERS = {
    "sd1": partial(unet_names, has_ldm_names=False),
    "sd2": partial(unet_names, has_ldm_names=False),
    "sdxl": partial(unet_names, has_ldm_names=True),
    "sdxl-refiner": partial(unet_names, has_ldm_names=True),
    "sd3": sd3_names,
    "flux": flux_names,
}
FAMILIES = tuple(_DENOISERS)
_PREFIX = "model.diffusion_model."


def named_targets(specs: Mapping[str, TensorSpec], family: str) -> Iterator[Named]:
    """Every module of a model that an adapter may change, in the order of the keys.

    specs: of a checkpoint in the single-file layout of its family, whole or a part of it. Raises UnknownName.
    """
    if family not in _DENOISERS:
        raise UnknownName("family of models that takes adapters", family, FAMILIES)
    prefix = _PREFIX if any(key.startswith(_PREFIX) for key in specs) else ""
    yield from _DENOISERS[family](specs, prefix)
    for encoder in ENCODERS[family]:
        yield from text_encoder_names(specs, encoder)


def aliases_of(named: Iterable[Named]) -> dict[str, Target]:
    """Name -> target. Where two targets have a name in common, which no family has, the first keeps it."""
    aliases: dict[str, Target] = {}
    for module in named:
        for name in module.names:
            aliases.setdefault(name, module.target)
    return aliases


def specs_of(source: WeightSource) -> dict[str, TensorSpec]:
    return {key: source.spec(key) for key in source.keys()}
