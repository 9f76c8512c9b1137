"""Stable Diffusion 1.x, and narrower models in the same layout, whose file says in its metadata what shapes cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.diffusion.guidance import ConditionedNetwork, Conditioning
from backend.diffusion.noise_levels import NoiseLevels
from backend.diffusion.philox import normals
from backend.diffusion.prediction import EpsPrediction, Prediction, VPrediction
from backend.errors import NumericalError, UnsupportedCheckpoint
from backend.families.family import Defaults, Family, LatentPreview, Machine, ModelFiles
from backend.families.known import context_width
from backend.families.unet_shapes import autoencoder_config_from, unet_config_from
from backend.memory.binding import Target, bind, held_bytes
from backend.memory.residency import Part
from backend.nn.autoencoder import Autoencoder, decode_sliced, decode_tiled
from backend.nn.unet import UNet
from backend.text.chunks import CompiledPrompt, compile_chunks
from backend.text.clip_encoder import (
    build_text_encoder,
    encode_prompt,
    place_positions,
    text_encoder_config_from,
    text_encoder_source,
    with_all_tokens,
)
from backend.text.clip_tokenizer import ClipTokenizer
from backend.text.emphasis import EmphasisMode
from backend.weights.source import WeightSource, with_averaged_weights, with_prefix

if TYPE_CHECKING:
    from transformers import CLIPTextModel

LATENT_SCALE = 0.18215  # Rombach et al. 2022: makes the latents of the published autoencoder about unit variance
NATIVE_SIZE = 512

_UNET = "model.diffusion_model."
_VAE = "first_stage_model."
_TEXT = "cond_stage_model."
_TOKEN_IDS = "emulsion.token_ids"
_TILE, _OVERLAP = 64, 16  # latent pixels
_DECODE_BYTES_PER_PIXEL = (
    768  # live activations of a decode at the autoencoder's widest, per pixel and byte of its type
)
# Patterns that the preview colours are fitted on, and latent pixels along their sides: few and small, because the
# autoencoder decodes them beside the first steps of sampling.
_FIT_PATTERNS, _FIT_SIZE = 4, 8


def recognise(source: WeightSource) -> bool:
    """A U-Net in LDM layout with 1x1 convolutions around its transformers and without an extra vector."""
    keys = frozenset(source.keys())
    projection = next((key for key in keys if key.startswith(_UNET) and key.endswith(".proj_in.weight")), None)
    return (
        _UNET + "input_blocks.0.0.weight" in keys
        and _UNET + "label_emb.0.0.weight" not in keys
        and projection is not None
        and len(source.spec(projection).shape) == 4
        and context_width(source) is not None
    )


def describe(source: WeightSource) -> tuple[int, Defaults]:
    """Native size in pixels and defaults of a checkpoint, from its header alone."""
    facts = _Facts(source)
    return facts.native_size, facts.defaults()


def load(files: ModelFiles, machine: Machine) -> Sd1Model:
    """A model whose parts are built and bound when they are first used.

    Raises KeysDoNotMatch when a part lacks the names from which its configuration is read.
    """
    return Sd1Model(files, machine)


class _Facts:
    """What a file of this family may say about itself in its metadata; the published models say nothing."""

    def __init__(self, source: WeightSource) -> None:
        self._metadata = source.metadata
        self._keys = frozenset(source.keys())

    def number(self, name: str, default: int) -> int:
        text = self._metadata.get(f"emulsion.{name}", "")
        return int(text) if text.isdecimal() and 0 < int(text) <= 16384 else default

    @property
    def native_size(self) -> int:
        return self.number("native_size", NATIVE_SIZE) // 8 * 8 or NATIVE_SIZE

    def defaults(self) -> Defaults:
        guidance_scale = float(self.number("guidance_scale", 7))
        if self.has_zero_terminal_snr:
            # Karras' levels would spend half of the steps above any noise that tells (sigma is 4519 at the start).
            return Defaults(sampler="euler", schedule="sgm_uniform", guidance_scale=guidance_scale)
        return Defaults(guidance_scale=guidance_scale)

    @property
    def is_velocity(self) -> bool:
        said = self._metadata.get("emulsion.prediction_type") or self._metadata.get("modelspec.prediction_type", "")
        return said in ("v", "v_prediction") or "v_pred" in self._keys

    @property
    def has_zero_terminal_snr(self) -> bool:
        return self._metadata.get("emulsion.zero_terminal_snr") == "true" or "ztsnr" in self._keys


class Sd1Model:
    """A `Model`: the parts of a checkpoint, each fetched from the residency when it is used."""

    family = "sd1"

    def __init__(self, files: ModelFiles, machine: Machine) -> None:
        checkpoint = files.checkpoint
        if files.use_ema:
            checkpoint = _averaged(checkpoint)
        facts = _Facts(checkpoint)
        self.native_size = facts.native_size
        self.defaults = facts.defaults()
        self.levels = NoiseLevels.scaled_linear(zero_terminal_snr=facts.has_zero_terminal_snr)
        self.prediction: Prediction = VPrediction() if facts.is_velocity else EpsPrediction()
        self._machine = machine
        self._preview: LatentPreview | None = None
        self._tokenizer = ClipTokenizer.load()
        self._unet = _unet_part(with_prefix(checkpoint, _UNET), facts, machine)
        self._text = _text_part(checkpoint, facts, machine)
        own_vae = with_prefix(checkpoint, _VAE)
        self._vae = _vae_part(_external_vae(files.vae) if files.vae else own_vae, facts, machine)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        return 4, height // 8, width // 8

    def compile_prompt(self, text: str, emphasis: EmphasisMode) -> CompiledPrompt:
        return compile_chunks(emphasis.parse(text), self._tokenizer)

    def encode_prompt(self, prompt: CompiledPrompt, *, clip_skip: int, emphasis: EmphasisMode) -> Conditioning:
        encoder = cast("CLIPTextModel", self._machine.residency.get(self._text))
        return Conditioning(context=encode_prompt(encoder, prompt, clip_skip=clip_skip, emphasis=emphasis))

    def network(self) -> ConditionedNetwork:
        unet = cast(UNet, self._machine.residency.get(self._unet))
        dtype = self._machine.policy.unet
        blank: dict[tuple[int, int], Tensor] = {}

        @torch.inference_mode()
        def predict(x: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            batch, channels, height, width = x.shape
            if unet.config.in_channels > channels:
                if (height, width) not in blank:
                    blank[height, width] = self._blank_image_channels(unet.config.in_channels, height, width).to(x)
                x = torch.cat([x, blank[height, width].expand(batch, -1, -1, -1)], dim=1)
            x = x.to(dtype, memory_format=torch.channels_last)
            return unet(x, timesteps, conditioning.context.to(dtype)).float().contiguous()

        return predict

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Raises NumericalError when the result holds values that are not numbers, in float32 too."""
        images = self._decode(latents, self._machine.policy.autoencoder)
        if not bool(images.isfinite().all()) and self._machine.policy.autoencoder != torch.float32:
            images = self._decode(latents, torch.float32)
        if not bool(images.isfinite().all()):
            raise NumericalError(
                "The autoencoder's picture holds values that are not numbers: the checkpoint or its VAE is damaged, "
                "or the guidance scale is far too high. Choose another VAE, or lower the guidance scale."
            )
        return images

    def _decode(self, latents: Tensor, dtype: torch.dtype) -> Tensor:
        autoencoder = cast(Autoencoder, self._machine.residency.get(self._vae(dtype)))
        scaled = (latents / LATENT_SCALE).to(dtype, memory_format=torch.channels_last)
        height, width = latents.shape[-2:]
        live = height * width * 64 * _DECODE_BYTES_PER_PIXEL * dtype.itemsize * autoencoder.config.channels // 128
        if live > self._machine.device.free_bytes() and max(height, width) > _TILE:
            return decode_tiled(autoencoder, scaled, _TILE, _OVERLAP)
        return decode_sliced(autoencoder, scaled).float()

    def latent_preview(self) -> LatentPreview:
        if self._preview is None:
            self._preview = self._fitted_preview()
        return self._preview

    @torch.inference_mode()
    def _fitted_preview(self) -> LatentPreview:
        """The colours of latents, fitted by least squares on what the autoencoder makes of smooth random ones."""
        coarse = normals(0, 0, _FIT_PATTERNS * 4 * 4 * 4).view(_FIT_PATTERNS, 4, 4, 4)
        latents = F.interpolate(coarse, scale_factor=_FIT_SIZE // 4, mode="bicubic")
        images = self._decode(latents.to(self._machine.device.torch_device), self._machine.policy.autoencoder)
        colours = F.avg_pool2d(images.float().cpu() / 2 + 0.5, 8).permute(0, 2, 3, 1).reshape(-1, 3)
        inputs = latents.permute(0, 2, 3, 1).reshape(-1, 4)
        inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
        solution = torch.linalg.lstsq(inputs, colours).solution  # [5, 3]
        return LatentPreview(matrix=solution[:4], bias=solution[4])

    def _blank_image_channels(self, in_channels: int, height: int, width: int) -> Tensor:
        """What U-Nets with extra channels are given when there is no picture to change.

        9 channels (inpainting): a mask that covers everything and the latents of a grey picture. 8 channels
        (InstructPix2Pix): no picture at all, which is zeros.
        """
        if in_channels == 8:
            return torch.zeros(1, 4, height, width)
        autoencoder = cast(Autoencoder, self._machine.residency.get(self._vae(torch.float32)))
        grey = torch.zeros(1, 3, height * 8, width * 8, device=self._machine.device.torch_device)
        latents = autoencoder.encode(grey)[0] * LATENT_SCALE
        return torch.cat([torch.ones_like(latents[:, :1]), latents], dim=1)


def _unet_part(source: WeightSource, facts: _Facts, machine: Machine) -> Part:
    config = unet_config_from(
        source, num_heads=facts.number("num_heads", 8), head_dim=None, norm_groups=facts.number("norm_groups", 32)
    )
    if config.in_channels not in (4, 8, 9):
        raise UnsupportedCheckpoint(
            source.origin,
            f"its U-Net takes {config.in_channels} channels; 4 (text to image), 8 (InstructPix2Pix) and 9 (inpainting) "
            "are known. Choose another checkpoint.",
        )
    return _part("U-Net", source, _target(machine, machine.policy.unet), lambda: UNet(config))


def _text_part(checkpoint: WeightSource, facts: _Facts, machine: Machine) -> Part:
    source = text_encoder_source(with_prefix(checkpoint, _TEXT))
    if _TOKEN_IDS in frozenset(checkpoint.keys()):
        source = with_all_tokens(source, checkpoint.read(_TOKEN_IDS))
    config = text_encoder_config_from(source, heads=facts.number("text_heads", 0) or None)

    def build() -> nn.Module:
        encoder = build_text_encoder(config)
        place_positions(encoder, machine.device.torch_device)
        return encoder

    target = Target(machine.device.torch_device, machine.policy.text_encoder)
    return _part("text encoder", source, target, build)


def _vae_part(source: WeightSource, facts: _Facts, machine: Machine) -> Callable[[torch.dtype], Part]:
    config = autoencoder_config_from(source, norm_groups=facts.number("vae_norm_groups", 32))
    if config.latent_channels != 4 or config.downscale != 8:
        raise UnsupportedCheckpoint(
            source.origin,
            f"its autoencoder has {config.latent_channels} latent channels at 1/{config.downscale} of the size; an "
            "SD 1.x model needs 4 at 1/8. Choose another VAE.",
        )
    return lambda dtype: _part("autoencoder", source, _target(machine, dtype), lambda: Autoencoder(config))


def _target(machine: Machine, dtype: torch.dtype) -> Target:
    """For networks of ours: on a host that computes in float32, a half-precision file is used straight from its map."""
    widens_on_use = machine.device.is_host and dtype == torch.float32
    return Target(machine.device.torch_device, dtype, widens_on_use=widens_on_use)


def _part(label: str, source: WeightSource, target: Target, build: Callable[[], nn.Module]) -> Part:
    keys = source.keys()
    identity = source.identity(keys[0]) if keys else ""

    def bound() -> nn.Module:
        with torch.device("meta"):
            module = build()
        bind(module, source, target, part=label)
        return module.eval().requires_grad_(False)

    return Part(
        key=f"{label}:{identity}:{len(keys)}:{target.dtype}",
        label=f"{label} of {source.origin.name}",
        num_bytes=held_bytes(source, target),
        build=bound,
    )


def _external_vae(source: WeightSource) -> WeightSource:
    """An autoencoder in a file of its own, with or without the prefix that it has inside a checkpoint."""
    inside = with_prefix(source, _VAE)
    return inside if inside.keys() else source


def _averaged(checkpoint: WeightSource) -> WeightSource:
    try:
        return with_averaged_weights(checkpoint)
    except KeyError as error:
        raise UnsupportedCheckpoint(
            checkpoint.origin, "it holds no averaged (EMA) weights; use its plain ones, which is the default."
        ) from error


SD1 = Family(
    name="sd1",
    label="Stable Diffusion 1.x",
    aliases=("sd15", "stable-diffusion-v1"),
    recognise=recognise,
    describe=describe,
    load=load,
)
