"""SDXL and what was made from it: v-prediction, Playground v2.5 and CosXL (EDM), SSD-1B and Segmind-Vega (narrower).

Podell et al. 2023, "SDXL": two text encoders side by side, and a vector of the pooled text and of sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backend.diffusion.edm_levels import EdmLevels
from backend.diffusion.guidance import Conditioning
from backend.diffusion.levels import Levels
from backend.diffusion.noise_levels import NoiseLevels
from backend.diffusion.prediction import EdmPrediction, EpsPrediction, Prediction, VPrediction
from backend.families.autoencoder_files import has_autoencoder
from backend.families.clip_reader import ClipReader, text_encoder_of
from backend.families.distilled import LCM_DEFAULTS, is_turbo, with_distillation
from backend.families.family import Defaults, Description, Family, Machine, ModelFiles, Prompt
from backend.families.file_facts import FileFacts
from backend.families.latent_space import LatentScaling
from backend.families.picture_input import unet_picture_use
from backend.families.unet_files import UNetTraits, unet_traits
from backend.families.unet_model import UNetFamily, UNetModel
from backend.families.zero_snr import with_zero_snr
from backend.nn.unet import timestep_embedding
from backend.request import PredictionKind
from backend.text.clip_encoder import SDXL_CLIP_G, SDXL_CLIP_L
from backend.text.encoder_layouts import CLIP_G, CLIP_L, encoders_in
from backend.weights.source import WeightSource

SCALING = LatentScaling(factor=(0.13025,))
NATIVE_SIZE = 1024

_FAMILY = UNetFamily(name="sdxl", needs="an SDXL model")
_PLAYGROUND_SPREAD = 0.5  # standard deviation that its latents are brought to, channel by channel
_NOT_SDXL_WIDTHS = (768, 1024, 1280)  # contexts of SD 1.x, SD 2.x (unCLIP) and the refiner


def recognise(source: WeightSource) -> bool:
    """A U-Net with an extra vector that attends to two text encoders."""
    traits = unet_traits(source)
    return (
        traits is not None
        and traits.linear_projections
        and traits.vector_width is not None
        and traits.context_width not in _NOT_SDXL_WIDTHS
        and not is_kolors(source, traits)
        and not reads_clip_g_alone(source)
    )


def reads_clip_g_alone(source: WeightSource) -> bool:
    """Whether the first text encoder inside a checkpoint is OpenCLIP's, as in the refiner."""
    return any(key.startswith("conditioner.embedders.0.model.transformer.") for key in source.keys())


def is_kolors(source: WeightSource, traits: UNetTraits) -> bool:
    """An SDXL U-Net that reads ChatGLM: its states are projected, or its vector is wider."""
    return traits.vector_width == 5632 or any("encoder_hid_proj" in key for key in source.keys())


def describe(source: WeightSource) -> Description:
    facts = FileFacts(source)
    return Description(
        native_size=facts.native_size(512 if is_turbo(source) else NATIVE_SIZE),
        defaults=with_distillation(_defaults(source, facts), source),
        text_encoders=(CLIP_L, CLIP_G),
        embedded=tuple(kind for kind in encoders_in(source) if kind in (CLIP_L, CLIP_G)),
        needed=(CLIP_L, CLIP_G),
        has_vae=has_autoencoder(source),
        picture_use=unet_picture_use(source),
        prediction=_choosable_prediction(facts),
    )


def load(files: ModelFiles, machine: Machine) -> UNetModel:
    """Raises KeysDoNotMatch and UnsupportedCheckpoint."""
    facts = FileFacts(files.checkpoint)
    readers = (
        ClipReader(CLIP_L, text_encoder_of(CLIP_L, files), machine, lambda _: SDXL_CLIP_L),
        ClipReader(CLIP_G, text_encoder_of(CLIP_G, files), machine, lambda _: SDXL_CLIP_G),
    )
    traits = unet_traits(files.checkpoint)
    vector_width = traits.vector_width if traits and traits.vector_width else 0

    def encode(prompt: Prompt) -> Conditioning:
        of_l, of_g = (reader.encode(prompt) for reader in readers)
        context, pooled = torch.cat([of_l.states, of_g.states], dim=-1), of_g.pooled
        assert pooled is not None
        if prompt.is_negative and not prompt.text.strip():  # trained on zeros for no text at all
            context, pooled = torch.zeros_like(context), torch.zeros_like(pooled)
        sizes = (prompt.height, prompt.width, 0, 0, prompt.height, prompt.width)  # original, crop's corner, target
        return Conditioning(
            context=context,
            vector=with_numbers(pooled, sizes, vector_width),
            guidance=prompt.distilled_guidance,
        )

    levels, prediction = _levels_and_prediction(facts)
    return UNetModel(
        _FAMILY,
        files,
        machine,
        scaling=_scaling(facts),
        levels=levels,
        prediction=prediction,
        encode_prompt=encode,
        text_parts=[reader.part for reader in readers],
    )


def with_numbers(pooled: Tensor, numbers: Sequence[float], width: int) -> Tensor:
    """The vector [1, width] of a pooled text [1, P] and of numbers, whose sinusoidal embeddings share what is left."""
    each = (width - pooled.shape[-1]) // len(numbers)
    embedded = timestep_embedding(torch.tensor(numbers, dtype=torch.float32, device=pooled.device), each)
    return torch.cat([pooled, embedded.flatten()[None]], dim=-1)


def _levels_and_prediction(facts: FileFacts) -> tuple[Levels, Prediction]:
    if facts.latent_statistics is not None:
        return EdmLevels(), EdmPrediction(_PLAYGROUND_SPREAD)
    if (edm_range := facts.edm_velocity_range) is not None:
        return EdmLevels(*edm_range), VPrediction()
    levels = NoiseLevels.scaled_linear(zero_terminal_snr=facts.has_zero_terminal_snr)
    return levels, VPrediction() if facts.is_velocity else EpsPrediction()


def _choosable_prediction(facts: FileFacts) -> PredictionKind | None:
    """None for EDM models, which say of themselves all that there is to know."""
    if facts.latent_statistics is not None or facts.edm_velocity_range is not None:
        return None
    return facts.prediction(is_velocity=facts.is_velocity)


def _scaling(facts: FileFacts) -> LatentScaling:
    """Playground's latents are brought to mean 0 and one spread, channel by channel."""
    if facts.latent_statistics is None:
        return SCALING
    mean, std = facts.latent_statistics
    return LatentScaling(factor=tuple(_PLAYGROUND_SPREAD / spread for spread in std), shift=mean)


def _defaults(source: WeightSource, facts: FileFacts) -> Defaults:
    traits = unet_traits(source)
    if facts.latent_statistics is not None:
        return Defaults(steps=50, guidance_scale=3.0, reason="Playground v2.5: EDM levels, low guidance")
    if facts.edm_velocity_range is not None:
        return Defaults(steps=30, guidance_scale=5.0, reason="CosXL: v-prediction on continuous levels")
    if traits is not None and traits.guidance_width is not None:
        return LCM_DEFAULTS
    steps = 28 if facts.has_zero_terminal_snr else 30
    plain = Defaults(steps=steps, guidance_scale=5.0, reason="SDXL: trained at 1024 pixels, with low guidance")
    return with_zero_snr(plain, facts, "SDXL")


SDXL = Family(
    name="sdxl",
    label="SDXL",
    aliases=("stable-diffusion-xl", "xl"),
    recognise=recognise,
    describe=describe,
    load=load,
    takes_hypernetworks=True,
)
