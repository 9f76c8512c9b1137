"""The LoRA files of the library: names, facts, hashes, and files that were made to hurt."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from backend.adapters.lora_facts import LoraFacts, lora_facts
from backend.adapters.training_tags import MAX_CHARACTERS, MAX_TAGS, trained_tags
from backend.engine.library import Library
from backend.engine.lora_facts_cache import LoraFactsCache
from backend.engine.lora_notes import LoraNotes, read_notes, write_notes
from backend.engine.recipe_files import read_recipe, write_recipe
from backend.engine.recipe_inputs import find_inputs, without_hashes
from backend.errors import AmbiguousName, NotWritable, UnknownName
from backend.families.builtin import BUILTIN
from backend.recipe import AdapterUse, CheckpointInput, FileRef, Recipe, WithAdapters, recipe_from
from backend.weights.hashing import HashCache, hashes_of_safetensors, sha256_of
from backend.weights.safetensors_file import write_safetensors
from tests.tiny_adapters import sd1_lora
from tests.tiny_checkpoint import write_tiny_checkpoint


def library_of(*folders: Path, data: Path | None = None) -> Library:
    cache = HashCache((data or folders[0].parent) / "hashes.json")
    return Library((), (), (), list(BUILTIN), cache, lora_dirs=folders)


def write_lora(path: Path, seed: int = 7, **metadata: str) -> Path:
    write_safetensors(path, sd1_lora(seed=seed), metadata)
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "loras"
    path.mkdir()
    return path


def test_a_lora_is_found_by_everything_it_is_called(folder):
    path = write_lora(folder / "animals" / "Cat.v1.safetensors", ss_output_name="my cat")
    write_lora(folder / "dog.safetensors", seed=1)
    library = library_of(folder)
    for name in (
        "animals/Cat.v1", "animals/Cat.v1.safetensors", "animals\\cat.V1", "Cat.v1", "cat.v1", "cat.v1.safetensors",
        " Cat.v1 ", "my cat", "My Cat", path.as_posix(),
    ):  # fmt: skip
        assert library.find_lora(name).path == path, name
    for name in ("", "#", "cat", "ats/Cat.v1", "at.v1", "#my cat", "/", "animals"):
        with pytest.raises(UnknownName) as caught:
            library.find_lora(name)
        assert "animals/Cat.v1, dog" in str(caught.value)


def test_a_name_of_two_files_lists_both_and_their_folders_tell_them_apart(folder):
    first, second = (write_lora(folder / name / "cat.safetensors", seed) for seed, name in enumerate("ab"))
    library = library_of(folder)
    with pytest.raises(AmbiguousName, match=r'"cat" is the name of 2 LoRAs: a/cat, b/cat') as caught:
        library.find_lora("cat")
    assert caught.value.found == ("a/cat", "b/cat")
    assert [library.find_lora(name).path for name in ("a/cat", "b/cat.safetensors")] == [first, second]
    top = write_lora(folder / "cat.safetensors", 3)
    library.refresh()
    assert library.find_lora("cat").path == top  # it is called exactly so


def test_case_decides_between_names_that_differ_in_nothing_else(folder):
    paths = {name: write_lora(folder / f"{name}.safetensors", seed) for seed, name in enumerate(("cat", "Cat"))}
    if len(list(folder.iterdir())) < 2:
        pytest.skip("this disk does not tell the names apart")
    library = library_of(folder)
    assert {name: library.find_lora(name).path for name in paths} == paths
    with pytest.raises(AmbiguousName):
        library.find_lora("CAT")


def test_an_alias_of_two_files_is_ambiguous_and_a_name_comes_before_an_alias(folder):
    for seed, name in enumerate("ab"):
        write_lora(folder / f"{name}.safetensors", seed, ss_output_name="same")
    write_lora(folder / "c.safetensors", 3, ss_output_name="a")
    library = library_of(folder)
    with pytest.raises(AmbiguousName, match="a, b"):
        library.find_lora("same")
    assert library.find_lora("a").name == "a"


def test_files_of_one_name_in_two_homes_are_both_there(folder, tmp_path):
    other = tmp_path / "more"
    first, second = write_lora(folder / "cat.safetensors", 1), write_lora(other / "cat.safetensors", 2)
    library = library_of(folder, other)
    assert {entry.name: entry.path for entry in library.loras()} == {"cat": first, "more/cat": second}
    assert library.find_lora("cat").path == first
    assert library.find_lora("more/cat").path == second


def test_a_converted_pickle_hides_the_pickle(folder):
    path = write_lora(folder / "cat.safetensors")
    (folder / "cat.pt").write_bytes(b"\x80\x02}q\x00." + bytes(20))
    (folder / "dog.pt").write_bytes(b"\x80\x02}q\x00." + bytes(20))
    library = library_of(folder)
    assert {entry.name: entry.path.suffix for entry in library.loras()} == {"cat": path.suffix, "dog": ".pt"}
    assert "./launch.sh convert" in library.lora_facts(library.find_lora("dog")).problem


def test_thousands_of_names_do_not_fill_a_message(folder):
    for number in range(60):
        (folder / f"style-{number:02}.safetensors").touch()
    with pytest.raises(UnknownName) as caught:
        library_of(folder).find_lora("style-7")
    assert "Known: 60, of which the most like it" in str(caught.value)
    assert len(str(caught.value)) < 200
    assert len(caught.value.known) == 60


def test_hashes_are_found_when_they_are_known_and_computed_when_they_are_asked_for(folder):
    path = write_lora(folder / "cat.safetensors")
    write_lora(folder / "dog.safetensors", seed=1)
    library = library_of(folder)
    file, tensors = hashes_of_safetensors(path)
    with pytest.raises(UnknownName):
        library.find_lora(f"#{tensors[:12]}")
    assert library.find_lora_by_hash(tensors[:12]).path == path
    for digits in (f"#{tensors[:12]}", tensors[:12], file[:10], f"#{file}", tensors.upper()):
        assert library.find_lora(digits).path == path
    entry = library.find_lora("cat")
    assert (entry.sha256, entry.autov3) == (file, tensors)
    again = library_of(folder)  # the next start
    assert again.find_lora(f"#{tensors[:12]}").path == path


def test_the_hash_of_a_lora_is_that_of_its_tensors_and_is_remembered(folder):
    path = write_lora(folder / "cat.safetensors")
    library = library_of(folder)
    found = library.lora_hash(library.find_lora("cat"))
    assert found == hashes_of_safetensors(path)[1] != sha256_of(path)
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # so that nobody can see the change
    assert library.lora_hash(library.find_lora("cat")) == found


def test_copies_of_one_file_are_one_for_a_hash_and_different_files_are_not(folder):
    path = write_lora(folder / "a.safetensors")
    shutil.copy(path, folder / "b.safetensors")
    library = library_of(folder)
    for name in "ab":
        library.lora_hash(library.find_lora(name))
    assert library.find_lora(f"#{sha256_of(path)[:12]}").name == "a"


def test_a_hash_that_a_file_says_to_have_finds_it(folder):
    """A1111 writes that one into pictures, whatever has become of the file since."""
    claimed = "ab" * 32
    write_lora(folder / "cat.safetensors", sshs_model_hash=claimed)
    write_lora(folder / "liar.safetensors", seed=1, sshs_model_hash="no hash")
    library = library_of(folder)
    assert library.find_lora("#" + claimed[:12]).name == "cat"
    assert library.find_lora_by_hash(claimed[:12]).name == "cat"


def test_a_hash_is_looked_for_by_many_at_once_and_each_file_is_read_once(folder, monkeypatch):
    for seed in range(4):
        write_lora(folder / f"{seed}.safetensors", seed)
    read: list[Path] = []

    def counted(path: Path) -> tuple[str, str]:
        read.append(path)
        return hashes_of_safetensors(path)

    monkeypatch.setattr("backend.weights.hashing.hashes_of_safetensors", counted)
    library = library_of(folder)
    wanted = hashes_of_safetensors(folder / "3.safetensors")[1]
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(library.find_lora_by_hash(wanted).name)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == ["3"] * 5
    assert len(read) == len(set(read)) == 4


def test_editing_metadata_keeps_the_hash_of_the_tensors_known(folder):
    write_lora(folder / "cat.safetensors", a="b")
    library = library_of(folder)
    before = library.lora_hash(library.find_lora("cat"))
    assert library.edit_lora_metadata(library.find_lora("cat"), {"modelspec.title": "Cat"})["modelspec.title"] == "Cat"
    entry = library.find_lora("cat")
    assert (entry.autov3, entry.size) == (before, entry.path.stat().st_size)
    assert library.lora_facts(entry).title == "Cat"
    (folder / "cat.safetensors").chmod(0o444)
    with pytest.raises(NotWritable):
        library.edit_lora_metadata(entry, {"a": None})


def test_facts_are_kept_over_a_restart(tmp_path, folder, monkeypatch):
    path = write_lora(folder / "cat.safetensors", ss_output_name="mine", ss_tag_frequency='{"a": {"fur": 3}}')
    (folder / "bad.safetensors").write_bytes(b"x")
    file, read = tmp_path / "facts.json", []
    first = LoraFactsCache(file)
    facts = first.of(path)
    assert first.of(folder / "bad.safetensors").problem
    first.save()

    def counted(path: Path) -> LoraFacts:
        read.append(path.name)
        return lora_facts(path)

    monkeypatch.setattr("backend.engine.lora_facts_cache.lora_facts", counted)
    again = LoraFactsCache(file)
    assert (again.of(path), read) == (facts, [])
    assert facts.trained_tags == (("fur", 3),)
    again.of(folder / "bad.safetensors")  # what could not be read may be readable now
    write_lora(path, ss_output_name="another")
    assert again.of(path).alias == "another"
    assert read == ["bad.safetensors", "cat.safetensors"]
    again.keep_only([])
    again.save()
    assert json.loads(file.read_bytes())["files"] == {}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{", ""),
        ("{", "[" * 100_000),
        ('"read_by": "', '"read_by": "old '),
        ('"files": {', '"files": [{'),
        ('"ranks": [', '"ranks": ["1", '),
        ('"title": ""', '"title": 5'),
        ('"title": ""', '"title": "", "more": ""'),
        ('"trained_tags": []', '"trained_tags": [5]'),
    ],
)
def test_damaged_facts_cost_time_and_nothing_else(tmp_path, folder, old, new):
    path, file = write_lora(folder / "cat.safetensors"), tmp_path / "facts.json"
    first = LoraFactsCache(file)
    facts = first.of(path)
    first.save()
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    assert LoraFactsCache(file).of(path) == facts


def test_facts_that_cannot_be_written_are_known_all_the_same(tmp_path, folder, caplog):
    (tmp_path / "file").touch()
    cache = LoraFactsCache(tmp_path / "file" / "facts.json")
    assert cache.of(write_lora(folder / "cat.safetensors")).family == ""
    cache.save()
    assert "not remembered" in caplog.text


def test_facts_change_with_the_file_and_a_file_that_is_gone_says_so(folder):
    path = write_lora(folder / "cat.safetensors", ss_base_model_version="sd_v1")
    library = library_of(folder)
    entry = library.find_lora("cat")
    assert library.lora_facts(entry).family == "sd1"
    write_lora(path, ss_base_model_version="sdxl_base_v1-0", more="x")
    assert library.lora_facts(entry).family == "sdxl"
    path.unlink()
    assert "cannot be read" in library.lora_facts(entry).problem
    assert [entry.name for entry in library.loras()] == ["cat"]  # until the next look
    library.refresh_loras()
    assert library.loras() == []


def header(content: bytes) -> bytes:
    return len(content).to_bytes(8, "little") + content


BAD = {
    "empty": b"",
    "pickle": b"\x80\x02}q\x00." + bytes(20),
    "archive": b"PK\x03\x04" + bytes(40),
    "cut off": header(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'),
    "metadata are no texts": header(b'{"__metadata__":{"a":{"b":1}}}'),
    "no JSON": header(b"{" + b"x" * 50),
    "deep": header(b'{"__metadata__":' + b"[" * 100_000 + b"}"),
    "no tensors": header(b"{}"),
    "huge header": (2**40).to_bytes(8, "little") + b"{" + bytes(100),
    "web page": b"<!DOCTYPE html><html></html>",
    "GGUF": b"GGUF" + bytes(60),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_file_that_is_no_lora_is_listed_with_its_problem(folder, content):
    (folder / "bad.safetensors").write_bytes(content)
    library = library_of(folder)
    (entry,) = library.loras()
    facts = library.lora_facts(entry)
    assert facts.problem.startswith("bad.safetensors: ")
    assert (facts.formats, facts.family, facts.ranks) == ({}, "", None)


def test_checkpoints_and_loras_for_families_that_are_not_run_have_a_problem(folder):
    write_tiny_checkpoint(folder / "checkpoint.safetensors")
    write_lora(folder / "video.safetensors", ss_base_model_version="wan2.1")
    library = library_of(folder)
    problems = {entry.name: library.lora_facts(entry).problem for entry in library.loras()}
    assert "no LoRA" in problems["checkpoint"]
    assert "made for Wan models" in problems["video"]


def header_of(num_tensors: int) -> bytes:
    entry = '"lora_unet_{}.lora_up.weight":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    return header(b"{" + ",".join(entry.format(index) for index in range(num_tensors)).encode() + b"}")


@pytest.mark.parametrize("num_tensors", [350_000, 1_400_000])
def test_a_header_of_a_million_keys_is_refused_soon_and_in_little_memory(folder, num_tensors):
    """The first is refused once its marks are counted, the second is too long to be read at all."""
    path = folder / "many.safetensors"
    path.write_bytes(header_of(num_tensors))
    tracemalloc.start()
    began = time.monotonic()
    try:
        problem = lora_facts(path).problem
        seconds, (_, peak) = time.monotonic() - began, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "tensors" in problem or "larger than any" in problem
    assert seconds < 5
    assert peak < 100 * 2**20


def test_more_tensors_than_any_lora_has_are_refused_before_their_names_are_looked_at(folder):
    (folder / "many.safetensors").write_bytes(header_of(50_001))
    began = time.monotonic()
    assert "50,001 tensors" in lora_facts(folder / "many.safetensors").problem
    assert time.monotonic() - began < 10


def test_tags_are_summed_over_folders_and_sorted():
    text = json.dumps({"5_a": {" cat ": 2, "red  hat": 5, "": 9}, "1_b": {"cat": 4, "x": 0, "y": "z"}, "c": [1]})
    assert trained_tags(text) == (("cat", 6), ("red hat", 5))
    assert len(trained_tags(json.dumps({"a": {str(index): 1 for index in range(200)}}))) == MAX_TAGS
    assert trained_tags(json.dumps({"a": {"x" * 201: 1}})) == ()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "5", '{"a": 5}', "[" * 100_000, '{"a": {"b": NaN, "c": 1e999, "d": -1, "e": []}}']
)
def test_what_is_no_list_of_tags_holds_none(text):
    assert trained_tags(text) == ()


def test_megabytes_of_tags_cost_no_more_than_their_reading():
    tags = {f"tag {index}": index for index in range(200_000)}
    began = time.monotonic()
    assert trained_tags(json.dumps({"a": tags}))[0] == ("tag 199999", 199_999)
    assert time.monotonic() - began < 5
    assert trained_tags('{"a": {"b": 1, "c": "' + "x" * MAX_CHARACTERS + '"}}') == ()


def test_notes_survive_what_other_programs_wrote(tmp_path):
    lora = tmp_path / "cat.v1.safetensors"
    assert read_notes(lora) == LoraNotes()
    write_notes(lora, {"activation_text": "ünï", "preferred_weight": 1})
    assert json.loads((tmp_path / "cat.v1.json").read_text()) == {"activation text": "ünï", "preferred weight": 1.0}
    (tmp_path / "cat.v1.json").write_text(
        '\ufeff{"description": 5, "preferred weight": "1", "sd version": "SD1"}', "utf-8"
    )
    assert read_notes(lora) == LoraNotes(sd_version="SD1")
    (tmp_path / "cat.v1.json").write_text('{"preferred weight": 1e999, "notes": null}')
    assert read_notes(lora) == LoraNotes()


def test_recipes_do_not_vanish_while_the_folders_are_looked_at_again(tmp_path, monkeypatch):
    checkpoints, recipes = tmp_path / "checkpoints", tmp_path / "recipes"
    write_tiny_checkpoint(checkpoints / "a.safetensors")
    recipes.mkdir()
    write_recipe(recipes / "mix.json", Recipe(root=CheckpointInput(file=FileRef(name="a"))))
    library = Library(
        (checkpoints,), (), (), list(BUILTIN), HashCache(tmp_path / "hashes.json"), recipe_dirs=(recipes,)
    )
    names = [entry.name for entry in library.checkpoints()]
    assert names == ["a", "mix"]
    seen: list[list[str]] = []

    def watched(path: Path) -> Recipe:
        seen.append([entry.name for entry in library.checkpoints()])
        return read_recipe(path)

    monkeypatch.setattr("backend.engine.library.read_recipe", watched)
    library.refresh()
    assert seen == [names]
    assert [entry.name for entry in library.checkpoints()] == names


def test_a_recipe_knows_its_loras_by_their_tensors(folder, tmp_path):
    checkpoints = tmp_path / "checkpoints"
    write_tiny_checkpoint(checkpoints / "a.safetensors")
    path = write_lora(folder / "cat.safetensors")
    library = Library((checkpoints,), (), (), list(BUILTIN), HashCache(tmp_path / "hashes.json"), lora_dirs=(folder,))
    model = CheckpointInput(file=FileRef(name="a"))
    plain = Recipe(root=WithAdapters(model=model, adapters=(AdapterUse(file=FileRef(name="cat")),)))
    recipe = library.hash(library.made_entry(plain, "mix")).recipe
    assert recipe is not None
    _, file = recipe.files()
    assert (file.sha256, file.tensors) == hashes_of_safetensors(path)
    assert recipe_from(recipe.to_mapping()) == recipe
    assert without_hashes(recipe) == plain

    library.edit_lora_metadata(library.find_lora("cat"), {"modelspec.title": "A cat"})
    path.rename(folder / "dog.safetensors")
    library.refresh()
    library.lora_hash(library.find_lora("dog"))
    found = find_inputs(recipe, library)
    assert (found.notices, found.paths[1].name) == ((), "dog.safetensors")
    write_lora(folder / "cat.safetensors", seed=8)
    (folder / "dog.safetensors").unlink()
    library.refresh()
    library.lora_hash(library.find_lora("cat"))
    (notice,) = find_inputs(recipe, library).notices
    assert "cat is another file" in notice
