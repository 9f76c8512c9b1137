"""What a checkpoint may say about itself in metadata and marker tensors, where names and shapes cannot."""

from __future__ import annotations

from backend.errors import UnsupportedCheckpoint
from backend.weights.source import WeightSource, with_averaged_weights, with_prefix

_VAE = "first_stage_model."


class FileFacts:
    """Read from `emulsion.*` and `modelspec.*` metadata, and from the tensors `v_pred` and `ztsnr`."""

    def __init__(self, source: WeightSource) -> None:
        self._metadata = source.metadata
        self._keys = frozenset(source.keys())

    def number(self, name: str, default: int) -> int:
        """The positive number `emulsion.<name>`, which narrow models in a family's layout carry."""
        text = self._metadata.get(f"emulsion.{name}", "")
        return int(text) if text.isdecimal() and 0 < int(text) <= 16384 else default

    def native_size(self, default: int) -> int:
        return self.number("native_size", default) // 8 * 8 or default

    @property
    def prediction_type(self) -> str:
        """As the metadata have it; "" when they do not say."""
        return self._metadata.get("emulsion.prediction_type") or self._metadata.get("modelspec.prediction_type", "")

    @property
    def is_velocity(self) -> bool:
        return self.prediction_type in ("v", "v_prediction") or "v_pred" in self._keys

    @property
    def has_zero_terminal_snr(self) -> bool:
        return self._metadata.get("emulsion.zero_terminal_snr") == "true" or "ztsnr" in self._keys


def averaged(checkpoint: WeightSource) -> WeightSource:
    """The checkpoint with its averaged (EMA) weights. Raises UnsupportedCheckpoint when it holds none."""
    try:
        return with_averaged_weights(checkpoint)
    except KeyError as error:
        raise UnsupportedCheckpoint(
            checkpoint.origin, "it holds no averaged (EMA) weights; use its plain ones, which is the default."
        ) from error


def external_vae(source: WeightSource) -> WeightSource:
    """An autoencoder in a file of its own, with or without the prefix that it has inside a checkpoint."""
    inside = with_prefix(source, _VAE)
    return inside if inside.keys() else source
