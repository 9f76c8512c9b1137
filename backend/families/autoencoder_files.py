"""Where the autoencoder of a model lies: in its checkpoint or in a file of its own, in whichever usual layout."""

from __future__ import annotations

from backend.errors import UnsupportedCheckpoint
from backend.families.diffusers_layout import autoencoder_in_ldm_layout
from backend.families.family import ModelFiles
from backend.weights.source import Renamed, WeightSource

_PREFIXES = ("first_stage_model.", "vae.", "")  # LDM's, ComfyUI's, and none
_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")  # some files have parts of its training, too


def has_autoencoder(source: WeightSource) -> bool:
    return _prefix(source) is not None


def autoencoder_in(source: WeightSource) -> WeightSource | None:
    """The autoencoder of a file under LDM's names, or None."""
    prefix = _prefix(source)
    if prefix is None:
        return None
    parts = tuple(prefix + part for part in _PARTS)
    return autoencoder_in_ldm_layout(
        Renamed(source, lambda key: key.removeprefix(prefix) if key.startswith(parts) else None)
    )


def autoencoder_of(files: ModelFiles) -> WeightSource:
    """The one that was chosen, or else the one inside the checkpoint. Raises UnsupportedCheckpoint for none."""
    file = files.vae or files.checkpoint
    source = autoencoder_in(file)
    if source is None and files.vae is not None:
        raise UnsupportedCheckpoint(file.origin, "it holds no autoencoder (VAE). Choose another VAE.")
    if source is None:
        raise UnsupportedCheckpoint(
            file.origin,
            "it holds no autoencoder (VAE), which makes the picture. Put the model's VAE into models/vae and choose "
            "it.",
        )
    return source


def _prefix(source: WeightSource) -> str | None:
    keys = frozenset(source.keys())
    return next((prefix for prefix in _PREFIXES if f"{prefix}decoder.conv_in.weight" in keys), None)
