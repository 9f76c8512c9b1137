"""Textual inversions: files of all trainers, mentions in prompts, and what text encoders read in their place."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from diffusers.loaders import TextualInversionLoaderMixin
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from backend.adapter_row import NameHash
from backend.engine.engine import Engine
from backend.engine.job import JobState
from backend.engine.settings import Settings
from backend.errors import BadCheckpoint, FileError, PickleRefused, UnknownName, UnsupportedCheckpoint
from backend.http.embeddings import embeddings_router, sdapi_embeddings_router
from backend.images.png_text import read_png_text
from backend.memory.layouts import Target
from backend.nn.clip_text import ClipText
from backend.nn.t5 import T5Config, T5Encoder
from backend.pipeline.infotext import read_infotext
from backend.request import GenerationRequest
from backend.text.chunks import CompiledPrompt, compile_chunks
from backend.text.clip_encoder import SD1_CLIP_L, encode_clip
from backend.text.clip_tokenizer import BEGIN_TEXT, END_TEXT, ClipTokenizer
from backend.text.embeddings import embedding_of, read_embedding
from backend.text.emphasis import BUILTIN, parse_emphasis
from backend.text.encoder_config import clip_config_from
from backend.text.encoder_layouts import CLIP_G, CLIP_H, CLIP_L, T5, clip_in
from backend.text.mentions import Names, mentions_in
from backend.text.t5_encoder import compile_t5, encode_t5
from backend.text.t5_tokenizer import T5Tokenizer
from backend.weights.pickle_conversion import convert_pickle
from backend.weights.safetensors_file import open_safetensors, write_safetensors
from backend.weights.source import InMemory
from tests.held_networks import held_network
from tests.tiny_adapters import lora_tensors
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.tiny_families import write_tiny_family

CPU = torch.device("cpu")
ORIGINAL = BUILTIN[0]
WIDTH = 16  # of the tiny checkpoint's text encoder


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def compiled(text: str, **num_vectors: int) -> CompiledPrompt:
    return compile_chunks(parse_emphasis(text), ClipTokenizer.load(), num_vectors, Names(tuple(num_vectors)))


# Files


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ({"string_to_param.*": (2, 768), "string_to_token.*": ()}, {"": (2, 768)}),
        ({"<cat-toy>": (768,)}, {"": (1, 768)}),
        ({"<cat-toy>": (4, 1024)}, {"": (4, 1024)}),
        ({"emb_params": (3, 768)}, {"": (3, 768)}),
        ({"clip_l": (2, 768), "clip_g": (2, 1280)}, {CLIP_L: (2, 768), CLIP_G: (2, 1280)}),
        ({"clip_l": (2, 768), "clip_g": (2, 1280), "t5xxl": (5, 4096)},
         {CLIP_L: (2, 768), CLIP_G: (2, 1280), T5: (5, 4096)}),
    ],
)  # fmt: skip
def test_files_of_all_trainers_are_known_by_their_names(
    tensors: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    source = InMemory({key: torch.ones(shape).half() for key, shape in tensors.items()})
    vectors = read_embedding(source, "name").vectors
    assert {kind: tuple(found.shape) for kind, found in vectors.items()} == expected
    assert {found.dtype for found in vectors.values()} == {torch.float32}


def test_what_a_lora_file_carries_is_read_behind_its_prefix() -> None:
    source = InMemory({
        "bundle_emb.star.clip_l": numbers(2, 768),
        "bundle_emb.star.clip_g": numbers(2, 1280),
        "bundle_emb.moon.string_to_param.*": numbers(1, 768),
        "lora_unet_x.lora_up.weight": numbers(4, 4),
    })  # fmt: skip
    assert read_embedding(source, "star", prefix="bundle_emb.star.").made_for == "SDXL"
    assert read_embedding(source, "moon", prefix="bundle_emb.moon.").made_for == "SD 1"


@pytest.mark.parametrize(
    ("tensors", "error", "says"),
    [
        ({"emb_params": torch.full((2, 768), float("nan"))}, BadCheckpoint, "not numbers"),
        ({"emb_params": torch.zeros(0, 768)}, BadCheckpoint, "[N, width]"),
        ({"emb_params": torch.zeros(76, 768)}, BadCheckpoint, "at most 75"),
        ({"emb_params": torch.zeros(1, 2, 768)}, BadCheckpoint, "[N, width]"),
        ({"emb_params": torch.zeros(1, 20_000)}, BadCheckpoint, "[N, width]"),
        ({"emb_params": torch.zeros(1, 768, dtype=torch.int64)}, BadCheckpoint, "in place of vectors"),
        ({"clip_l": torch.zeros(1, 768), "clip_g": torch.zeros(2, 1280)}, BadCheckpoint, "as many"),
        ({"a": torch.zeros(768), "b": torch.zeros(768)}, UnsupportedCheckpoint, "no textual inversion"),
    ],
)
def test_bad_files_are_refused_with_what_is_wrong(
    tensors: dict[str, Tensor], error: type[FileError], says: str
) -> None:
    with pytest.raises(error, match=r".") as refused:
        read_embedding(InMemory(tensors, origin=Path("bad.safetensors")), "bad")
    assert says in str(refused.value)


@pytest.mark.parametrize("container", [dict, torch.nn.ParameterDict], ids=["A1111", "the first trainers"])
def test_a_pickled_one_goes_through_the_safe_conversion(tmp_path: Path, container: Any) -> None:
    vectors = numbers(2, 768)
    content = {
        "string_to_token": {"*": 265},
        "string_to_param": container({"*": torch.nn.Parameter(vectors)}),
        "name": "cat",
        "step": 500,
    }
    torch.save(content, tmp_path / "cat.pt")
    source = open_safetensors(convert_pickle(tmp_path / "cat.pt"))
    assert torch.equal(read_embedding(source, "cat").vectors[""], vectors)
    assert json.loads(source.metadata["emulsion.values"]) == {"name": "cat", "step": 500}


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit",)


# What reads what


@pytest.mark.parametrize(
    ("vectors", "widths", "is_read"),
    [
        ({"": (1, 768)}, {CLIP_L: 768}, True),
        ({"": (1, 1024)}, {CLIP_L: 768}, False),
        ({"": (1, 1024)}, {CLIP_H: 1024}, True),
        ({"": (1, 768)}, {CLIP_L: 768, CLIP_G: 1280}, False),
        ({CLIP_L: (1, 768), CLIP_G: (1, 1280)}, {CLIP_L: 768, CLIP_G: 1280}, True),
        ({CLIP_L: (1, 768), CLIP_G: (1, 1280)}, {CLIP_L: 768}, False),
        ({CLIP_L: (1, 768), CLIP_G: (1, 1280)}, {CLIP_L: 768, CLIP_G: 1280, T5: 4096}, True),
        ({"": (1, 768)}, {CLIP_L: 768, T5: 4096}, True),
        ({T5: (1, 4096)}, {T5: 4096}, True),
    ],
)  # fmt: skip
def test_a_model_reads_what_was_made_for_all_of_its_clip_encoders(
    vectors: dict[str, tuple[int, int]], widths: dict[str, int], is_read: bool
) -> None:
    inversion = embedding_of("x", {kind: torch.zeros(shape) for kind, shape in vectors.items()})
    assert inversion.is_read_by(widths, tuple(widths)) is is_read


def test_equal_contents_are_equal_whatever_file_they_are_from() -> None:
    a = embedding_of("x", {"": numbers(2, 8)}, file_hash="a")
    b = embedding_of("x", {"": numbers(2, 8)}, file_hash="b")
    other = embedding_of("x", {"": numbers(2, 8, seed=1)})
    assert a == b
    assert hash(a) == hash(b)
    assert a != other


# Mentions and chunks


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("photo of Cat-Toy, dog", ["cat-toy"], ["cat-toy"]),
        ("BAD HANDS, ugly", ["bad hands", "bad"], ["bad hands"]),
        ("bad, bad hands", ["bad hands", "bad"], ["bad", "bad hands"]),
        ("badge", ["bad"], []),
        ("embedding:bad_hands, x", ["bad_hands", "bad"], ["bad_hands"]),
        ("embedding:bad_hands.pt x", ["bad_hands"], ["bad_hands"]),
        ("embedding:sdxl/BAD x", ["sdxl/bad"], ["sdxl/bad"]),
        ("(embedding:bad:1.2)", ["bad"], ["bad"]),
        ("(bad:1.2) [bad]", ["bad"], ["bad"]),
        ("embedding:nothing", ["bad"], [""]),
        ("embedding: bad", ["bad"], ["bad"]),
        ("xembedding:bad", ["bad"], ["bad"]),
    ],
)
def test_mentions_are_found_as_a1111_and_comfyui_find_them(text: str, names: list[str], expected: list[str]) -> None:
    found = mentions_in(parse_emphasis(text), Names(tuple(names)))
    assert list(dict.fromkeys(mention.name for mention in found)) == expected


def test_vectors_stand_where_the_name_does_and_count_as_tokens() -> None:
    chunk = compiled("a neg cat", neg=3).chunks[0]
    assert chunk.tokens[:7] == (BEGIN_TEXT, 320, 0, 0, 0, 2368, END_TEXT)
    assert chunk.mentions == ((2, "neg"),)
    assert compiled("a neg cat", neg=3).num_tokens == 5


def test_emphasis_acts_on_every_vector() -> None:
    assert compiled("a (neg:1.3) cat", neg=3).chunks[0].weights[:7] == (1, 1, 1.3, 1.3, 1.3, 1, 1)


@pytest.mark.parametrize(
    ("text", "mentions", "count"),
    [
        ("cat " * 72 + "neg", [(73, "neg")], 75),
        ("cat " * 73 + "neg", [None, (1, "neg")], 78),  # no room for three: all of them in the next chunk
        ("cat " * 75 + "neg cat", [None, (1, "neg")], 79),
        ("cat BREAK neg", [None, (1, "neg")], 78),
        ("cat " * 59 + ", dog dog neg " + "dog " * 11, [None, (3, "neg")], 91),  # behind a comma that ends the chunk
        ("neg " + "cat " * 58 + ", " + "dog " * 14, [(1, "neg"), None], 89),
    ],
)  # fmt: skip
def test_vectors_stay_together_at_the_edge_of_a_chunk(
    text: str, mentions: list[tuple[int, str] | None], count: int
) -> None:
    prompt = compiled(text, neg=3)
    assert [chunk.mentions for chunk in prompt.chunks] == [(found,) if found else () for found in mentions]
    assert prompt.num_tokens == count
    for chunk in prompt.chunks:
        for position, _ in chunk.mentions:
            assert chunk.tokens[position : position + 3] == (0, 0, 0)


# Encoders


@pytest.fixture(scope="module")
def reference() -> CLIPTextModel:
    torch.manual_seed(0)
    config = CLIPTextConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, eos_token_id=END_TEXT
    )
    return CLIPTextModel(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def encoder(reference: CLIPTextModel) -> ClipText:
    source = clip_in(InMemory(dict(reference.state_dict())), "")
    assert source is not None
    network = held_network(
        lambda: ClipText(clip_config_from(source, CLIP_L, heads=2)), source, Target(CPU, torch.float32)
    )
    assert isinstance(network, ClipText)
    return network


def states(encoder: ClipText, prompt: CompiledPrompt, vectors: dict[str, Tensor], clip_skip: int = 1) -> Tensor:
    return encode_clip(
        encoder, prompt, SD1_CLIP_L, clip_skip=clip_skip, emphasis=ORIGINAL, device=CPU, dtype=torch.float32,
        vectors=vectors,
    ).states  # fmt: skip


class Pipeline(TextualInversionLoaderMixin):
    """As much of diffusers' as its loader needs."""

    components: ClassVar[dict[str, Any]] = {}
    hf_device_map = None
    device = CPU

    def __init__(self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> None:
        self.tokenizer, self.text_encoder = tokenizer, text_encoder


@pytest.mark.parametrize("clip_skip", [1, 2])
@pytest.mark.parametrize("count", [1, 3])
def test_states_are_those_that_diffusers_has_after_loading_the_file(
    encoder: ClipText, reference: CLIPTextModel, count: int, clip_skip: int
) -> None:
    vectors, ours = numbers(count, 32), ClipTokenizer.load()
    tokenizer = CLIPTokenizer(vocab=dict(ours.vocabulary), merges=sorted(ours.ranks, key=lambda pair: ours.ranks[pair]))
    model = copy.deepcopy(reference)
    pipeline = Pipeline(tokenizer, model)
    pipeline.load_textual_inversion({"<neg>": vectors}, token="<neg>")
    prompt = pipeline.maybe_convert_prompt("a <neg> cat", tokenizer)
    ids = tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt").input_ids
    expected = model(ids, output_hidden_states=True).hidden_states[-clip_skip]
    expected = next(norm for name, norm in model.named_modules() if name.endswith("final_layer_norm"))(expected)
    found = states(encoder, compiled("a <neg> cat", **{"<neg>": count}), {"<neg>": vectors}, clip_skip)
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_vector_that_is_a_tokens_own_changes_nothing(encoder: ClipText) -> None:
    own = encoder.embeddings.token_embedding(torch.tensor([2368, 1929]), torch.float32)
    plain = states(encoder, compiled("a cat dog, rain"), {})
    assert torch.equal(states(encoder, compiled("a neg, rain", neg=2), {"neg": own}), plain)


def test_t5_reads_vectors_in_place_of_the_name() -> None:
    torch.manual_seed(0)
    config = T5Config(width=16, layers=1, heads=2, head_width=8, mlp_width=32)
    network = T5Encoder(config).eval().requires_grad_(False)
    tokenizer = T5Tokenizer.load()
    own = network.shared(torch.tensor([token.id for token in tokenizer.encode("green")]), torch.float32)
    options: dict[str, Any] = {"min_length": 12, "max_length": 12}
    plain = compile_t5(parse_emphasis("a (green:1.2) cat"), tokenizer, **options)
    replaced = compile_t5(
        parse_emphasis("a (Star:1.2) cat"), tokenizer, **options, num_vectors={"star": len(own)}, names=Names(("star",))
    )
    run: dict[str, Any] = {"emphasis": ORIGINAL, "ignores_padding": False, "device": CPU, "dtype": torch.float32}
    found = encode_t5(network, replaced, **run, vectors={"star": own}).states
    assert replaced.weights == plain.weights
    assert torch.equal(found, encode_t5(network, plain, **run).states)


def test_vectors_that_t5_has_no_room_for_are_lost_as_a_whole() -> None:
    prompt = compile_t5(
        parse_emphasis("a cat star"), T5Tokenizer.load(), min_length=6, max_length=6,
        num_vectors={"star": 5}, names=Names(("star",)),
    )  # fmt: skip
    assert prompt.mentions == ()
    assert prompt.num_lost == 5
    assert len(prompt.tokens) == 6


# Jobs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_tiny_checkpoint(tmp_path / "models" / "checkpoints" / "tiny.safetensors")
    (tmp_path / "models" / "embeddings" / "more").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def engine(root: Path) -> Iterator[Engine]:
    engine = Engine.open(Settings.for_root(root, force_cpu=True, memory_budget=2**30), persistent=False)
    yield engine
    engine.close()


def write_embedding(root: Path, name: str, *, width: int = WIDTH, count: int = 2, seed: int = 3) -> Path:
    path = root / "models" / "embeddings" / f"{name}.safetensors"
    write_safetensors(path, {"emb_params": 3 * numbers(count, width, seed=seed)}, {})
    return path


def picture(engine: Engine, prompt: str, negative: str = "", **fields: Any) -> tuple[bytes, GenerationRequest, str]:
    """Pixels, the request that makes them again, and the infotext."""
    wanted = GenerationRequest(prompt=prompt, negative_prompt=negative, steps=2, seed=5, **fields)
    view = engine.wait(engine.submit(wanted), 60)
    assert (view.state, view.error) == (JobState.DONE, "")
    texts = read_png_text(view.images[0].path.read_bytes())
    exact = GenerationRequest.from_mapping(json.loads(texts["emulsion"])["request"])
    return Image.open(view.images[0].path).tobytes(), exact, texts["parameters"]


def notices(engine: Engine, prompt: str, **fields: Any) -> tuple[str, ...]:
    return engine.plan(GenerationRequest(prompt=prompt, seed=1, **fields)).notices


def test_a_mention_changes_the_picture_in_both_prompts(engine: Engine, root: Path) -> None:
    plain, negative_plain = picture(engine, "a star cat")[0], picture(engine, "a cat", "a star")[0]
    write_embedding(root, "star")
    assert picture(engine, "a star cat")[0] != plain
    assert picture(engine, "a embedding:star cat")[0] == picture(engine, "a STAR cat")[0]
    assert picture(engine, "a cat", "a star")[0] != negative_plain


def test_a_picture_says_which_file_it_was_made_with_and_is_made_again(engine: Engine, root: Path) -> None:
    path = write_embedding(root, "star")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    pixels, exact, infotext = picture(engine, "a star cat")
    assert read_infotext(infotext).parameters["TI hashes"] == f"star: {sha256[:12]}"
    assert NameHash(name="embedding:star", hash=sha256) in exact.name_hashes
    path.rename(path.with_stem("sun"))
    write_embedding(root, "star", seed=4)  # another file under the old name
    assert picture(engine, exact.prompt, name_hashes=exact.name_hashes)[0] == pixels
    assert picture(engine, exact.prompt)[0] != pixels


def test_a_file_that_changed_is_read_again(engine: Engine, root: Path) -> None:
    write_embedding(root, "star")
    first = picture(engine, "a star")[0]
    write_embedding(root, "star", count=3, seed=8)
    assert picture(engine, "a star")[0] != first


def test_one_for_other_models_is_a_word_and_told_by_both_families(engine: Engine, root: Path) -> None:
    plain = picture(engine, "a star cat")[0]
    write_embedding(root, "star", width=1024)
    assert picture(engine, "a star cat")[0] == plain
    (notice,) = notices(engine, "a star cat")
    assert "made for SD 2" in notice
    assert "Stable Diffusion 1.x" in notice
    assert notices(engine, "a embedding:star cat") == (notice,)


def test_a_shorter_name_counts_where_the_longer_one_cannot_be_used(engine: Engine, root: Path) -> None:
    write_embedding(root, "bad hands", width=768)
    write_embedding(root, "bad")
    used = engine.plan(GenerationRequest(prompt="bad hands", seed=1)).embeddings.prompt
    assert [inversion.name for inversion in used] == ["bad"]


def test_one_that_is_asked_for_and_missing_is_refused_unless_it_may_be(engine: Engine, root: Path) -> None:
    write_embedding(root, "star")
    with pytest.raises(UnknownName, match="moon") as refused:
        engine.submit(GenerationRequest(prompt="a embedding:moon, cat"))
    assert refused.value.known == ("star",)
    (notice,) = notices(engine, "a embedding:moon, cat", skips_missing_adapters=True)
    assert "made without embedding:moon" in notice


def test_a_damaged_file_is_a_word_unless_it_is_asked_for(engine: Engine, root: Path) -> None:
    path = root / "models" / "embeddings" / "star.safetensors"
    write_safetensors(path, {"emb_params": torch.full((1, WIDTH), float("inf"))}, {})
    (notice,) = notices(engine, "a star")
    assert "not numbers" in notice
    with pytest.raises(BadCheckpoint, match="not numbers"):
        engine.submit(GenerationRequest(prompt="a embedding:star"))


def test_a_pickle_is_converted_when_it_is_used_and_one_with_code_is_refused(engine: Engine, root: Path) -> None:
    folder = root / "models" / "embeddings"
    torch.save({"string_to_param": {"*": 3 * numbers(2, WIDTH, seed=3)}, "step": 7}, folder / "old.pt")
    from_pickle = picture(engine, "a old")[0]
    assert engine.embeddings.read(engine.embeddings.find("old")).step == 7
    (folder / "old.pt").unlink()
    write_embedding(root, "old")
    assert picture(engine, "a old")[0] == from_pickle
    torch.save({"<bad>": Hostile()}, folder / "evil.bin")
    with pytest.raises(PickleRefused):
        engine.submit(GenerationRequest(prompt="embedding:evil"))
    assert "evil" in notices(engine, "an evil cat")[0]


def test_a_huge_file_is_refused_before_it_is_read(engine: Engine, root: Path) -> None:
    with (root / "models" / "embeddings" / "star.pt").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(FileError, match="too large"):
        engine.submit(GenerationRequest(prompt="embedding:star"))


def test_names_in_folders_are_found_with_and_without_them(engine: Engine, root: Path) -> None:
    write_embedding(root, "more/star")
    assert picture(engine, "embedding:more/star")[0] == picture(engine, "star")[0]
    write_embedding(root, "star", seed=9)
    assert [entry.name for entry in engine.embeddings.entries()] == ["more/star", "star"]
    assert picture(engine, "embedding:more/star")[0] != picture(engine, "star")[0]


def test_the_token_counter_counts_vectors(engine: Engine, root: Path) -> None:
    assert engine.count_tokens("a star cat").tokens == 3
    write_embedding(root, "star", count=8)
    assert engine.count_tokens("a star cat").tokens == 10
    write_embedding(root, "star", count=8, width=768)
    assert engine.count_tokens("a star cat").tokens == 3


def test_one_in_a_lora_file_acts_with_that_lora(engine: Engine, root: Path) -> None:
    modules = {"lora_te_text_model_encoder_layers_0_mlp_fc1": (32, 16)}
    tensors = {**lora_tensors(modules, seed=1, alpha=2.0), "bundle_emb.star.string_to_param.*": numbers(2, WIDTH)}
    path = root / "models" / "loras" / "with.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, tensors, {})
    engine.library.refresh()
    plan = engine.plan(GenerationRequest(prompt="a star <lora:with:0.5>", seed=1))
    assert [inversion.name for inversion in plan.embeddings.prompt] == ["star"]
    assert engine.plan(GenerationRequest(prompt="a star", seed=1)).embeddings.prompt == ()


@pytest.mark.parametrize(
    ("family", "widths"),
    [("sdxl", {CLIP_L: 64, CLIP_G: 128}), ("sd3", {CLIP_L: 64, CLIP_G: 128, T5: 208}), ("flux", {"emb_params": 64})],
)
def test_every_encoder_of_a_family_reads_its_own_vectors(
    engine: Engine, root: Path, family: str, widths: dict[str, int]
) -> None:
    write_tiny_family(family, root / "models" / "checkpoints" / f"{family}.safetensors")
    engine.library.refresh()
    path = root / "models" / "embeddings" / "star.safetensors"
    tensors = {kind: numbers(2, width) for kind, width in widths.items()}
    seen = set[bytes]()
    for changed in (None, *widths):
        other = {changed: 5 * numbers(2, widths[changed], seed=9)} if changed else {}
        write_safetensors(path, {**tensors, **other}, {})
        seen.add(picture(engine, "a star", checkpoint=family, width=64, height=64)[0])
    assert len(seen) == 1 + len(widths)


def test_sdxl_reads_no_file_for_one_of_its_encoders_alone(engine: Engine, root: Path) -> None:
    write_tiny_family("sdxl", root / "models" / "checkpoints" / "sdxl.safetensors")
    engine.library.refresh()
    write_embedding(root, "star", width=64)
    (notice,) = notices(engine, "a star", checkpoint="sdxl")
    assert "the model is SDXL" in notice


# Pictures


def a1111_json(vectors: Tensor) -> str:
    return json.dumps({"string_to_param": {"*": {"TORCHTENSOR": vectors.tolist()}}, "name": "x", "step": 3})


def test_one_in_the_text_of_a_png_is_read(engine: Engine, root: Path) -> None:
    vectors = numbers(2, WIDTH)
    info = PngInfo()
    info.add_text("sd-ti-embedding", base64.b64encode(a1111_json(vectors).encode()).decode())
    Image.new("RGB", (8, 8), "white").save(root / "models" / "embeddings" / "star.png", pnginfo=info)
    Image.new("RGB", (8, 8), "white").save(root / "models" / "embeddings" / "preview.png")
    (entry,) = engine.embeddings.entries()
    stored = engine.embeddings.read(entry)
    assert (stored.step, entry.name) == (3, "star")
    assert torch.equal(stored.inversion.vectors[""], vectors)


def hidden_in_a_picture(content: bytes, height: int = 32) -> Image.Image:
    """As A1111 hides it: two strips of random high bits, and low bits with the halves of each byte, under a mask."""

    def strip(nibbles: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        per_column = height * 3
        padded = np.resize(nibbles, -(-len(nibbles) // per_column) * per_column).reshape(height, -1, 3)
        state, mask = 0, np.empty(padded.size, dtype=np.uint8)
        for index in range(padded.size):
            state = (1664525 * state + 1013904223) % 2**32
            mask[index] = state % 255 & 15
        high = np.random.default_rng(0).integers(1, 15, padded.shape, dtype=np.uint8) << 4
        return (padded ^ mask.reshape(padded.shape)) | high

    packed = np.frombuffer(zlib.compress(content), dtype=np.uint8)
    black = np.zeros((height, 1, 3), dtype=np.uint8)
    middle = np.full((height, 40, 3), 0x37, dtype=np.uint8)
    return Image.fromarray(np.concatenate([strip(packed & 15), black, middle, black, strip(packed >> 4)], axis=1))


def test_one_hidden_in_the_edges_of_a_picture_is_read(engine: Engine, root: Path) -> None:
    vectors = numbers(2, WIDTH)
    image = hidden_in_a_picture(a1111_json(vectors).encode())
    image.save(root / "models" / "embeddings" / "star.png")
    (entry,) = engine.embeddings.entries()
    assert torch.equal(engine.embeddings.read(entry).inversion.vectors[""], vectors)


# HTTP


def test_a1111s_clients_are_told_what_the_model_reads(engine: Engine, root: Path) -> None:
    write_embedding(root, "star", count=4)
    write_embedding(root, "other", width=768)
    app = FastAPI()
    app.include_router(sdapi_embeddings_router(engine))
    app.include_router(embeddings_router(engine))
    client = TestClient(app)
    listed = client.get("/embeddings").json()
    facts = {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None}
    assert listed == {
        "loaded": {"star": {**facts, "shape": WIDTH, "vectors": 4}},
        "skipped": {"other": {**facts, "shape": 768, "vectors": 2}},
    }
    assert client.post("/refresh-embeddings").json() == {}
    ours = client.get("/api/v1/embeddings").json()["embeddings"]
    assert [(one["name"], one["is_read"], one["made_for"]) for one in ours] == [
        ("other", False, "SD 1"),
        ("star", True, "text encoders of width 16"),
    ]
