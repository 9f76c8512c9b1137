"""What `generate` accepts of pictures to begin with, second passes and tiles. Needs the standard library alone."""

from __future__ import annotations

import argparse
from pathlib import Path

from backend.init_image import InitImage, InpaintArea, MaskedContent, MaskInput, ResizeMode
from backend.second_pass import HiresFix, Tiles


def add_picture_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that are left out are None, or False, so that a command can tell that they were given."""
    _add_init(parser)
    _add_mask(parser)
    _add_hires(parser)
    group = parser.add_argument_group("tiles")
    group.add_argument("--tiles", type=int, metavar="PIXELS", help="make large pictures in tiles of this size")
    group.add_argument(
        "--tile-overlap", type=int, metavar="PIXELS", help=f"how much of their neighbours they see ({Tiles.overlap})"
    )
    group.add_argument(
        "--separate-tiles", action="store_true", help="each tile to its end, in place of every step in all of them"
    )


def _add_init(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("picture to begin with")
    group.add_argument("--init", type=Path, metavar="FILE", help="PNG, JPEG or WebP file to begin with")
    group.add_argument(
        "--strength", "--denoising-strength", type=float, metavar="X",
        help=f"how much is made anew: 0 keeps the picture, 1 next to nothing of it ({InitImage.denoising_strength:g})",
    )  # fmt: skip
    group.add_argument(
        "--exact-steps", action="store_true", help="as many steps as asked for, in place of the share of the strength"
    )
    group.add_argument(
        "--resize", choices=[mode.value for mode in ResizeMode],
        help=f"how it comes to the size that is asked for ({InitImage.resize.value})",
    )  # fmt: skip
    group.add_argument("--init-upscaler", metavar="NAME", help="what enlarges it, by name or path (lanczos)")
    group.add_argument("--noise-multiplier", type=float, metavar="X", help="of the noise that is mixed in (1)")
    group.add_argument("--extra-noise", type=float, metavar="X", help="more noise, for more detail, 0 to 1 (0)")
    group.add_argument("--color-correction", action="store_true", help="give the result the colours of the picture")
    group.add_argument(
        "--image-guidance", "--image-cfg-scale", type=float, metavar="X",
        help=f"how closely an InstructPix2Pix model keeps to the picture ({InitImage.image_guidance:g})",
    )  # fmt: skip
    group.add_argument(
        "--outpaint", metavar="SIDE=N,...",
        help="new borders in pixels, such as left=128,right=128; also fill=mirror or edge_noise, and overlap=32",
    )  # fmt: skip


def _add_mask(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what of it may change")
    group.add_argument("--mask", type=Path, metavar="FILE", help="picture that is white where something may change")
    group.add_argument("--invert-mask", action="store_true", help="the rest may change")
    group.add_argument("--mask-blur", type=float, metavar="PIXELS", help=f"softens its edge ({MaskInput.blur:g})")
    group.add_argument(
        "--fill", choices=[content.value for content in MaskedContent],
        help=f"what the masked part begins with ({MaskInput.content.value})",
    )  # fmt: skip
    group.add_argument(
        "--inpaint", choices=[area.value for area in InpaintArea],
        help=f"make the whole picture, or only what is masked at the full size ({MaskInput.area.value})",
    )  # fmt: skip
    group.add_argument("--padding", type=int, metavar="PIXELS", help=f"around what is masked ({MaskInput.padding})")
    group.add_argument("--soft-inpainting", action="store_true", help="grey in the mask changes a little")
    group.add_argument(
        "--mask-weight",
        type=float,
        metavar="X",
        help="how much of the masked part is hidden from inpainting models (1)",
    )


def _add_hires(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("second pass on the enlarged picture")
    group.add_argument("--hires", type=float, metavar="X", help="enlarge the picture so many times and make it again")
    group.add_argument("--hires-width", type=int, metavar="PIXELS", help="width in place of that")
    group.add_argument("--hires-height", type=int, metavar="PIXELS", help="height in place of that")
    group.add_argument(
        "--hires-upscaler", metavar="NAME",
        help=f"what enlarges it: a latent mode, a way of resampling, or a network ({HiresFix.upscaler})",
    )  # fmt: skip
    group.add_argument(
        "--hires-strength", type=float, metavar="X", help=f"how much is made anew ({HiresFix.denoising_strength:g})"
    )
    group.add_argument("--hires-steps", type=int, metavar="N", help="steps of the second pass")
    group.add_argument("--hires-sampler", metavar="NAME", help="its sampler")
    group.add_argument("--hires-schedule", metavar="NAME", help="its schedule of noise levels")
    group.add_argument("--hires-guidance", type=float, metavar="X", help="its guidance scale")
    group.add_argument("--hires-checkpoint", metavar="FILE", help="its checkpoint, by path or name")
    group.add_argument("--hires-prompt", metavar="TEXT", help="its prompt")
    group.add_argument("--hires-negative", metavar="TEXT", help="what it is to keep away from")
