"""Whole jobs with LoRAs for models with a U-Net: the picture is that of a checkpoint which holds the same.

Names are those that trainers write, spelled out, beside the keys of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from backend.adapter_row import AdapterRow, StrengthCurve
from backend.engine.engine import Engine
from backend.engine.job import JobView
from backend.recipe import AdapterUse, FileRef
from tests.lora_cases import KOHYA_MLP, MLP, Module, check_family, difference, empty_engine, picture, write_case

# The tiny U-Nets of these files are in diffusers' layout, those of LoRAs for SDXL in that of single files.
UNET_VALUE = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v.weight"
MODULES: Mapping[str, tuple[Module, ...]] = {
    "sd1": (
        Module(
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v",
            "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_v.weight",
        ),
        Module(f"lora_te_{KOHYA_MLP}", f"cond_stage_model.transformer.text_model.{MLP}"),
    ),
    "sd2": (
        Module("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_v", UNET_VALUE),
        Module(f"lora_te_{KOHYA_MLP}", f"text_encoders.clip_h.transformer.text_model.{MLP}"),
    ),
    "sdxl": (
        Module("lora_unet_input_blocks_3_1_transformer_blocks_0_attn2_to_v", UNET_VALUE),
        Module(f"lora_te1_{KOHYA_MLP}", f"conditioner.embedders.0.transformer.text_model.{MLP}"),
        Module(f"lora_te2_{KOHYA_MLP}", f"text_encoders.clip_g.transformer.text_model.{MLP}"),
    ),
}
REFINER = (
    Module("lora_unet_input_blocks_3_1_transformer_blocks_0_attn2_to_v", UNET_VALUE),
    # One of three layers that the checkpoint has in one.
    Module(
        "lora_te2_text_model_encoder_layers_0_self_attn_k_proj",
        "conditioner.embedders.0.model.transformer.resblocks.0.attn.in_proj_weight",
        128,
        256,
    ),
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with empty_engine(tmp_path_factory.mktemp("families")) as engine:
        yield engine


@pytest.mark.parametrize("family", MODULES)
def test_a_lora_makes_the_picture_of_a_checkpoint_that_holds_it(engine: Engine, family: str) -> None:
    check_family(engine, family, MODULES[family])


def test_a_refiner_has_loras_of_its_own(engine: Engine) -> None:
    write_case(engine, "sdxl", MODULES["sdxl"])
    # Shapes of published refiners tell that a LoRA is for one; of tiny ones, metadata do.
    write_case(engine, "sdxl-refiner", REFINER, ss_base_model_version="sdxl_refiner_v0.9")

    def refined(checkpoint: str, refiner: str, *loras: str) -> JobView:
        return picture(engine, checkpoint, *loras, refiner=refiner, refiner_switch=0.25, steps=4, guidance_scale=15)

    plain, with_lora = refined("sdxl", "sdxl-refiner"), refined("sdxl", "sdxl-refiner", "sdxl-refiner")
    assert difference(with_lora, refined("sdxl", "sdxl-refiner changed")) <= 1
    assert difference(with_lora, plain) > 10
    both = refined("sdxl", "sdxl-refiner", "sdxl-refiner", "sdxl")
    assert difference(both, refined("sdxl changed", "sdxl-refiner changed")) <= 1


def test_the_strength_of_a_refiner_s_lora_follows_its_curve(engine: Engine) -> None:
    write_case(engine, "sdxl", MODULES["sdxl"])
    write_case(engine, "sdxl-refiner", REFINER, ss_base_model_version="sdxl_refiner_v0.9")

    def refined(points: tuple[tuple[float, float], ...]) -> JobView:
        # Steps 1, 2 and 3 of 0..3 are the refiner's.
        curve = StrengthCurve(points=points, in_steps=True)
        use = AdapterUse(file=FileRef(name="sdxl-refiner"), text_encoder_strength=0.0)
        row = AdapterRow(use=use, curve=curve)
        return picture(engine, "sdxl", row, refiner="sdxl-refiner", refiner_switch=0.25, steps=4, guidance_scale=15)

    never, always = refined(((0, 0.0), (3, 0.0))), refined(((0, 1.0), (3, 1.0)))
    assert difference(refined(((0, 1.0), (0.5, 1.0), (0.5, 0.0))), never) == 0
    assert difference(refined(((0, 0.0), (0.5, 0.0), (0.5, 1.0))), always) == 0
    partly = refined(((0, 0.0), (1.5, 0.0), (1.5, 1.0)))
    assert difference(partly, never) > 0
    assert difference(partly, always) > 0
