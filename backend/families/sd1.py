"""Stable Diffusion 1.x, and narrower models in the same layout, whose file says in its metadata what shapes cannot."""

from __future__ import annotations

from typing import cast

from backend.diffusion.guidance import Conditioning
from backend.diffusion.noise_levels import NoiseLevels
from backend.diffusion.prediction import EpsPrediction, VPrediction
from backend.errors import KeysDoNotMatch
from backend.families.family import Defaults, Description, Family, Machine, ModelFiles, Prompt
from backend.families.file_facts import FileFacts, averaged, external_vae
from backend.families.known import context_width
from backend.families.latent_space import LatentScaling, LatentSpace
from backend.families.parts import network_part, target_for
from backend.families.unet_model import UNET, VAE, UNetModel
from backend.families.unet_shapes import unet_config_from
from backend.memory.residency import Part
from backend.nn.clip_text import ClipText
from backend.text.chunks import compile_chunks
from backend.text.clip_encoder import SD1_CLIP_L, encode_clip, with_all_tokens
from backend.text.clip_tokenizer import ClipTokenizer
from backend.text.encoder_config import clip_config_from
from backend.text.encoder_layouts import CLIP_L, TOKENS, chosen_encoder
from backend.weights.source import WeightSource, with_prefix

LATENT_FACTOR = 0.18215  # Rombach et al. 2022: makes the latents of the published autoencoder about unit variance
NATIVE_SIZE = 512

_TOKEN_IDS = "emulsion.token_ids"


def recognise(source: WeightSource) -> bool:
    """A U-Net in LDM layout with 1x1 convolutions around its transformers and without an extra vector."""
    keys = frozenset(source.keys())
    projection = next((key for key in keys if key.startswith(UNET) and key.endswith(".proj_in.weight")), None)
    return (
        UNET + "input_blocks.0.0.weight" in keys
        and UNET + "label_emb.0.0.weight" not in keys
        and projection is not None
        and len(source.spec(projection).shape) == 4
        and context_width(source) is not None
    )


def describe(source: WeightSource) -> Description:
    facts = FileFacts(source)
    return Description(
        native_size=facts.native_size(NATIVE_SIZE), defaults=_defaults(facts), embedded=("clip_l",), needed=("clip_l",)
    )


def load(files: ModelFiles, machine: Machine) -> UNetModel:
    """A model whose parts are built and bound when they are first used.

    Raises KeysDoNotMatch when a part lacks the names from which its configuration is read, UnsupportedCheckpoint.
    """
    checkpoint = averaged(files.checkpoint) if files.use_ema else files.checkpoint
    facts = FileFacts(checkpoint)
    unet = with_prefix(checkpoint, UNET)
    text = _text_part(files, machine)
    tokenizer = ClipTokenizer.load()

    def encode(prompt: Prompt) -> Conditioning:
        encoding = encode_clip(
            cast(ClipText, machine.residency.get(text)),
            compile_chunks(prompt.emphasis.parse(prompt.text), tokenizer),
            SD1_CLIP_L,
            clip_skip=prompt.clip_skip,
            emphasis=prompt.emphasis,
            device=machine.device.torch_device,
            dtype=machine.policy.text_encoder,
        )
        return Conditioning(context=encoding.states)

    return UNetModel(
        family="sd1",
        unet=unet,
        config=unet_config_from(
            unet, num_heads=facts.number("num_heads", 8), head_dim=None, norm_groups=facts.number("norm_groups", 32)
        ),
        latents=LatentSpace(
            external_vae(files.vae) if files.vae else with_prefix(checkpoint, VAE),
            machine,
            LatentScaling(factor=(LATENT_FACTOR,)),
            channels=4,
            family_label="an SD 1.x model",
            norm_groups=facts.number("vae_norm_groups", 32),
        ),
        levels=NoiseLevels.scaled_linear(zero_terminal_snr=facts.has_zero_terminal_snr),
        prediction=VPrediction() if facts.is_velocity else EpsPrediction(),
        encode_prompt=encode,
        machine=machine,
    )


def _defaults(facts: FileFacts) -> Defaults:
    guidance_scale = float(facts.number("guidance_scale", 7))
    if facts.has_zero_terminal_snr:
        # Karras' levels would spend half of the steps above any noise that tells (sigma is 4519 at the start).
        return Defaults(sampler="euler", schedule="sgm_uniform", guidance_scale=guidance_scale)
    return Defaults(guidance_scale=guidance_scale)


def _text_part(files: ModelFiles, machine: Machine) -> Part:
    checkpoint = files.checkpoint
    source = chosen_encoder(CLIP_L, checkpoint=checkpoint, separate=files.text_encoders)
    if source is None:
        missing = f"cond_stage_model.transformer.text_model.{TOKENS}"
        raise KeysDoNotMatch(checkpoint.origin, "text encoder", missing=[missing])
    if _TOKEN_IDS in frozenset(checkpoint.keys()) and CLIP_L not in files.text_encoders:
        source = with_all_tokens(source, checkpoint.read(_TOKEN_IDS))
    config = clip_config_from(source, CLIP_L, heads=FileFacts(source).number("text_heads", 0) or None)
    target = target_for(machine, machine.policy.text_encoder)
    return network_part("text encoder", source, target, lambda: ClipText(config))


SD1 = Family(
    name="sd1",
    label="Stable Diffusion 1.x",
    aliases=("sd15", "stable-diffusion-v1"),
    recognise=recognise,
    describe=describe,
    load=load,
)
