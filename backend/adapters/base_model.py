"""For which family of models an adapter was trained: by what it says, or by the widths of its layers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from backend.adapters.format import Shapes

_ARCHITECTURE = "modelspec.architecture"
_KOHYA = "ss_base_model_version"
# the beginning of what the metadata say -> family; the first that fits
_SAID = (
    ("stable-diffusion-v1", "sd1"),
    ("stable-diffusion-v2", "sd2"),
    ("stable-diffusion-xl-v1-refiner", "sdxl-refiner"),
    ("stable-diffusion-xl", "sdxl"),
    ("stable-diffusion-3", "sd3"),
    ("stable-diffusion-v3", "sd3"),
    ("sdxl_refiner", "sdxl-refiner"),
    ("sdxl", "sdxl"),
    ("sd_v1", "sd1"),
    ("sd_v2", "sd2"),
    ("sd3", "sd3"),
    ("flux", "flux"),
    ("chroma", "Chroma"),
    ("lumina2", "Lumina 2"),
    ("lumina", "Lumina"),
    ("hunyuan", "Hunyuan"),
    ("wan", "Wan"),
    ("qwen", "Qwen-Image"),
)
_CONTEXT_WIDTHS = {768: "sd1", 1024: "sd2", 1280: "sdxl-refiner", 2048: "sdxl"}
_CROSS_ATTENTION = re.compile(r".*attn2[_.](?:processor\.)?to_[kv]")
_NAMED = (
    (re.compile(r"lora_prior_"), "Stable Cascade"),
    (re.compile(r".*(?:double_blocks|single_blocks|single_transformer_blocks)"), "flux"),
    (re.compile(r".*joint_blocks"), "sd3"),
    (re.compile(r".*transformer_blocks[._]\d+[._]attn[._](?:add_[qkv]_proj|to_add_out)"), "sd3"),
)


def trained_for(metadata: Mapping[str, str], modules: Mapping[str, Shapes]) -> str:
    """A family's name, or that of a kind of models that is not known here; "" where nothing tells."""
    said = (metadata.get(key, "").lower() for key in (_ARCHITECTURE, _KOHYA))
    return next((family for text in said if (family := _said(text))), "") or _by_layers(modules)


def _said(text: str) -> str:
    return next((family for start, family in _SAID if text.startswith(start)), "")


def _by_layers(modules: Mapping[str, Shapes]) -> str:
    for name, shapes in modules.items():
        down = next((shapes[name] for name in ("down", "hada_w1_b", "q_layer") if name in shapes), None)
        if down and _CROSS_ATTENTION.match(name) and down[-1] in _CONTEXT_WIDTHS:
            return _CONTEXT_WIDTHS[down[-1]]
    return _by_names(modules)


def _by_names(names: Iterable[str]) -> str:
    found = list(names)
    return next((family for pattern, family in _NAMED if any(pattern.match(name) for name in found)), "")
