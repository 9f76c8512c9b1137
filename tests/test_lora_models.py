"""LoRAs beside models in several files, averaged weights and models made of others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from backend.engine.engine import Engine
from backend.nn.flux import Flux, FluxConfig
from backend.recipe import CheckpointInput, FileRef, Merge, Recipe, Weights
from backend.text.clip_tokenizer import END_TEXT
from tests.lora_cases import KOHYA_MLP, MLP, Module, changed, difference, empty_engine, lora_of, picture, write
from tests.lora_engine import SHALLOW
from tests.reference_weights import with_random_weights
from tests.tiny_checkpoint import METADATA, tiny_tensors
from tests.tiny_transformers import WIDTH_T5, autoencoder, t5

VALUE = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_v.weight"
SD1 = (
    Module("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v", VALUE),
    Module(f"lora_te_{KOHYA_MLP}", f"cond_stage_model.transformer.text_model.{MLP}"),
)
T5_QUERY = "encoder.block.0.layer.0.SelfAttention.q.weight"
WIDTH_L = 768  # by which a file of its own is known as CLIP-L


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with empty_engine(tmp_path) as engine:
        yield engine


def write_checkpoint(engine: Engine, name: str, tensors: dict[str, Tensor]) -> None:
    write(engine.settings.checkpoint_dirs[0] / f"{name}.safetensors", tensors, METADATA)


def write_lora(engine: Engine, name: str, lora: dict[str, Tensor]) -> None:
    write(engine.settings.lora_dirs[0] / f"{name}.safetensors", lora, {})
    engine.library.refresh()


def test_text_encoders_in_files_of_their_own_are_changed_where_they_lie(engine: Engine) -> None:
    config = FluxConfig(
        width=64, heads=2, mlp_width=128, double_blocks=1, single_blocks=1, context_dim=WIDTH_T5, vector_dim=WIDTH_L
    )
    clip_config = CLIPTextConfig(
        hidden_size=WIDTH_L, intermediate_size=64, num_hidden_layers=1, num_attention_heads=12, eos_token_id=END_TEXT
    )
    parts = {
        "network": dict(with_random_weights(Flux(config)).state_dict()),
        "clip": dict(with_random_weights(CLIPTextModel(clip_config)).half().state_dict()),
        "t5": dict(t5().state_dict()),
        "vae": dict(autoencoder(16, scaling=0.3611, shift=0.1159).state_dict()),
    }
    modules = {
        "network": (Module("lora_unet_double_blocks_0_img_attn_proj", "double_blocks.0.img_attn.proj.weight"),),
        "clip": (Module(f"lora_te1_{KOHYA_MLP}", MLP),),
        "t5": (
            Module(
                "lora_te3_encoder_block_0_layer_0_SelfAttention_q", "encoder.block.0.layer.0.SelfAttention.q.weight"
            ),
        ),
    }
    loras = {part: lora_of(parts[part], found) for part, found in modules.items()}
    with_lora = parts | {part: changed(parts[part], lora, modules[part]) for part, lora in loras.items()}
    settings = engine.settings
    folders = {"network": settings.checkpoint_dirs[0], "vae": settings.vae_dirs[0]}
    for part in parts:
        folder = folders.get(part, settings.text_encoder_dirs[0])
        write(folder / f"{part}.safetensors", parts[part], {})
        write(folder / f"{part} changed.safetensors", with_lora[part], {})
    write_lora(engine, "all", {key: value for lora in loras.values() for key, value in lora.items()})
    files = {"vae": "vae", "text_encoders": ("clip", "t5")}
    made = picture(engine, "network", "all", **files)
    (facts,) = made.adapters
    assert (facts["matched"], facts["modules"]) == (3, 3)
    expected = picture(engine, "network changed", vae="vae", text_encoders=("clip changed", "t5 changed"))
    assert difference(made, expected) <= 1
    for others in (("clip", "t5"), ("clip changed", "t5"), ("clip", "t5 changed")):
        assert difference(made, picture(engine, "network changed", vae="vae", text_encoders=others)) > 1


def test_averaged_weights_are_what_a_lora_is_added_to(engine: Engine) -> None:
    plain, averages = tiny_tensors(unet=SHALLOW), tiny_tensors(unet=SHALLOW, seed=3)
    network = {key: value for key, value in averages.items() if key.startswith("model.diffusion_model.")}
    stored = {"model_ema." + key.removeprefix("model.").replace(".", ""): value for key, value in network.items()}
    lora = lora_of(plain, SD1)
    write_checkpoint(engine, "both", plain | stored)
    write_checkpoint(engine, "changed", changed(plain | network, lora, SD1))
    write_lora(engine, "cat", lora)
    made = picture(engine, "both", "cat", use_ema=True)
    assert difference(made, picture(engine, "changed")) <= 1
    assert difference(made, picture(engine, "both", use_ema=True)) > 1
    assert difference(made, picture(engine, "both", "cat")) > 1


def test_a_lora_is_added_on_top_of_what_a_recipe_makes(engine: Engine) -> None:
    a, b = tiny_tensors(unet=SHALLOW), tiny_tensors(unet=SHALLOW, seed=1)
    lora = lora_of(a, SD1)
    half = {key: (value.float() / 2 + b[key].float() / 2).half() for key, value in a.items()}
    for name, tensors in (("a", a), ("b", b), ("changed", changed(half, lora, SD1))):
        write_checkpoint(engine, name, tensors)
    write_lora(engine, "cat", lora)
    models = tuple(CheckpointInput(file=FileRef(name=name)) for name in "ab")
    root = Merge(rule="lerp", models=models, parameters=(("alpha", Weights(base=0.5)),))
    plain, made = (picture(engine, None, *loras, recipe=Recipe(root=root)) for loras in ((), ("cat",)))
    assert difference(made, picture(engine, "changed")) <= 1
    assert difference(made, plain) > 1
