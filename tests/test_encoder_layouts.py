"""Text encoders are found under every layout that files have, with the numbers that they have under their own names."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

import gguf
import pytest
import torch
from torch import Tensor

from backend.errors import BadCheckpoint, KeysDoNotMatch
from backend.memory.layouts import Target
from backend.memory.part import Part
from backend.memory.residency import Residency
from backend.nn.clip_text import ClipText, ClipTextConfig
from backend.nn.t5 import T5Config, T5Encoder
from backend.text.encoder_config import clip_config_from, t5_config_from
from backend.text.encoder_layouts import chosen_encoder, clip_in, encoders_in, kind_of_encoder, t5_in
from backend.weights.packing import Packing
from backend.weights.safetensors_file import open_safetensors, write_safetensors
from backend.weights.source import InMemory, WeightSource
from backend.weights.weight_file import open_weights
from tests.held_networks import held_network

Weights = dict[str, Tensor]

CPU = torch.device("cpu")
TOKENS = torch.tensor([[49406, 320, 2368, 49407, *[0] * 73]])
END = torch.tensor([3])


def random_weights(module: torch.nn.Module) -> Weights:
    generator = torch.Generator().manual_seed(len(module.state_dict()))
    return {
        name: torch.randn(t.shape, generator=generator, device="cpu") * 0.2 for name, t in module.state_dict().items()
    }


def clip_weights(projection: int | None = 24) -> Weights:
    config = ClipTextConfig(width=32, layers=2, heads=2, mlp_width=48, projection_width=projection)
    with torch.device("meta"):
        return random_weights(ClipText(config))


def t5_weights() -> Weights:
    with torch.device("meta"):
        return random_weights(T5Encoder(T5Config(width=24, layers=2, heads=3, head_width=4, mlp_width=40)))


def under(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


def as_transformers(weights: Weights) -> Weights:
    """With the prefix of older series, and what files of full CLIP models hold besides."""
    named = {name if name == "text_projection.weight" else "text_model." + name: t for name, t in weights.items()}
    extra = ("logit_scale", "text_model.embeddings.position_ids", "vision_model.encoder.layers.0.mlp.fc1.weight")
    return named | dict.fromkeys((*extra, "visual_projection.weight"), torch.zeros(2))


def as_ldm(weights: Weights) -> Weights:
    named = under("transformer.text_model.", {k: t for k, t in weights.items() if k != "text_projection.weight"})
    return named | {"transformer.text_model.embeddings.position_ids": torch.arange(77)[None]}


def as_comfy(weights: Weights) -> Weights:
    return under("transformer.", as_transformers(weights)) | {"logit_scale": torch.zeros(())}


def as_open_clip(weights: Weights) -> Weights:
    """OpenCLIP's names: queries, keys and values in one matrix, the projection the other way round."""
    renamed: Weights = {"logit_scale": torch.zeros(()), "attn_mask": torch.zeros(77, 77)}
    parts = {
        "embeddings.token_embedding": "token_embedding",
        "final_layer_norm": "ln_final",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
        "encoder.layers.": "transformer.resblocks.",
    }
    for name, value in weights.items():
        for ours, theirs in parts.items():
            name = name.replace(ours, theirs)
        if "_proj." not in name or "out_proj" in name or "c_proj" in name:
            renamed[name] = value
    for index in range(2):
        for kind in ("weight", "bias"):
            qkv = [weights[f"encoder.layers.{index}.self_attn.{p}_proj.{kind}"] for p in "qkv"]
            renamed[f"transformer.resblocks.{index}.attn.in_proj_{kind}"] = torch.cat(qkv)
    renamed["positional_embedding"] = renamed.pop("embeddings.position_embedding.weight")
    if "text_projection.weight" in renamed:
        renamed["text_projection"] = renamed.pop("text_projection.weight").T.contiguous()
    return renamed


def as_llama_cpp(weights: Weights) -> Weights:
    parts = {
        "layer.0.SelfAttention.relative_attention_bias": "attn_rel_b",
        "layer.0.SelfAttention.": "attn_",
        "layer.0.layer_norm": "attn_norm",
        "layer.1.layer_norm": "ffn_norm",
        "layer.1.DenseReluDense.wi_0": "ffn_gate",
        "layer.1.DenseReluDense.wi_1": "ffn_up",
        "layer.1.DenseReluDense.wo": "ffn_down",
        "encoder.block.": "enc.blk.",
        "encoder.final_layer_norm": "enc.output_norm",
        "shared": "token_embd",
    }
    renamed: Weights = {"dec.blk.0.attn_q.weight": torch.zeros(1), "output.weight": torch.zeros(1)}
    for name, value in weights.items():
        for ours, theirs in parts.items():
            name = name.replace(ours, theirs)
        renamed[name] = value
    return renamed


def bound_clip(source: WeightSource, kind: str = "clip_g") -> ClipText:
    return held_network(
        lambda: ClipText(clip_config_from(source, kind, heads=2)),
        source,
        Target(CPU, torch.float32),
        label="text encoder",
    )


@torch.no_grad()
def read_by(encoder: ClipText) -> tuple[Tensor, Tensor]:
    output = encoder(TOKENS, skip=2, final_norm=False, pooled_at=END)
    assert output.pooled is not None
    return output.states, output.pooled


def assert_reads_the_same(found: ClipText, expected: ClipText) -> None:
    (states, pooled), (expected_states, expected_pooled) = read_by(found), read_by(expected)
    assert torch.equal(states, expected_states)
    assert torch.allclose(pooled, expected_pooled, atol=1e-6)  # a transposed matrix is added up in another order


CLIP_LAYOUTS: dict[str, tuple[str, Callable[[Weights], Weights], str]] = {
    "SD 1": ("cond_stage_model.", as_ldm, "clip_l"),
    "old SD 1": ("cond_stage_model.transformer.", dict, "clip_l"),
    "SD 2": ("cond_stage_model.model.", as_open_clip, "clip_h"),
    "SDXL, first": ("conditioner.embedders.0.", as_ldm, "clip_l"),
    "SDXL, second": ("conditioner.embedders.1.model.", as_open_clip, "clip_g"),
    "SDXL refiner": ("conditioner.embedders.0.model.", as_open_clip, "clip_g"),
    "ComfyUI L": ("text_encoders.clip_l.", as_comfy, "clip_l"),
    "ComfyUI G": ("text_encoders.clip_g.", as_comfy, "clip_g"),
}


@pytest.mark.parametrize("layout", CLIP_LAYOUTS)
def test_checkpoints_give_their_clip(layout: str) -> None:
    prefix, rename, kind = CLIP_LAYOUTS[layout]
    weights = clip_weights()
    inside = rename(weights)
    found = encoders_in(InMemory({"model.diffusion_model.out.2.bias": torch.zeros(4)} | under(prefix, inside)))
    assert list(found) == [kind]
    if not any("text_projection" in name for name in inside):  # as in every SD 1 and in SDXL's CLIP-L
        weights.pop("text_projection.weight")
    assert_reads_the_same(bound_clip(found[kind]), bound_clip(InMemory(weights)))


@pytest.mark.parametrize("rename", [dict, as_transformers, as_open_clip], ids=["bare", "transformers", "OpenCLIP"])
@pytest.mark.parametrize("projection", [24, None])
def test_files_of_their_own_give_their_clip(rename: Callable[[Weights], Weights], projection: int | None) -> None:
    weights = clip_weights(projection)
    found = clip_in(InMemory(rename(weights)), "")
    assert found is not None
    assert set(found.keys()) == set(weights)
    assert_reads_the_same(bound_clip(found), bound_clip(InMemory(weights)))


def test_a_projection_may_be_a_matrix_beside_transformers_names() -> None:
    weights = clip_weights()
    projection = weights.pop("text_projection.weight")
    source = InMemory(
        under("text_encoders.clip_g.transformer.text_model.", weights)
        | {"text_encoders.clip_g.text_projection": projection.T.contiguous()}
    )
    found = encoders_in(source)["clip_g"]
    assert torch.equal(found.read("text_projection.weight"), projection)


@pytest.mark.parametrize("width", [768, 1024, 1280])
@pytest.mark.parametrize("rename", [as_transformers, as_open_clip], ids=["transformers", "OpenCLIP"])
def test_widths_tell_which_clip_a_file_holds(width: int, rename: Callable[[Weights], Weights]) -> None:
    with torch.device("meta"):
        weights = dict(ClipText(ClipTextConfig(width=width, layers=2, mlp_width=8)).state_dict())
        source = InMemory(rename(weights))
    kind = {768: "clip_l", 1024: "clip_h", 1280: "clip_g"}[width]
    assert kind_of_encoder(source) == kind
    assert list(encoders_in(source)) == [kind]
    inside_sd1 = encoders_in(InMemory(under("cond_stage_model.", rename(weights))))
    assert list(inside_sd1) == [kind]  # an SD 2 whose encoder was converted, for instance


def test_what_is_no_text_encoder_is_none() -> None:
    unet = InMemory({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4, 3, 3)})
    assert kind_of_encoder(unet) is None
    assert clip_in(unet, "") is None
    assert t5_in(unet, "") is None
    assert not encoders_in(unet)
    assert kind_of_encoder(InMemory(clip_weights())) is None  # a CLIP, but of no published width


@pytest.mark.parametrize(
    ("prefix", "rename"),
    [
        ("", dict),
        ("", as_llama_cpp),
        ("text_encoders.t5xxl.transformer.", dict),
        ("text_encoders.t5xxl.", as_llama_cpp),
    ],
)
@pytest.mark.parametrize("table", ["shared", "twice", "embed_tokens"])
def test_t5_is_found_with_its_table_under_either_name(
    prefix: str, rename: Callable[[Weights], Weights], table: str
) -> None:
    weights = t5_weights()
    named = rename(weights) | {"spiece_model": torch.zeros(3, dtype=torch.uint8), "scaled_fp8": torch.zeros(0)}
    if rename is dict and table != "shared":
        named["encoder.embed_tokens.weight"] = named["shared.weight"]
    if rename is dict and table == "embed_tokens":
        del named["shared.weight"]
    source = InMemory(under(prefix, named))
    found = encoders_in(source)
    assert list(found) == ["t5"]
    assert {name: found["t5"].spec(name).shape for name in found["t5"].keys()} == {
        n: t.shape for n, t in weights.items()
    }
    assert all(torch.equal(found["t5"].read(name), value) for name, value in weights.items())
    held_network(lambda: T5Encoder(t5_config_from(found["t5"])), found["t5"], Target(CPU, torch.float32), label="T5")
    assert kind_of_encoder(source) == (None if prefix else "t5")


def test_everything_a_checkpoint_of_sd3_embeds_is_found() -> None:
    clip, t5 = clip_weights(), t5_weights()
    source = InMemory(
        under("text_encoders.clip_l.", as_comfy(clip))
        | under("text_encoders.clip_g.", as_comfy(clip))
        | under("text_encoders.t5xxl.transformer.", t5)
    )
    assert set(encoders_in(source)) == {"clip_l", "clip_g", "t5"}


def test_a_file_of_its_own_goes_before_the_checkpoint() -> None:
    inside, own = clip_weights(), {name: value + 1 for name, value in clip_weights().items()}
    checkpoint = InMemory(under("text_encoders.clip_l.", as_comfy(inside)))
    table = "embeddings.token_embedding.weight"
    for separate, expected in (({}, inside), ({"clip_l": InMemory(as_open_clip(own))}, own)):
        chosen = chosen_encoder("clip_l", checkpoint=checkpoint, separate=separate)
        assert chosen is not None
        assert torch.equal(chosen.read(table), expected[table])
    assert chosen_encoder("t5", checkpoint=checkpoint, separate={}) is None
    assert chosen_encoder("t5", checkpoint=checkpoint, separate={"t5": InMemory(t5_weights())}) is not None


def test_unknown_weights_inside_an_encoder_are_refused_not_dropped() -> None:
    for rename, surprise in (
        (as_transformers, "text_model.encoder.layers.0.surprise.weight"),
        (as_open_clip, "transformer.resblocks.0.surprise.weight"),
    ):
        found = clip_in(InMemory(rename(clip_weights()) | {surprise: torch.zeros(1)}), "")
        assert found is not None
        with pytest.raises(KeysDoNotMatch, match="surprise"):
            bound_clip(found)
    found = t5_in(InMemory(as_llama_cpp(t5_weights()) | {"enc.blk.0.surprise.weight": torch.zeros(1)}), "")
    assert found is not None
    assert any("surprise" in key for key in found.keys())


@pytest.mark.parametrize("shape", [(), (1,), (64, 32), (97, 32)])
def test_queries_keys_and_values_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    weights = as_open_clip(clip_weights()) | {"transformer.resblocks.1.attn.in_proj_weight": torch.zeros(shape)}
    found = clip_in(InMemory(weights), "")
    assert found is not None
    with pytest.raises(KeysDoNotMatch, match=re.escape("encoder.layers.1.self_attn.q_proj.weight")):
        bound_clip(found)


@pytest.fixture
def open_clip_file(tmp_path: Path) -> Path:
    path = tmp_path / "open_clip.safetensors"
    write_safetensors(path, {name: value.half() for name, value in as_open_clip(clip_weights()).items()})
    return path


def test_parts_of_a_file_are_views_and_read_the_same_everywhere(open_clip_file: Path) -> None:
    file = open_safetensors(open_clip_file)
    source = clip_in(file, "")
    assert source is not None
    stacked = file.read("transformer.resblocks.0.attn.in_proj_weight")
    part = source.read("encoder.layers.0.self_attn.k_proj.weight")
    assert part.data_ptr() == stacked[32:64].data_ptr()
    identities = {source.identity(key) for key in source.keys()}
    assert len(identities) == len(source.keys())
    for key, value in clip_weights().items():
        spec = source.spec(key)
        assert (spec.shape, spec.dtype) == (value.shape, torch.float16)
        out = torch.empty(spec.shape)
        source.read_into(key, out)
        assert torch.equal(out, source.read(key).float())
        assert torch.equal(out, value.half().float())
        assert source.storage_bytes(key) == spec.num_bytes
        storage = torch.empty(spec.num_bytes, dtype=torch.uint8)
        source.read_storage_into(key, storage)
        assert torch.equal(storage, source.read_storage(key))
        assert torch.equal(storage.view(torch.float16).view(spec.shape), value.half())


def test_a_file_that_is_cut_off_meanwhile_is_an_error(open_clip_file: Path) -> None:
    source = clip_in(open_safetensors(open_clip_file), "")
    assert source is not None
    with open_clip_file.open("r+b") as file:
        file.truncate(1000)
    for key in ("encoder.layers.0.self_attn.k_proj.weight", "text_projection.weight", "final_layer_norm.bias"):
        with pytest.raises(BadCheckpoint, match="changed"):
            source.read_into(key, torch.empty(source.spec(key).shape))


class Halved(InMemory):
    """Stores matrices as bytes that are half of their numbers."""

    def packing(self, key: str) -> Packing | None:
        if len(self.spec(key).shape) < 2:
            return None
        return Packing(name="halved", row_bytes=self.spec(key).shape[1], unpack=lambda rows, dtype: rows.to(dtype) * 2)

    def storage_bytes(self, key: str) -> int:
        return self.spec(key).num_elements if self.packing(key) else self.spec(key).num_bytes

    def read_storage(self, key: str) -> Tensor:
        if not self.packing(key):
            return super().read_storage(key)
        return (self.read(key) / 2).to(torch.uint8).flatten()

    def read_storage_into(self, key: str, out: Tensor) -> None:
        out.copy_(self.read_storage(key))


def test_rows_of_packed_matrices_stay_packed_and_transposed_ones_do_not() -> None:
    whole = {name: (value.abs() * 20).round() * 2 for name, value in as_open_clip(clip_weights()).items()}
    source = clip_in(Halved(whole), "")
    assert source is not None
    for key in source.keys():
        packing, expected = source.packing(key), source.read(key)
        assert (packing is None) == (expected.dim() < 2 or key == "text_projection.weight")
        stored = torch.empty(source.storage_bytes(key), dtype=torch.uint8)
        source.read_storage_into(key, stored)
        assert torch.equal(stored, source.read_storage(key))
        if packing is None:
            assert torch.equal(stored.view(torch.float32).view(expected.shape), expected)
        else:
            assert torch.equal(packing.unpack(stored.view(-1, packing.row_bytes), torch.float32), expected)


@pytest.fixture
def llama_cpp_file(tmp_path: Path) -> Path:
    """A T5 whose matrices are packed as Q8_0 and whose norms are not."""
    with torch.device("meta"):
        encoder = T5Encoder(T5Config(width=64, layers=2, heads=2, head_width=32, mlp_width=96))
    writer = gguf.GGUFWriter(tmp_path / "t5.gguf", "t5encoder")
    for name, value in as_llama_cpp(random_weights(encoder)).items():
        if name in ("dec.blk.0.attn_q.weight", "output.weight"):
            continue
        is_packed = value.dim() == 2 and "rel_b" not in name
        kind = gguf.GGMLQuantizationType.Q8_0 if is_packed else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(value.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "t5.gguf"


def test_a_packed_t5_runs_from_what_its_file_holds(llama_cpp_file: Path) -> None:
    source = encoders_in(open_weights(llama_cpp_file))["t5"]
    config = t5_config_from(source)
    packed = held_network(lambda: T5Encoder(config), source, Target(CPU, torch.float32), label="T5")
    assert packed.shared.weight.dtype == torch.uint8
    numbers = InMemory({key: source.read(key).clone() for key in source.keys()})
    plain = held_network(lambda: T5Encoder(config), numbers, Target(CPU, torch.float32), label="T5")
    tokens = torch.tensor([[3, 9, 1712, 1]])
    with torch.no_grad():
        assert torch.equal(packed(tokens), plain(tokens))


@pytest.mark.parametrize("percent", [10, 60, 100])
@torch.inference_mode()
def test_encoders_that_do_not_fit_into_memory_give_the_same_bits(
    open_clip_file: Path, llama_cpp_file: Path, percent: int
) -> None:
    t5, clip = encoders_in(open_weights(llama_cpp_file))["t5"], clip_in(open_weights(open_clip_file), "")
    assert clip is not None
    target = Target(CPU, torch.float32)
    clip_config, t5_config = clip_config_from(clip, "clip_g", heads=2), t5_config_from(t5)
    tables = ("embeddings.token_embedding", "embeddings.position_embedding")
    parts = (
        Part("clip", "CLIP", clip, target, lambda: ClipText(clip_config), tables=tables),
        Part("t5", "T5", t5, target, lambda: T5Encoder(t5_config), tables=("shared",)),
    )
    tokens = torch.tensor([[3, 9, 1712, 1]])
    expected = bound_t5(t5)(tokens)
    for part in parts:
        whole = Residency(2**40)
        whole.get(part)
        residency = Residency(whole.used() * percent // 100, small=256)
        network = residency.get(part)
        for _time in range(2):
            if part.key == "clip":
                assert all(map(torch.equal, read_by(cast(ClipText, network)), read_by(bound_clip(clip))))
            else:
                assert torch.equal(network(tokens), expected)
        assert residency.used() <= residency.budget


def bound_t5(source: WeightSource) -> T5Encoder:
    return held_network(lambda: T5Encoder(t5_config_from(source)), source, Target(CPU, torch.float32), label="T5")
