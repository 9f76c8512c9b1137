"""Hashes of weight files, remembered until the file changes."""

import hashlib
import os

import pytest

from backend.weights.hashing import HashCache, sha256_of


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights" * 1_000_000)
    return path


def test_the_hash_is_the_sha256_of_the_content(tmp_path, model):
    expected = hashlib.sha256(model.read_bytes()).hexdigest()
    assert sha256_of(model) == expected
    assert HashCache(tmp_path / "hashes.json").hash(model) == expected
    (tmp_path / "empty").touch()
    assert sha256_of(tmp_path / "empty") == hashlib.sha256().hexdigest()


def test_a_hash_is_known_to_the_next_start(tmp_path, model):
    cache = HashCache(tmp_path / "data" / "hashes.json")
    assert cache.known(model) is None
    digest = cache.hash(model)
    assert cache.known(model) == digest
    assert HashCache(tmp_path / "data" / "hashes.json").known(model) == digest


def test_a_hash_that_is_known_is_not_computed_again(tmp_path, model):
    digest = HashCache(tmp_path / "hashes.json").hash(model)
    status = model.stat()
    model.write_bytes(b"changed" * 1_000_000)  # same length ...
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns))  # ... and time: the cache cannot see it
    assert HashCache(tmp_path / "hashes.json").hash(model) == digest


def test_a_changed_file_is_hashed_again(tmp_path, model):
    cache = HashCache(tmp_path / "hashes.json")
    old = cache.hash(model)
    model.write_bytes(b"other")
    assert cache.known(model) is None
    assert cache.hash(model) == hashlib.sha256(b"other").hexdigest() != old


DAMAGED = {
    "empty": b"",
    "cut off": b"{",
    "a list": b"[]",
    "nothing": b"null",
    "other values": b'{"a": 1}',
    "numbers": b'{"PATH": {"state": 1, "sha256": 2}}',
    "no hash": b'{"PATH": {"state": "x"}}',
    "no text": b"\xff",
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_list_of_hashes_costs_time_and_nothing_else(tmp_path, model, content):
    file = tmp_path / "hashes.json"
    file.write_bytes(content.replace(b"PATH", str(model).encode()))
    cache = HashCache(file)
    assert cache.known(model) is None
    assert cache.hash(model) == sha256_of(model)
    assert HashCache(file).known(model) == sha256_of(model)


def test_a_list_that_cannot_be_written_is_logged_and_the_hash_given_all_the_same(tmp_path, model, caplog):
    (tmp_path / "file").touch()
    cache = HashCache(tmp_path / "file" / "hashes.json")
    assert cache.hash(model) == sha256_of(model)
    assert cache.known(model) == sha256_of(model)
    assert "not remembered" in caplog.text


def test_a_missing_file_has_no_hash(tmp_path):
    with pytest.raises(FileNotFoundError):
        HashCache(tmp_path / "hashes.json").hash(tmp_path / "missing")


def test_names_that_are_no_unicode_are_remembered(tmp_path):
    path = tmp_path / os.fsdecode(b"model-\xff.safetensors")
    path.write_bytes(b"1")
    digest = HashCache(tmp_path / "hashes.json").hash(path)
    assert HashCache(tmp_path / "hashes.json").known(path) == digest
