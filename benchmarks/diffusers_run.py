"""One picture by diffusers, channels-last: `python -m benchmarks.diffusers_run FILE STEPS SHAPE DTYPE CONFIG`.

CONFIG: a folder as `write_configuration` makes it, so that nothing is fetched.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging
from transformers import CLIPTextConfig

from backend.text.clip_tokenizer import ClipTokenizer
from benchmarks.checkpoint import CLIP_G, CLIP_L

PIPELINES = {"sd15": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}


def main(checkpoint: Path, steps: int, shape: str, dtype: str, configuration: Path) -> None:
    logging.disable_progress_bar()
    load_began = time.monotonic()
    pipeline = PIPELINES[shape].from_single_file(
        str(checkpoint),
        config=str(configuration),
        torch_dtype=getattr(torch, dtype),
        local_files_only=True,
        **({"safety_checker": None} if shape == "sd15" else {"add_watermarker": False}),
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.vae.to(memory_format=torch.channels_last)
    step_ends: list[float] = []

    def step_ended(_pipeline: object, _step: int, _timestep: object, tensors: dict[str, object]) -> dict[str, object]:
        step_ends.append(time.monotonic())
        return tensors

    pipeline(
        "a photograph of a lighthouse on a cliff at dusk",
        negative_prompt="blurry",
        num_inference_steps=steps,
        guidance_scale=7.0,
        height=512,
        width=512,
        generator=torch.Generator().manual_seed(1),
        callback_on_step_end=step_ended,
    )
    done = time.monotonic()
    print(
        json.dumps(
            {
                "load_began": load_began,
                "step_ends": step_ends,
                "decode_seconds": done - step_ends[-1],
                "done": done,
                "computes_in": dtype,
            }
        )
    )


def write_configuration(folder: Path, shape: str) -> Path:
    """What diffusers looks up online about such a file."""
    encoders = {"text_encoder": CLIP_L, **({"text_encoder_2": CLIP_G} if shape == "sdxl" else {})}
    index: dict[str, Any] = {
        "_class_name": PIPELINES[shape].__name__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if shape == "sd15":
        index |= {"safety_checker": [None, None], "requires_safety_checker": False}
    for name, config in encoders.items():
        kind = "CLIPTextModelWithProjection" if name == "text_encoder_2" else "CLIPTextModel"
        index |= {
            name: ["transformers", kind],
            name.replace("text_encoder", "tokenizer"): ["transformers", "CLIPTokenizer"],
        }
        (folder / name).mkdir(parents=True, exist_ok=True)
        CLIPTextConfig(**config, architectures=[kind]).save_pretrained(folder / name)
        _write_tokenizer(folder / name.replace("text_encoder", "tokenizer"))
    (folder / "model_index.json").write_text(json.dumps(index))
    EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").save_config(
        folder / "scheduler"
    )
    with torch.device("meta"):
        UNet2DConditionModel(**UNETS[shape]).save_config(folder / "unet")
        AutoencoderKL(**AUTOENCODER).save_config(folder / "vae")
    return folder


def _write_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = ClipTokenizer.load()
    merges = sorted(tokenizer.ranks, key=lambda pair: tokenizer.ranks[pair])
    (folder / "vocab.json").write_text(json.dumps(dict(tokenizer.vocabulary)))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**special, "model_max_length": 77}))


UNETS: dict[str, dict[str, Any]] = {
    "sd15": {"cross_attention_dim": 768, "sample_size": 64},
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
AUTOENCODER = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "sample_size": 512,
}


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], Path(sys.argv[5]))
