"""One picture by diffusers, bfloat16 and channels-last: `python -m benchmarks.diffusers_run FILE STEPS CONFIG`.

CONFIG: a folder as `write_configuration` makes it, so that nothing is fetched.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging
from transformers import CLIPTextConfig

from backend.text.clip_tokenizer import ClipTokenizer
from benchmarks.checkpoint import CLIP


def main(checkpoint: Path, steps: int, configuration: Path) -> None:
    logging.disable_progress_bar()
    load_began = time.monotonic()
    pipeline = StableDiffusionPipeline.from_single_file(
        str(checkpoint),
        config=str(configuration),
        torch_dtype=torch.bfloat16,
        local_files_only=True,
        safety_checker=None,
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
                "computes_in": "bfloat16",
            }
        )
    )


def write_configuration(folder: Path) -> Path:
    """What diffusers looks up online about an SD 1.5 file."""
    for name in ("text_encoder", "tokenizer"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "safety_checker": [None, None],
        "requires_safety_checker": False,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").save_config(
        folder / "scheduler"
    )
    with torch.device("meta"):
        UNet2DConditionModel(cross_attention_dim=768, sample_size=64).save_config(folder / "unet")
        AutoencoderKL(**AUTOENCODER).save_config(folder / "vae")
    CLIPTextConfig(**CLIP, architectures=["CLIPTextModel"]).save_pretrained(folder / "text_encoder")
    tokenizer = ClipTokenizer.load()
    merges = sorted(tokenizer.ranks, key=lambda pair: tokenizer.ranks[pair])
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(dict(tokenizer.vocabulary)))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({**special, "model_max_length": 77}))
    return folder


AUTOENCODER = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "sample_size": 512,
}


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
