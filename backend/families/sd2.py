"""Stable Diffusion 2.0 and 2.1: the U-Net of 1.x with heads of one width, reading OpenCLIP-H."""

from __future__ import annotations

from backend.diffusion.guidance import Conditioning
from backend.diffusion.noise_levels import NoiseLevels
from backend.diffusion.prediction import EpsPrediction, VPrediction
from backend.families.autoencoder_files import has_autoencoder
from backend.families.clip_reader import ClipReader, text_encoder_of
from backend.families.distilled import is_turbo, with_distillation
from backend.families.family import Defaults, Description, Family, Machine, ModelFiles, Prompt
from backend.families.file_facts import FileFacts
from backend.families.latent_space import LatentScaling
from backend.families.picture_input import unet_picture_use
from backend.families.unet_files import unet_in, unet_traits
from backend.families.unet_model import UNetFamily, UNetModel
from backend.families.zero_snr import with_zero_snr
from backend.text.clip_encoder import sd2_clip_h
from backend.text.encoder_layouts import CLIP_H, encoders_in
from backend.weights.source import WeightSource

_FAMILY = UNetFamily(name="sd2", needs="an SD 2.x model")
_SCALING = LatentScaling(factor=(0.18215,))
_RUN_CHANNELS = (4, 8, 9)

# The networks of both predictions have the same names and shapes. This bias of the last transformer was trained wider
# in those that predict v: its standard deviation is above 0.09 there, as A1111 found.
_TELLING = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
_TELLING_SPREAD = 0.09


def recognise(source: WeightSource) -> bool:
    """A U-Net with linear layers around its transformers and without an extra vector."""
    traits = unet_traits(source)
    return (
        traits is not None
        and traits.linear_projections
        and traits.vector_width is None
        and traits.in_channels in _RUN_CHANNELS
        and traits.context_width not in (1280, 2048)
    )


def describe(source: WeightSource) -> Description:
    facts = FileFacts(source)
    is_velocity = predicts_velocity(source)
    native_size = 512 if is_turbo(source) or not is_velocity else 768
    reason = f"SD 2.x that predicts {'v, trained at 768' if is_velocity else 'noise, trained at 512'} pixels"
    prediction = facts.prediction(is_velocity=is_velocity)
    plain = Defaults(steps=25, guidance_scale=7.0, reason=reason)
    return Description(
        native_size=facts.native_size(native_size),
        defaults=with_distillation(with_zero_snr(plain, facts, "SD 2.x"), source),
        text_encoders=(CLIP_H,),
        embedded=tuple(kind for kind in encoders_in(source) if kind == CLIP_H),
        needed=(CLIP_H,),
        has_vae=has_autoencoder(source),
        picture_use=unet_picture_use(source),
        prediction=prediction,
    )


def load(files: ModelFiles, machine: Machine) -> UNetModel:
    """Raises KeysDoNotMatch and UnsupportedCheckpoint."""
    facts = FileFacts(files.checkpoint)
    reader = ClipReader(CLIP_H, text_encoder_of(CLIP_H, files), machine, sd2_clip_h)

    def encode(prompt: Prompt) -> Conditioning:
        return Conditioning(context=reader.encode(prompt).states)

    return UNetModel(
        _FAMILY,
        files,
        machine,
        scaling=_SCALING,
        levels=NoiseLevels.scaled_linear(zero_terminal_snr=facts.has_zero_terminal_snr),
        prediction=VPrediction() if predicts_velocity(files.checkpoint) else EpsPrediction(),
        encode_prompt=encode,
        text_parts=(reader.part,),
    )


def predicts_velocity(source: WeightSource) -> bool:
    """What the file says of itself, or its user of it, or else what its weights show. Reads one vector of weights."""
    facts = FileFacts(source)
    if facts.is_velocity or facts.is_epsilon:
        return facts.is_velocity
    unet = unet_in(source)
    if _TELLING not in frozenset(unet.keys()):
        return False
    return float(unet.read(_TELLING).float().std(correction=0)) > _TELLING_SPREAD


SD2 = Family(
    name="sd2",
    label="Stable Diffusion 2.x",
    aliases=("sd21", "stable-diffusion-v2"),
    recognise=recognise,
    describe=describe,
    load=load,
    takes_hypernetworks=True,
)
