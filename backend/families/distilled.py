"""Models that were distilled to few steps: the same networks, which want other settings.

Weights do not show it. What a file says of itself in its metadata does, or else its name. That is a hint for defaults
and changes nothing that the user chose.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from backend.families.family import Defaults
from backend.weights.source import WeightSource

_STEPS = re.compile(r"(\d{1,2})[ _-]?steps?(?![a-z])")
_SAYING = ("modelspec.title", "modelspec.architecture", "modelspec.tags", "modelspec.description")


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """A method, the words that it is known by, and how its models are sampled. All of them want no guidance."""

    label: str
    words: re.Pattern[str]
    sampler: str
    schedule: str
    steps: int


def _words(*words: str) -> re.Pattern[str]:
    """Any of `words`, not inside of another word ("hyper-sd", but not "hyperreal"); capitals begin words, too."""
    return re.compile(rf"(?<![a-z])(?:{'|'.join(words)})(?![a-z])")


# The first that fits counts: DMD2 files are often called after what they replace.
DISTILLATIONS = (
    Distillation(label="DMD2", words=_words("dmd2?"), sampler="lcm", schedule="dmd2", steps=4),
    Distillation(label="TCD", words=_words("tcd"), sampler="tcd", schedule="lcm", steps=4),
    Distillation(label="LCM", words=_words("lcm", "latent consistency"), sampler="lcm", schedule="lcm", steps=4),
    Distillation(
        label="Lightning", words=_words("lightning", "lightningxl"), sampler="euler", schedule="turbo", steps=4
    ),
    Distillation(
        label="Hyper-SD", words=_words("hyper ?sd(?:xl)?", "hyper"), sampler="euler", schedule="turbo", steps=8
    ),
    Distillation(label="Turbo", words=_words("turbo", "turboxl"), sampler="euler_ancestral", schedule="turbo", steps=4),
)


# A whole LCM, as opposed to other models with an LCM's LoRA, has a layer for the scale (Luo et al. 2023).
LCM_DEFAULTS = Defaults(
    sampler="lcm",
    schedule="lcm",
    steps=4,
    guidance_scale=1.0,
    distilled_guidance=8.0,
    reason="LCM: the network itself is told the guidance scale, and needs 4 steps",
)


def distillation_of(source: WeightSource) -> tuple[Distillation, str] | None:
    """The method that a file was distilled by, and who says so ("its metadata", "its name"); None if nobody does."""
    said = " ".join(source.metadata.get(key, "") for key in _SAYING)
    for text, who in ((said, "its metadata"), (source.origin.stem, "its name")):
        plain = _plain(text)
        found = next((method for method in DISTILLATIONS if method.words.search(plain)), None)
        if found is not None:
            return dataclasses.replace(found, steps=_steps_in(plain) or found.steps), who
    return None


def with_distillation(defaults: Defaults, source: WeightSource) -> Defaults:
    """The defaults of a family, or those of the method by which this file was distilled."""
    found = distillation_of(source)
    if found is None or defaults.distilled_guidance is not None:
        return defaults
    method, who = found
    return dataclasses.replace(
        defaults,
        sampler=method.sampler,
        schedule=method.schedule,
        steps=method.steps,
        guidance_scale=1.0,
        guidance_rescale=0.0,
        reason=f"{method.label}, as {who} says: distilled to {method.steps} steps without guidance",
    )


def is_turbo(source: WeightSource) -> bool:
    """SD Turbo and SDXL Turbo make pictures of 512 pixels."""
    found = distillation_of(source)
    return found is not None and found[0].label == "Turbo"


def _plain(text: str) -> str:
    """Lower case, with spaces between the words of "dreamshaperXL_LightningDPM"."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text)
    return re.sub(r"[^a-z0-9]+", " ", apart.lower())


def _steps_in(plain: str) -> int | None:
    found = _STEPS.search(plain)
    return int(found[1]) if found and 1 <= int(found[1]) <= 16 else None
