"""The T5 encoder gives transformers' states; prompts become the tokens, weights and padding that networks expect."""

import base64
import gzip
import json
import random
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel
from transformers import T5Tokenizer as TheirTokenizer

from backend.errors import KeysDoNotMatch
from backend.memory.layouts import Target
from backend.nn.t5 import T5Encoder
from backend.text.emphasis import BUILTIN, Segment, parse_emphasis
from backend.text.encoder_config import t5_config_from
from backend.text.encoder_layouts import t5_in
from backend.text.t5_encoder import T5Prompt, compile_t5, encode_t5
from backend.text.t5_tokenizer import END, PADDING, T5Tokenizer
from backend.weights.source import InMemory, WeightSource
from tests.held_networks import held_network
from tests.test_clip_tokenizer import TEXTS

CPU = torch.device("cpu")
ORIGINAL, NO_NORM = BUILTIN[:2]
WORDS = (
    "a red cat, naïve café — 猫 😀 ½ (nested [brackets]) don't 8k 1girl f/1.8 \t\n  ﬁne e\u0301 <extra_id_3> x".split(
        " "
    )
)


@pytest.fixture(scope="module")
def reference() -> T5EncoderModel:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=32128, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=6, feed_forward_proj="gated-gelu"
    )
    model = T5EncoderModel(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(1.5).add_(0.1 * torch.randn_like(parameter))  # norms that are not 1, states of many sizes
    return model


@pytest.fixture(scope="module")
def encoder(reference: T5EncoderModel) -> T5Encoder:
    return bound(InMemory(reference.state_dict()))


def published_tokenizer() -> bytes:
    return gzip.decompress(files("backend.text").joinpath("assets/t5_tokenizer.json.gz").read_bytes())


def their_t5_tokenizer() -> TheirTokenizer:
    """transformers' own pipeline around the published pieces; it drops white space at the end as SentencePiece does."""
    published = json.loads(published_tokenizer())
    pieces = [(piece, score) for piece, score in published["model"]["vocab"]]
    folding = base64.b64decode(published["normalizer"]["normalizers"][0]["precompiled_charsmap"])
    return TheirTokenizer(vocab=pieces, _spm_precompiled_charsmap=folding)


def bound(source: WeightSource, *, dtype: torch.dtype = torch.float32, widens_on_use: bool = False) -> T5Encoder:
    found = t5_in(source, "")
    assert found is not None
    encoder = held_network(
        lambda: T5Encoder(t5_config_from(found)), found, Target(CPU, dtype, widens_on_use=widens_on_use), label="T5"
    )
    return encoder.eval().requires_grad_(False)


def ids_of(text: str) -> list[int]:
    return [token.id for token in T5Tokenizer.load().encode(text)]


def compiled(text: str, min_length: int = 0, max_length: int = 512) -> T5Prompt:
    return compile_t5(parse_emphasis(text), T5Tokenizer.load(), min_length=min_length, max_length=max_length)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("length", [1, 7, 200, 512])  # beyond 128 tokens, distances share the furthest bucket
def test_states_are_those_of_the_reference(reference: T5EncoderModel, encoder: T5Encoder, length: int) -> None:
    tokens = torch.randint(32100, (2, length), generator=torch.Generator().manual_seed(length))
    with torch.no_grad():
        assert relative_error(encoder(tokens), reference(input_ids=tokens).last_hidden_state) < 1e-5


def test_masked_tokens_are_not_attended_to(reference: T5EncoderModel, encoder: T5Encoder) -> None:
    tokens = torch.randint(32100, (2, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(20) < torch.tensor([[5], [13]])
    with torch.no_grad():
        found = encoder(tokens, mask)
        expected = reference(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
    assert relative_error(found[mask], expected[mask]) < 1e-5
    assert relative_error(found[:1, :5], encoder(tokens[:1, :5])) < 1e-5


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_a_half_precision_file_is_widened_on_use(reference: T5EncoderModel, stored: torch.dtype) -> None:
    weights = {name: value.to(stored) for name, value in reference.state_dict().items()}
    encoder = bound(InMemory(weights), widens_on_use=True)
    assert {parameter.dtype for parameter in encoder.parameters()} == {stored}
    wide = bound(InMemory({name: value.float() for name, value in weights.items()}))
    tokens = torch.tensor([ids_of("a cat in the rain")])
    with torch.no_grad():
        assert torch.equal(encoder(tokens), wide(tokens))


@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 1e-1), (torch.float16, 1e-2)])
def test_layers_can_compute_in_half_precision(encoder: T5Encoder, reference: T5EncoderModel, dtype, error) -> None:
    narrow = bound(InMemory(reference.state_dict()), dtype=dtype)
    tokens = torch.tensor([ids_of("a cat in the rain")])
    with torch.no_grad():
        states = narrow(tokens, dtype=dtype)
        assert states.dtype == torch.float32
        assert relative_error(states, encoder(tokens)) < error


def test_sums_that_outgrow_float16_stay_finite(encoder: T5Encoder, reference: T5EncoderModel) -> None:
    """Published T5-XXL has such layers."""
    weights = {name: value.clone() for name, value in reference.state_dict().items()}
    for name in (
        "encoder.block.1.layer.1.DenseReluDense.wi_0.weight",
        "encoder.block.1.layer.1.DenseReluDense.wo.weight",
    ):
        weights[name] *= 2000
    tokens = torch.tensor([ids_of("a cat in the rain")])
    with torch.no_grad():
        expected = bound(InMemory(weights))(tokens)
        found = bound(InMemory(weights), dtype=torch.float16)(tokens, dtype=torch.float16)
    assert relative_error(found, expected) < 2e-2


def test_ids_are_those_of_the_reference_tokenizers(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(published_tokenizer())
    from_file = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    from_pieces = their_t5_tokenizer()
    rng = random.Random(7)
    varied = [" ".join(rng.choices(WORDS, k=rng.randint(0, 12))) for _ in range(300)]
    for text in (*TEXTS, *varied):
        assert ids_of(text) == from_file(text.rstrip(), add_special_tokens=False).input_ids, repr(text)
        if text in varied and "<extra_id" not in text:  # the two disagree about marks and control characters
            assert ids_of(text) == from_pieces(text, add_special_tokens=False).input_ids, repr(text)


def test_known_tokens() -> None:
    assert ids_of("a cat in the rain") == ids_of("  a cat  in\nthe rain \n") == [3, 9, 1712, 16, 8, 3412]
    assert ids_of("") == []


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.text(max_size=40))
def test_positions_lie_in_the_text_and_never_go_back(text: str) -> None:
    positions = [token.position for token in T5Tokenizer.load().encode(text)]
    assert all(0 <= position < len(text) for position in positions)
    assert all(before <= after for before, after in pairwise(positions))


def test_emphasis_never_changes_tokens() -> None:
    plain, weighted = compiled("a cat in the rain"), compiled("a (cat:1.3) in [the] rain")
    assert weighted.tokens == plain.tokens == (3, 9, 1712, 16, 8, 3412, END)
    assert weighted.weights == (1.0, 1.0, 1.3, 1.0, pytest.approx(1 / 1.1), 1.0, 1.0)


def test_a_word_has_the_weight_with_which_it_begins() -> None:
    prompt = compiled("(cat:1.3)s and (dog:0.5)")
    assert prompt.tokens == compiled("cats and dog").tokens
    assert (prompt.weights[0], prompt.weights[-2]) == (1.3, 0.5)


def test_break_is_a_space() -> None:
    assert compiled("a BREAK b").tokens == compiled("a b").tokens
    assert compiled("").tokens == compiled("BREAK").tokens == (END,)


def test_sequences_are_padded_up_to_the_least_length_and_cut_above_the_greatest() -> None:
    short = compiled("a cat", min_length=8, max_length=8)
    assert short.tokens == (3, 9, 1712, END, *[PADDING] * 4)
    assert (short.num_tokens, short.num_lost, len(short.weights)) == (4, 0, 8)
    long = compiled("cat " * 20, min_length=8, max_length=8)
    assert long.tokens == (*[1712] * 7, END)
    assert (long.num_tokens, long.num_lost, len(long.weights)) == (8, 13, 8)
    between = compiled("cat " * 20, min_length=8, max_length=512)
    assert (len(between.tokens), between.num_lost) == (21, 0)


def test_segments_may_be_absent() -> None:
    assert compile_t5((), T5Tokenizer.load(), min_length=2, max_length=4).tokens == (END, PADDING)
    assert compile_t5((Segment("", 2.0),), T5Tokenizer.load(), min_length=2, max_length=4).weights == (1.0, 1.0)


def test_encoding_weighs_states_and_masks_padding(encoder: T5Encoder) -> None:
    prompt = compiled("a (cat:1.3)", min_length=6, max_length=6)
    plain = compiled("a cat", min_length=6, max_length=6)
    args = {"emphasis": NO_NORM, "ignores_padding": True, "device": CPU, "dtype": torch.float32}
    found, expected = encode_t5(encoder, prompt, **args), encode_t5(encoder, plain, **args)
    weights = torch.tensor([1, 1, 1.3, 1, 1, 1])
    assert torch.equal(found.states, expected.states * weights[None, :, None])
    assert found.mask.tolist() == [[True, True, True, True, False, False]]
    original = encode_t5(encoder, prompt, **{**args, "emphasis": ORIGINAL})
    assert float(original.states.mean()) == pytest.approx(float(expected.states.mean()), rel=1e-3)


def test_whether_padding_is_attended_to_is_the_familys_choice(encoder: T5Encoder) -> None:
    short, padded = compiled("a cat"), compiled("a cat", min_length=10)
    args = {"emphasis": ORIGINAL, "device": CPU, "dtype": torch.float32}
    alone = encode_t5(encoder, short, ignores_padding=True, **args).states
    ignoring = encode_t5(encoder, padded, ignores_padding=True, **args).states[:, : alone.shape[1]]
    attending = encode_t5(encoder, padded, ignores_padding=False, **args).states[:, : alone.shape[1]]
    assert relative_error(ignoring, alone) < 1e-5
    assert relative_error(attending, alone) > 1e-3


def test_weights_that_are_no_t5_of_version_1_1_name_what_is_missing(reference: T5EncoderModel) -> None:
    """Version 1.0 has no gated layers."""
    weights = {
        name.replace("wi_0", "wi"): value for name, value in reference.state_dict().items() if "wi_1" not in name
    }
    with pytest.raises(KeysDoNotMatch, match="wi_0"):
        bound(InMemory(weights))
