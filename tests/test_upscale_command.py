"""`upscale`, as a person runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.commands.__main__ import main
from backend.images.png_text import read_png_text
from tests.upscaler_files import compact, write_upscaler


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    write_upscaler(folder / "models" / "upscalers" / "2x-repeats.safetensors", compact(scale=2, size=0))
    return folder


def photo(path: Path, seed: int = 1) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (14, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def upscale(home: Path, *arguments: str | Path) -> int:
    return main(["upscale", *map(str, arguments), "--data-dir", str(home), "--cpu"])


def larger(picture: Path, width: int, height: int) -> bytes:
    return Image.open(picture).resize((width, height), Image.Resampling.NEAREST).tobytes()


def test_pictures_are_made_four_times_as_large_and_named_alike(home: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "other").mkdir()
    pictures = [photo(tmp_path / "a.png", 1), photo(tmp_path / "other" / "a.png", 2), photo(tmp_path / "b.png", 3)]
    out = tmp_path / "new" / "folder"
    assert upscale(home, *pictures, "-o", out) == 0
    files = [out / "a.png", out / "a-2.png", out / "b.png"]
    assert capsys.readouterr().out.splitlines() == [str(file) for file in files]
    for picture, file in zip(pictures, files, strict=True):
        assert Image.open(file).tobytes() == larger(picture, 80, 56)
    assert (
        "Postprocess upscale by: 4, Postprocess upscaler: 2x-repeats"
        in read_png_text(files[0].read_bytes())["parameters"]
    )
    assert sorted(out.iterdir()) == sorted(files)
    assert [path for path in (home / "data" / "pictures").rglob("*") if path.is_file()] == []


def test_an_upscaler_may_lie_anywhere_and_sizes_be_given(home: Path, tmp_path: Path, capsys) -> None:
    network = write_upscaler(tmp_path / "elsewhere.safetensors", compact(scale=3, size=0))
    picture = photo(tmp_path / "a.png")
    assert upscale(home, picture, "--upscaler", network, "--size", "30x42", "-o", tmp_path / "x", "--json") == 0
    told = json.loads(capsys.readouterr().out)["images"][0]
    assert (told["width"], told["height"], told["path"]) == (30, 42, str(tmp_path / "x" / "a.png"))
    whole = Image.open(picture).resize((60, 42), Image.Resampling.NEAREST)
    assert Image.open(told["path"]).tobytes() == whole.crop((15, 0, 45, 42)).tobytes()


def test_a_broken_picture_is_told_and_the_rest_is_made(home: Path, tmp_path: Path, capsys) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    good = photo(tmp_path / "good.png")
    assert upscale(home, broken, tmp_path / "gone.png", good, "--by", "2", "-o", tmp_path / "x") == 1
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'x' / 'good.png'}\n"
    errors = [line for line in told.err.splitlines() if line.startswith("upscale: ")]
    assert ["broken.png" in errors[0], "gone.png" in errors[1], len(errors)] == [True, True, 2]
    assert Image.open(tmp_path / "x" / "good.png").tobytes() == larger(good, 40, 28)


def test_a_file_that_is_there_is_written_over_only_with_force(home: Path, tmp_path: Path, capsys) -> None:
    picture = photo(tmp_path / "a.png")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.png").write_bytes(b"mine")
    assert upscale(home, picture, "-o", tmp_path / "x") == 1
    assert "exists" in capsys.readouterr().err
    assert (tmp_path / "x" / "a.png").read_bytes() == b"mine"
    assert upscale(home, picture, "-o", tmp_path / "x", "--force") == 0
    assert Image.open(tmp_path / "x" / "a.png").size == (80, 56)


def test_what_there_is_can_be_listed(home: Path, capsys) -> None:
    assert upscale(home, "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "lanczos: Lanczos"
    assert lines[-1] == "2x-repeats: RealESRGAN compact, 2x"
    assert upscale(home, "--list", "--json") == 0
    assert json.loads(capsys.readouterr().out)["upscalers"][-1]["scale"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png"], "output"),
        (["-o", "x"], "pictures"),
        (["a.png", "-o", "x", "--by", "0"], "scale"),
        (["a.png", "-o", "x", "--upscaler", "4x-none"], "4x-none"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "a.png")
    assert upscale(home, *arguments) == 1
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("upscale: ")]
    assert len(told) == 1
    assert message in told[0]
