"""Upscalers as users have them: files in folders, ways of resampling, sizes that are hit to the pixel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backend.engine.converted_pickles import ConvertedPickles
from backend.engine.upscalers import UpscalerKind, Upscalers
from backend.errors import BadCheckpoint, Cancelled, KeysDoNotMatch, UnknownName, UnsupportedCheckpoint
from backend.families.family import Machine
from backend.memory.device import DeviceFacts
from backend.memory.dtype_policy import DtypePolicy
from backend.memory.residency import Residency
from backend.weights.hashing import HashCache
from tests.upscaler_files import compact, esrgan, write_upscaler

FULL = DtypePolicy(unet=torch.float32, text_encoder=torch.float32, autoencoder=torch.float32)
DEVICE = DeviceFacts(kind="cpu", name="test", total_bytes=2**33, has_bfloat16=True, has_float16=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models" / "upscalers"


@pytest.fixture
def upscalers(tmp_path: Path, folder: Path) -> Callable[[], Upscalers]:
    """The same folders with each call, as after a new start of the program."""

    def opened() -> Upscalers:
        hashes = HashCache(tmp_path / "hashes.json")
        return Upscalers(
            (folder,),
            ConvertedPickles(tmp_path / "converted"),
            Machine(device=DEVICE, policy=FULL, residency=Residency(2**30)),
            sha256=hashes.hash,
            known_hash=hashes.known,
        )

    return opened


def photo(width: int = 20, height: int = 14, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def test_ways_of_resampling_are_there_without_any_file(upscalers) -> None:
    found = upscalers()
    assert found.names() == ["none", "lanczos", "bicubic", "bilinear", "nearest"]
    assert {entry.kind for entry in found.entries()} == {UpscalerKind.RESAMPLING}
    assert found.default() == "lanczos"
    expected = photo().resize((33, 50), Image.Resampling.BICUBIC)
    assert found.enlarge("Bicubic", photo(), 33, 50).tobytes() == expected.tobytes()
    assert found.enlarge("None", photo(), 20, 14).tobytes() == photo().tobytes()


def test_files_are_found_by_every_name_they_have(upscalers, folder: Path) -> None:
    write_upscaler(folder / "anime" / "2x-tiny.safetensors", compact(scale=2))
    write_upscaler(folder / "RealESRGAN_x4plus.safetensors", esrgan())
    found = upscalers()
    assert [(entry.name, entry.label, entry.scale) for entry in found.entries()[5:]] == [
        ("anime/2x-tiny", "RealESRGAN compact", 2),
        ("RealESRGAN_x4plus", "ESRGAN", 4),
    ]
    for name in ("anime/2x-tiny", "2X-Tiny", "2x-tiny.safetensors", "anime\\2x-tiny.safetensors"):
        assert found.find(name).name == "anime/2x-tiny"
    assert found.find("R-ESRGAN 4x+").name == "RealESRGAN_x4plus"
    assert found.default() == "anime/2x-tiny"
    with pytest.raises(UnknownName, match=r"4x-none.*RealESRGAN_x4plus"):
        found.find("4x-none")


@pytest.mark.parametrize("size", [(40, 28), (33, 21), (80, 56), (90, 70), (10, 7), (20, 14)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_every_size_is_hit_and_kinds_of_pictures_stay(
    upscalers, folder: Path, size: tuple[int, int], mode: str
) -> None:
    write_upscaler(folder / "tiny.safetensors", compact(scale=2))
    made = upscalers().enlarge("tiny", photo(mode=mode), *size)
    assert (made.size, made.mode) == (size, mode)


def test_a_network_runs_over_its_own_result_until_that_is_large_enough(upscalers, folder: Path) -> None:
    write_upscaler(folder / "repeats.safetensors", compact(scale=2, size=0))
    told: list[tuple[int, int]] = []
    made = upscalers().enlarge("repeats", photo(), 80, 56, lambda *done: told.append(done))
    assert made.tobytes() == photo().resize((80, 56), Image.Resampling.NEAREST).tobytes()
    assert told == [(1, 2), (2, 2)]


def test_a_network_of_scale_1_cleans_up_whatever_the_size(upscalers, folder: Path) -> None:
    write_upscaler(folder / "1x-clean.safetensors", esrgan(unshuffle=4))
    made = upscalers().enlarge("1x-clean", photo(), 20, 14)
    assert made.size == (20, 14)
    assert made.tobytes() != photo().tobytes()


def test_old_pickle_files_are_converted_when_they_are_used(upscalers, folder: Path) -> None:
    folder.mkdir(parents=True)
    torch.save({"params_ema": esrgan(unshuffle=2), "params": esrgan(seed=9, unshuffle=2)}, folder / "2x-old.pth")
    write_upscaler(folder / "new.safetensors", esrgan(unshuffle=2))
    found = upscalers()
    unused = found.find("2x-old")
    assert (unused.label, unused.scale, unused.problem) == ("", 2, "")
    assert found.enlarge("2x-old", photo(), 40, 28).tobytes() == found.enlarge("new", photo(), 40, 28).tobytes()
    assert found.find("2x-old").label == "ESRGAN"
    assert upscalers().find("2x-old").label == "ESRGAN"  # after the next start nothing is converted again


def test_what_cannot_be_used_is_listed_with_its_problem(upscalers, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "page.pth").write_text("<!doctype html> not found")
    mark = "layers.0.residual_group.overlap_attn.relative_position_bias_table"
    write_upscaler(folder / "hat.safetensors", {mark: torch.zeros(1)})
    half = {key: tensor for key, tensor in compact().items() if key != "body.2.weight"}
    torch.save({"params": half}, folder / "other.pth")
    found = upscalers()
    problems = {entry.name: entry.problem for entry in found.entries()[5:]}
    assert "page.pth" in problems["page"]
    assert "HAT" in problems["hat"]
    assert found.names()[5:] == ["other"]
    for name, error in (("page", BadCheckpoint), ("hat", UnsupportedCheckpoint), ("other", KeysDoNotMatch)):
        with pytest.raises(error, match=f"^{found.find(name).path.name}"):
            found.look(name)
    assert found.names()[5:] == []
    assert all(entry.problem for entry in found.entries()[5:])
    torch.save(esrgan(), folder / "other.pth")
    assert found.look("other").label == "ESRGAN"


def test_a_file_that_is_gone_is_told(upscalers, folder: Path) -> None:
    path = write_upscaler(folder / "tiny.safetensors", compact())
    found = upscalers()
    assert found.look("tiny").scale == 2
    path.unlink()
    found.refresh()
    with pytest.raises(UnknownName):
        found.enlarge("tiny", photo(), 40, 28)


def test_cancelling_ends_it(upscalers, folder: Path) -> None:
    write_upscaler(folder / "tiny.safetensors", compact())
    for name in ("tiny", "lanczos"):
        with pytest.raises(Cancelled):
            upscalers().enlarge(name, photo(), 40, 28, is_cancelled=lambda: True)
