"""Write the trained parts as one checkpoint in the layout of SD 1.x; the metadata says what shapes cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from backend.training.autoencoder_trainer import CONFIG as AUTOENCODER
from backend.training.checkpointing import load_state
from backend.training.concepts import CONCEPTS, STYLES, TrainingError
from backend.training.diffusion_trainer import UNET
from backend.training.text_trainer import HEADS
from backend.weights.safetensors_file import write_safetensors

LATENT_SCALE = 0.18215

METADATA = {
    "emulsion.norm_groups": str(UNET.norm_groups),
    "emulsion.vae_norm_groups": str(AUTOENCODER.norm_groups),
    "emulsion.num_heads": str(UNET.num_heads),
    "emulsion.text_heads": str(HEADS),
    "emulsion.prediction_type": "v_prediction",
    "emulsion.zero_terminal_snr": "true",
    "emulsion.native_size": "128",
    "emulsion.guidance_scale": "4",
    "emulsion.concepts": ", ".join(concept.words[0] for concept in CONCEPTS),
    "emulsion.styles": ", ".join(style.words for style in STYLES),
    "modelspec.title": "Emulsion tiny v1",
    "modelspec.architecture": "stable-diffusion-v1",
    "modelspec.license": "Apache-2.0",
    "modelspec.usage_hint": "A thing, a colour and a style: blue heart, flat icon",
    "modelspec.description": "Trained on renderings, some recoloured, of Fluent Emoji ((c) Microsoft, MIT licence) and "
    "Noto Emoji ((c) Google LLC, Apache-2.0)",
}


def export_model(
    work: Path, output: Path, *, diffusion: str = "diffusion.pt", title: str = METADATA["modelspec.title"]
) -> None:
    """Gather the averaged weights from the states in `work` and write them as float16. Raises TrainingError.

    diffusion: which state holds the U-Net. title: what the model is called.
    """
    text, latents, unet = (load_state(work / name) for name in ("text.pt", "latents.pt", diffusion))
    if text is None or latents is None or unet is None:
        raise TrainingError(f"{work} holds no trained model yet; run the vae, text and unet steps first")
    tensors = checkpoint_tensors(unet["average"], latents["autoencoder"], text["text"], text["token_ids"])
    output.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(output, tensors, {**METADATA, "modelspec.title": title})


def checkpoint_tensors(
    unet: Mapping[str, Tensor], autoencoder: Mapping[str, Tensor], text: Mapping[str, Tensor], token_ids: Sequence[int]
) -> dict[str, Tensor]:
    """Parameters of the trained parts under the keys of a single-file SD 1.x checkpoint, and the ids of its tokens.

    The token embedding may have rows behind those of `token_ids`; they are left out.
    """
    parts = {
        "model.diffusion_model.": unet,
        "first_stage_model.": autoencoder,
        "cond_stage_model.transformer.text_model.": text,
    }
    tensors = {prefix + name: value.half() for prefix, part in parts.items() for name, value in part.items()}
    embedding = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    tensors[embedding] = tensors[embedding][: len(token_ids)]
    tensors["emulsion.token_ids"] = torch.tensor(token_ids, dtype=torch.int32)
    return tensors
