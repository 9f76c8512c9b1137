"""Files that PEFT and diffusers write for small networks: weights with ours added are those that they merge."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import peft
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from backend.adapters.aliases import specs_of
from backend.adapters.lora_file import open_adapter
from backend.adapters.patched import PlacedAdapter, patched
from backend.adapters.report import AdapterReport
from backend.families.diffusers_layout import unet_in_ldm_layout
from backend.nn.flux import Flux
from backend.nn.mmdit import MMDiT
from backend.weights.safetensors_file import write_safetensors
from backend.weights.source import InMemory
from tests.reference_weights import with_random_weights
from tests.test_adapters_lycoris import tiny_unet
from tests.test_flux import DEV, diffusers_weights
from tests.test_flux import diffusers_twin as flux_twin
from tests.test_mmdit import SD35_MEDIUM, table_of
from tests.test_mmdit import diffusers_twin as sd3_twin
from tests.tiny_adapters import UNET

ATTENTION = ["to_q", "to_k", "to_out.0"]
LAYERS = [*ATTENTION, "conv1"]
CONFIGS: dict[str, Callable[[], Any]] = {
    "lora": lambda: peft.LoraConfig(r=2, lora_alpha=3, target_modules=LAYERS, init_lora_weights=False),
    "rslora": lambda: peft.LoraConfig(
        r=2, lora_alpha=3, target_modules=LAYERS, init_lora_weights=False, use_rslora=True, alpha_pattern={"to_k": 5}
    ),
    "dora": lambda: peft.LoraConfig(r=2, lora_alpha=3, target_modules=LAYERS, init_lora_weights=False, use_dora=True),
    "bias": lambda: peft.LoraConfig(
        r=2, lora_alpha=3, target_modules=["to_out.0", "conv1"], init_lora_weights=False, lora_bias=True
    ),
    "loha": lambda: peft.LoHaConfig(r=2, alpha=3, target_modules=LAYERS, init_weights=False),
    "loha-tucker": lambda: peft.LoHaConfig(
        r=2, alpha=3, target_modules=LAYERS, init_weights=False, use_effective_conv2d=True
    ),
    "lokr": lambda: peft.LoKrConfig(r=1, alpha=3, target_modules=LAYERS, init_weights=False),
    "lokr-both": lambda: peft.LoKrConfig(
        r=1, alpha=3, target_modules=LAYERS, init_weights=False, decompose_both=True, decompose_factor=8
    ),
    "lokr-whole": lambda: peft.LoKrConfig(
        r=8, alpha=3, target_modules=LAYERS, init_weights=False, rank_pattern={"to_k": 16}, alpha_pattern={"to_q": 5}
    ),
    "lokr-tucker": lambda: peft.LoKrConfig(
        r=1, alpha=3, target_modules=LAYERS, init_weights=False, use_effective_conv2d=True
    ),
    "oft": lambda: peft.OFTConfig(r=0, oft_block_size=4, target_modules=ATTENTION, init_weights=False),
    "oft-exact": lambda: peft.OFTConfig(
        r=0, oft_block_size=4, target_modules=LAYERS, init_weights=False, use_cayley_neumann=False
    ),
    "oft-three-terms": lambda: peft.OFTConfig(
        r=0, oft_block_size=4, target_modules=ATTENTION, init_weights=False, num_cayley_neumann_terms=3
    ),
    "oft-eight-terms": lambda: peft.OFTConfig(
        r=0, oft_block_size=4, target_modules=ATTENTION, init_weights=False, num_cayley_neumann_terms=8
    ),
    "oft-bound": lambda: peft.OFTConfig(
        r=0, oft_block_size=4, target_modules=ATTENTION, init_weights=False, coft=True, eps=0.2
    ),
    "oft-shared": lambda: peft.OFTConfig(
        r=0, oft_block_size=4, target_modules=ATTENTION, init_weights=False, block_share=True
    ),
    "boft": lambda: peft.BOFTConfig(boft_block_size=4, target_modules=LAYERS, init_weights=False),
    "ia3": lambda: peft.IA3Config(
        target_modules=LAYERS, feedforward_modules=["to_out.0"], init_ia3_weights=False, fan_in_fan_out=False
    ),
}


def behind(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    source = unet_in_ldm_layout(InMemory(tensors))
    return {f"{UNET}{key}": source.read(key) for key in source.keys()}


def with_adapter(
    base: Mapping[str, Tensor], file: Path, family: str, **strengths: float
) -> tuple[dict[str, Tensor], AdapterReport]:
    lora, source = open_adapter(file), InMemory(base)
    model = patched(source, [PlacedAdapter(adapter=lora, **strengths)], family)
    return {key: model.read(key) for key in base}, lora.report(specs_of(source), family)


def assert_merged(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> int:
    """The number of weights that are not those of the base."""
    changed = 0
    for key, value in expected.items():
        error = (found[key] - value).norm() / value.norm().clamp(min=1e-6)
        assert error <= 1e-5, key
        changed += not torch.equal(value, base[key])
    return changed


@pytest.mark.parametrize("name", CONFIGS)
def test_a_unet_is_the_one_that_peft_merges(name: str, tmp_path: Path):
    unet = tiny_unet()
    base = behind({key: tensor.clone() for key, tensor in unet.state_dict().items()})
    config = CONFIGS[name]()
    trained: Any = peft.get_peft_model(unet, config)
    torch.manual_seed(1)
    for parameter in trained.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    trained.save_pretrained(str(tmp_path))
    merged = behind(trained.merge_and_unload().state_dict())

    found, report = with_adapter(base, tmp_path / "adapter_model.safetensors", "sd1")
    assert report.num_matched == report.num_modules > 10
    assert report.others == ()
    assert assert_merged(found, merged, base) >= report.num_modules


def merged_weights(network: Any) -> dict[str, Tensor]:
    for module in network.modules():
        if isinstance(module, LoraLayer):
            module.merge()
    state = network.state_dict()
    return {key.replace(".base_layer.", "."): value for key, value in state.items() if "lora_" not in key}


def add_lora(network: Any, pattern: str) -> dict[str, Tensor]:
    names = [
        name for name, module in network.named_modules() if isinstance(module, nn.Linear) and re.search(pattern, name)
    ]
    torch.manual_seed(1)
    config = peft.LoraConfig(r=3, lora_alpha=2, target_modules=names, init_lora_weights=False)
    peft.inject_adapter_in_model(config, network)
    return get_peft_model_state_dict(network)


@pytest.mark.parametrize("prefix", ["transformer.", ""], ids=["of a pipeline", "alone"])
def test_flux_is_the_one_that_diffusers_fuses(prefix: str, tmp_path: Path):
    ours = with_random_weights(Flux(DEV))
    twin = flux_twin(ours)
    layers = add_lora(twin, r".")
    if prefix:
        diffusers.FluxPipeline.save_lora_weights(
            tmp_path, transformer_lora_layers=layers, transformer_lora_adapter_metadata={"lora_alpha": 2, "r": 3}
        )
    else:
        bare = {"lora_adapter_metadata": '{"lora_alpha": 2, "r": 3}'}
        write_safetensors(tmp_path / "pytorch_lora_weights.safetensors", layers, bare)
    base = {key: value.clone() for key, value in ours.state_dict().items()}
    found, report = with_adapter(base, tmp_path / "pytorch_lora_weights.safetensors", "flux")
    assert report.unmatched == ()
    before = diffusers_weights(ours)
    ours.load_state_dict(found)
    assert assert_merged(diffusers_weights(ours), merged_weights(twin), before) == report.num_modules


def test_sd35_is_the_one_that_diffusers_fuses(tmp_path: Path):
    ours = with_random_weights(MMDiT(SD35_MEDIUM))
    twin = sd3_twin(ours)
    layers = add_lora(twin, r".")
    diffusers.StableDiffusion3Pipeline.save_lora_weights(
        tmp_path, transformer_lora_layers=layers, transformer_lora_adapter_metadata={"lora_alpha": 2, "r": 3}
    )
    base = {key: value.clone() for key, value in ours.state_dict().items()}
    found, report = with_adapter(base, tmp_path / "pytorch_lora_weights.safetensors", "sd3")
    assert report.unmatched == ()
    table = {"pos_embed": table_of(SD35_MEDIUM)}
    before, after = (convert_sd3_transformer_checkpoint_to_diffusers({**state, **table}) for state in (base, found))
    assert assert_merged(after, merged_weights(twin), before) == report.num_modules


def tiny_clip() -> Any:
    config = CLIPTextConfig(
        vocab_size=20,
        bos_token_id=0,
        eos_token_id=1,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8,
    )
    return with_random_weights(CLIPTextModel(config))


def clip_behind(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = "cond_stage_model.transformer.text_model."
    return {f"{prefix}{key.removeprefix('text_model.')}": value for key, value in tensors.items()}


def test_unet_and_text_encoder_in_one_file_of_diffusers(tmp_path: Path):
    unet, clip = tiny_unet(), tiny_clip()
    base = {
        **behind({key: value.clone() for key, value in unet.state_dict().items()}),
        **clip_behind({key: value.clone() for key, value in clip.state_dict().items()}),
    }
    unet_layers = add_lora(unet, r"attn\d\.to_")
    clip_layers = add_lora(clip, r"self_attn|fc")
    diffusers.StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=unet_layers,
        text_encoder_lora_layers=clip_layers,
        unet_lora_adapter_metadata={"lora_alpha": 2, "r": 3},
        text_encoder_lora_adapter_metadata={"lora_alpha": 2, "r": 3},
    )
    found, report = with_adapter(base, tmp_path / "pytorch_lora_weights.safetensors", "sd1")
    assert report.unmatched == ()
    assert set(report.matched) == {"denoiser", "clip_l"}
    merged = {**behind(merged_weights(unet)), **clip_behind(merged_weights(clip))}
    assert assert_merged(found, merged, base) == report.num_modules


def test_names_of_old_diffusers_mean_the_same(tmp_path: Path):
    """Before 0.20 the layers were kept in the processors of attention; there was no alpha."""
    unet = tiny_unet()
    base = behind({key: value.clone() for key, value in unet.state_dict().items()})
    layers = add_lora(unet, r"attn\d\.to_")
    renamed = {
        re.sub(r"\.(to_[qkv]|to_out)(?:\.0)?\.lora_([AB])\.weight", old_name, f"unet.{key}"): value
        for key, value in layers.items()
    }
    write_safetensors(tmp_path / "old.safetensors", renamed)
    found, report = with_adapter(base, tmp_path / "old.safetensors", "sd1", strength=2 / 3)  # alpha / rank of PEFT's
    assert report.unmatched == ()
    assert assert_merged(found, behind(merged_weights(unet)), base) == report.num_modules == len(layers) / 2


def old_name(found: re.Match[str]) -> str:
    return f".processor.{found[1]}_lora.{'down' if found[2] == 'A' else 'up'}.weight"
