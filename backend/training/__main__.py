"""`python -m backend.training STEP`: make the small model that ships, step by step (docs/small-model.md)."""

from __future__ import annotations

import argparse
import logging
import random
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.errors import EmulsionError
from backend.nn.autoencoder import Autoencoder
from backend.training.autoencoder_trainer import CONFIG as AUTOENCODER
from backend.training.autoencoder_trainer import (
    AutoencoderTraining,
    encode_all,
    normalise_latents,
    train_autoencoder,
)
from backend.training.checkpointing import load_state, save_state
from backend.training.concepts import CONCEPTS, STYLES, Subject, TrainingError, caption_of
from backend.training.diffusion_trainer import UNET, DiffusionTraining, LatentData, train_diffusion
from backend.training.export import LATENT_SCALE, export_model
from backend.training.fetch import fetch_packages
from backend.training.night import at_night
from backend.training.sampling import SHEET, contact_sheet
from backend.training.text_trainer import TextTraining, Vocabulary, contexts_of, train_text_encoder

_SIZE = 128
_PLACEMENTS = 4  # pictures of each icon in each colour
_CAPTIONS = 16  # captions of each icon in each colour
_MODEL = "emulsion-tiny-v1.safetensors"
_NIGHT = "emulsion-tiny-night.safetensors"


def fetch(work: Path, _: argparse.Namespace) -> None:
    fetch_packages(work / "packages")


def render(work: Path, _: argparse.Namespace) -> None:
    """Pictures [P, 3, 128, 128], the subjects, and which subject each picture shows."""
    try:
        from backend.training.render import render_all  # the only step that needs resvg-py
    except ImportError as error:
        raise TrainingError("resvg-py is not installed; docs/small-model.md says what training needs") from error

    renderings = list(render_all(work / "packages", size=_SIZE, placements=_PLACEMENTS, seed=0))
    pictures = torch.from_numpy(np.stack([rendering.pixels for rendering in renderings])).permute(0, 3, 1, 2)
    subjects = list(dict.fromkeys(rendering.subject for rendering in renderings))
    state = {
        "pictures": pictures.contiguous(),
        "shows": torch.tensor([subjects.index(rendering.subject) for rendering in renderings]),
        "subjects": [
            (CONCEPTS.index(subject.concept), STYLES.index(subject.style), subject.colour, subject.is_recoloured)
            for subject in subjects
        ],
    }
    save_state(work / "renderings.pt", state)


def vae(work: Path, options: argparse.Namespace) -> None:
    pictures = _need(work / "renderings.pt", "render")["pictures"]
    training = AutoencoderTraining(steps=options.steps or AutoencoderTraining.steps)
    autoencoder = train_autoencoder(pictures, work / "autoencoder.pt", training)
    latents = normalise_latents(autoencoder, encode_all(autoencoder, pictures), LATENT_SCALE)
    save_state(work / "latents.pt", {"latents": latents * LATENT_SCALE, "autoencoder": autoencoder.state_dict()})


def text(work: Path, _: argparse.Namespace) -> None:
    """Train the text encoder, and compute the contexts of all captions; a tenth of those has unknown words in it."""
    rng = random.Random(0)
    subjects = _subjects(_need(work / "renderings.pt", "render"))
    captions = [caption_of(subject, rng) for subject in subjects for _ in range(_CAPTIONS)]
    vocabulary = Vocabulary.of(captions)
    encoder = train_text_encoder(captions, vocabulary, TextTraining())
    rows = [vocabulary.rows(caption.text, rng if rng.random() < 0.1 else None) for caption in captions]
    contexts = contexts_of(encoder, torch.tensor([*rows, vocabulary.rows("")]))
    state = {"text": encoder.state_dict(), "token_ids": list(vocabulary.token_ids), "contexts": contexts}
    save_state(work / "text.pt", state)


def unet(work: Path, options: argparse.Namespace) -> None:
    latents = _need(work / "latents.pt", "vae")["latents"]
    training = DiffusionTraining(
        steps=options.steps or DiffusionTraining.steps, decay_from=options.decay_from, processes=options.processes
    )
    on_save = partial(export_model, work, work / "export" / _MODEL)
    train_diffusion(_latent_data(work, latents), work / "diffusion.pt", training, UNET, on_save)


def night(work: Path, options: argparse.Namespace) -> None:
    """Train the finished model on in another look, which makes a second one to merge with."""
    base, state_file = _need(work / "diffusion.pt", "unet"), work / "night.pt"
    if not state_file.exists():
        average = base["average"]
        save_state(state_file, {"model": average, "average": average, "optimizer": base["optimizer"], "step": 0})
    pictures = at_night(_need(work / "renderings.pt", "render")["pictures"])
    autoencoder = Autoencoder(AUTOENCODER)
    autoencoder.load_state_dict(_need(work / "latents.pt", "vae")["autoencoder"])
    latents = encode_all(autoencoder.eval(), pictures) * LATENT_SCALE
    training = DiffusionTraining(
        steps=options.steps or 400, decay_from=options.decay_from, processes=options.processes, learning_rate=4e-4
    )
    on_save = partial(export_model, work, work / "export" / _NIGHT, diffusion="night.pt", title="Emulsion tiny night")
    train_diffusion(_latent_data(work, latents), state_file, training, UNET, on_save)


def _latent_data(work: Path, latents: Tensor) -> LatentData:
    renderings = _need(work / "renderings.pt", "render")
    shows, subjects = renderings["shows"], _subjects(renderings)
    # A recoloured thing has seven colours and its own colour has one, so each is drawn about as often.
    weights = torch.tensor([0.5 if subject.is_recoloured else 3.0 for subject in subjects])[shows]
    captions = shows[:, None] * _CAPTIONS + torch.arange(_CAPTIONS)
    return LatentData(latents, _need(work / "text.pt", "text")["contexts"], captions, weights)


def export(work: Path, options: argparse.Namespace) -> None:
    export_model(work, options.output or work / "export" / _MODEL)


def samples(work: Path, options: argparse.Namespace) -> None:
    prompts = [prompt.strip() for prompt in (options.prompts or SHEET).split(";")]
    output = options.output or work / "samples.png"
    contact_sheet(work, output, prompts, steps=options.steps or 25, guidance=options.guidance, seed=options.seed)


def _subjects(renderings: dict[str, Any]) -> list[Subject]:
    return [
        Subject(CONCEPTS[concept], STYLES[style], colour, is_recoloured)
        for concept, style, colour, is_recoloured in renderings["subjects"]
    ]


def _need(path: Path, step: str) -> dict[str, Any]:
    state = load_state(path)
    if state is None:
        raise TrainingError(f"{path} is not there; run the {step} step first")
    return state


def main() -> int:
    steps = {step.__name__: step for step in (fetch, render, vae, text, unet, night, export, samples)}
    parser = argparse.ArgumentParser(prog="python -m backend.training", description=__doc__)
    parser.add_argument("step", choices=steps)
    parser.add_argument("--work", type=Path, default=Path("data/tiny"), help="folder for packages, caches and states")
    parser.add_argument("--steps", type=int, help="optimisation steps in all, or sampling steps (samples)")
    parser.add_argument("--decay-from", type=float, default=0.75, help="share of steps before the rate falls")
    parser.add_argument("--processes", type=int, default=2, help="how many cores share a batch (unet, night)")
    parser.add_argument("--output", type=Path, help="file to write (export, samples)")
    parser.add_argument("--prompts", help="prompts with semicolons between them (samples)")
    parser.add_argument("--guidance", type=float, default=4.0, help="guidance scale (samples)")
    parser.add_argument("--seed", type=int, default=0, help="seed (samples)")
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
