"""Files that LyCORIS writes for a small U-Net: layers with ours added give what LyCORIS' own give."""

import gc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import torch.nn.functional as F
from lycoris import LycorisNetwork, create_lycoris
from torch import Tensor

from backend.adapters.aliases import aliases_of, named_targets, specs_of
from backend.adapters.lora_file import open_adapter
from backend.adapters.patched import PlacedAdapter, patched
from backend.families.diffusers_layout import unet_in_ldm_layout
from backend.weights.source import InMemory, WeightSource
from tests.tiny_adapters import UNET

CONVOLUTIONS = {"conv_dim": 2, "conv_alpha": 3.0}
# what is trained -> the options of LyCORIS, the label in our report, and a tensor that only such files have
ALGORITHMS: dict[str, tuple[dict[str, Any], str, str]] = {
    "locon": ({"algo": "lora", **CONVOLUTIONS}, "LoRA", "lora_up.weight"),
    "locon-tucker": ({"algo": "lora", "use_tucker": True, **CONVOLUTIONS}, "LoRA", "lora_mid.weight"),
    "dora-rows": ({"algo": "lora", "dora_wd": True, "wd_on_output": True, **CONVOLUTIONS}, "DoRA", "dora_scale"),
    "dora-columns": ({"algo": "lora", "dora_wd": True, "wd_on_output": False, **CONVOLUTIONS}, "DoRA", "dora_scale"),
    "loha": ({"algo": "loha", **CONVOLUTIONS}, "LoHa", "hada_w1_a"),
    "loha-tucker": ({"algo": "loha", "use_tucker": True, **CONVOLUTIONS}, "LoHa", "hada_t1"),
    "loha-dora": ({"algo": "loha", "dora_wd": True, **CONVOLUTIONS}, "DoRA", "dora_scale"),
    "lokr": ({"algo": "lokr", "factor": 2, **CONVOLUTIONS}, "LoKr", "lokr_w2_b"),
    "lokr-both": ({"algo": "lokr", "factor": 8, "decompose_both": True, **CONVOLUTIONS}, "LoKr", "lokr_w1_a"),
    "lokr-full": ({"algo": "lokr", "full_matrix": True, **CONVOLUTIONS}, "LoKr", "lokr_w2"),
    "lokr-tucker": (
        {"algo": "lokr", "factor": 2, "use_tucker": True, "conv_dim": 1, "conv_alpha": 3.0},
        "LoKr",
        "lokr_t2",
    ),
    "lokr-dora": ({"algo": "lokr", "factor": 2, "dora_wd": True, **CONVOLUTIONS}, "DoRA", "dora_scale"),
    "glora": ({"algo": "glora", **CONVOLUTIONS}, "GLoRA", "a1.weight"),
    "ia3": ({"algo": "ia3"}, "IA3", "on_input"),
    "diag-oft": ({"algo": "diag-oft"}, "OFT or BOFT", "oft_blocks"),
    "diag-oft-bound": ({"algo": "diag-oft", "constraint": 1e-3}, "OFT or BOFT", "oft_blocks"),
    "diag-oft-rescaled": ({"algo": "diag-oft", "rescaled": True}, "OFT or BOFT", "rescale"),
    "boft": ({"algo": "boft"}, "OFT or BOFT", "oft_blocks"),
    "boft-rescaled": ({"algo": "boft", "rescaled": True, "constraint": 1e-3}, "OFT or BOFT", "rescale"),
    "full": ({"algo": "full"}, "full difference", "diff_b"),
    "norms": ({"algo": "lora", "train_norm": True, **CONVOLUTIONS}, "LoRA", "w_norm"),
    "tlora": ({"algo": "tlora", "linear_alpha": 2.0, "preset": "attn-only"}, "T-LoRA", "lambda_layer"),
}


@pytest.fixture(autouse=True)
def quick_collections() -> Iterator[None]:
    """LyCORIS collects garbage after each layer, and would look through all imported libraries each time."""
    gc.freeze()
    yield
    gc.unfreeze()


def tiny_unet() -> Any:
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    )


def trained(unet: Any, options: Mapping[str, Any]) -> LycorisNetwork:
    """Every number of it moved, and the U-Net's layers replaced by its own."""
    options = {"linear_dim": 3, "linear_alpha": 1.5, **options}
    network = create_lycoris(unet, 1.0, **options)
    network.apply_to()
    torch.manual_seed(1)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network


def behind(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    source = unet_in_ldm_layout(InMemory(tensors))
    return {f"{UNET}{key}": source.read(key) for key in source.keys()}


def output(module: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    layer = module.org_module[0]
    if module.module_type == "groupnorm":
        return F.group_norm(x, layer.num_groups, weight, bias, layer.eps)
    if module.module_type == "layernorm":
        return F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)
    return module.op(x, weight, bias, **module.kw_dict)


def example(module: Any) -> Tensor:
    torch.manual_seed(2)
    if module.module_type == "groupnorm":
        return torch.randn(2, module.dim, 4, 4)
    if module.module_type == "layernorm":
        return torch.randn(2, 3, module.dim)
    inputs = module.shape[1]
    return torch.randn(2, inputs, 5, 5) if len(module.shape) == 4 else torch.randn(2, 3, inputs)


def read(source: WeightSource, key: str) -> Tensor | None:
    return source.read(key) if key else None


@pytest.mark.parametrize("name", ALGORITHMS)
def test_layers_are_those_of_lycoris(name: str, tmp_path: Path):
    options, label, ending = ALGORITHMS[name]
    unet = tiny_unet()
    base = {key: tensor.clone() for key, tensor in unet.state_dict().items()}
    network = trained(unet, options)
    file = tmp_path / "cat.safetensors"
    network.save_weights(str(file), None, {})

    lora, model = open_adapter(file), InMemory(behind(base))
    report = lora.report(specs_of(model), "sd1")
    assert (report.num_matched, report.unmatched) == (len(network.loras), ())
    assert report.others == ()
    assert any(key.endswith(f".{ending}") for key in lora.source.keys())
    assert label in report.formats
    found = patched(model, [PlacedAdapter(adapter=lora)], "sd1")
    aliases = aliases_of(named_targets(specs_of(model), "sd1"))
    for module in network.loras:
        target = aliases[module.lora_name]
        x = example(module)
        weight, bias = found.read(target.weight), read(found, target.bias)
        with torch.no_grad():
            expected = module.forward(x)
        ours = output(module, x, weight, bias)
        before = output(module, x, model.read(target.weight), read(model, target.bias))
        change = (expected - before).abs().max()
        assert change > 1e-3, module.lora_name
        assert (ours - expected).abs().max() <= 1e-5 * max(1, expected.abs().max()), module.lora_name
