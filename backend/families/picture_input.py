"""Networks that are given a picture beside the latents: what their further input channels hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.families.family import PictureUse
from backend.families.file_facts import FileFacts
from backend.families.latent_space import LatentSpace
from backend.families.unet_files import unet_traits
from backend.weights.source import WeightSource

# Shapes: picture [1, 3, H, W] in -1..1; mask [1, 1, H, W] in 0..1, where 1 is to change; C latent channels, h x w their
# size, which is H / 8 x W / 8.


@dataclass(frozen=True, kw_only=True)
class PictureInput:
    """What one kind of network does with a picture.

    channels: the further channels [1, X, h, w] of a picture and its mask. blank: those [1, X, h, w] for no picture, for
    a size in latent pixels; None where there are no further channels then.
    is_guiding: whether guidance by the picture is made of predictions with and without it (InstructPix2Pix).
    """

    use: PictureUse
    channels: Callable[[LatentSpace, Tensor, Tensor, float], Tensor]
    blank: Callable[[LatentSpace, int, int], Tensor] | None
    is_guiding: bool = False

    def of(self, latents: LatentSpace, picture: Tensor, mask: Tensor | None, weight: float) -> Tensor:
        """mask: None when everything is to change. weight: see `Model.picture_channels`."""
        everything = torch.ones_like(picture[:, :1])
        # Networks were trained on masks without grey.
        rounded = everything if mask is None else (mask >= 0.5).to(picture)
        return self.channels(latents, picture, rounded, weight)

    def joiner(self, latents: LatentSpace) -> Callable[[Tensor, Tensor | None], Tensor]:
        """What makes the input [B, C + X, h, w] of the network, in a run, of x [B, C, h, w] and the further channels
        [G, X, h, w] of G groups of images; those for no picture where they are None."""

        @cache
        def blank(height: int, width: int) -> Tensor | None:
            return None if self.blank is None else self.blank(latents, height, width)

        def joined(x: Tensor, image: Tensor | None) -> Tensor:
            further = blank(*x.shape[-2:]) if image is None else image
            if further is None:
                return x
            return torch.cat([x, further.to(x).repeat_interleave(x.shape[0] // further.shape[0], dim=0)], dim=1)

        return joined


def _masked_latents(latents: LatentSpace, picture: Tensor, mask: Tensor, weight: float) -> Tensor:
    """[1, C, h, w] of a picture that is grey where it is to change."""
    return latents.encode(picture * (1 - weight * mask))


def _mask_and_latents(latents: LatentSpace, picture: Tensor, mask: Tensor, weight: float) -> Tensor:
    """[1, 1 + C, h, w], of the inpainting networks of Stable Diffusion (Rombach et al. 2022)."""
    encoded = _masked_latents(latents, picture, mask, weight)
    small = F.interpolate(mask, encoded.shape[-2:], mode="nearest")
    return torch.cat([small.to(encoded), encoded], dim=1)


def _latents_and_pixels_of_mask(latents: LatentSpace, picture: Tensor, mask: Tensor, weight: float) -> Tensor:
    """[1, C + 64, h, w], of FLUX.1 Fill: the 8 x 8 pixels of the mask behind a latent pixel are channels."""
    encoded = _masked_latents(latents, picture, mask, weight)
    return torch.cat([encoded, F.pixel_unshuffle(mask, 8).to(encoded)], dim=1)


def _unscaled_latents(latents: LatentSpace, picture: Tensor, mask: Tensor, weight: float) -> Tensor:
    """[1, C, h, w], of InstructPix2Pix (Brooks et al. 2023): as the autoencoder makes them, without their scaling."""
    return latents.unscaled(latents.encode(picture))


def _scaled_latents(latents: LatentSpace, picture: Tensor, mask: Tensor, weight: float) -> Tensor:
    """[1, C, h, w], of CosXL Edit and FLUX.1 Kontext."""
    return latents.encode(picture)


def _zeros(latents: LatentSpace, height: int, width: int) -> Tensor:
    return torch.zeros(1, latents.channels, height, width)


def _all_masked(channels: Callable[[LatentSpace, Tensor, Tensor, float], Tensor]) -> PictureInput:
    """For inpainting: no picture is one of which everything is to change."""

    def blank(latents: LatentSpace, height: int, width: int) -> Tensor:
        nothing = torch.zeros(1, 3, height * 8, width * 8)
        return channels(latents, nothing, torch.ones_like(nothing[:, :1]), 1.0)

    return PictureInput(use=PictureUse.INPAINTING, channels=channels, blank=blank)


UNET_INPAINTING = _all_masked(_mask_and_latents)
FLUX_FILL = _all_masked(_latents_and_pixels_of_mask)
FLUX_KONTEXT = PictureInput(use=PictureUse.EDITING, channels=_scaled_latents, blank=None)
INSTRUCT_PIX2PIX = PictureInput(use=PictureUse.EDITING, channels=_unscaled_latents, blank=_zeros, is_guiding=True)
COSXL_EDIT = PictureInput(use=PictureUse.EDITING, channels=_scaled_latents, blank=_zeros, is_guiding=True)


def unet_picture_input(checkpoint: WeightSource) -> PictureInput | None:
    """How the U-Net of a checkpoint is given a picture; None if it is given none."""
    traits = unet_traits(checkpoint)
    match traits and traits.in_channels:
        case 9:
            return UNET_INPAINTING
        case 8:
            return INSTRUCT_PIX2PIX if FileFacts(checkpoint).edm_velocity_range is None else COSXL_EDIT
        case _:
            return None


def unet_picture_use(checkpoint: WeightSource) -> PictureUse:
    """What the U-Net of a checkpoint does with a picture, by the header alone."""
    found = unet_picture_input(checkpoint)
    return PictureUse.NONE if found is None else found.use
