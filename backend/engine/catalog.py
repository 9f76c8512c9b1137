"""Everything that can be picked by name and is code."""

from __future__ import annotations

from dataclasses import dataclass

from backend.diffusion import latent_upscaling, noise, samplers, schedules
from backend.diffusion.latent_upscaling import LatentUpscaler
from backend.diffusion.noise import NoiseKind
from backend.diffusion.samplers.sampler import Sampler
from backend.diffusion.schedules import Schedule
from backend.families import builtin as families
from backend.families.family import Family
from backend.images.detector import Detector
from backend.merging import normalisation
from backend.merging.catalog import MergeCatalog, Normalisation
from backend.merging.rule import Rule
from backend.merging.rules import builtin as rules
from backend.registry import Registry
from backend.text import emphasis
from backend.text.emphasis import EmphasisMode


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """Registries, to which extensions add."""

    samplers: Registry[Sampler]
    schedules: Registry[Schedule]
    emphasis_modes: Registry[EmphasisMode]
    noise_sources: Registry[NoiseKind]
    latent_upscalers: Registry[LatentUpscaler]
    detectors: Registry[Detector]
    families: Registry[Family]
    rules: Registry[Rule]
    normalisations: Registry[Normalisation]

    @classmethod
    def builtin(cls) -> Catalog:
        return cls(
            samplers=Registry("sampler", samplers.BUILTIN),
            schedules=Registry("schedule", schedules.BUILTIN),
            emphasis_modes=Registry("emphasis mode", emphasis.BUILTIN),
            noise_sources=Registry("noise source", noise.BUILTIN),
            latent_upscalers=Registry("upscaler", latent_upscaling.BUILTIN),
            detectors=Registry("detector"),
            families=Registry("model family", families.BUILTIN),
            rules=Registry("merge rule", rules.BUILTIN),
            normalisations=Registry("normalisation", normalisation.BUILTIN),
        )

    @property
    def for_merging(self) -> MergeCatalog:
        return MergeCatalog(rules=self.rules, normalisations=self.normalisations, families=self.families)
