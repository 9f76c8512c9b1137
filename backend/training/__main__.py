"""`python -m backend.training STEP`: make the small model that ships, step by step. docs/small-model.md has the commands."""

from __future__ import annotations

import argparse
import logging
import random
import sys
from pathlib import Path

import numpy as np
import torch

from backend.errors import EmulsionError
from backend.training.autoencoder_trainer import (
    AutoencoderTraining,
    encode_all,
    normalise_latents,
    train_autoencoder,
)
from backend.training.checkpointing import load_state, save_state
from backend.training.concepts import TrainingError, caption_of
from backend.training.diffusion_trainer import DiffusionTraining, LatentData, train_diffusion
from backend.training.export import LATENT_SCALE, export_model
from backend.training.fetch import fetch_packages
from backend.training.render import render_all

_SIZE = 128


def fetch(work: Path, _: argparse.Namespace) -> None:
    fetch_packages(work / "packages")


def render(work: Path, options: argparse.Namespace) -> None:
    renderings = list(render_all(work / "packages", size=_SIZE, placements=options.placements, seed=0))
    pictures = torch.from_numpy(np.stack([rendering.pixels for rendering in renderings])).permute(0, 3, 1, 2)
    rng = random.Random(0)
    captions = [[caption_of(rendering.subject, rng) for _ in range(4)] for rendering in renderings]
    weights = [0.5 if rendering.subject.is_recoloured else 3.0 for rendering in renderings]
    state = {"pictures": pictures.contiguous(), "captions": captions, "weights": torch.tensor(weights)}
    save_state(work / "renderings.pt", state)


def vae(work: Path, options: argparse.Namespace) -> None:
    renderings = _need(work / "renderings.pt", "render")
    training = AutoencoderTraining(steps=options.steps or AutoencoderTraining.steps)
    autoencoder = train_autoencoder(renderings["pictures"], work / "autoencoder.pt", training)
    latents = normalise_latents(autoencoder, encode_all(autoencoder, renderings["pictures"]), LATENT_SCALE)
    save_state(work / "latents.pt", {"latents": latents * LATENT_SCALE, "autoencoder": autoencoder.state_dict()})


def unet(work: Path, options: argparse.Namespace) -> None:
    renderings, encoded = _need(work / "renderings.pt", "render"), _need(work / "latents.pt", "vae")
    data = LatentData(encoded["latents"], renderings["captions"], renderings["weights"])
    training = DiffusionTraining(steps=options.steps or DiffusionTraining.steps, decay_from=options.decay_from)

    def on_save() -> None:
        export_model(work, work / "export" / "emulsion-tiny-v1.safetensors")

    train_diffusion(data, work / "diffusion.pt", training, on_save)


def export(work: Path, options: argparse.Namespace) -> None:
    export_model(work, options.output or work / "export" / "emulsion-tiny-v1.safetensors")


def _need(path: Path, step: str) -> dict[str, object]:
    state = load_state(path)
    if state is None:
        raise TrainingError(f"{path} is not there; run the {step} step first")
    return state


def main() -> int:
    steps = {"fetch": fetch, "render": render, "vae": vae, "unet": unet, "export": export}
    parser = argparse.ArgumentParser(prog="python -m backend.training", description=__doc__)
    parser.add_argument("step", choices=steps)
    parser.add_argument("--work", type=Path, default=Path("data/tiny"), help="folder for packages, caches and states")
    parser.add_argument("--steps", type=int, help="optimisation steps in all (vae, unet)")
    parser.add_argument("--decay-from", type=float, default=0.7, help="share of the steps before the rate falls (unet)")
    parser.add_argument("--placements", type=int, default=6, help="pictures for each icon and colour (render)")
    parser.add_argument("--output", type=Path, help="file to write (export)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        steps[options.step](options.work, options)
    except EmulsionError as error:
        logging.getLogger(__name__).error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
