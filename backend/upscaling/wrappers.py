"""The names under which trainers put a network's weights into a file."""

from __future__ import annotations

from backend.weights.source import Renamed, WeightSource

_WRAPPERS = ("params_ema.", "params.", "module.")


def unwrapped(source: WeightSource) -> WeightSource:
    """Without the name of the state that a trainer saved; of averaged and plain weights, the averaged ones."""
    for wrapper in _WRAPPERS:
        if any(key.startswith(wrapper) for key in source.keys()):
            return Renamed(source, lambda key, w=wrapper: key.removeprefix(w) if key.startswith(w) else None)
    return source
