"""What a region of a large picture costs: `python -m benchmarks.inpainting`.

A masked area of 512 x 512 in a picture of 2048 x 2048, against a picture of 512 x 512 from text alone, with a random
model of SD 1.5's shapes, the same steps and one engine; each once to warm up, and then in turns.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from backend.engine.engine import Engine
from backend.engine.job import JobState
from backend.engine.settings import Settings
from backend.images.inpainting import prepare
from backend.init_image import InitImage, InpaintArea, MaskedContent, MaskInput
from backend.request import GenerationRequest
from benchmarks.checkpoint import SHAPES, random_checkpoint

_GOAL = 1.10
_PREPARED_GOAL = 0.150  # seconds
_SIDE, _REGION = 2048, 512


def main() -> None:
    parser = argparse.ArgumentParser(description="A region of a large picture.")
    parser.add_argument("--work", type=Path, help="folder for the random files, kept; a temporary one otherwise")
    parser.add_argument("--output", type=Path, help="where to write all figures as JSON")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        checkpoint = random_checkpoint(work, SHAPES["sd15"], seed=0)
        home = Path(temporary)
        settings = Settings.for_root(
            home, output_dir=home / "outputs", data_dir=home / "data", checkpoint_dirs=(checkpoint,)
        )
        engine = Engine.open(settings, persistent=False)
        try:
            figures = _measured(engine, arguments.rounds, arguments.steps)
        finally:
            engine.close()
    prepared = _preparing()
    medians = {name: statistics.median(seconds[1:]) for name, seconds in figures.items()}
    ratio = medians["region"] / medians["text"]
    for name, seconds in figures.items():
        print(f"{name}: {', '.join(f'{value:.2f}' for value in seconds)} s")
    print(f"ratio {ratio:.2f} ({'met' if ratio <= _GOAL else 'MISSED'}, goal {_GOAL})")
    print(
        f"mask and picture of {_SIDE} x {_SIDE} prepared: {1000 * prepared:.0f} ms "
        f"({'met' if prepared <= _PREPARED_GOAL else 'MISSED'}, goal {1000 * _PREPARED_GOAL:.0f})"
    )
    if arguments.output:
        arguments.output.write_text(json.dumps({**figures, "ratio": ratio, "prepared": prepared}, indent=2) + "\n")


def _measured(engine: Engine, rounds: int, steps: int) -> dict[str, list[float]]:
    init = _init(engine)
    plain = GenerationRequest(prompt="a cat", seed=1, steps=steps, width=_REGION, height=_REGION)
    region = GenerationRequest(prompt="a cat", seed=1, steps=steps, width=_REGION, height=_REGION, init=init)
    figures: dict[str, list[float]] = {"text": [], "region": []}
    for _ in range(rounds + 1):
        figures["text"].append(_seconds(engine, plain))
        figures["region"].append(_seconds(engine, region))
    return figures


def _init(engine: Engine) -> InitImage:
    return InitImage(
        picture=engine.pictures.add(_png(_picture())).sha256,
        denoising_strength=1.0,
        exact_steps=True,
        mask=MaskInput(
            picture=engine.pictures.add(_png(_mask())).sha256,
            area=InpaintArea.MASKED,
            content=MaskedContent.FILL,
            padding=32,
        ),
    )


def _seconds(engine: Engine, request: GenerationRequest) -> float:
    began = time.perf_counter()
    view = engine.wait(engine.submit(request))
    if view.state is not JobState.DONE:
        raise SystemExit(f"the job failed: {view.error}")
    return time.perf_counter() - began


def _preparing() -> float:
    """Seconds, the least of five."""
    picture, mask = _picture(), _mask()
    name = "0" * 64
    init = InitImage(picture=name, mask=MaskInput(picture=name, content=MaskedContent.FILL))
    seconds: list[float] = []
    for _ in range(5):
        began = time.perf_counter()
        prepare(picture, mask, init, _SIDE, _SIDE)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _picture() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)


def _mask() -> Image.Image:
    mask = Image.new("L", (_SIDE, _SIDE))
    left = (_SIDE - _REGION) // 2
    ImageDraw.Draw(mask).ellipse((left + 48, left + 48, left + _REGION - 48, left + _REGION - 48), fill=255)
    return mask


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


if __name__ == "__main__":
    main()
