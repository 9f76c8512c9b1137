"""From a picture and a mask to what is encoded, and from what was made back to the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from backend.images import masks
from backend.images.color_correction import with_colours_of
from backend.images.masked_content import filled
from backend.images.masks import Box
from backend.images.outpainting import bordered_to, size_for
from backend.images.resizing import Enlarge, layout_of, resized
from backend.init_image import Borders, InitImage, InpaintArea, MaskedContent, MaskInput, ResizeMode

Pixels = npt.NDArray[np.uint8]

_LARGEST_STEP = 64  # what sizes are multiples of, at the most


@dataclass(frozen=True, kw_only=True)
class PutBack:
    """Where what was made belongs.

    onto: the picture (RGB) that it is laid on. through: L, of its size; 0 keeps the picture.
    part: of what was made, the picture and not what fills up the shape. box: where in `onto` this part lies.
    """

    onto: Image.Image
    through: Image.Image
    part: Box
    box: Box

    def __call__(self, made: Image.Image) -> Image.Image:
        part = made if self.part == (0, 0, *made.size) else made.crop(self.part)
        fitting = resized(part, self.box.width, self.box.height, ResizeMode.STRETCH)
        result = self.onto.copy()
        result.paste(fitting, self.box[:2], self.through.crop(self.box))
        return result


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What the network works on, all in the size it works at.

    picture: RGB, to be encoded; the masked part is filled if this was asked for. original: the same without filling.
    mask: L, blurred, 255 changes; None to change everything. notices: what happened that was not asked for.
    """

    picture: Image.Image
    original: Image.Image
    mask: Image.Image | None
    notices: tuple[str, ...] = ()
    corrects_colours: bool = False
    put_back: PutBack | None = None

    def finish(self, pixels: Pixels) -> Pixels:
        """What was made, uint8 [H, W, 3] in the size of `picture`, as the result.

        Without a mask, it is of this size. With one, it is the whole picture, in its own size if only the masked area
        was made, and what the mask does not touch is in it bit for bit.
        """
        if pixels.dtype != np.uint8 or pixels.shape != (self.picture.height, self.picture.width, 3):
            expected = [self.picture.height, self.picture.width, 3]
            raise ValueError(f"pixels must be uint8 {expected}, not {pixels.dtype} {list(pixels.shape)}")
        if self.corrects_colours:
            pixels = with_colours_of(np.asarray(self.picture), pixels)
        return pixels if self.put_back is None else np.asarray(self.put_back(Image.fromarray(pixels)))


def prepare(
    picture: Image.Image,
    mask: Image.Image | None,
    init: InitImage,
    width: int,
    height: int,
    enlarge: Enlarge | None = None,
) -> Prepared:
    """`picture` and `mask` as decoded, for a network that works at width x height.

    Transparent parts become white. Borders (`init.borders`) are added here; give `size_for(...)` as the size to get
    the picture itself back unscaled within them.
    mask: exactly if there is `init.mask`. enlarge: in place of Lanczos for what gets larger.
    """
    notices: list[str] = []
    whole = _on_white(picture, notices)
    changing = None if init.mask is None else _changing(mask, whole.size, init.mask, notices)
    if init.borders is not None:
        whole, changing = bordered_to(
            whole, changing, init.borders, _bordered_size(whole.size, init.borders, width, height)
        )
    target = _Target(width, height, enlarge)
    cut = _cut(whole, changing, init, target, notices)
    fills = cut.mask is not None and init.mask is not None and init.mask.content is MaskedContent.FILL
    return Prepared(
        picture=filled(cut.original, cut.mask) if fills and cut.mask is not None else cut.original,
        original=cut.original,
        mask=cut.mask,
        notices=tuple(notices),
        corrects_colours=init.color_correction,
        put_back=cut.put_back,
    )


class _Target(NamedTuple):
    """The size that the network works at."""

    width: int
    height: int
    enlarge: Enlarge | None

    def picture(self, image: Image.Image, mode: ResizeMode) -> Image.Image:
        return resized(image, self.width, self.height, mode, self.enlarge)

    def mask(self, mask: Image.Image, mode: ResizeMode) -> Image.Image:
        return resized(mask, self.width, self.height, mode, resample=Image.Resampling.BILINEAR)  # never rings


class _Cut(NamedTuple):
    """What of the picture is made again, in the target's size."""

    original: Image.Image
    mask: Image.Image | None = None
    put_back: PutBack | None = None


def _cut(
    whole: Image.Image, changing: Image.Image | None, init: InitImage, target: _Target, notices: list[str]
) -> _Cut:
    if changing is None:
        return _Cut(target.picture(whole, init.resize))
    is_area = init.mask is not None and init.mask.area is InpaintArea.MASKED
    padding = 0 if init.mask is None else init.mask.padding
    box = masks.box_around(changing, padding, target.width, target.height)
    if box is None and is_area:
        notices.append("The mask is empty, so there is no masked area to cut out: the whole picture is made again.")
        return _Cut(target.picture(whole, init.resize))
    if box is None:
        notices.append("The mask is empty, so nothing of the picture changes.")
    if box is None or not is_area:
        return _whole(whole, changing, init.resize, target)
    return _area(whole, changing, box, target)


def _whole(whole: Image.Image, changing: Image.Image, mode: ResizeMode, target: _Target) -> _Cut:
    original, mask = target.picture(whole, mode), target.mask(changing, mode)
    everything = Box(0, 0, target.width, target.height)
    back = PutBack(onto=original, through=masks.doubled(mask), part=everything, box=everything)
    return _Cut(original, mask, back)


def _area(whole: Image.Image, changing: Image.Image, box: Box, target: _Target) -> _Cut:
    """Where the picture is too small for the target's shape, the rest of the shape continues its edges."""
    left, top, width, height = layout_of((box.width, box.height), target.width, target.height, ResizeMode.FILL)
    back = PutBack(onto=whole, through=changing, part=Box(left, top, left + width, top + height), box=box)
    original = target.picture(whole.crop(box), ResizeMode.FILL)
    return _Cut(original, target.mask(changing.crop(box), ResizeMode.FILL), back)


def _on_white(picture: Image.Image, notices: list[str]) -> Image.Image:
    if picture.mode != "RGBA":
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    alpha = picture.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return picture.convert("RGB")
    notices.append("The picture has transparent parts; they are white for the network and in the result.")
    ground = Image.new("RGB", picture.size, (255, 255, 255))
    ground.paste(picture.convert("RGB"), mask=alpha)
    return ground


def _changing(mask: Image.Image | None, size: tuple[int, int], wanted: MaskInput, notices: list[str]) -> Image.Image:
    """The mask as A1111 makes it of what was painted: rounded, inverted, blurred; of the picture's size."""
    if mask is None:
        raise ValueError("a request with a mask needs its picture")
    painted = masks.mask_of(mask)
    if painted.size != size:
        notices.append(
            f"The mask has {painted.width} x {painted.height} pixels and the picture {size[0]} x {size[1]}, "
            "so the mask was stretched over the picture."
        )
        painted = masks.fitted(painted, size)
    if not wanted.soft:
        painted = masks.rounded(painted)
    if wanted.inverted:
        painted = masks.inverted(painted)
    return masks.blurred(painted, wanted.blur)


def _bordered_size(size: tuple[int, int], borders: Borders, width: int, height: int) -> tuple[int, int]:
    """width x height if this is the size with borders rounded up, so that nothing is scaled; else without rounding."""
    exact = size_for(size, borders, 1)
    is_rounded_up = 0 <= width - exact[0] < _LARGEST_STEP and 0 <= height - exact[1] < _LARGEST_STEP
    return (width, height) if is_rounded_up else exact
