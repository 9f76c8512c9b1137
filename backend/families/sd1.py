"""Stable Diffusion 1.x, and narrower models in the same layout, whose file says in its metadata what shapes cannot."""

from __future__ import annotations

from backend.diffusion.guidance import Conditioning
from backend.diffusion.noise_levels import NoiseLevels
from backend.diffusion.prediction import EpsPrediction, VPrediction
from backend.families.autoencoder_files import has_autoencoder
from backend.families.clip_reader import ClipReader, text_encoder_of
from backend.families.distilled import LCM_DEFAULTS, with_distillation
from backend.families.family import Defaults, Description, Family, Machine, ModelFiles, Prompt
from backend.families.file_facts import FileFacts
from backend.families.latent_space import LatentScaling
from backend.families.picture_input import unet_picture_use
from backend.families.unet_files import UNetTraits, unet_traits
from backend.families.unet_model import UNetFamily, UNetModel
from backend.families.zero_snr import with_zero_snr
from backend.text.clip_encoder import SD1_CLIP_L, with_all_tokens
from backend.text.encoder_layouts import CLIP_L, TOKENS, encoders_in
from backend.weights.source import WeightSource

LATENT_FACTOR = 0.18215  # Rombach et al. 2022: makes the latents of the published autoencoder about unit variance
NATIVE_SIZE = 512

_FAMILY = UNetFamily(name="sd1", needs="an SD 1.x model", num_heads=8, head_dim=None)
_TOKEN_IDS = "emulsion.token_ids"


def recognise(source: WeightSource) -> bool:
    """A U-Net with 1x1 convolutions around its transformers and without an extra vector."""
    traits = unet_traits(source)
    return traits is not None and not traits.linear_projections and traits.vector_width is None


def describe(source: WeightSource) -> Description:
    facts = FileFacts(source)
    return Description(
        native_size=facts.native_size(NATIVE_SIZE),
        defaults=with_distillation(_defaults(facts, unet_traits(source)), source),
        text_encoders=(CLIP_L,),
        embedded=tuple(kind for kind in encoders_in(source) if kind == CLIP_L),
        needed=(CLIP_L,),
        has_vae=has_autoencoder(source),
        picture_use=unet_picture_use(source),
        prediction=facts.prediction(is_velocity=facts.is_velocity),
    )


def load(files: ModelFiles, machine: Machine) -> UNetModel:
    """A model whose parts are built and bound when they are first used.

    Raises KeysDoNotMatch when a part lacks the names from which its configuration is read, UnsupportedCheckpoint.
    """
    facts = FileFacts(files.checkpoint)
    reader = ClipReader(CLIP_L, _text_encoder(files), machine, lambda _: SD1_CLIP_L)

    def encode(prompt: Prompt) -> Conditioning:
        return Conditioning(context=reader.encode(prompt).states, guidance=prompt.distilled_guidance)

    return UNetModel(
        _FAMILY,
        files,
        machine,
        scaling=LatentScaling(factor=(LATENT_FACTOR,)),
        levels=NoiseLevels.scaled_linear(zero_terminal_snr=facts.has_zero_terminal_snr),
        prediction=VPrediction() if facts.is_velocity else EpsPrediction(),
        encode_prompt=encode,
        text_parts=(reader.part,),
    )


def _defaults(facts: FileFacts, traits: UNetTraits | None) -> Defaults:
    if traits is not None and traits.guidance_width is not None:
        return LCM_DEFAULTS
    guidance_scale = float(facts.number("guidance_scale", 7))
    plain = Defaults(guidance_scale=guidance_scale, reason="Stable Diffusion 1.x")
    # Not rescaled: the small model that ships, and most others of this kind, were tuned without.
    return with_zero_snr(plain, facts, "Stable Diffusion 1.x", rescales_guidance=False)


def _text_encoder(files: ModelFiles) -> WeightSource:
    source, checkpoint = text_encoder_of(CLIP_L, files), files.checkpoint
    if _TOKEN_IDS not in frozenset(checkpoint.keys()):
        return source
    # Of the checkpoint's own encoder, whether it comes from there or beside it; another file's has all tokens.
    is_its_own = source.spec(TOKENS).shape[:1] == checkpoint.spec(_TOKEN_IDS).shape
    return with_all_tokens(source, checkpoint.read(_TOKEN_IDS)) if is_its_own else source


SD1 = Family(
    name="sd1",
    label="Stable Diffusion 1.x",
    aliases=("sd15", "stable-diffusion-v1"),
    recognise=recognise,
    describe=describe,
    load=load,
    takes_hypernetworks=True,
)
