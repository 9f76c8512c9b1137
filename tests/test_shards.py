"""Weights that are spread over several files are one source, which every part stands for."""

import pytest
import torch

from backend.errors import BadCheckpoint
from backend.weights.safetensors_file import write_safetensors
from backend.weights.shards import is_later_shard
from backend.weights.weight_file import open_weights

E4M3 = torch.float8_e4m3fn
PARTS = (
    {"a.weight": torch.arange(6.0).view(2, 3).to(E4M3), "b": torch.ones(2)},
    {"a.weight_scale": torch.tensor(0.5), "c": torch.arange(4)},
    {"d": torch.zeros(3).half()},
)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
    for path, tensors in zip(paths, PARTS, strict=True):
        write_safetensors(path, tensors, {"part": path.name})
    return paths


@pytest.mark.parametrize("number", [0, 1, 2])
def test_any_part_opens_all_of_them_with_scales_that_lie_elsewhere(files, number):
    source = open_weights(files[number])
    assert set(source.keys()) == {"a.weight", "b", "c", "d"}
    assert torch.equal(source.read("a.weight"), torch.arange(6.0).view(2, 3) * 0.5)
    packing = source.packing("a.weight")
    assert packing is not None
    assert packing.row_bytes == 3
    for key, tensor in (PARTS[0] | PARTS[1] | PARTS[2]).items():
        if key in source.keys() and key != "a.weight":
            out = torch.empty(source.storage_bytes(key), dtype=torch.uint8)
            source.read_storage_into(key, out)
            assert torch.equal(source.read(key), tensor)
            assert torch.equal(out, source.read_storage(key))
            assert source.spec(key).dtype == tensor.dtype
    assert source.origin == files[0]
    assert source.metadata["part"] == files[0].name


def test_the_identity_of_the_whole_is_that_of_all_parts(files):
    before = open_weights(files[0])
    assert before.identity("b") != before.identity("c")
    assert before.identity("") == open_weights(files[1]).identity("")
    write_safetensors(files[2], {"d": torch.ones(3)})
    assert before.identity("") != open_weights(files[0]).identity("")


def test_a_missing_part_is_named(files):
    files[1].unlink()
    with pytest.raises(BadCheckpoint, match=r"1 of its 3 parts are missing \(model-00002-of-00003\.safetensors\)"):
        open_weights(files[0])


def test_a_weight_in_two_parts_is_told(files):
    write_safetensors(files[2], {"b": torch.ones(2)})
    with pytest.raises(BadCheckpoint, match=r"is in model-00001-of-00003\.safetensors, too"):
        open_weights(files[0])


@pytest.mark.parametrize("name", ["model-00004-of-00003.safetensors", "a-00001-of-99999.safetensors", "1-of-2.sft"])
def test_a_name_that_only_looks_like_that_of_a_part_is_a_file_of_its_own(tmp_path, name):
    write_safetensors(tmp_path / name, {"a": torch.ones(1)})
    assert open_weights(tmp_path / name).keys() == ("a",)
    assert not is_later_shard(tmp_path / name)


def test_lists_show_the_first_part_only(files):
    assert [is_later_shard(path) for path in files] == [False, True, True]
