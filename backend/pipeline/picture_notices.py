"""What to say of a request that does not give a network the picture that it was made for."""

from __future__ import annotations

from collections.abc import Iterator

from backend.families.family import PictureUse
from backend.init_image import InitImage


def picture_notices(use: PictureUse, init: InitImage | None) -> Iterator[str]:
    """use: of the checkpoint. init: what the request has to begin with."""
    match use:
        case PictureUse.INPAINTING if init is None:
            yield (
                "This checkpoint is made for inpainting: give it a picture and a mask. From a text alone it makes a "
                "picture, too, but a plain checkpoint does that better."
            )
        case PictureUse.INPAINTING if init is not None and init.mask is None and init.borders is None:
            yield (
                "This checkpoint is made for inpainting: without a mask all of the picture is to change, so the "
                "network sees nothing of it. Paint a mask, or choose a plain checkpoint."
            )
        case PictureUse.EDITING if init is None:
            yield (
                "This checkpoint edits pictures: give it one in img2img, and say in the prompt what is to change. "
                "It was not made for a text alone."
            )
        case _:
            pass
