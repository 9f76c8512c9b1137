"""Draw a contact sheet with the weights of a training that may still go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from backend.nn.autoencoder import Autoencoder
from backend.nn.unet import UNet
from backend.training.autoencoder_trainer import CONFIG
from backend.training.checkpointing import load_state
from backend.training.concepts import TrainingError
from backend.training.diffusion_trainer import UNET, sample
from backend.training.export import LATENT_SCALE
from backend.training.text_trainer import Vocabulary, contexts_of, new_text_encoder

SHEET = (
    "red apple; green apple; red heart; blue heart, flat icon; purple heart, cartoon; yellow star; blue star; sun;"
    "moon; cloud; cat; dog; frog; pig; panda; smiley; smiling cat with heart eyes; tree; house; red car;"
    "green car; blue car; fish; sunflower; a pink flower; mushroom; red balloon; blue balloon; cherries; strawberry;"
    "carrot; pumpkin; crown; umbrella; purple umbrella; rocket; bell; lemon; banana; grapes;"
    "green shirt; diamond; a gift; pink cat, cartoon; a photo of a blue apple on a table; yellow umbrella; green fish;"
    "pear; red house; orange rocket"
)


@torch.no_grad()
def contact_sheet(
    work: Path, output: Path, prompts: Sequence[str], *, steps: int, guidance: float, seed: int, columns: int = 10
) -> None:
    """Write one picture for each prompt, in rows, as PNG. Raises TrainingError when there is no trained model yet."""
    text, latents, diffusion = (load_state(work / name) for name in ("text.pt", "latents.pt", "diffusion.pt"))
    if text is None or latents is None or diffusion is None:
        raise TrainingError(f"{work} holds no trained model yet; run the vae, text and unet steps first")
    vocabulary = Vocabulary(tuple(text["token_ids"]))
    encoder, unet, autoencoder = new_text_encoder(vocabulary), UNet(UNET), Autoencoder(CONFIG)
    encoder.load_state_dict(text["text"])
    unet.load_state_dict(diffusion["average"])
    autoencoder.load_state_dict(latents["autoencoder"])
    contexts = contexts_of(encoder.eval(), torch.tensor([vocabulary.rows(prompt) for prompt in [*prompts, ""]])).float()
    shape = tuple(latents["latents"].shape[1:])
    x = sample(unet.eval(), contexts[:-1], contexts[-1:], shape, steps=steps, guidance=guidance, seed=seed)
    pictures = torch.cat([autoencoder.decode(part / LATENT_SCALE) for part in x.split(16)])  # [P, 3, H, W]
    pixels = ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    pixels = np.concatenate([pixels, np.full((-len(pixels) % columns, *pixels.shape[1:]), 255, np.uint8)])
    rows = [np.concatenate(list(row), axis=1) for row in pixels.reshape(-1, columns, *pixels.shape[1:])]
    output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows, axis=0)).save(output)
