"""The SDXL refiner: made for the last fifth of the way from noise, or for changing pictures on its own."""

from __future__ import annotations

from backend.diffusion.guidance import Conditioning
from backend.diffusion.noise_levels import NoiseLevels
from backend.diffusion.prediction import EpsPrediction
from backend.families.autoencoder_files import has_autoencoder
from backend.families.clip_reader import ClipReader, text_encoder_of
from backend.families.family import Defaults, Description, Family, Machine, ModelFiles, Prompt
from backend.families.file_facts import FileFacts
from backend.families.sdxl import NATIVE_SIZE, SCALING, reads_clip_g_alone, with_numbers
from backend.families.unet_files import unet_traits
from backend.families.unet_model import UNetFamily, UNetModel
from backend.text.clip_encoder import SDXL_CLIP_G
from backend.text.encoder_layouts import CLIP_G, encoders_in
from backend.weights.source import WeightSource

_FAMILY = UNetFamily(name="sdxl-refiner", needs="an SDXL refiner")
_CONTEXT_WIDTH = 1280
# Aesthetic scores that it is told for what is wanted and what is not, as in Stability's and diffusers' pipelines.
_SCORE, _NEGATIVE_SCORE = 6.0, 2.5


def recognise(source: WeightSource) -> bool:
    """A U-Net with an extra vector that attends to OpenCLIP-G alone."""
    traits = unet_traits(source)
    return (
        traits is not None
        and traits.vector_width is not None
        and (traits.context_width == _CONTEXT_WIDTH or reads_clip_g_alone(source))
    )


def describe(source: WeightSource) -> Description:
    return Description(
        native_size=FileFacts(source).native_size(NATIVE_SIZE),
        defaults=Defaults(steps=30, guidance_scale=5.0, reason="SDXL refiner: for the last fifth of the steps"),
        text_encoders=(CLIP_G,),
        embedded=tuple(kind for kind in encoders_in(source) if kind == CLIP_G),
        needed=(CLIP_G,),
        has_vae=has_autoencoder(source),
        is_refiner=True,
    )


def load(files: ModelFiles, machine: Machine) -> UNetModel:
    """Raises KeysDoNotMatch and UnsupportedCheckpoint."""
    reader = ClipReader(CLIP_G, text_encoder_of(CLIP_G, files), machine, lambda _: SDXL_CLIP_G)
    traits = unet_traits(files.checkpoint)
    vector_width = traits.vector_width if traits and traits.vector_width else 0

    def encode(prompt: Prompt) -> Conditioning:
        encoding = reader.encode(prompt)
        assert encoding.pooled is not None
        score = _NEGATIVE_SCORE if prompt.is_negative else _SCORE
        numbers = (prompt.height, prompt.width, 0, 0, score)  # original size, crop's corner, aesthetic score
        return Conditioning(context=encoding.states, vector=with_numbers(encoding.pooled, numbers, vector_width))

    return UNetModel(
        _FAMILY,
        files,
        machine,
        scaling=SCALING,
        levels=NoiseLevels.scaled_linear(),
        prediction=EpsPrediction(),
        encode_prompt=encode,
        text_parts=(reader.part,),
    )


SDXL_REFINER = Family(
    name="sdxl-refiner",
    label="SDXL refiner",
    recognise=recognise,
    describe=describe,
    load=load,
)
