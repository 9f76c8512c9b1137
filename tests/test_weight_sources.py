"""Weight sources: tensors in memory, renamed, computed and averaged, read only when they are asked for."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backend.errors import BadCheckpoint
from backend.weights.read_ahead import read_ahead
from backend.weights.safetensors_file import open_safetensors, write_safetensors
from backend.weights.source import Computed, InMemory, Renamed, TensorSpec, with_averaged_weights, with_prefix

UNET = "model.diffusion_model."
NAMES = ("input_blocks.0.0.weight", "input_blocks.1.1.norm.weight", "input_blocks.11.0.in_layers.0.bias")


def full_checkpoint(*, skip: str = "") -> InMemory:
    """A checkpoint with plain weights, which are 1, and averaged ones, which are 2."""
    tensors: dict[str, Tensor] = {"first_stage_model.a": torch.zeros(1), "model_ema.decay": torch.tensor(0.9999)}
    for name in NAMES:
        tensors[UNET + name] = torch.ones(2)
        tensors["model_ema.diffusion_model" + name.replace(".", "")] = torch.full((2,), 2.0)
    tensors.pop(skip, None)
    return InMemory(tensors)


def test_a_source_in_memory_gives_what_it_was_given():
    source = InMemory({"a": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.int8)}, metadata={"k": "v"})
    out = torch.empty(3, dtype=torch.float64)
    source.read_into("a", out)
    assert source.keys() == ("a", "b")
    assert source.metadata == {"k": "v"}
    assert source.spec("b") == TensorSpec((2, 2), torch.int8)
    assert torch.equal(source.read("a"), torch.arange(3.0))
    assert torch.equal(out, torch.arange(3.0, dtype=torch.float64))
    with pytest.raises(KeyError):
        source.spec("c")


def test_equal_tensors_in_memory_have_equal_identities_and_others_do_not():
    tensors = {
        "a": torch.tensor([1.0, 2.0]),
        "same": torch.tensor([[1.0], [2.0]]).flatten(),
        "same bytes, other shape": torch.tensor([[1.0, 2.0]]),
        "same bytes, other type": torch.tensor([1.0, 2.0]).view(torch.int32),
        "other": torch.tensor([1.0, 3.0]),
        "bfloat16": torch.ones(2, dtype=torch.bfloat16),
        "empty": torch.ones(0),
        "scalar": torch.tensor(1.0),
    }
    source = InMemory(tensors)
    identities = {name: source.identity(name) for name in tensors}
    assert identities["a"] == identities["same"]
    assert len(set(identities.values())) == len(tensors) - 1


def test_the_identity_of_a_transposed_tensor_is_that_of_its_values():
    tensor = torch.arange(6.0).view(2, 3)
    source = InMemory({"t": tensor.T, "copy": tensor.T.clone(memory_format=torch.contiguous_format)})
    assert source.identity("t") == source.identity("copy")


def test_a_prefix_is_taken_off_and_the_rest_left_out():
    source = with_prefix(
        InMemory({"vae.a": torch.ones(1), "unet.a": torch.zeros(1)}, origin=Path("x.safetensors")), "vae."
    )
    out = torch.empty(1)
    source.read_into("a", out)
    assert source.keys() == ("a",)
    assert source.read("a").item() == out.item() == 1
    assert source.origin == Path("x.safetensors")


def test_storage_is_the_bytes_that_a_plain_tensor_consists_of(tmp_path):
    tensors = {"half": torch.arange(6.0).view(2, 3).half(), "whole": torch.arange(3), "empty": torch.ones(0, 2)}
    write_safetensors(tmp_path / "x", tensors)
    spec = TensorSpec((2, 3), torch.float16)
    sources = {
        "in memory": InMemory(tensors),
        "of a file": open_safetensors(tmp_path / "x"),
        "renamed": with_prefix(InMemory({f"a.{key}": tensor for key, tensor in tensors.items()}), "a."),
        "computed": Computed(InMemory(tensors), {"half": (spec, lambda: tensors["half"], "id")}),
    }
    for name, source in sources.items():
        for key, tensor in tensors.items():
            stored = source.read_storage(key)
            out = torch.empty(source.storage_bytes(key), dtype=torch.uint8)
            source.read_storage_into(key, out)
            assert source.packing(key) is None
            assert torch.equal(stored, out), name
            assert torch.equal(stored.view(tensor.dtype).view(tensor.shape), tensor), name


def test_a_renamed_tensor_keeps_its_identity():
    source = InMemory({"a": torch.ones(1), "b": torch.zeros(1)}, metadata={"k": "v"})
    renamed = Renamed(source, {"a": "x"}.get)
    assert renamed.identity("x") == source.identity("a")
    assert renamed.spec("x") == source.spec("a")
    assert renamed.metadata == {"k": "v"}
    with pytest.raises(KeyError):
        renamed.read("b")


def test_two_tensors_under_one_name_are_told():
    source = InMemory({"a.b": torch.ones(1), "ab": torch.zeros(1)}, origin=Path("x.safetensors"))
    with pytest.raises(BadCheckpoint, match=r'"a\.b" and "ab" stand for the same weight, "ab"'):
        Renamed(source, lambda key: key.replace(".", ""))


def test_computed_tensors_replace_and_add_and_are_made_when_asked_for():
    made: list[str] = []

    def make(name: str) -> Tensor:
        made.append(name)
        return torch.full((2,), 7.0)

    spec = TensorSpec((2,), torch.float32)
    values = {name: (spec, lambda name=name: make(name), f"made:{name}") for name in ("b", "new")}
    source = Computed(InMemory({"a": torch.ones(1), "b": torch.zeros(5)}, metadata={"k": "v"}), values)
    assert source.keys() == ("a", "b", "new")
    assert source.spec("b") == spec
    assert source.spec("a").shape == (1,)
    assert source.identity("new") == "made:new"
    assert source.metadata == {"k": "v"}
    assert not made
    out = torch.empty(2, dtype=torch.bfloat16)
    source.read_into("new", out)
    assert torch.equal(source.read("b"), torch.full((2,), 7.0))
    assert out.tolist() == [7, 7]
    assert made == ["new", "b"]
    source.read_into("a", out[:1])
    assert out.tolist() == [1, 7]


def test_averaged_weights_take_the_names_of_the_plain_ones():
    source = with_averaged_weights(full_checkpoint())
    assert sorted(source.keys()) == sorted([*(UNET + name for name in NAMES), "first_stage_model.a"])
    assert all(torch.equal(source.read(UNET + name), torch.full((2,), 2.0)) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_average_with_a_gap_is_none(name):
    average = "model_ema.diffusion_model" + name.replace(".", "")
    with pytest.raises(KeyError, match=average):
        with_averaged_weights(full_checkpoint(skip=average))


def test_a_file_without_averages_has_none():
    with pytest.raises(KeyError):
        with_averaged_weights(InMemory({UNET + "a": torch.ones(1)}))
    with pytest.raises(KeyError):
        with_averaged_weights(InMemory({"model_ema.decay": torch.ones(1)}))


def test_sources_over_a_file_read_it_only_when_asked(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {UNET + "a": torch.arange(3.0)})
    source = with_prefix(open_safetensors(path), UNET)
    path.unlink()
    assert source.keys() == ("a",)
    assert source.spec("a").shape == (3,)
    with pytest.raises(BadCheckpoint, match="changed on the disk"):
        source.read("a")


def test_files_are_read_ahead_as_far_as_there_is_room_and_one_that_is_gone_is_no_error(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("small", "gone", "large")]
    files[0].write_bytes(b"1" * 1000)
    files[2].write_bytes(b"2" * 10_000)
    advised: list[int] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "posix_fadvise", lambda _file, _start, size, _advice: advised.append(size), raising=False)
        patched.setattr(os, "POSIX_FADV_WILLNEED", 3, raising=False)
        thread = read_ahead(files, 5000)
        assert thread is not None
        thread.join(10)
        assert advised == [1000]
        thread = read_ahead(files, 11_000)
        assert thread is not None
        thread.join(10)
    assert advised == [1000, 1000, 10_000]
