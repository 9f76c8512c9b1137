"""generate, info, convert and doctor, as a person runs them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from backend.commands.__main__ import main
from backend.commands.minimum_versions import MINIMUMS, Minimum, outdated_packages
from backend.commands.progress_line import ProgressLine
from backend.commands.terminal import as_line
from backend.events import Notice, Progress, StageStarted
from backend.images.png_text import read_png_text
from backend.weights.safetensors_file import write_safetensors
from tests.extension_samples import write_good_one
from tests.tiny_adapters import sd1_lora
from tests.tiny_checkpoint import METADATA, tiny_tensors, write_t5_header, write_tiny_checkpoint


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with one checkpoint."""
    folder = tmp_path_factory.mktemp("home")
    write_tiny_checkpoint(folder / "models" / "checkpoints" / "tiny.safetensors")
    return folder


def generate(home: Path, output: Path, *more: str) -> int:
    size = () if "--size" in more or "--width" in more else ("--size", "64x64")
    return main(
        ["generate", "a blue heart", "-o", str(output), "--data-dir", str(home), "--cpu", "--steps", "2", *size, *more]
    )


def small_file(path: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> Path:
    write_safetensors(path, tensors, metadata)
    return path


def test_generate_writes_a_picture_that_says_how_it_was_made(home: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "new folder" / "heart.png"
    assert generate(home, output, "--seed", "5", "--sampler", "Euler a", "--negative", "red", "--guidance", "3") == 0
    assert capsys.readouterr().out == f"{output}\n"
    with Image.open(output) as picture:
        assert picture.size == (64, 64)
    infotext = read_png_text(output.read_bytes())["parameters"]
    assert infotext.startswith("a blue heart\nNegative prompt: red\nSteps: 2, Sampler: Euler a")
    assert "CFG scale: 3" in infotext
    assert "Seed: 5" in infotext
    assert os.listdir(output.parent) == ["heart.png"]


def test_generate_numbers_several_pictures_and_tells_them_as_json(home: Path, tmp_path: Path, capsys) -> None:
    assert generate(home, tmp_path / "x.png", "--batch-size", "2", "--batch-count", "2", "--seed", "7", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["state"] == "done"
    assert [Path(image["path"]).name for image in told["images"]] == ["x-1.png", "x-2.png", "x-3.png", "x-4.png"]
    assert [image["seed"] for image in told["images"]] == [7, 8, 9, 10]
    assert all(Path(image["path"]).is_file() for image in told["images"])
    assert told["images"][0]["width"] == 64


def test_generate_gives_the_same_bytes_for_the_same_request(home: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        assert generate(home, tmp_path / name, "--seed", "3") == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_generate_writes_over_nothing_unless_told_to(home: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "x.png"
    output.write_text("mine")
    assert generate(home, output) == 1
    assert "--force" in capsys.readouterr().err
    assert output.read_text() == "mine"
    assert generate(home, output, "--force") == 0
    assert Image.open(output).size == (64, 64)


def test_generate_takes_a_checkpoint_from_anywhere(home: Path, tmp_path: Path) -> None:
    elsewhere = write_tiny_checkpoint(tmp_path / "elsewhere" / "other.safetensors", seed=1)
    for name, checkpoint in (("a.png", str(elsewhere)), ("b.png", "tiny")):
        assert generate(home, tmp_path / name, "--checkpoint", checkpoint, "--seed", "1") == 0
    assert "Model: other" in read_png_text((tmp_path / "a.png").read_bytes())["parameters"]
    assert "Model: tiny" in read_png_text((tmp_path / "b.png").read_bytes())["parameters"]


def test_generate_lets_another_checkpoint_finish_the_picture(home: Path, tmp_path: Path) -> None:
    elsewhere = str(write_tiny_checkpoint(tmp_path / "elsewhere" / "other.safetensors", seed=1))
    alone, refined = tmp_path / "alone.png", tmp_path / "refined.png"
    assert generate(home, alone, "--seed", "1") == 0
    assert generate(home, refined, "--seed", "1", "--refiner", elsewhere, "--refiner-switch", "0.5") == 0
    infotext = read_png_text(refined.read_bytes())["parameters"]
    assert "Refiner: other, Refiner switch at: 0.5" in infotext
    assert Image.open(alone).tobytes() != Image.open(refined).tobytes()


def test_generate_takes_a_text_encoder_from_anywhere_and_says_when_it_does_not_fit(
    home: Path, tmp_path: Path, capsys
) -> None:
    encoder = write_t5_header(tmp_path / "elsewhere" / "large.safetensors")
    assert generate(home, tmp_path / "x.png", "--text-encoder", str(encoder)) == 0
    assert "large is T5-XXL" in capsys.readouterr().err


def test_generate_leaves_extensions_out_in_safe_mode(home: Path, tmp_path: Path, capsys) -> None:
    extensions = home / "extensions"
    extensions.mkdir()
    write_good_one(extensions)
    try:
        sampler = ("--sampler", "Good of the test")
        assert generate(home, tmp_path / "x.png", *sampler, "--safe-mode") == 1
        assert 'no sampler named "Good of the test"' in capsys.readouterr().err
        assert generate(home, tmp_path / "x.png", *sampler) == 0
    finally:
        shutil.rmtree(extensions)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--sampler", "oiler"], 'There is no sampler named "oiler"'),
        (["--checkpoint", "missing"], 'There is no checkpoint named "missing". Known: tiny.'),
        (["--vae", "missing"], 'There is no VAE named "missing"'),
        (["--refiner", "missing"], 'There is no checkpoint named "missing"'),
        (["--text-encoder", "missing"], 'There is no text encoder named "missing"'),
        (["--refiner-switch", "2"], "refiner_switch: 2.0 is outside 0 to 1"),
        (["--shift", "0"], "shift: 0.0 is outside"),
        (["--guidance-rescale", "1.5"], "guidance_rescale: 1.5 is outside 0 to 1"),
        (["--distilled-guidance", "nan"], "distilled_guidance: must be a number"),
        (["--size", "100x64"], "width: 100 is no multiple of 8"),
        (["--guidance", "nan"], "guidance_scale: must be a number"),
        (["--seed", "-2"], "seed: -2 is outside"),
    ],
)
def test_generate_tells_what_is_wrong_in_one_line(
    home: Path, tmp_path: Path, capsys, arguments: list[str], expected: str
) -> None:
    assert generate(home, tmp_path / "x.png", *arguments) == 1
    message = capsys.readouterr().err
    assert expected in message
    assert message.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_generate_refuses_a_name_that_is_no_pngs(home: Path, tmp_path: Path, capsys) -> None:
    assert generate(home, tmp_path / "x.jpg") == 1
    assert "must end in .png" in capsys.readouterr().err


def test_generate_without_a_checkpoint_says_where_to_put_one(tmp_path: Path, capsys) -> None:
    assert generate(tmp_path / "empty", tmp_path / "x.png") == 1
    assert str(tmp_path / "empty" / "models" / "checkpoints") in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_generate_stops_at_a_signal_and_keeps_what_is_finished(
    home: Path, tmp_path: Path, capsys, number: signal.Signals
) -> None:
    interrupting = threading.Thread(target=_interrupt_after_first_picture, args=(tmp_path, number))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have background jobs ignore it
    try:
        interrupting.start()
        assert generate(home, tmp_path / "x.png", "--batch-count", "50", "--steps", "40") == 130
        interrupting.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.endswith("generate: stopped\n")
    names = sorted(os.listdir(tmp_path))
    assert "x-1.png" in names
    assert len(names) < 50
    assert not any(name.startswith(".") for name in names)


def _interrupt_after_first_picture(folder: Path, number: signal.Signals) -> None:
    deadline = time.monotonic() + 60
    while not list(folder.glob(".emulsion-*/*/*.png")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(os.getpid(), number)


def test_info_tells_family_types_hashes_and_metadata(home: Path, capsys) -> None:
    file = home / "models" / "checkpoints" / "tiny.safetensors"
    assert main(["info", str(file), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["family"], facts["problem"]) == ("sd1", "")
    assert facts["dtypes"] == {"float16": facts["parameters"]}
    assert facts["size"] == file.stat().st_size
    assert facts["short"] == facts["sha256"][:10]
    assert facts["metadata"]["modelspec.title"] == "Tiny random model"
    assert main(["info", str(file)]) == 0
    text = capsys.readouterr().out
    assert "(sd1)" in text
    assert facts["sha256"] in text
    assert "modelspec.title: Tiny random model" in text


def test_info_knows_the_hashes_of_a1111(tmp_path: Path, capsys) -> None:
    # By hand: hashlib.sha256(bytes(65536)).hexdigest()[:8]
    file = small_file(tmp_path / "x.safetensors", {"conv_first.weight": torch.zeros(400_000)})
    main(["info", str(file), "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["legacy"] == "de2f2560"
    main(["info", str(file), "--json", "--no-hash"])
    assert "sha256" not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("family", "tensors"),
    [
        ("lora", {"lora_unet_down_blocks_0.lora_down.weight": torch.zeros(4, 8)}),
        ("chroma", {"distilled_guidance_layer.in_proj.weight": torch.zeros(2, 2)}),
        ("flux2", {"model.diffusion_model.double_stream_modulation_img.lin.weight": torch.zeros(2, 2)}),
        ("diffusers-transformer", {"transformer_blocks.0.attn.add_k_proj.weight": torch.zeros(2, 2)}),
        ("hunyuan-dit", {"mlp_t5.0.weight": torch.zeros(2, 2)}),
        ("vae", {"decoder.conv_in.weight": torch.zeros(2, 2)}),
        ("unknown", {"something": torch.zeros(2)}),
    ],
)
def test_info_names_files_that_cannot_be_run(
    tmp_path: Path, capsys, family: str, tensors: dict[str, torch.Tensor]
) -> None:
    file = small_file(tmp_path / "x.safetensors", tensors)
    assert main(["info", str(file), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["family"] == family
    assert facts["problem"]
    assert main(["info", str(file)]) == 0
    assert f"no: {facts['problem']}" in capsys.readouterr().out


def test_info_reports_a_lora_by_itself_and_beside_a_checkpoint(home: Path, tmp_path: Path, capsys) -> None:
    metadata = {"ss_base_model_version": "sd_v1", "ss_tag_frequency": '{"a": {"cat": 3}}', "ss_output_name": "mycat"}
    file = small_file(tmp_path / "x.safetensors", sd1_lora(rank=2, alpha=1.5), **metadata)
    assert main(["info", str(file)]) == 0
    text = capsys.readouterr().out
    for line in (
        "can be used yes, as a LoRA",
        "made for    sd1",
        "formats     LoRA (4)",
        "ranks       2",
        "alphas      1.5",
        "called      mycat",
        "tags        cat (3)",
    ):
        assert line in text
    checkpoint = home / "models" / "checkpoints" / "tiny.safetensors"
    assert main(["info", str(file), "--ckpt", str(checkpoint), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    tensors = file.read_bytes()[8 + int.from_bytes(file.read_bytes()[:8], "little") :]
    assert told["autov3"] == hashlib.sha256(tensors).hexdigest()
    assert (told["lora"]["modules"], told["lora"]["matched"] + len(told["lora"]["unmatched"])) == (4, 4)
    assert told["lora"]["unmatched"][0].keys() == {"module", "reason"}
    assert main(["info", str(file), "--ckpt", str(checkpoint)]) == 0
    assert f"fits        {told['lora']['matched']} of 4 modules" in capsys.readouterr().out


def test_info_tells_numbers_of_a_lora_that_are_none(tmp_path: Path, capsys) -> None:
    tensors = sd1_lora()
    key = next(key for key in tensors if key.endswith("lora_up.weight"))
    tensors[key][0, 0] = torch.nan
    assert main(["info", str(small_file(tmp_path / "x.safetensors", tensors))]) == 0
    assert f"NOT ALL NUMBERS: {key}" in capsys.readouterr().out


def test_info_looks_at_nothing_but_loras_beside_a_checkpoint(home: Path, tmp_path: Path, capsys) -> None:
    checkpoint = str(home / "models" / "checkpoints" / "tiny.safetensors")
    assert main(["info", checkpoint, "--ckpt", checkpoint]) == 1
    assert "is for LoRAs" in capsys.readouterr().err
    lora = small_file(tmp_path / "x.safetensors", sd1_lora())
    assert main(["info", str(lora), "--ckpt", str(tmp_path / "none.safetensors")]) == 1
    assert "it is not in" in capsys.readouterr().err


def test_info_lists_data_types_by_their_share(tmp_path: Path, capsys) -> None:
    file = small_file(tmp_path / "x.safetensors", {"a": torch.zeros(750, dtype=torch.bfloat16), "b": torch.zeros(250)})
    main(["info", str(file)])
    assert "bfloat16 75 % (0 MiB), float32 25 % (0 MiB)" in capsys.readouterr().out
    main(["info", str(file), "--json"])
    assert json.loads(capsys.readouterr().out)["stored"] == {"bfloat16": 1500, "float32": 1000}


def test_info_tells_how_a_checkpoint_is_used_and_what_it_holds(home: Path, capsys) -> None:
    main(["info", str(home / "models" / "checkpoints" / "tiny.safetensors"), "--no-hash"])
    text = capsys.readouterr().out
    assert "64 x 64, sides in steps of 8" in text
    assert "20 steps, dpmpp_2m, guidance 7" in text
    assert "CLIP-L, VAE" in text
    main(["info", str(home / "models" / "checkpoints" / "tiny.safetensors"), "--json", "--no-hash"])
    description = json.loads(capsys.readouterr().out)["description"]
    assert (description["native_size"], description["has_vae"]) == (64, True)
    assert description["embedded"] == ["clip_l"]
    assert description["defaults"]["steps"] == 20


def test_info_tells_what_a_checkpoint_lacks(tmp_path: Path, capsys) -> None:
    parts = {key: value for key, value in tiny_tensors().items() if not key.startswith("first_stage_model.")}
    main(["info", str(small_file(tmp_path / "x.safetensors", parts, **METADATA)), "--no-hash"])
    assert re.search(r"lacks +VAE\n", capsys.readouterr().out)


def test_info_knows_a_text_encoder_by_its_kind(tmp_path: Path, capsys) -> None:
    main(["info", str(write_t5_header(tmp_path / "x.safetensors")), "--no-hash"])
    text = capsys.readouterr().out
    assert "T5-XXL text encoder" in text
    assert "models/text_encoders" in text


def test_info_moves_no_cursor(tmp_path: Path, capsys) -> None:
    file = small_file(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, title="\x1b[2Jhello\nworld\u202e\x9b1m")
    main(["info", str(file)])
    out = capsys.readouterr().out
    assert "title: [2Jhello world 1m\n" in out
    assert "\x1b" not in out
    main(["info", str(file), "--json"])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert json.loads(out)["metadata"]["title"].startswith("\x1b[2J")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty or cut off"),
        (b"this is a text file and no model", "it is a text file"),
        (b"\x80\x02}q\x00." + bytes(20), "./launch.sh convert"),
        (b"<!DOCTYPE html><html></html>", "web page"),
    ],
)
def test_info_tells_a_bad_file_in_one_line(tmp_path: Path, capsys, content: bytes, expected: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    assert main(["info", str(file)]) == 1
    message = capsys.readouterr().err
    assert expected in message
    assert message.startswith("info: model.safetensors: ")
    assert message.count("\n") == 1


def test_info_tells_a_missing_file(tmp_path: Path, capsys) -> None:
    assert main(["info", str(tmp_path / "none.safetensors")]) == 1
    assert "it is not in" in capsys.readouterr().err


def test_convert_makes_a_file_that_info_reads(tmp_path: Path, capsys) -> None:
    pickle, output = tmp_path / "old.ckpt", tmp_path / "old.safetensors"
    torch.save({"state_dict": {"conv_first.weight": torch.ones(2, 2)}}, pickle)
    output.write_text("mine")
    assert main(["convert", str(pickle)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["convert", str(pickle), "--force"]) == 0
    assert str(output) in capsys.readouterr().out
    assert main(["info", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["family"] == "upscaler"
    assert main(["convert", str(output)]) == 1
    assert "nothing to convert" in capsys.readouterr().err


def test_doctor_finds_everything_in_order(home: Path, capsys) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = main(["doctor", "--data-dir", str(home), "--cpu", "--port", str(port)])
    lines = capsys.readouterr().out.splitlines()
    failures = [line for line in lines if line.startswith("fail")]
    assert (code, failures) == (0, []) or sys.version_info < (3, 11)
    assert any(line.startswith("ok    checkpoint  tiny, sd1, ") for line in lines)
    assert any(line.startswith("ok    device      cpu, ") for line in lines)
    assert f"ok    port        {port} is free" in lines


def test_doctor_says_what_to_do_about_each_problem(tmp_path: Path, capsys) -> None:
    (tmp_path / "data").write_text("a file where a folder should be")
    broken = tmp_path / "models" / "checkpoints" / "broken.safetensors"
    broken.parent.mkdir(parents=True)
    broken.write_text("this is no model, but a text")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["doctor", "--data-dir", str(tmp_path), "--cpu", "--port", str(port)]) == 1
    out = capsys.readouterr().out
    assert f"fail  folder      {tmp_path / 'data'} cannot be written -> choose another folder with --data-dir" in out
    assert "warn  checkpoint  broken.safetensors: it is a text file" in out
    assert f"put one into {broken.parent}" in out
    assert f"warn  port        Port {port} is in use" in out
    assert not out.endswith("All is in order.\n")


def test_this_installation_has_no_package_with_known_holes() -> None:
    found = {one.minimum.package for one in outdated_packages()}
    # There is no pillow 13 for Python 3.10, whose users are told so at every start.
    assert found == (set() if sys.version_info >= (3, 11) else {"pillow"})
    assert {"pillow": "13.0.0", "gradio": "6.20", "torch": "2.10"}.items() <= {
        minimum.package: minimum.version for minimum in MINIMUMS
    }.items()


@pytest.mark.parametrize(
    ("found", "is_outdated"),
    [("12.3.0", True), ("13.0.0", False), ("13.0.0+local", False), ("13.1", False), ("9.9.9", True), ("130.0", False)],
)
def test_versions_are_compared_as_numbers(found: str, is_outdated: bool) -> None:
    minimum = Minimum(package="pillow", version="13.0.0", reason="is old")
    assert bool(outdated_packages([minimum], lambda _: found)) == is_outdated


def test_a_missing_package_is_outdated() -> None:
    minimum = Minimum(package="no-such-package-anywhere", version="1.0", reason="is old")
    (outdated,) = outdated_packages([minimum])
    assert str(outdated) == "no-such-package-anywhere 1.0 or newer is needed, and none is installed"


class Terminal:
    """What a terminal was sent."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


def test_progress_stays_on_one_line_and_leaves_no_trace() -> None:
    terminal = Terminal()
    line = ProgressLine(terminal)  # type: ignore[arg-type]
    line(StageStarted(job_id="a", stage="sampling"))
    line(Progress(job_id="a", step=3, steps=20, seconds_per_step=0.5, eta_seconds=8.5))
    assert "\rstep 3 of 20, 0.50 s a step, 8 s left" in terminal.text
    line(Notice(job_id="a", text="something \x1b[31mred"))
    assert "\rsomething [31mred\n" in terminal.text
    line(StageStarted(job_id="a", stage="decoding"))
    line.close()
    assert terminal.text.endswith(" \r")
    assert terminal.text.count("\n") == 1


def test_long_texts_of_files_are_cut() -> None:
    assert as_line("x" * 1000, limit=20) == "x" * 16 + " ..."
    assert as_line("a\tb\r\n c") == "a b c"


def test_a_reader_that_has_enough_ends_the_output_quietly(home: Path) -> None:
    file = home / "models" / "checkpoints" / "tiny.safetensors"
    reader, writer = os.pipe()
    os.close(reader)  # as `head` does after its last line
    with os.fdopen(writer, "w") as output:
        ended = subprocess.run(
            [sys.executable, "-m", "backend.commands", "info", str(file)],
            cwd=Path(__file__).resolve().parents[1], stdout=output, stderr=subprocess.PIPE, text=True, timeout=120,
        )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
