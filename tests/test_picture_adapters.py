"""LoRAs in jobs that make pictures: what they change, what they leave, and what is said about them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from backend.adapter_row import AdapterRow
from backend.engine.engine import Engine
from backend.engine.job import JobState, JobView
from backend.engine.settings import Settings
from backend.errors import AdapterDoesNotFit, AmbiguousName, BadCheckpoint, RequestError, UnknownName
from backend.http.job_json import job_json
from backend.images.png_text import read_png_text
from backend.pipeline.infotext import read_infotext, request_from_infotext
from backend.recipe import AdapterUse, FileRef, Override, Weights
from backend.request import GenerationRequest
from backend.weights.hashing import sha256_of
from backend.weights.safetensors_file import write_safetensors
from tests.tiny_adapters import lora_tensors
from tests.tiny_checkpoint import write_tiny_checkpoint

TIMEOUT = 60
UNET = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_q"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_tiny_checkpoint(tmp_path / "models" / "checkpoints" / "tiny.safetensors")
    write_lora(tmp_path, "cat", {UNET: (16, 16)})
    write_lora(tmp_path, "dog", {UNET: (16, 16)}, seed=20)
    write_lora(tmp_path, "text", {TEXT: (32, 16)})
    return tmp_path


@pytest.fixture
def engine(root: Path) -> Iterator[Engine]:
    engine = Engine.open(settings_of(root), persistent=False)
    yield engine
    engine.close()


def settings_of(root: Path) -> Settings:
    return Settings.for_root(root, force_cpu=True, memory_budget=2**30)


def write_lora(root: Path, name: str, modules: dict[str, tuple[int, ...]], *, seed: int = 7) -> Path:
    path = root / "models" / "loras" / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, lora_tensors(modules, seed=seed, alpha=2.0), {})
    return path


def row(name: str, strength: float = 1.0, **fields: Any) -> AdapterRow:
    return AdapterRow(use=AdapterUse(file=FileRef(name=name), strength=strength, **fields))


def request(*rows: AdapterRow, **fields: Any) -> GenerationRequest:
    return GenerationRequest(**{"prompt": "a cat", "steps": 2, "seed": 5, "adapters": rows, **fields})


def run(engine: Engine, *rows: AdapterRow, **fields: Any) -> JobView:
    return engine.wait(engine.submit(request(*rows, **fields)), TIMEOUT)


def pixels(view: JobView) -> bytes:
    assert (view.state, view.error) == (JobState.DONE, "")
    return Image.open(view.images[0].path).tobytes()


def test_a_lora_changes_the_picture_and_leaves_nothing_behind(engine: Engine, root: Path) -> None:
    file = root / "models" / "checkpoints" / "tiny.safetensors"
    before = sha256_of(file)
    plain = pixels(run(engine))
    with_cat = pixels(run(engine, row("cat")))
    assert with_cat != plain
    assert pixels(run(engine)) == plain
    assert pixels(run(engine, row("cat"))) == with_cat
    assert sha256_of(file) == before


def test_the_order_of_loras_does_not_matter_and_one_that_is_there_twice_adds_up(engine: Engine) -> None:
    both = pixels(run(engine, row("cat", 0.7), row("dog", 0.3)))
    assert pixels(run(engine, row("dog", 0.3), row("cat", 0.7))) == both
    assert both not in (pixels(run(engine, row("cat", 0.7))), pixels(run(engine, row("dog", 0.3))))
    assert pixels(run(engine, row("cat", 0.5), row("cat", 0.5))) == pixels(run(engine, row("cat")))


def test_strength_0_is_no_lora_at_all_and_needs_no_file(engine: Engine) -> None:
    plain = pixels(run(engine))
    off = run(engine, row("cat", 0.0), row("not there", 0.0))
    assert pixels(off) == plain
    assert isinstance(off.request, GenerationRequest)
    assert [one.use.file.name for one in off.request.adapters] == ["cat", "not there"]
    assert off.adapters == ()


def test_text_encoders_have_a_strength_of_their_own(engine: Engine) -> None:
    plain, with_text = pixels(run(engine)), pixels(run(engine, row("text")))
    assert with_text != plain
    assert pixels(run(engine, row("text", 1.0, text_encoder_strength=0.0))) == plain
    assert pixels(run(engine, row("text", 0.3, text_encoder_strength=1.0))) == with_text
    with_cat = pixels(run(engine, row("cat")))
    assert pixels(run(engine, row("cat", text_encoder_strength=0.0))) == with_cat


def test_tags_of_the_prompt_are_rows_and_no_words(engine: Engine) -> None:
    by_row = pixels(run(engine, row("cat", 0.5), row("text", 0.8)))
    tagged = run(engine, prompt="a cat<lora:cat:0.5><lora:text:0.8>")
    assert pixels(tagged) == by_row
    assert pixels(run(engine, row("text", 0.8), prompt="a <lora:cat:0.5>cat")) == by_row
    assert tagged.images[0].infotext.startswith("a cat<lora:cat:0.5><lora:text:0.8>\n")
    assert engine.count_tokens("a cat<lora:cat:0.5>") == engine.count_tokens("a cat")


def test_tags_say_in_which_steps_and_blocks_a_lora_is_added(engine: Engine) -> None:
    def picture(arguments: str) -> bytes:
        return pixels(run(engine, prompt=f"a cat<lora:cat:1:{arguments}>", steps=3))

    plain, always = pixels(run(engine, steps=3)), pixels(run(engine, row("cat"), steps=3))
    assert plain != always
    assert picture("stop=3") == picture("unet=1@0,1@1") == picture("lbw=INS") == always
    assert picture("start=3") == picture("unet=0@0,0@1") == picture("lbw=OUTS") == plain
    changing = {picture("stop=1"), picture("start=1"), picture("unet=1@0,0@1"), picture("unet=0@0,1@1"), plain, always}
    assert len(changing) == 6


def test_tags_of_the_negative_prompt_have_no_effect_and_are_told(engine: Engine) -> None:
    plain = pixels(run(engine, negative_prompt="blurry "))
    view = run(engine, negative_prompt="blurry <lora:cat:1>")
    assert pixels(view) == plain
    assert any("<lora:cat:1> stands in the negative prompt" in notice for notice in view.notices)


def test_weights_by_block_are_factors(engine: Engine) -> None:
    plain, half = pixels(run(engine)), pixels(run(engine, row("cat", 0.5)))
    here = Override(value=0.5, blocks=("IN01",))
    assert pixels(run(engine, row("cat", weights=Weights(base=0.0, overrides=(here,))))) == half
    assert pixels(run(engine, row("cat", weights=Weights(base=0.0)))) == plain
    assert pixels(run(engine, prompt="a cat<lora:cat:1:lbw=0,0.5,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0>")) == half
    assert pixels(run(engine, prompt="a cat<lora:cat:1:lbw=OUTALL>")) == plain
    with pytest.raises(RequestError, match="ZZ"):
        engine.submit(request(row("cat", weights=Weights(base=1.0, overrides=(Override(value=1.0, blocks=("ZZ",)),)))))


def test_what_is_not_there_refuses_the_job_unless_it_may_be_missing(engine: Engine) -> None:
    with pytest.raises(UnknownName, match=r'no LoRA named "mouse".*cat, dog, text'):
        engine.submit(request(row("mouse")))
    with pytest.raises(UnknownName, match="mouse"):
        engine.submit(request(prompt="a cat<lora:mouse:1>"))
    view = run(engine, row("mouse"), prompt="a cat<lora:mouse:1>", skips_missing_adapters=True)
    assert pixels(view) == pixels(run(engine))
    assert any("is made without mouse" in notice for notice in view.notices)
    exact = json.loads(read_png_text(view.images[0].path.read_bytes())["emulsion"])
    assert exact["adapters"]["skipped"] == ["mouse", "mouse"]


def test_ambiguous_names_list_what_they_could_mean(engine: Engine, root: Path) -> None:
    for folder in ("a", "b"):
        write_lora(root, f"{folder}/bird", {UNET: (16, 16)}, seed=ord(folder))
    engine.library.refresh()
    with pytest.raises(AmbiguousName, match="a/bird, b/bird"):
        engine.submit(request(prompt="<lora:bird:1>"))
    assert pixels(run(engine, prompt="a cat<lora:a/bird:1>")) != pixels(run(engine, prompt="a cat<lora:b/bird:1>"))


def test_what_cannot_be_used_is_refused_before_it_is_queued(engine: Engine, root: Path) -> None:
    write_lora(root, "xl", {"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (64, 2048)})
    write_lora(root, "nothing", {"lora_unet_some_other_layer": (16, 16)})
    tensors = lora_tensors({UNET: (16, 16)})
    tensors[f"{UNET}.lora_up.weight"][0] = torch.nan
    write_safetensors(root / "models" / "loras" / "nan.safetensors", tensors, {})
    engine.library.refresh()
    with pytest.raises(AdapterDoesNotFit, match=r"made for sdxl models and this one is sd1"):
        engine.submit(request(row("xl")))
    with pytest.raises(BadCheckpoint, match=r"no numbers .*lora_up"):
        engine.submit(request(row("nan")))
    with pytest.raises(AdapterDoesNotFit, match="0 of its 1 modules fit"):
        engine.submit(request(prompt="<lora:nothing:1>"))
    assert engine.jobs() == []


def test_what_fits_in_parts_is_told_and_recorded(engine: Engine, root: Path) -> None:
    write_lora(root, "partly", {UNET: (16, 16), "lora_unet_some_other_layer": (16, 16)})
    engine.library.refresh()
    view = run(engine, row("partly", 0.5))
    assert any("LoRA partly: 1 of 2 modules fit" in notice for notice in view.notices)
    exact = json.loads(read_png_text(view.images[0].path.read_bytes())["emulsion"])["adapters"]["acting"][0]
    assert (exact["matched"], exact["modules"], exact["strength"], exact["ranks"]) == (1, 2, 0.5, [2, 2])
    assert exact["file"]["sha256"] == sha256_of(root / "models" / "loras" / "partly.safetensors")
    assert job_json(view, root / "outputs")["adapters"] == [exact]
    report = engine.adapter_report("partly")
    assert (report.num_matched, report.num_modules) == (1, 2)


def test_a_picture_gives_its_loras_back_also_when_the_files_are_called_otherwise(engine: Engine, root: Path) -> None:
    view = run(engine, row("dog", 0.4), prompt="a cat<lora:cat:0.6>")
    texts = read_png_text(view.images[0].path.read_bytes())
    infotext = read_infotext(texts["parameters"])
    hashes = {name: open_lora_hash(root, name) for name in ("cat", "dog")}
    assert infotext.parameters["Lora hashes"] == f"cat: {hashes['cat']}, dog: {hashes['dog']}"
    for name in ("cat", "dog"):
        path = root / "models" / "loras" / f"{name}.safetensors"
        path.rename(path.with_name(f"renamed {name}.safetensors"))
    write_lora(root, "cat", {UNET: (16, 16)}, seed=99)
    engine.library.refresh()
    exact = GenerationRequest.from_mapping(json.loads(texts["emulsion"])["request"])
    assert pixels(engine.wait(engine.submit(exact), TIMEOUT)) == pixels(view)
    restored = request_from_infotext(infotext)
    assert restored.notices == []
    again = GenerationRequest(**restored.fields)
    assert pixels(engine.wait(engine.submit(again), TIMEOUT)) == pixels(view)


def open_lora_hash(root: Path, name: str) -> str:
    content = (root / "models" / "loras" / f"{name}.safetensors").read_bytes()
    return hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()[:12]
