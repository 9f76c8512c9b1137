"""What our LoRAs say about themselves, in the names of kohya's trainer and of Stability's model specification."""

from __future__ import annotations

from collections.abc import Collection

_ARCHITECTURES = {
    "sd1": ("stable-diffusion-v1", "sd_v1"),
    "sd2": ("stable-diffusion-v2", "sd_v2"),
    "sdxl": ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
    "sdxl-refiner": ("stable-diffusion-xl-v1-refiner", "sdxl_refiner_v1-0"),
    "sd3": ("stable-diffusion-3", "sd3"),
    "flux": ("flux-1-dev", "flux1"),
}


def lora_metadata(family: str, ranks: Collection[int], title: str) -> dict[str, str]:
    """family: "" where it is not known. ranks: of all modules; alpha is the rank in each, so that the scale is 1."""
    dim = str(next(iter(ranks))) if len(set(ranks)) == 1 else "Dynamic"
    found = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": dim,
        "ss_network_alpha": dim,
        "ss_output_name": title,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": title,
        "modelspec.implementation": "emulsion",
    }
    if family in _ARCHITECTURES:
        architecture, version = _ARCHITECTURES[family]
        found |= {
            "modelspec.architecture": f"{architecture}/lora",
            "ss_base_model_version": version,
            "ss_v2": str(family == "sd2"),
        }
    return found
