"""Models whose noise levels end without any signal (Lin et al. 2023): the same networks, which want other settings."""

from __future__ import annotations

import dataclasses

from backend.families.family import Defaults
from backend.families.file_facts import FileFacts

_GUIDANCE_RESCALE = 0.7  # section 3.4: guidance over-exposes the pictures of such models


def with_zero_snr(defaults: Defaults, facts: FileFacts, label: str, *, rescales_guidance: bool = True) -> Defaults:
    """The defaults of a family, or what suits a model of it that begins at pure noise. label: "SDXL"."""
    if not facts.has_zero_terminal_snr:
        return defaults
    why = ", and rescaled guidance against pictures that are too bright or too dark" if rescales_guidance else ""
    # Karras' levels would spend half of the steps above any noise that tells (sigma is 4519 at the start).
    return dataclasses.replace(
        defaults,
        sampler="euler",
        schedule="sgm_uniform",
        guidance_rescale=_GUIDANCE_RESCALE if rescales_guidance else 0.0,
        reason=f"{label} with zero terminal SNR: even steps from pure noise{why}",
    )
