"""Weights that are not numbers are found by their names."""

import pytest
import torch

from backend.errors import BadCheckpoint
from backend.weights.finite import first_bad_tensor
from backend.weights.safetensors_file import open_safetensors, write_safetensors
from backend.weights.source import InMemory
from backend.weights.weight_file import open_weights

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn],
    ids=str,
)
def test_the_first_tensor_with_a_number_that_is_none_is_named(tmp_path, bad, dtype):
    broken = torch.ones(70, 90)
    broken[69, 5] = NAN if dtype == torch.float8_e4m3fn else bad  # which has no infinity
    tensors = {"a": torch.ones(3, dtype=dtype), "b": broken.to(dtype), "c": broken.to(dtype), "ids": torch.arange(3)}
    write_safetensors(tmp_path / "x", tensors)
    assert first_bad_tensor(open_safetensors(tmp_path / "x")) == "b"


def test_a_sound_file_has_none(tmp_path):
    tensors = {
        "a": torch.randn(3, 4).half(),
        "ids": torch.arange(3),
        "empty": torch.ones(0),
        "scalar": torch.tensor(1.0),
    }
    assert first_bad_tensor(InMemory(tensors)) is None


def test_a_scale_that_is_no_number_is_found_by_the_weight_that_it_belongs_to(tmp_path):
    tensors = {"a.weight": torch.ones(2, 2).to(torch.float8_e4m3fn), "a.weight_scale": torch.tensor(NAN)}
    write_safetensors(tmp_path / "x", tensors)
    assert first_bad_tensor(open_weights(tmp_path / "x")) == "a.weight"


def test_a_file_that_changed_is_told(tmp_path):
    write_safetensors(tmp_path / "x", {"a": torch.ones(3)})
    source = open_safetensors(tmp_path / "x")
    write_safetensors(tmp_path / "x", {"a": torch.ones(4)})
    with pytest.raises(BadCheckpoint, match="changed on the disk"):
        first_bad_tensor(source)
