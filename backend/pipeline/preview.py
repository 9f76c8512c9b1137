"""Live previews: small JPEGs of the picture as it forms, made beside the sampling and never waited for."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from backend.families.family import LatentPreview

MAX_SIDE = 512
_QUALITY = 80


def preview_jpeg(latents: Tensor, colours: LatentPreview) -> bytes:
    """A JPEG of latents [B, C, h, w] in float32 on the CPU; the images of a batch lie side by side."""
    rgb = torch.einsum("bchw,cr->brhw", latents, colours.matrix) + colours.bias[:, None, None]
    rgb = torch.cat(list(rgb), dim=-1)[None]  # [1, 3, h, B * w]
    scale = min(8.0, MAX_SIDE / max(rgb.shape[-2:]))
    rgb = F.interpolate(rgb, scale_factor=scale, mode="bilinear").clamp(0, 1)
    pixels: npt.NDArray[np.uint8] = (rgb[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    jpeg = io.BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG", quality=_QUALITY)
    return jpeg.getvalue()


class PreviewMaker:
    """A thread that turns the newest latents into a JPEG. Latents that come while it is busy replace one another.

    colours: called on the thread, because finding them may take a moment.
    """

    def __init__(self, colours: Callable[[], LatentPreview], on_preview: Callable[[bytes], None]) -> None:
        self._colours = colours
        self._on_preview = on_preview
        self._latents: Tensor | None = None
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="preview", daemon=True)
        self._thread.start()

    def show(self, latents: Tensor) -> None:
        """Ask for a preview of latents [B, C, h, w]; returns at once."""
        with self._changed:
            self._latents = latents.detach()
            self._changed.notify()

    @property
    def is_waiting(self) -> bool:
        """Whether latents wait to be taken by the thread."""
        with self._changed:
            return self._latents is not None

    def close(self) -> None:
        """Stop; no preview is reported after this returns."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (latents := self._next()) is not None:
            jpeg = preview_jpeg(latents.float().cpu(), self._colours())
            with self._changed:
                if not self._is_closed:
                    self._on_preview(jpeg)

    def _next(self) -> Tensor | None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._latents is not None)
            latents, self._latents = self._latents, None
            return None if self._is_closed else latents
