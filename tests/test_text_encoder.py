"""CLIP's text encoders give transformers' states and pooled vectors, and families read what diffusers reads."""

import pytest
import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from backend.errors import KeysDoNotMatch
from backend.memory.layouts import Target
from backend.nn.clip_text import ClipText, ClipTextConfig
from backend.text.chunks import CompiledPrompt, compile_chunks
from backend.text.clip_encoder import (
    FLUX_CLIP_L,
    SD1_CLIP_L,
    SD3_CLIP_L,
    SDXL_CLIP_G,
    ClipEncoding,
    ClipReading,
    encode_clip,
    sd2_clip_h,
    with_all_tokens,
)
from backend.text.clip_tokenizer import BEGIN_TEXT, END_TEXT, ClipTokenizer
from backend.text.emphasis import BUILTIN, parse_emphasis
from backend.text.encoder_config import clip_config_from
from backend.text.encoder_layouts import CLIP_G, CLIP_L, TOKENS, clip_in
from backend.weights.source import InMemory, WeightSource
from tests.held_networks import held_network

ORIGINAL = BUILTIN[0]
CPU = torch.device("cpu")
PROMPT = "a (cat:1.3) in the rain, BREAK masterpiece"
CONFIG = CLIPTextConfig(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=3,
    num_attention_heads=2,
    projection_dim=48,
    eos_token_id=49407,
)


@pytest.fixture(scope="module")
def reference() -> CLIPTextModel:
    torch.manual_seed(0)
    return CLIPTextModel(CONFIG).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def projected() -> CLIPTextModelWithProjection:
    torch.manual_seed(1)
    config = CLIPTextConfig(**{**CONFIG.to_dict(), "hidden_act": "gelu"})
    return CLIPTextModelWithProjection(config).eval().requires_grad_(False)


def bound(weights: dict[str, Tensor], kind: str = CLIP_L, *, widens_on_use: bool = False) -> ClipText:
    return bound_to(found_in(weights), kind, widens_on_use=widens_on_use)


def found_in(weights: dict[str, Tensor]) -> WeightSource:
    source = clip_in(InMemory(weights), "")
    assert source is not None
    return source


def bound_to(source: WeightSource, kind: str, *, widens_on_use: bool = False) -> ClipText:
    encoder = held_network(
        lambda: ClipText(clip_config_from(source, kind, heads=2)),
        source,
        Target(CPU, torch.float32, widens_on_use=widens_on_use),
        label="text encoder",
    )
    return encoder.eval().requires_grad_(False)


def compiled(text: str) -> CompiledPrompt:
    return compile_chunks(parse_emphasis(text), ClipTokenizer.load())


def encoded(
    encoder: ClipText, prompt: CompiledPrompt | str, reading: ClipReading = SD1_CLIP_L, *, clip_skip: int = 1
) -> ClipEncoding:
    prompt = compiled(prompt) if isinstance(prompt, str) else prompt
    return encode_clip(
        encoder, prompt, reading, clip_skip=clip_skip, emphasis=ORIGINAL, device=CPU, dtype=torch.float32
    )


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def padded(text: str, padding: int) -> Tensor:
    ids = [BEGIN_TEXT, *ClipTokenizer.load().encode(text), END_TEXT]
    return torch.tensor([ids + [padding] * (77 - len(ids))])


def test_states_are_bit_for_bit_those_of_the_reference(reference: CLIPTextModel) -> None:
    tokens = padded("a cat in the rain", END_TEXT)
    expected = reference(input_ids=tokens).last_hidden_state
    assert torch.equal(encoded(bound(dict(reference.state_dict())), "a cat in the rain").states, expected)


@pytest.mark.parametrize("clip_skip", [1, 2, 3])
def test_clip_skip_takes_an_earlier_layer_and_the_final_norm(reference: CLIPTextModel, clip_skip: int) -> None:
    output = reference(input_ids=padded("a cat", END_TEXT), output_hidden_states=True)
    expected = reference.final_layer_norm(output.hidden_states[-clip_skip])
    found = encoded(bound(dict(reference.state_dict())), "a cat", clip_skip=clip_skip)
    assert relative_error(found.states, expected) < 1e-5
    assert found.pooled is None


def test_a_clip_skip_beyond_the_network_takes_its_first_layer(reference: CLIPTextModel) -> None:
    encoder = bound(dict(reference.state_dict()))
    assert torch.equal(encoded(encoder, "a cat", clip_skip=12).states, encoded(encoder, "a cat", clip_skip=3).states)


def test_penultimate_states_come_without_norm_and_the_pooled_vector_with_it(
    projected: CLIPTextModelWithProjection,
) -> None:
    """As SDXL reads CLIP-G, which pads with the token 0 and has the exact GELU."""
    output = projected(input_ids=padded("a cat", 0), output_hidden_states=True)
    encoder = bound(dict(projected.state_dict()), CLIP_G)
    for clip_skip, layer in ((1, -2), (2, -2), (3, -3)):
        found = encoded(encoder, "a cat", SDXL_CLIP_G, clip_skip=clip_skip)
        assert relative_error(found.states, output.hidden_states[layer]) < 1e-5
        assert found.pooled is not None
        assert relative_error(found.pooled, output.text_embeds) < 1e-5


def test_pooled_vectors_are_projected_where_the_family_and_the_weights_say_so(
    projected: CLIPTextModelWithProjection,
) -> None:
    config = CLIPTextConfig(**{**CONFIG.to_dict(), "hidden_act": "quick_gelu"})
    theirs = CLIPTextModelWithProjection(config).eval().requires_grad_(False)
    theirs.load_state_dict(projected.state_dict())
    output = theirs(input_ids=padded("a cat", END_TEXT))
    plain = theirs.text_model(input_ids=padded("a cat", END_TEXT)).pooler_output
    weights = dict(projected.state_dict())
    without = {name: value for name, value in weights.items() if name != "text_projection.weight"}
    for found, expected in (
        (encoded(bound(weights), "a cat", SD3_CLIP_L), output.text_embeds),
        (encoded(bound(without), "a cat", SD3_CLIP_L), plain),
        (encoded(bound(weights), "a cat", FLUX_CLIP_L), plain),
        (encoded(bound(without), "a cat", FLUX_CLIP_L), plain),
    ):
        assert found.pooled is not None
        assert relative_error(found.pooled, expected) < 1e-5


def test_the_pooled_vector_is_that_of_the_first_chunk_and_knows_no_emphasis(
    projected: CLIPTextModelWithProjection,
) -> None:
    encoder = bound(dict(projected.state_dict()), CLIP_G)
    long, short = encoded(encoder, PROMPT, SDXL_CLIP_G), encoded(encoder, "a cat in the rain,", SDXL_CLIP_G)
    assert long.pooled is not None
    assert short.pooled is not None
    assert torch.equal(long.pooled, short.pooled)
    assert not torch.equal(long.states[:, :77], short.states)


def test_an_end_mark_in_the_prompt_is_where_it_ends(projected: CLIPTextModelWithProjection) -> None:
    encoder = bound(dict(projected.state_dict()), CLIP_G)
    marked, plain = (encoded(encoder, text, SDXL_CLIP_G) for text in ("a cat <|endoftext|> a dog", "a cat"))
    assert torch.equal(marked.states, plain.states)
    quick = bound(dict(projected.state_dict()))  # padding with the mark itself leaves what follows alone, as ever
    assert not torch.equal(encoded(quick, "a cat <|endoftext|> a dog").states, encoded(quick, "a cat").states)


def test_sd2_reads_the_penultimate_layer_with_the_final_norm() -> None:
    """Also of diffusers' files, which hold 23 of the 24 layers."""
    full = ClipTextConfig(layers=24)
    short = ClipTextConfig(layers=23)
    assert [sd2_clip_h(full).skip(clip_skip) for clip_skip in (1, 2, 3)] == [2, 2, 3]
    assert [sd2_clip_h(short).skip(clip_skip) for clip_skip in (1, 2, 3)] == [1, 1, 2]
    assert sd2_clip_h(full).final_norm
    assert sd2_clip_h(full).padding == 0


def test_chunks_stand_one_after_the_other_each_weighted_alone(reference: CLIPTextModel) -> None:
    encoder = bound(dict(reference.state_dict()))
    context = encoded(encoder, PROMPT).states
    assert context.shape == (1, 154, 64)
    assert torch.equal(context[:, 77:], encoded(encoder, "masterpiece").states)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_a_half_precision_file_is_widened_on_use(projected: CLIPTextModelWithProjection, stored: torch.dtype) -> None:
    narrow = {name: value.to(stored) for name, value in projected.state_dict().items()}
    encoder = bound(narrow, CLIP_G, widens_on_use=True)
    assert {parameter.dtype for parameter in encoder.parameters()} == {stored}
    found = encoded(encoder, PROMPT, SDXL_CLIP_G)
    expected = encoded(bound({name: value.float() for name, value in narrow.items()}, CLIP_G), PROMPT, SDXL_CLIP_G)
    assert torch.equal(found.states, expected.states)
    assert found.pooled is not None
    assert expected.pooled is not None
    assert torch.equal(found.pooled, expected.pooled)


def test_a_file_with_some_tokens_only_is_expanded(reference: CLIPTextModel) -> None:
    weights = dict(reference.state_dict())
    prompt = compiled("a cat")
    ids = torch.tensor(sorted(set(prompt.chunks[0].tokens)))
    rows = {**weights, TOKENS: weights[TOKENS][ids]}
    encoder = bound_to(with_all_tokens(found_in(rows), ids), CLIP_L)
    assert torch.equal(encoded(encoder, prompt).states, encoded(bound(weights), prompt).states)


def test_published_widths_have_a_head_for_every_64_channels() -> None:
    with torch.device("meta"):
        model = ClipText(ClipTextConfig(width=1280, layers=2, heads=20, mlp_width=5120, projection_width=1280))
    source = InMemory(dict(model.state_dict()))
    config = clip_config_from(source, CLIP_G)
    assert (config.width, config.heads, config.layers, config.mlp_width) == (1280, 20, 2, 5120)
    assert (config.projection_width, config.quick_gelu) == (1280, False)
    assert clip_config_from(source, CLIP_L).quick_gelu


@pytest.mark.parametrize(
    ("key", "shape"),
    [(TOKENS, (49407, 64)), (TOKENS, ()), ("embeddings.position_embedding.weight", (76, 64)), (TOKENS, (49408, 63))],
)
def test_shapes_that_no_prompt_fits_are_refused(reference: CLIPTextModel, key: str, shape: tuple[int, ...]) -> None:
    weights = {**reference.state_dict(), key: torch.zeros(shape)}
    with pytest.raises(KeysDoNotMatch, match="mis-shaped"):
        clip_config_from(found_in(weights), CLIP_L, heads=2)


def test_a_missing_table_is_named(reference: CLIPTextModel) -> None:
    weights = dict(reference.state_dict())
    del weights["embeddings.position_embedding.weight"]
    with pytest.raises(KeysDoNotMatch, match=r"position_embedding\.weight"):
        clip_config_from(found_in(weights), CLIP_L)
