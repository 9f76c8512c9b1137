"""`generate` with pictures to begin with, masks, borders, a second pass and tiles, as a person runs it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.commands.__main__ import main
from backend.images.png_text import read_png_text
from backend.pipeline.infotext import read_infotext, request_from_infotext
from backend.pipeline.metadata import REQUEST_KEY
from tests.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    write_tiny_checkpoint(folder / "models" / "checkpoints" / "tiny.safetensors")
    return folder


@pytest.fixture(scope="module")
def picture(home: Path) -> Path:
    path = home / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def mask(home: Path) -> Path:
    path = home / "mask.png"
    image = Image.new("L", (64, 64), 0)
    image.paste(255, (16, 16, 40, 40))
    image.save(path)
    return path


def generate(home: Path, output: Path, *more: str) -> int:
    return main(
        ["generate", "a blue heart", "-o", str(output), "--data-dir", str(home), "--cpu", "--steps", "2", *more]
    )


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def request_in(path: Path) -> dict:
    return json.loads(read_png_text(path.read_bytes())[REQUEST_KEY])["request"]


def test_a_picture_begins_with_a_file_which_is_stored_and_named(home: Path, picture: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.png"
    assert generate(home, output, "--init", str(picture), "--strength", "0.6", "--seed", "1") == 0
    assert pixels(output).shape == (64, 64, 3)
    sha256 = hashlib.sha256(picture.read_bytes()).hexdigest()
    fields = request_from_infotext(read_infotext(read_png_text(output.read_bytes())["parameters"])).fields
    assert (fields["init"].picture, fields["init"].denoising_strength) == (sha256, 0.6)
    assert (home / "data" / "pictures" / sha256[:2] / sha256).read_bytes() == picture.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


def test_only_what_is_masked_changes(home: Path, picture: Path, mask: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.png"
    options = ("--mask-blur", "0", "--inpaint", "masked", "--padding", "8", "--fill", "original", "--strength", "1")
    assert generate(home, output, "--init", str(picture), "--mask", str(mask), *options, "--size", "64x64") == 0
    changed = (pixels(output) != pixels(picture)).any(axis=-1)
    inside = pixels(mask)[..., 0] > 0
    assert not changed[~inside].any()
    assert changed[inside].any()
    said = request_in(output)["init"]["mask"]
    assert (said["area"], said["content"], said["padding"], said["blur"]) == ("masked", "original", 8, 0)


def test_every_option_of_pictures_arrives(home: Path, picture: Path, mask: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.png"
    options = [
        "--init", str(picture), "--resize", "fill", "--init-upscaler", "bicubic", "--noise-multiplier", "1.1",
        "--extra-noise", "0.1", "--exact-steps", "--color-correction", "--mask", str(mask), "--invert-mask",
        "--soft-inpainting", "--mask-weight", "0.5", "--image-guidance", "2",
    ]  # fmt: skip
    assert generate(home, output, *options, "--size", "64x64") == 0
    init = request_in(output)["init"]
    expected = {
        "resize": "fill", "upscaler": "bicubic", "noise_multiplier": 1.1, "extra_noise": 0.1, "exact_steps": True,
        "color_correction": True, "image_guidance": 2,
    }  # fmt: skip
    assert expected.items() <= init.items()
    assert {"inverted": True, "soft": True, "conditioning_weight": 0.5}.items() <= init["mask"].items()


def test_borders_make_the_picture_larger(home: Path, picture: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.png"
    assert generate(home, output, "--init", str(picture), "--outpaint", "left=64, overlap=8", "--strength", "1") == 0
    assert pixels(output).shape == (64, 128, 3)
    assert np.array_equal(pixels(output)[:, 64 + 16 :], pixels(picture)[:, 16:])


def test_a_second_pass_keeps_the_picture_before_it(home: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "out.png"
    options = ("--hires-upscaler", "latent_bicubic", "--hires-strength", "0.5", "--hires-steps", "1", "--seed", "2")
    assert generate(home, output, "--size", "64x64", "--hires", "2", *options, "--json") == 0
    image = json.loads(capsys.readouterr().out)["images"][0]
    assert image["before_hires"] == str(tmp_path / "out-before-hires.png")
    assert pixels(output).shape == (128, 128, 3)
    assert generate(home, tmp_path / "small.png", "--size", "64x64", "--seed", "2") == 0
    assert np.array_equal(pixels(tmp_path / "out-before-hires.png"), pixels(tmp_path / "small.png"))


def test_tiles_arrive(home: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.png"
    assert generate(home, output, "--size", "192x64", "--tiles", "128", "--tile-overlap", "32") == 0
    assert request_in(output)["tiles"] == {"method": "multidiffusion", "size": 128, "overlap": 32}
    assert generate(home, output, "--size", "192x64", "--tiles", "128", "--force") == 0
    assert request_in(output)["tiles"]["overlap"] == 64


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--strength", "0.5"), "--init FILE"),
        (("--mask", "{mask}"), "--init FILE"),
        (("--outpaint", "left=8"), "--init FILE"),
        (("--init", "{picture}", "--mask-blur", "3"), "--mask-blur: means nothing without --mask FILE"),
        (("--init", "{picture}", "--strength", "2"), "denoising_strength"),
        (("--init", "{picture}", "--outpaint", "left"), "NAME=NUMBER"),
        (("--init", "{picture}", "--outpaint", "middle=3"), "NAME=NUMBER"),
        (("--init", "{picture}", "--outpaint", "left=-3"), "number of pixels"),
        (("--init", "{picture}", "--outpaint", "left=0"), "all four borders are 0"),
        (("--init", "nowhere.png"), "nowhere.png: it cannot be read"),
        (("--init", "{home}"), "cannot be read"),
        (("--init", "{bad}"), "bad.png: "),
        (("--hires-steps", "3"), "--hires-steps: means nothing without --hires X"),
        (("--hires", "9"), "scale"),
        (("--hires", "2", "--hires-upscaler", "unheard of"), "unheard of"),
        (("--tile-overlap", "64"), "--tiles 768"),
        (("--tiles", "100"), "size"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    home: Path, picture: Path, mask: Path, tmp_path: Path, capsys, options: tuple[str, ...], expected: str
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    named = [option.format(picture=picture, mask=mask, home=home, bad=bad) for option in options]
    assert generate(home, tmp_path / "out.png", *named) == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert expected in told[0]
    assert not (tmp_path / "out.png").exists()
