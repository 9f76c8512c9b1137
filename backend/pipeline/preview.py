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

from backend.families.family import Preview

MAX_SIDE = 512
_QUALITY = 80


def preview_jpeg(latents: Tensor, look: Preview) -> bytes:
    """A JPEG of latents [B, C, h, w] in float32 on the CPU; the images of a batch lie side by side."""
    rgb = torch.cat(list(look.rgb(latents)), dim=-1)[None]  # [1, 3, H, B * W]
    height, width = (8 * latents.shape[-2], 8 * latents.shape[-1] * latents.shape[0])
    scale = min(1.0, MAX_SIDE / max(height, width))
    size = max(1, int(scale * height)), max(1, int(scale * width))
    rgb = F.interpolate(rgb, size, mode="bilinear").clamp(0, 1)
    pixels: npt.NDArray[np.uint8] = (rgb[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    jpeg = io.BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG", quality=_QUALITY)
    return jpeg.getvalue()


class PreviewMaker:
    """A thread that turns the newest latents into a JPEG. Latents that come while it is busy replace one another.

    look: of the model that makes the picture; called once, on the thread, because finding it may take a moment.
    """

    def __init__(self, look: Callable[[], Preview], on_preview: Callable[[bytes], None]) -> None:
        self._find_look = look
        self._on_preview = on_preview
        self._asked: tuple[Tensor, Callable[[], Preview]] | None = None
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="preview", daemon=True)
        self._thread.start()

    def show(self, latents: Tensor, look: Callable[[], Preview] | None = None) -> None:
        """Ask for a preview of latents [B, C, h, w]; returns at once. look: of another model's latents."""
        with self._changed:
            self._asked = latents.detach(), look or self._find_look
            self._changed.notify()

    @property
    def is_waiting(self) -> bool:
        """Whether latents wait to be taken by the thread."""
        with self._changed:
            return self._asked is not None

    def close(self) -> None:
        """Stop; no preview is reported after this returns.

        One that is being made is waited for, which takes a moment: a program must not end while PyTorch computes.
        """
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        found: dict[Callable[[], Preview], Preview] = {}
        while (asked := self._next()) is not None:
            latents, find_look = asked
            if find_look not in found:
                found[find_look] = find_look()
            jpeg = preview_jpeg(latents.float().cpu(), found[find_look])
            with self._changed:
                if not self._is_closed:
                    self._on_preview(jpeg)

    def _next(self) -> tuple[Tensor, Callable[[], Preview]] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._asked is not None)
            asked, self._asked = self._asked, None
            return None if self._is_closed else asked
