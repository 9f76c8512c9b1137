"""What whole families read from their text encoders is what diffusers' pipelines read from them."""

from typing import TypeVar

import pytest
import torch
import torch.nn.functional as F
from diffusers import FluxPipeline, PixArtSigmaPipeline, StableDiffusion3Pipeline, StableDiffusionXLPipeline
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
)
from transformers import T5Tokenizer as Tokenizer

from backend.memory.layouts import Target
from backend.nn.clip_text import ClipText
from backend.nn.t5 import T5Encoder
from backend.text.chunks import compile_chunks
from backend.text.clip_encoder import (
    FLUX_CLIP_L,
    SD3_CLIP_G,
    SD3_CLIP_L,
    SDXL_CLIP_G,
    SDXL_CLIP_L,
    ClipEncoding,
    ClipReading,
    encode_clip,
)
from backend.text.clip_tokenizer import ClipTokenizer
from backend.text.emphasis import BUILTIN, whole_text
from backend.text.encoder_config import clip_config_from, t5_config_from
from backend.text.encoder_layouts import CLIP_G, CLIP_L, clip_in, t5_in
from backend.text.t5_encoder import T5Encoding, compile_t5, encode_t5
from backend.text.t5_tokenizer import T5Tokenizer
from backend.weights.source import InMemory
from tests.held_networks import held_network
from tests.test_t5 import their_t5_tokenizer

Model = TypeVar("Model", bound=PreTrainedModel)

CPU = torch.device("cpu")
PLAIN = BUILTIN[0]
CPU32 = Target(CPU, torch.float32)
PROMPTS = ["", "a photo of a cat, 4k", "An oil painting - naïve café, 猫; it's (not) emphasised: " + "red, " * 10]


def clip_config(activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        projection_dim=32 if activation == "quick_gelu" else 40,
        hidden_act=activation,
        eos_token_id=49407,
    )


@pytest.fixture(scope="module", autouse=True)
def _the_same_weights_each_time() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def clip_l() -> CLIPTextModel:
    return spread(CLIPTextModel(clip_config("quick_gelu")))


@pytest.fixture(scope="module")
def projected_clip_l() -> CLIPTextModelWithProjection:
    return spread(CLIPTextModelWithProjection(clip_config("quick_gelu")))


@pytest.fixture(scope="module")
def clip_g() -> CLIPTextModelWithProjection:
    return spread(CLIPTextModelWithProjection(clip_config("gelu")))


@pytest.fixture(scope="module")
def t5() -> T5EncoderModel:
    return spread(
        T5EncoderModel(
            T5Config(
                vocab_size=32128, d_model=80, d_kv=8, d_ff=48, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
            )
        )
    )


def spread(model: Model) -> Model:
    """With norms that are not 1 and biases that are not 0."""
    for parameter in model.requires_grad_(False).parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def tokenizers() -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Of CLIP-L and of CLIP-G, which pads with the token 0."""
    ours = ClipTokenizer.load()
    merges = sorted(ours.ranks, key=lambda pair: ours.ranks[pair])
    vocabulary = dict(ours.vocabulary)
    return (
        CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token="<|endoftext|>", model_max_length=77),
        CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token="!", model_max_length=77),
    )


@pytest.fixture(scope="module")
def t5_tokenizer() -> Tokenizer:
    return their_t5_tokenizer()


def read_clip(reference: PreTrainedModel, kind: str, text: str, reading: ClipReading) -> ClipEncoding:
    source = clip_in(InMemory(reference.state_dict()), "")
    assert source is not None
    encoder = held_network(lambda: ClipText(clip_config_from(source, kind, heads=2)), source, CPU32, label="CLIP")
    prompt = compile_chunks(whole_text(text), ClipTokenizer.load())
    return encode_clip(encoder, prompt, reading, clip_skip=1, emphasis=PLAIN, device=CPU, dtype=torch.float32)


def read_t5(reference: T5EncoderModel, text: str, length: int, *, ignores_padding: bool = False) -> T5Encoding:
    source = t5_in(InMemory(reference.state_dict()), "")
    assert source is not None
    encoder = held_network(lambda: T5Encoder(t5_config_from(source)), source, CPU32, label="T5")
    prompt = compile_t5(whole_text(text), T5Tokenizer.load(), min_length=length, max_length=length)
    return encode_t5(encoder, prompt, emphasis=PLAIN, ignores_padding=ignores_padding, device=CPU, dtype=torch.float32)


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("text", PROMPTS, ids=["empty", "short", "long"])
def test_sdxl(clip_l, clip_g, tokenizers, text: str) -> None:
    pipeline = StableDiffusionXLPipeline(
        vae=None, unet=None, scheduler=None, text_encoder=clip_l, text_encoder_2=clip_g,
        tokenizer=tokenizers[0], tokenizer_2=tokenizers[1],
    )  # fmt: skip
    context, _, vector, _ = pipeline.encode_prompt(text, device=CPU, do_classifier_free_guidance=False)
    small, large = read_clip(clip_l, CLIP_L, text, SDXL_CLIP_L), read_clip(clip_g, CLIP_G, text, SDXL_CLIP_G)
    assert small.pooled is None
    assert large.pooled is not None
    assert relative_error(torch.cat([small.states, large.states], dim=-1), context) < 1e-5
    assert relative_error(large.pooled, vector) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("text", PROMPTS, ids=["empty", "short", "long"])
def test_sd3(projected_clip_l, clip_g, t5, tokenizers, t5_tokenizer, text: str) -> None:
    pipeline = StableDiffusion3Pipeline(
        transformer=None, scheduler=None, vae=None, text_encoder=projected_clip_l, tokenizer=tokenizers[0],
        text_encoder_2=clip_g, tokenizer_2=tokenizers[1], text_encoder_3=t5, tokenizer_3=t5_tokenizer,
    )  # fmt: skip
    context, _, vector, _ = pipeline.encode_prompt(
        text, text, text, device=CPU, do_classifier_free_guidance=False, max_sequence_length=256
    )
    small, large = read_clip(projected_clip_l, CLIP_L, text, SD3_CLIP_L), read_clip(clip_g, CLIP_G, text, SD3_CLIP_G)
    words = read_t5(t5, text, 256).states
    clip = torch.cat([small.states, large.states], dim=-1)
    ours = torch.cat([F.pad(clip, (0, words.shape[-1] - clip.shape[-1])), words], dim=1)
    assert small.pooled is not None
    assert large.pooled is not None
    assert relative_error(ours, context) < 1e-5
    assert relative_error(torch.cat([small.pooled, large.pooled], dim=-1), vector) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("text", PROMPTS, ids=["empty", "short", "long"])
@pytest.mark.parametrize("length", [256, 512])
def test_flux(projected_clip_l, t5, tokenizers, t5_tokenizer, text: str, length: int) -> None:
    """Its CLIP-L is read without projection, although usual files of it hold one."""
    clip_l = projected_clip_l.text_model
    pipeline = FluxPipeline(
        scheduler=None, vae=None, transformer=None, text_encoder=clip_l, tokenizer=tokenizers[0],
        text_encoder_2=t5, tokenizer_2=t5_tokenizer,
    )  # fmt: skip
    context, vector, _ = pipeline.encode_prompt(text, text, device=CPU, max_sequence_length=length)
    pooled = read_clip(projected_clip_l, CLIP_L, text, FLUX_CLIP_L).pooled
    assert pooled is not None
    assert relative_error(pooled, vector) < 1e-5
    assert relative_error(read_t5(t5, text, length).states, context) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("text", PROMPTS, ids=["empty", "short", "long"])
def test_pixart(t5, t5_tokenizer, text: str) -> None:
    """Its pipeline lowers prompts, and neither T5 nor the transformer attends to padding."""
    pipeline = PixArtSigmaPipeline(tokenizer=t5_tokenizer, text_encoder=t5, vae=None, transformer=None, scheduler=None)
    context, mask, _, _ = pipeline.encode_prompt(text, False, device=CPU, max_sequence_length=300)
    ours = read_t5(t5, text.lower().strip(), 300, ignores_padding=True)
    assert torch.equal(ours.mask.long(), mask)
    assert relative_error(ours.states, context) < 1e-5
