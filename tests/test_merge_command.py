"""`merge` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.commands.__main__ import main
from backend.commands.merge_recipe import AskedLora, read_lora
from backend.errors import RequestError
from backend.weights.safetensors_file import write_safetensors
from backend.weights.weight_file import open_weights

SHIPPED = Path(__file__).resolve().parents[1] / "models/checkpoints/emulsion-tiny-v1.safetensors"
UNET = "model.diffusion_model."


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The shipped model with every float 2 % larger, in a file of the same name."""
    source = open_weights(SHIPPED)
    path = tmp_path / "other" / SHIPPED.name
    path.parent.mkdir()
    tensors = {key: source.read(key) for key in source.keys()}
    write_safetensors(
        path,
        {key: tensor * 1.02 if tensor.is_floating_point() else tensor for key, tensor in tensors.items()},
        source.metadata,
    )
    return path


def merge(home: Path, *arguments: str | Path) -> int:
    return main(["merge", "--data-dir", str(home), *map(str, arguments)])


def weight(path: Path, key: str):
    return open_weights(path).read(UNET + key).float()


def test_two_files_become_one_block_by_block(tmp_path: Path, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.safetensors"
    assert merge(tmp_path, SHIPPED, other, "--alpha", 0, "--blocks", "M00=1,OUT=0.5", "-o", out) == 0
    assert "matched" in capsys.readouterr().out
    for key, alpha in (("input_blocks.1.0.in_layers.2.weight", 0), ("middle_block.0.in_layers.2.weight", 1)):
        expected = weight((SHIPPED, other)[alpha], key)
        assert weight(out, key).equal(expected), key
    key = "output_blocks.0.0.in_layers.2.weight"
    assert weight(out, key).allclose((weight(SHIPPED, key) + weight(other, key)) / 2, atol=1e-3)


def test_a_saved_recipe_gives_the_same_bytes(tmp_path: Path, other: Path) -> None:
    recipe, first, second = tmp_path / "r.json", tmp_path / "a/out.safetensors", tmp_path / "b/out.safetensors"
    options = ["--rule", "slerp", "--alpha", "0.4", "--dtype", "bf16"]
    assert merge(tmp_path, SHIPPED, other, *options, "-o", first, "--save-recipe", recipe) == 0
    assert merge(tmp_path, "--recipe", recipe, "-o", second) == 0
    assert first.read_bytes() == second.read_bytes()


def test_a_dry_run_writes_nothing_and_tells_as_json(
    tmp_path: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert merge(tmp_path, SHIPPED, other, "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == ""
    assert len(told["matched"]) == 1000
    assert told["recipe"]["root"]["rule"] == "lerp"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nothere.safetensors", "{other}", "-o", "{out}"], "nothere.safetensors"),
        (["{shipped}", "{other}"], "output"),
        (["{shipped}", "{other}", "-o", "out.png"], ".safetensors"),
        (["{shipped}", "{other}", "-o", "{shipped}"], "exists"),
        (["{shipped}", "{other}", "--rule", "mix", "-o", "{out}"], "mix"),
        (["{shipped}", "{other}", "--blocks", "IN99=1", "-o", "{out}"], "IN99"),
        (["{shipped}", "{other}", "--rule", "add_difference", "-o", "{out}"], "3 models"),
        (["{shipped}", "{other}", "-p", "gamma=1", "-o", "{out}"], "gamma"),
        (["{shipped}", "--alpha", "0.5", "-o", "{out}"], "second"),
        (["-o", "{out}"], "models"),
        (["--recipe", "nothere.json", "-o", "{out}"], "nothere.json"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], named: str, tmp_path: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    given = [text.format(shipped=SHIPPED, other=other, out=out) for text in arguments]
    assert merge(tmp_path, *given) == 2
    error = capsys.readouterr().err
    assert named in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()


def test_a_vae_and_another_type_without_any_merge(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    assert merge(tmp_path, SHIPPED, "--dtype", "fp32", "-o", out) == 0
    key = "input_blocks.0.0.weight"
    assert str(open_weights(out).spec(UNET + key).dtype) == "torch.float32"
    assert weight(out, key).equal(weight(SHIPPED, key))


def test_rules_are_listed_with_their_formulas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert merge(tmp_path, "--list-rules") == 0
    told = capsys.readouterr().out
    assert "slerp: SLERP" in told
    assert "(1 − α)·A + α·B" in told


def test_strengths_of_a_lora_stand_behind_colons(tmp_path: Path) -> None:
    assert read_lora("style") == AskedLora(file="style")
    assert read_lora("style:0.8:0.5") == AskedLora(file="style", strength=0.8, text_encoder_strength=0.5)
    with_colon = tmp_path / "a:b.safetensors"
    with_colon.touch()
    assert read_lora(f"{with_colon}:0.3") == AskedLora(file=str(with_colon), strength=0.3)
    with pytest.raises(RequestError, match="no number"):
        read_lora("style:strong")
