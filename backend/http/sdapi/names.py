"""A1111's names for the fields of a request, so that an error names what the client wrote."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from backend.errors import RequestError, UnknownName

_FIELDS = {
    "sampler": "sampler_name",
    "schedule": "scheduler",
    "guidance_scale": "cfg_scale",
    "distilled_guidance": "distilled_cfg_scale",
    "refiner": "refiner_checkpoint",
    "refiner_switch": "refiner_switch_at",
    "text_encoders": "forge_additional_modules",
    "batch_count": "n_iter",
    "checkpoint": "sd_model_checkpoint",
    "vae": "sd_vae",
    "clip_skip": "CLIP_stop_at_last_layers",
    "noise_source": "randn_source",
    "preview_every": "show_progress_every_n_steps",
    "exact_batches": "emulsion_exact_batches",
    "prediction": "emulsion_prediction",
    "init": "init_images",
}
_PICTURE_FIELDS = {
    "init.denoising_strength": "denoising_strength",
    "init.image_guidance": "image_cfg_scale",
    "init.noise_multiplier": "initial_noise_multiplier",
    "init.extra_noise": "img2img_extra_noise",
    "init.exact_steps": "img2img_fix_steps",
    "init.color_correction": "img2img_color_correction",
    "init.upscaler": "upscaler_for_img2img",
    "init.mask.blur": "mask_blur",
    "init.mask.padding": "inpaint_full_res_padding",
    "init.mask.conditioning_weight": "inpainting_mask_weight",
    "hires.scale": "hr_scale",
    "hires.width": "hr_resize_x",
    "hires.height": "hr_resize_y",
    "hires.denoising_strength": "denoising_strength",
    "hires.steps": "hr_second_pass_steps",
    "hires.upscaler": "hr_upscaler",
    "hires.sampler": "hr_sampler_name",
    "hires.schedule": "hr_scheduler",
    "hires.checkpoint": "hr_checkpoint_name",
    "hires.guidance_scale": "hr_cfg",
    "hires.prompt": "hr_prompt",
    "hires.negative_prompt": "hr_negative_prompt",
}
_KINDS = {
    "sampler": "sampler_name",
    "schedule": "scheduler",
    "checkpoint": "sd_model_checkpoint",
    "VAE": "sd_vae",
    "emphasis mode": "emphasis",
    "noise source": "randn_source",
    "upscaler": "hr_upscaler",
    "picture": "init_images",
}


@contextmanager
def told_by_a1111_names() -> Generator[None, None, None]:
    """Turn errors about our fields into errors about A1111's."""
    try:
        yield
    except RequestError as error:
        raise type(error)((_FIELDS | _PICTURE_FIELDS).get(error.field, error.field), error.problem) from error
    except UnknownName as error:
        raise RequestError(_KINDS.get(error.kind, error.kind), str(error)) from error
