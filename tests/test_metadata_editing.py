"""Metadata of safetensors files: written anew, while the tensors keep every byte."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from backend.errors import DiskFull, FileError, NotWritable, OutputError, PickleRefused, RequestError
from backend.weights.hashing import hashes_of_safetensors, sha256_of
from backend.weights.metadata_editing import MAX_ENTRIES, edit_metadata
from backend.weights.safetensors_file import open_safetensors, write_safetensors
from backend.weights.safetensors_header import MAX_METADATA_VALUE_BYTES

TENSORS = {"b.lora_up.weight": torch.arange(12.0).view(3, 4), "a.alpha": torch.tensor(2.0, dtype=torch.float16)}


@pytest.fixture
def lora(tmp_path):
    path = tmp_path / "cat.safetensors"
    write_safetensors(path, TENSORS, {"title": "old", "kept": "yes"})
    return path


def behind_header(path: Path) -> bytes:
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def header_of(path: Path) -> dict[str, object]:
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def test_entries_are_changed_added_and_removed(lora):
    before = behind_header(lora)
    assert edit_metadata(lora, {"title": "new ü", "tags": "a, b", "kept": None}) == {"title": "new ü", "tags": "a, b"}
    source = open_safetensors(lora)
    assert source.metadata == {"title": "new ü", "tags": "a, b"}
    assert behind_header(lora) == before
    for key, tensor in TENSORS.items():
        assert source.read(key).equal(tensor)
    assert [path.name for path in lora.parent.iterdir()] == [lora.name]


def test_the_hash_of_the_tensors_stays_and_that_of_the_file_does_not(lora):
    file, tensors = hashes_of_safetensors(lora)
    assert file == sha256_of(lora)
    assert tensors == hashlib.sha256(behind_header(lora)).hexdigest()
    edit_metadata(lora, {"title": "new"})
    assert hashes_of_safetensors(lora) == (sha256_of(lora), tensors)
    assert sha256_of(lora) != file


def test_tensors_keep_their_order_and_places(lora):
    before = {key: value for key, value in header_of(lora).items() if key != "__metadata__"}
    edit_metadata(lora, {"title": None, "kept": None})
    assert header_of(lora) == before
    assert list(header_of(lora)) == list(before)
    assert int.from_bytes(lora.read_bytes()[:8], "little") % 8 == 0  # so that tensors stay aligned


def test_a_link_stays_one_and_its_file_is_changed(lora, tmp_path):
    link = tmp_path / "elsewhere" / "link.safetensors"
    link.parent.mkdir()
    link.symlink_to(lora)
    edit_metadata(link, {"title": "new"})
    assert link.is_symlink()
    assert open_safetensors(lora).metadata["title"] == "new"


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_permissions_stay(lora):
    lora.chmod(0o640)
    edit_metadata(lora, {"title": "new"})
    assert lora.stat().st_mode & 0o777 == 0o640


WRONG = {
    "no key": {"": "x"},
    "blank key": {"  ": "x"},
    "control character": {"a\nb": "x"},
    "long key": {"x" * 201: "x"},
    "the metadata themselves": {"__metadata__": "x"},
    "half a character": {"a": "\ud800"},
    "half a character in a key": {"\ud800": "a"},
    "large value": {"a": "x" * (MAX_METADATA_VALUE_BYTES + 1)},
    "many entries": {str(index): "x" for index in range(MAX_ENTRIES + 1)},
    "too much in all": {str(index): "x" * 2**20 for index in range(17)},
}


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG)
def test_what_could_not_be_read_again_is_refused(lora, changes):
    before = lora.read_bytes()
    with pytest.raises(RequestError) as caught:
        edit_metadata(lora, changes)
    assert caught.value.field.startswith("metadata")
    assert lora.read_bytes() == before


def test_what_is_too_large_to_be_read_is_removed_by_its_name_alone(lora):
    write_safetensors(lora, TENSORS, {"title": "old", "tags": "x" * (MAX_METADATA_VALUE_BYTES + 1)})
    before = lora.read_bytes()
    with pytest.raises(RequestError, match="Remove it") as caught:
        edit_metadata(lora, {"title": "new"})
    assert caught.value.field == "metadata.tags"
    assert lora.read_bytes() == before
    assert edit_metadata(lora, {"title": "new", "tags": None}) == {"title": "new"}
    assert open_safetensors(lora).left_out == {}


def test_a_protected_file_is_refused(lora):
    lora.chmod(0o444)
    before = lora.read_bytes()
    with pytest.raises(NotWritable, match="write-protected"):
        edit_metadata(lora, {"title": "new"})
    assert lora.read_bytes() == before


def test_a_full_disk_is_told_before_anything_is_written(lora, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10, 10, 0))
    before = lora.read_bytes()
    with pytest.raises(DiskFull, match="beside the old one"):
        edit_metadata(lora, {"title": "new"})
    assert lora.read_bytes() == before


def test_a_file_that_another_program_changes_meanwhile_stays_as_that_left_it(lora, monkeypatch):
    copy = shutil.copyfileobj

    def copy_slowly(source, target, length):
        copy(source, target, length)
        lora.write_bytes(b"theirs")

    monkeypatch.setattr("shutil.copyfileobj", copy_slowly)
    with pytest.raises(OutputError, match="changed by another program"):
        edit_metadata(lora, {"title": "new"})
    assert lora.read_bytes() == b"theirs"
    assert [path.name for path in lora.parent.iterdir()] == [lora.name]


def test_what_is_no_safetensors_file_is_left_alone(tmp_path):
    for name, content, error in (("a", b"", FileError), ("b", b"PK\x03\x04" + b"x" * 100, PickleRefused)):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(error):
            edit_metadata(path, {"title": "new"})
        assert path.read_bytes() == content
    with pytest.raises(FileError, match="is not in"):
        edit_metadata(tmp_path / "missing", {"title": "new"})
