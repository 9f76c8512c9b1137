"""What a checkpoint says of itself in metadata and marker tensors, or its user of it, where names and shapes cannot."""

from __future__ import annotations

import math

from backend.errors import BadCheckpoint, UnsupportedCheckpoint
from backend.request import PredictionKind
from backend.weights.source import Described, WeightSource, with_averaged_weights

_LATENT_MEAN, _LATENT_STD = "edm_mean", "edm_std"
_EDM_SIGMA_MIN, _EDM_SIGMA_MAX = "edm_vpred.sigma_min", "edm_vpred.sigma_max"

# Tensors that are no weights: they say how a network is to be used.
MARKERS = frozenset({"v_pred", "ztsnr", _LATENT_MEAN, _LATENT_STD, _EDM_SIGMA_MIN, _EDM_SIGMA_MAX})
_FEW = 64
_PREDICTION_TYPE, _ZERO_SNR = "emulsion.prediction_type", "emulsion.zero_terminal_snr"


class FileFacts:
    """Read from `emulsion.*` and `modelspec.*` metadata, and from marker tensors."""

    def __init__(self, source: WeightSource) -> None:
        self._source = source
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
        return self._metadata.get(_PREDICTION_TYPE) or self._metadata.get("modelspec.prediction_type", "")

    @property
    def is_velocity(self) -> bool:
        """Metadata count more than the marker, so that a user can say what a file says wrongly."""
        return not self.is_epsilon and (self.prediction_type in ("v", "v_prediction") or "v_pred" in self._keys)

    @property
    def is_epsilon(self) -> bool:
        """Whether the file says so itself."""
        return self.prediction_type in ("epsilon", "eps")

    @property
    def latent_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and standard deviation of each channel of the autoencoder's latents (Playground v2.5), or None.

        Raises BadCheckpoint.
        """
        if not {_LATENT_MEAN, _LATENT_STD} <= self._keys:
            return None
        mean, std = self._numbers(_LATENT_MEAN), self._numbers(_LATENT_STD)
        if len(mean) != len(std) or not all(map(math.isfinite, mean)) or not all(0 < value < math.inf for value in std):
            raise BadCheckpoint(self._source.origin, "the statistics of its latents are damaged. Download it again.")
        return mean, std

    @property
    def edm_velocity_range(self) -> tuple[float, float] | None:
        """Smallest and largest noise level of a model that predicts v on continuous levels (CosXL), or None.

        Raises BadCheckpoint.
        """
        if _EDM_SIGMA_MAX not in self._keys:
            return None
        lowest = self._numbers(_EDM_SIGMA_MIN) if _EDM_SIGMA_MIN in self._keys else (0.002,)
        highest = self._numbers(_EDM_SIGMA_MAX)
        if len(lowest) != 1 or len(highest) != 1 or not 0 < lowest[0] < highest[0] < math.inf:
            raise BadCheckpoint(
                self._source.origin, "its smallest and largest noise level are damaged. Download it again."
            )
        return lowest[0], highest[0]

    def _numbers(self, key: str) -> tuple[float, ...]:
        if self._source.spec(key).num_elements > _FEW:
            raise BadCheckpoint(self._source.origin, f'"{key}" should hold a few numbers. Download it again.')
        return tuple(self._source.read(key).flatten().float().tolist())

    @property
    def has_zero_terminal_snr(self) -> bool:
        said = self._metadata.get(_ZERO_SNR, "")
        return said == "true" or (said != "false" and "ztsnr" in self._keys)

    def prediction(self, *, is_velocity: bool) -> PredictionKind:
        """is_velocity: what is known of the network, by this file or by its weights."""
        if not is_velocity:
            return PredictionKind.EPS
        return PredictionKind.V_ZERO_SNR if self.has_zero_terminal_snr else PredictionKind.V


def with_prediction(source: WeightSource, prediction: PredictionKind | None) -> WeightSource:
    """The file as if it said of itself what its user says of it; as it is for None.

    A user who says no more than "v" leaves it to the file whether its noise levels end without any signal.
    """
    match prediction:
        case None:
            return source
        case PredictionKind.EPS:
            return Described(source, {_PREDICTION_TYPE: "eps", _ZERO_SNR: "false"})
        case PredictionKind.V:
            return Described(source, {_PREDICTION_TYPE: "v"})
        case PredictionKind.V_ZERO_SNR:
            return Described(source, {_PREDICTION_TYPE: "v", _ZERO_SNR: "true"})


def averaged(checkpoint: WeightSource) -> WeightSource:
    """The checkpoint with its averaged (EMA) weights. Raises UnsupportedCheckpoint when it holds none."""
    try:
        return with_averaged_weights(checkpoint)
    except KeyError as error:
        raise UnsupportedCheckpoint(
            checkpoint.origin, "it holds no averaged (EMA) weights; use its plain ones, which is the default."
        ) from error
