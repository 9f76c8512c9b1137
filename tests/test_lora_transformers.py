"""Whole jobs with LoRAs for diffusion transformers: the picture is that of a checkpoint which holds the same.

Names are those that trainers write, spelled out, beside the keys of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from backend.engine.engine import Engine
from tests.lora_cases import KOHYA_MLP, MLP, Module, check_family, empty_engine

T5_QUERY = "encoder.block.0.layer.0.SelfAttention.q.weight"
MODULES: Mapping[str, tuple[Module, ...]] = {
    "sd3": (
        Module(
            "lora_unet_joint_blocks_1_x_block_attn_proj",
            "model.diffusion_model.joint_blocks.1.x_block.attn.proj.weight",
        ),
        Module(
            "transformer.transformer_blocks.0.attn.to_k",
            "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight",
            128,
            256,
        ),
        Module(f"lora_te1_{KOHYA_MLP}", f"text_encoders.clip_l.transformer.text_model.{MLP}"),
        Module(f"lora_te2_{KOHYA_MLP}", f"text_encoders.clip_g.transformer.text_model.{MLP}"),
        Module("lora_te3_encoder_block_0_layer_0_SelfAttention_q", f"text_encoders.t5xxl.transformer.{T5_QUERY}"),
    ),
    "flux": (
        Module("lora_unet_double_blocks_0_img_attn_proj", "model.diffusion_model.double_blocks.0.img_attn.proj.weight"),
        Module(
            "transformer.single_transformer_blocks.1.proj_mlp",
            "model.diffusion_model.single_blocks.1.linear1.weight",
            192,
            448,
        ),
        Module(f"lora_te1_{KOHYA_MLP}", f"text_encoders.clip_l.transformer.{MLP}"),
        Module("lora_te3_encoder_block_0_layer_0_SelfAttention_q", f"text_encoders.t5xxl.transformer.{T5_QUERY}"),
    ),
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with empty_engine(tmp_path_factory.mktemp("families")) as engine:
        yield engine


@pytest.mark.parametrize("family", MODULES)
def test_a_lora_makes_the_picture_of_a_checkpoint_that_holds_it(engine: Engine, family: str) -> None:
    check_family(engine, family, MODULES[family])
