"""The text encoder gives transformers' states for weights in every naming that checkpoints have."""

import pytest
import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from backend.errors import KeysDoNotMatch
from backend.memory.binding import Target, bind
from backend.text.chunks import compile_chunks
from backend.text.clip_encoder import (
    build_text_encoder,
    encode_prompt,
    place_positions,
    text_encoder_config_from,
    text_encoder_source,
    with_all_tokens,
)
from backend.text.clip_tokenizer import ClipTokenizer
from backend.text.emphasis import BUILTIN, parse_emphasis
from backend.weights.source import InMemory

ORIGINAL = BUILTIN[0]
CPU32 = Target(torch.device("cpu"), torch.float32)
PROMPT = "a (cat:1.3) in the rain, BREAK masterpiece"


@pytest.fixture(scope="module")
def reference() -> CLIPTextModel:
    torch.manual_seed(0)
    config = CLIPTextConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=2)
    return CLIPTextModel(config).eval().requires_grad_(False)


def bound(weights: dict[str, Tensor]) -> CLIPTextModel:
    source = text_encoder_source(InMemory(weights))
    encoder = build_text_encoder(text_encoder_config_from(source, heads=2))
    bind(encoder, source, CPU32, part="text encoder")
    place_positions(encoder, CPU32.device)
    return encoder


@pytest.mark.parametrize("prefix", ["transformer.text_model.", "text_model.", "transformer.", ""])
def test_every_naming_gives_the_reference_states(reference: CLIPTextModel, prefix: str) -> None:
    weights = {prefix + name: value for name, value in reference.state_dict().items()}
    weights[prefix + "embeddings.position_ids"] = torch.arange(77)[None]
    prompt = compile_chunks(parse_emphasis("a cat in the rain"), ClipTokenizer.load())
    context = encode_prompt(bound(weights), prompt, clip_skip=1, emphasis=ORIGINAL)
    expected = reference(input_ids=torch.tensor([prompt.chunks[0].tokens])).last_hidden_state
    assert torch.equal(context, expected)


def test_clip_skip_takes_an_earlier_layer_and_the_final_norm(reference: CLIPTextModel) -> None:
    encoder = bound(dict(reference.state_dict()))
    prompt = compile_chunks(parse_emphasis("a cat"), ClipTokenizer.load())
    output = reference(input_ids=torch.tensor([prompt.chunks[0].tokens]), output_hidden_states=True)
    for skip in (1, 2, 3):
        expected = reference.final_layer_norm(output.hidden_states[-skip])
        context = encode_prompt(encoder, prompt, clip_skip=skip, emphasis=ORIGINAL)
        assert (context - expected).abs().max() < 1e-5


def test_chunks_stand_one_after_the_other_each_weighted_alone(reference: CLIPTextModel) -> None:
    encoder = bound(dict(reference.state_dict()))
    both = compile_chunks(parse_emphasis(PROMPT), ClipTokenizer.load())
    second = compile_chunks(parse_emphasis("masterpiece"), ClipTokenizer.load())
    context = encode_prompt(encoder, both, clip_skip=1, emphasis=ORIGINAL)
    assert context.shape == (1, 154, 64)
    assert torch.equal(context[:, 77:], encode_prompt(encoder, second, clip_skip=1, emphasis=ORIGINAL))


def test_a_file_with_some_tokens_only_is_expanded(reference: CLIPTextModel) -> None:
    weights = dict(reference.state_dict())
    prompt = compile_chunks(parse_emphasis("a cat"), ClipTokenizer.load())
    ids = torch.tensor(sorted(set(prompt.chunks[0].tokens)))
    rows = {**weights, "embeddings.token_embedding.weight": weights["embeddings.token_embedding.weight"][ids]}
    source = with_all_tokens(text_encoder_source(InMemory(rows)), ids)
    encoder = build_text_encoder(text_encoder_config_from(source, heads=2))
    bind(encoder, source, CPU32, part="text encoder")
    place_positions(encoder, CPU32.device)
    expected = encode_prompt(bound(weights), prompt, clip_skip=1, emphasis=ORIGINAL)
    assert torch.equal(encode_prompt(encoder, prompt, clip_skip=1, emphasis=ORIGINAL), expected)


def test_a_checkpoint_without_text_encoder_names_the_missing_key() -> None:
    with pytest.raises(KeysDoNotMatch, match="token_embedding"):
        text_encoder_source(InMemory({"something.weight": torch.zeros(1)}))


def test_published_widths_have_a_head_for_every_64_channels() -> None:
    with torch.device("meta"):
        model = CLIPTextModel(CLIPTextConfig())
    weights = {name: torch.empty(value.shape, device="meta") for name, value in model.state_dict().items()}
    config = text_encoder_config_from(InMemory(weights))
    assert (config.width, config.heads, config.layers, config.mlp_width) == (512, 8, 12, 2048)
