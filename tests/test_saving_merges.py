"""Made models as files: the same bytes each time, a whole file or none, and little memory."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from backend.errors import BadCheckpoint, Cancelled, DiskFull, OutputError
from backend.merging.merged import make_model
from backend.merging.metadata import merge_metadata, recipe_in
from backend.merging.rules.builtin import BUILTIN
from backend.merging.saving import save_model
from backend.recipe import FileRef, Merge, Override, Recipe, Weights, with_hashes
from backend.registry import Registry
from backend.weights.safetensors_file import open_safetensors, write_safetensors
from backend.weights.source import TensorSpec
from backend.weights.streamed_writing import stream_safetensors
from tests.merge_rules import CATALOG, made, merge, opened
from tests.tiny_checkpoint import tiny_tensors, write_tiny_checkpoint

ROOT = Path(__file__).parents[1]
KEY = "model.diffusion_model.middle_block.0.in_layers.2.weight"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    return [write_tiny_checkpoint(folder / f"{name}.safetensors", seed=seed) for seed, name in enumerate("ab")]


def test_the_same_recipe_gives_the_same_bytes_whatever_the_threads(pair, tmp_path):
    for number, workers in enumerate((1, 3)):
        save_model(made(merge("lerp", *pair, alpha=0.3)), tmp_path / f"{number}", metadata={"a": "b"}, workers=workers)
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


def test_a_saved_model_holds_what_was_made(pair, tmp_path):
    model = made(merge("lerp", *pair, alpha=0.3))
    seen: list[tuple[int, int]] = []
    save_model(model, tmp_path / "out", metadata={"a": "b"}, on_progress=lambda *now: seen.append(now))
    saved = open_safetensors(tmp_path / "out")
    assert set(saved.keys()) == set(model.source.keys())
    assert all(torch.equal(saved.read(key), model.source.read(key)) for key in saved.keys())
    assert saved.metadata == {"a": "b"}
    assert seen[-1] == ((tmp_path / "out").stat().st_size,) * 2
    assert seen == sorted(seen)


def test_cancelling_leaves_no_file(pair, tmp_path):
    with pytest.raises(Cancelled):
        save_model(made(merge("lerp", *pair)), tmp_path / "out", metadata={}, is_cancelled=lambda: True)
    assert not list(tmp_path.iterdir())


def test_an_error_on_the_way_leaves_no_file(pair, tmp_path):
    tensors = tiny_tensors(seed=0)
    tensors[KEY] = torch.full_like(tensors[KEY], torch.nan)
    write_safetensors(tmp_path / "bad", tensors, open_safetensors(pair[0]).metadata)
    with pytest.raises(BadCheckpoint, match=r"bad: .*middle_block"):
        save_model(made(merge("lerp", pair[0], tmp_path / "bad")), tmp_path / "out", metadata={})
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_a_full_disk_is_told_before_anything_is_computed(pair, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    asked: list[str] = []

    def chunks(key):
        asked.append(key)
        yield torch.zeros(4, dtype=torch.uint8)

    with pytest.raises(DiskFull, match=r"0\.00 GB free"):
        stream_safetensors(tmp_path / "out", {"x": TensorSpec((4,), torch.uint8)}, chunks, metadata={})
    assert not asked
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "pwrite"), reason="this system writes otherwise")
def test_a_disk_that_becomes_full_on_the_way_leaves_no_file(pair, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DiskFull, match="is full"):
        save_model(made(merge("lerp", *pair)), tmp_path / "out", metadata={})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rule", ["slerp", "dare", "ties", "rotate"])
def test_rules_that_sum_and_draw_give_the_same_bytes_whatever_the_threads(pair, tmp_path, rule):
    recipe = Recipe(root=Merge(rule=rule, models=merge(rule, *pair, pair[0]).models[: len(_roles(rule))], seed=5))
    catalog = replace(CATALOG, rules=Registry("merge rule", BUILTIN))
    for number, workers in enumerate((1, 3)):
        save_model(make_model(recipe, opened, catalog), tmp_path / f"{number}", metadata={}, workers=workers)
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


def _roles(rule: str) -> tuple[str, ...]:
    return next(found.roles for found in BUILTIN if found.name == rule)


def test_files_are_replaced_only_when_that_is_wanted_and_inputs_never(pair, tmp_path):
    (tmp_path / "out").write_bytes(b"old")
    model = made(merge("lerp", *pair))
    with pytest.raises(FileExistsError):
        save_model(model, tmp_path / "out", metadata={})
    assert (tmp_path / "out").read_bytes() == b"old"
    save_model(model, tmp_path / "out", metadata={}, replace=True)
    assert open_safetensors(tmp_path / "out").keys()
    with pytest.raises(OutputError, match="one of the files"):
        save_model(model, pair[1], metadata={}, replace=True)


def test_a_tensor_that_does_not_come_to_its_size_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="3 bytes instead of 4"):
        stream_safetensors(
            tmp_path / "out",
            {"x": TensorSpec((4,), torch.uint8)},
            lambda _: iter([torch.zeros(3, dtype=torch.uint8)]),
            metadata={},
        )
    assert not list(tmp_path.iterdir())


def _child(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_process_leaves_no_file(pair, tmp_path):
    code = """
        import sys, time
        from pathlib import Path
        from tests.merge_rules import made, merge
        from backend.merging.saving import save_model
        a, b, out = map(Path, sys.argv[1:])
        def report(done, all):
            if done: print("begun", flush=True)
            time.sleep(0.2)
        model = made(merge("lerp", a, b))
        whole = model.source.chunks
        def slow(key):
            time.sleep(0.05)
            return whole(key)
        model.source.chunks = slow
        save_model(model, out, metadata={}, on_progress=report)
    """
    process = _child(code, *pair, tmp_path / "out")
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "out").exists()
    assert all(path.suffix == ".part" for path in tmp_path.iterdir())


def test_large_tensors_are_never_held_whole(tmp_path):
    for number in range(2):
        shape = (49408 * 32, 48)  # 76 million numbers: 304 MB as float32
        content = tiny_tensors(seed=number)
        content["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"] = torch.zeros(shape).half()
        write_safetensors(tmp_path / f"{number}", content, {})
        del content
    code = """
        import sys, threading, time
        from pathlib import Path
        from tests.merge_rules import made, merge
        from backend.merging.saving import save_model
        def anonymous():
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
        a, b, out = map(Path, sys.argv[1:])
        model = made(merge("lerp", a, b))
        before, peak = anonymous(), [0]
        def watch():
            while True:
                peak[0] = max(peak[0], anonymous())
                time.sleep(0.005)
        threading.Thread(target=watch, daemon=True).start()
        save_model(model, out, metadata={})
        print(peak[0] - before)
    """
    process = _child(code, tmp_path / "0", tmp_path / "1", tmp_path / "out")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert 0 < int(output) < 64 * 2**20


def test_the_recipe_is_in_the_file_and_can_be_read_back(pair, tmp_path):
    alpha = Weights(base=0.3, overrides=(Override(value=0.1, blocks=("M00",)),))
    recipe = with_hashes(
        Recipe(root=merge("lerp", *pair, alpha=alpha), name="both"), {str(pair[0]): "a" * 64, str(pair[1]): "b" * 64}
    )
    metadata = merge_metadata(recipe, made(recipe.root), {str(pair[0]): "first", str(pair[1]): "second"})
    save_model(made(recipe.root), tmp_path / "out", metadata=metadata)
    saved = open_safetensors(tmp_path / "out").metadata
    assert recipe_in(saved) == recipe
    assert recipe_in({}) is None
    assert saved["modelspec.title"] == "both"
    assert saved["modelspec.merged_from"] == "first, second"
    assert saved["modelspec.architecture"] == "stable-diffusion-v1"
    assert saved["modelspec.prediction_type"] == "epsilon"
    assert saved["emulsion.num_heads"] == "2"
    assert all(isinstance(value, str) for value in saved.values())


def test_a1111_finds_the_fields_that_it_knows(pair):
    recipe = with_hashes(Recipe(root=merge("lerp", *pair, alpha=0.3), name="both"), {str(pair[0]): "a" * 64})
    metadata = merge_metadata(recipe, made(recipe.root), {})
    told = json.loads(metadata["sd_merge_recipe"])
    assert (told["type"], told["interp_method"], told["multiplier"]) == ("webui", "Weighted sum", 0.3)
    assert (told["primary_model_hash"], told["secondary_model_hash"]) == ("a" * 64, None)
    models = json.loads(metadata["sd_merge_models"])
    assert models["a" * 64] == {"name": str(pair[0]), "legacy_hash": None, "sd_merge_recipe": None}


def test_models_of_models_are_told_with_their_own(pair, tmp_path):
    recipe = with_hashes(
        Recipe(root=merge("lerp", *pair), name="first"), {str(pair[0]): "a" * 64, str(pair[1]): "b" * 64}
    )
    save_model(made(recipe.root), tmp_path / "ab", metadata=merge_metadata(recipe, made(recipe.root), {}))
    second = Recipe(root=merge("lerp", tmp_path / "ab", pair[0]), name="second")
    metadata = merge_metadata(second, made(second.root), {})
    models = json.loads(metadata["sd_merge_models"])
    assert {"a" * 64, "b" * 64, str(tmp_path / "ab")} <= models.keys()
    assert models[str(tmp_path / "ab")]["sd_merge_recipe"]["interp_method"] == "Weighted sum"
    assert metadata["emulsion.recipe"] != json.dumps(recipe.to_mapping())


def test_what_others_wrote_into_metadata_does_no_harm(pair, tmp_path):
    content = dict(tiny_tensors(seed=0))
    odd = {"sd_merge_models": "no JSON", "sd_merge_recipe": "[1]", "emulsion.recipe": "{}"}
    write_safetensors(tmp_path / "odd", content, odd)
    root = merge("lerp", tmp_path / "odd", pair[1])
    models = json.loads(merge_metadata(Recipe(root=root), made(root), {})["sd_merge_models"])
    assert models[str(tmp_path / "odd")]["sd_merge_recipe"] is None
    assert FileRef(name=str(tmp_path / "odd")) in list(Recipe(root=root).files())
