"""The `info` of txt2img: JSON in a string, with A1111's keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from backend.engine.job import JobView
from backend.pipeline.infotext import read_infotext
from backend.request import GenerationRequest

_EXTRA = (
    "Schedule type", "Distilled CFG Scale", "CFG Rescale", "Shift", "Refiner", "Refiner switch at",
    "Refiner switch timestep", "Text encoders", "Hires upscale", "Hires resize", "Hires steps", "Hires upscaler",
    "Hires checkpoint", "Hires sampler", "Hires schedule type", "Hires CFG Scale", "Hires prompt",
    "Hires negative prompt", "Image CFG scale", "Noise multiplier", "Extra noise", "Resize mode", "Mask mode",
    "Mask blur", "Masked content", "Inpaint area", "Masked area padding", "Conditional mask weight",
)  # fmt: skip


def generation_info(job: JobView, notices: Sequence[str]) -> str:
    """What was made. A job that was interrupted before its first picture has empty lists."""
    request = job.request
    assert isinstance(request, GenerationRequest)
    infotexts = [image.infotext for image in job.images]
    written = read_infotext(infotexts[0]).parameters if infotexts else {}
    seeds = [image.seed for image in job.images]
    info: dict[str, Any] = {
        "prompt": request.prompt,
        "all_prompts": [request.prompt] * len(seeds),
        "negative_prompt": request.negative_prompt,
        "all_negative_prompts": [request.negative_prompt] * len(seeds),
        "seed": seeds[0] if seeds else request.seed,
        "all_seeds": seeds,
        "subseed": -1,
        "all_subseeds": [-1] * len(seeds),
        "subseed_strength": 0,
        "width": request.width,
        "height": request.height,
        "sampler_name": written.get("Sampler", request.sampler),
        "cfg_scale": request.guidance_scale,
        "steps": request.steps,
        "batch_size": request.batch_size,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": written.get("Model", request.checkpoint),
        "sd_model_hash": written.get("Model hash"),
        "sd_vae_name": written.get("VAE", request.vae),
        "sd_vae_hash": written.get("VAE hash"),
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": _strength(request),
        "extra_generation_params": {name: written[name] for name in _EXTRA if name in written},
        "index_of_first_image": 0,
        "infotexts": infotexts,
        "styles": [],
        "clip_skip": request.clip_skip,
        "is_using_inpainting_conditioning": False,
        "version": written.get("Version"),
        "job_id": job.id,
        "notices": [*notices, *job.notices],
    }
    return json.dumps(info, ensure_ascii=False)


def _strength(request: GenerationRequest) -> float | None:
    noised = request.init or request.hires
    return None if noised is None else noised.denoising_strength
