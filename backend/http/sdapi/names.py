"""A1111's names for the fields of a request, so that an error names what the client wrote."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from backend.errors import RequestError, UnknownName

_FIELDS = {
    "sampler": "sampler_name",
    "schedule": "scheduler",
    "guidance_scale": "cfg_scale",
    "distilled_guidance": "distilled_cfg_scale",
    "refiner": "refiner_checkpoint",
    "refiner_switch": "refiner_switch_at",
    "text_encoders": "forge_additional_modules",
    "batch_count": "n_iter",
    "checkpoint": "sd_model_checkpoint",
    "vae": "sd_vae",
    "clip_skip": "CLIP_stop_at_last_layers",
    "noise_source": "randn_source",
    "preview_every": "show_progress_every_n_steps",
    "exact_batches": "emulsion_exact_batches",
    "prediction": "emulsion_prediction",
}
_KINDS = {
    "sampler": "sampler_name",
    "schedule": "scheduler",
    "checkpoint": "sd_model_checkpoint",
    "VAE": "sd_vae",
    "emphasis mode": "emphasis",
    "noise source": "randn_source",
}


@contextmanager
def told_by_a1111_names() -> Generator[None, None, None]:
    """Turn errors about our fields into errors about A1111's."""
    try:
        yield
    except RequestError as error:
        raise type(error)(_FIELDS.get(error.field, error.field), error.problem) from error
    except UnknownName as error:
        raise RequestError(_KINDS.get(error.kind, error.kind), str(error)) from error
