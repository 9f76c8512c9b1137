"""Complete single files of every family that runs, with random weights at tiny sizes, in published key layouts."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from backend.nn.flux import Flux, FluxConfig
from backend.nn.mmdit import MMDiT, MMDiTConfig
from backend.nn.pixart import PixArt, PixArtConfig
from backend.weights.safetensors_file import write_safetensors
from tests import test_unet_families as unets
from tests.reference_weights import with_random_weights
from tests.tiny_checkpoint import METADATA as SD1_METADATA
from tests.tiny_checkpoint import tiny_tensors
from tests.tiny_transformers import WIDTH_G, WIDTH_L, WIDTH_T5, autoencoder, clip, t5, with_name_prefix

_SIZE = {"emulsion.native_size": "64"}


def write_tiny_family(name: str, path: Path) -> Path:
    """The file of a family by its name in `FAMILIES`."""
    tensors, metadata = FAMILIES[name]()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, {key: value.contiguous() for key, value in tensors.items()}, metadata)
    return path


def _sd1() -> tuple[dict[str, Tensor], dict[str, str]]:
    return tiny_tensors(), SD1_METADATA


def _sd2() -> tuple[dict[str, Tensor], dict[str, str]]:
    return _unet_file(unets.sd2_parts(), {"clip_h": "text_encoders.clip_h.transformer.text_model."})


def _sdxl() -> tuple[dict[str, Tensor], dict[str, str]]:
    places = {
        "clip_l": "conditioner.embedders.0.transformer.text_model.",
        "clip_g": "text_encoders.clip_g.transformer.text_model.",
    }
    return _unet_file(unets.sdxl_parts(), places)


def _playground() -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors, metadata = _sdxl()
    statistics = {"edm_mean": torch.tensor([-1.6574, 1.886, -1.383, 2.5155])}
    statistics["edm_std"] = torch.tensor([8.4927, 5.9022, 6.5498, 5.2299])
    return tensors | statistics, metadata


def _refiner() -> tuple[dict[str, Tensor], dict[str, str]]:
    parts = unets.refiner_parts()
    tensors, metadata = _unet_file(parts, {})
    return tensors | open_clip_names("conditioner.embedders.0.model.", parts.text["clip_g"]), metadata


def _sd3() -> tuple[dict[str, Tensor], dict[str, str]]:
    config = MMDiTConfig(
        width=128, heads=2, blocks=3, mlp_width=256, context_dim=WIDTH_T5, vector_dim=WIDTH_L + WIDTH_G,
        dual_blocks=1, has_query_norm=True,
    )  # fmt: skip
    tensors = with_name_prefix("model.diffusion_model.", with_random_weights(MMDiT(config)).state_dict())
    tensors["model.diffusion_model.pos_embed"] = torch.randn(1, 16 * 16, 128)
    for kind, encoder in (("clip_l", clip(WIDTH_L)), ("clip_g", clip(WIDTH_G)), ("t5xxl", t5())):
        tensors |= with_name_prefix(f"text_encoders.{kind}.transformer.", encoder.state_dict())
    vae = autoencoder(16, scaling=1.5305, shift=0.0609)
    return tensors | with_name_prefix("first_stage_model.", vae.state_dict()), {}


def _flux() -> tuple[dict[str, Tensor], dict[str, str]]:
    config = FluxConfig(
        width=64, heads=2, mlp_width=256, double_blocks=1, single_blocks=2, context_dim=WIDTH_T5, vector_dim=WIDTH_L
    )
    tensors = with_name_prefix("model.diffusion_model.", with_random_weights(Flux(config)).state_dict())
    for kind, encoder in (("clip_l", clip(WIDTH_L, projected=False)), ("t5xxl", t5())):
        tensors |= with_name_prefix(f"text_encoders.{kind}.transformer.", encoder.state_dict())
    return tensors | with_name_prefix("vae.", autoencoder(16, scaling=0.3611, shift=0.1159).state_dict()), {}


def _pixart() -> tuple[dict[str, Tensor], dict[str, str]]:
    config = PixArtConfig(width=128, heads=2, blocks=2, mlp_width=256, context_dim=WIDTH_T5)
    tensors = with_random_weights(PixArt(config)).state_dict()
    tensors |= with_name_prefix("text_encoders.t5xxl.transformer.", t5().state_dict())
    return tensors | with_name_prefix("vae.", autoencoder(4, scaling=0.13025).state_dict()), {}


def open_clip_names(prefix: str, encoder: nn.Module) -> dict[str, Tensor]:
    """The weights of a text encoder of transformers' under OpenCLIP's names, which stack queries, keys and values."""
    weights = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    named = {
        "token_embedding.weight": weights["embeddings.token_embedding.weight"],
        "positional_embedding": weights["embeddings.position_embedding.weight"],
        "ln_final.weight": weights["final_layer_norm.weight"],
        "ln_final.bias": weights["final_layer_norm.bias"],
        "text_projection": weights["text_projection.weight"].T,
    }
    parts = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
             "self_attn.out_proj": "attn.out_proj"}  # fmt: skip
    for layer in range(sum(key.endswith("layer_norm1.bias") for key in weights)):
        ours, theirs = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            stacked = [weights[f"{ours}self_attn.{name}_proj.{kind}"] for name in "qkv"]
            named[f"{theirs}attn.in_proj_{kind}"] = torch.cat(stacked)
            named |= {f"{theirs}{name}.{kind}": weights[f"{ours}{part}.{kind}"] for part, name in parts.items()}
    return with_name_prefix(prefix, named)


def _unet_file(parts: unets.Parts, places: dict[str, str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors = with_name_prefix("unet.", parts.unet.state_dict()) | with_name_prefix("vae.", parts.vae.state_dict())
    for kind, prefix in places.items():
        for key, value in parts.text[kind].state_dict().items():
            tensors[prefix + key.removeprefix("text_model.")] = value
    return tensors, unets.METADATA | _SIZE


FAMILIES: dict[str, Callable[[], tuple[dict[str, Tensor], dict[str, str]]]] = {
    "sd1": _sd1,
    "sd2": _sd2,
    "sdxl": _sdxl,
    "playground": _playground,
    "sdxl-refiner": _refiner,
    "sd3": _sd3,
    "flux": _flux,
    "pixart": _pixart,
}
