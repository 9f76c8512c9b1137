"""The flags of start: ours, those of other programs, and what is said about the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from backend.commands.flags import StartOptions, build_parser, read_flags
from backend.commands.foreign_flags import FOREIGN_FLAGS

REPOSITORY = Path(__file__).resolve().parents[1]


def read(*arguments: str, root: Path = Path("/program"), **environment: str) -> StartOptions:
    return read_flags(arguments, root=root, environment=environment)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, **environment: str) -> str:
    with pytest.raises(SystemExit) as ended:
        read(*arguments, **environment)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_without_flags_the_page_is_served_to_this_machine_alone() -> None:
    options = read(DISPLAY=":0")
    server, settings = options.server, options.settings
    assert (server.host, server.port, server.web_ui, server.credentials) == ("127.0.0.1", 7860, True, ())
    assert server.open_browser
    assert settings.models_dir == Path("/program/models")
    assert settings.output_dir == Path("/program/outputs")
    assert settings.data_dir == Path("/program/data")
    assert settings.memory_budget is None
    assert options.notes == ()


def test_command_line_wins_over_environment() -> None:
    options = read("--port", "7900", COMMANDLINE_ARGS="--port 7800 --output-dir '/my pictures' --lowvram")
    assert options.server.port == 7900
    assert options.settings.output_dir == Path("/my pictures")
    assert options.settings.low_memory


def test_values_may_follow_an_equals_sign() -> None:
    assert read("--port=7900").server.port == 7900


@pytest.mark.parametrize(
    ("arguments", "host"),
    [
        (["--listen"], "0.0.0.0"),
        (["--listen", "192.168.1.5"], "192.168.1.5"),
        (["--server-name", "studio.local"], "studio.local"),
        (["--listen", "--server-name", "::1"], "::1"),
    ],
)
def test_address_to_listen_on(arguments: list[str], host: str) -> None:
    assert read(*arguments).server.host == host


@pytest.mark.parametrize("flag", ["--cpu", "--use-cpu all", "--always-cpu"])
def test_every_way_to_ask_for_the_processor(flag: str) -> None:
    assert read(*flag.split()).settings.force_cpu


@pytest.mark.parametrize("flag", ["--no-half", "--precision full", "--all-in-fp32", "--force-fp32"])
def test_every_way_to_ask_for_float32(flag: str) -> None:
    assert read(*flag.split()).settings.full_precision


@pytest.mark.parametrize("flag", ["--lowvram", "--medvram", "--medvram-sdxl", "--novram", "--always-low-vram"])
def test_every_way_to_save_memory(flag: str) -> None:
    assert read(flag).settings.low_memory


@pytest.mark.parametrize("flag", ["--safe-mode", "--disable-all-extensions", "--disable-all-custom-nodes"])
def test_every_way_to_start_without_extensions(flag: str) -> None:
    assert read(flag).server.safe_mode


@pytest.mark.parametrize("flag", ["--device-id 1", "--gpu-device-id 1", "--cuda-device 1"])
def test_every_way_to_choose_a_gpu(flag: str) -> None:
    assert read(*flag.split()).server.visible_device == "1"


def test_the_processor_for_parts_of_a_model_is_not_pretended() -> None:
    options = read("--use-cpu", "interrogate", "codeformer", "--port", "7900")
    assert not options.settings.force_cpu
    assert "write all" in options.notes[0]
    assert options.server.port == 7900


def test_memory_budget_is_read_as_people_write_it() -> None:
    assert read("--memory-budget", "1.5G").settings.memory_budget == int(1.5 * 2**30)


@pytest.mark.parametrize(("written", "minutes"), [("10", 10.0), ("0", 0.0), ("0.5", 0.5)])
def test_idle_models_leave_after_minutes(written: str, minutes: float) -> None:
    assert read("--idle-unload", written).settings.idle_unload_minutes == minutes


def test_without_a_flag_the_preferences_decide_about_unloading_and_compiling() -> None:
    assert read().settings.idle_unload_minutes is read().settings.compile_networks is None
    assert read("--compile").settings.compile_networks is True


def test_a_data_folder_moves_everything_that_belongs_to_a_user() -> None:
    settings = read("--data-dir", "/mnt/me", "--output-dir", "/pictures").settings
    assert settings.root == Path("/program")
    assert settings.checkpoint_dirs == (Path("/mnt/me/models/checkpoints"),)
    assert settings.data_dir == Path("/mnt/me/data")
    assert settings.extensions_dir == Path("/mnt/me/extensions")
    assert settings.output_dir == Path("/pictures")


def test_relative_folders_lie_in_the_current_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert read("--models-dir", "m").settings.models_dir == tmp_path / "m"


def test_models_of_other_programs_are_used_where_they_lie(tmp_path: Path) -> None:
    for folder in ("a1111/models/Stable-diffusion", "a1111/models/VAE", "comfy/models/checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
    settings = read(
        "--models-dir", str(tmp_path / "a1111/models"), "--ckpt-dir", "/more", "--ckpt-dir", "/and more"
    ).settings
    assert settings.checkpoint_dirs == (
        tmp_path / "a1111/models/checkpoints",
        tmp_path / "a1111/models/Stable-diffusion",
        Path("/more"),
        Path("/and more"),
    )
    assert settings.vae_dirs == (tmp_path / "a1111/models/vae", tmp_path / "a1111/models/VAE")
    for folder in ("text_encoder", "unet"):
        (tmp_path / "a1111/models" / folder).mkdir()
    settings = read("--models-dir", str(tmp_path / "a1111/models"), "--text-encoder-dir", "/more").settings
    assert tmp_path / "a1111/models/unet" in settings.checkpoint_dirs
    assert settings.text_encoder_dirs == (
        tmp_path / "a1111/models/text_encoders",
        tmp_path / "a1111/models/text_encoder",
        Path("/more"),
    )
    other = read("--forge-ref-a1111-home", str(tmp_path / "a1111"), "--forge-ref-comfy-home", str(tmp_path / "comfy"))
    assert tmp_path / "a1111/models/Stable-diffusion" in other.settings.checkpoint_dirs
    assert tmp_path / "comfy/models/checkpoints" in other.settings.checkpoint_dirs


def test_a_checkpoint_is_chosen_by_name_or_by_path(tmp_path: Path) -> None:
    assert read("--ckpt", "some model").settings.checkpoint == "some model"
    file = tmp_path / "x.safetensors"
    file.touch()
    settings = read("--ckpt", str(file)).settings
    assert settings.checkpoint == file.as_posix()
    assert file in settings.checkpoint_dirs


def test_passwords_of_all_flags_and_of_a_file_are_collected(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("eve:four:4\n")
    server = read("--gradio-auth", "ann:one,bob:two", "--api-auth", "cy:three", "--gradio-auth-path", str(file)).server
    assert server.credentials == (("ann", "one"), ("bob", "two"), ("cy", "three"), ("eve", "four:4"))
    assert "four" not in repr(server)
    assert "s3cret" not in repr(read("--token", "s3cret").server)


def test_a_bad_password_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "--gradio-auth", "hunter2")
    assert "USER:PASSWORD" in message
    assert "hunter2" not in message


def test_other_pages_that_may_call_the_api() -> None:
    assert read("--cors-allow-origins", "https://a.example,https://b.example").server.allowed_origins == (
        "https://a.example",
        "https://b.example",
    )
    assert read("--allowed-host", "studio", "--allowed-host", "box").server.allowed_hosts == ("studio", "box")


@pytest.mark.parametrize("subpath", ["emulsion", "/emulsion", "/emulsion/"])
def test_a_subpath_has_one_slash_in_front(subpath: str) -> None:
    assert read("--subpath", subpath).server.subpath == "/emulsion"


def test_the_browser_stays_closed_when_it_should() -> None:
    assert not read("--no-browser", DISPLAY=":0").server.open_browser
    assert not read("--nowebui", DISPLAY=":0").server.open_browser
    assert not read("--nowebui").server.web_ui


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no display that can be missing")
def test_the_browser_stays_closed_without_a_display() -> None:
    assert not read().server.open_browser
    assert read(WAYLAND_DISPLAY="wayland-0").server.open_browser


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--port", "http"], '"http" is no port'),
        (["--port", "70000"], '"70000" is no port'),
        (["--memory-budget", "much"], "write for example 3G"),
        (["--idle-unload", "soon"], "write minutes"),
        (["--idle-unload", "-1"], "write minutes"),
        (["--theme", "pink"], "invalid choice"),
        (["--tls-certfile", "/nowhere/cert.pem"], "is no file"),
        (["--port"], "expected one argument"),
    ],
)
def test_a_bad_value_is_told_in_one_line_with_its_flag(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    message = refused(capsys, *arguments)
    assert arguments[0] in message
    assert expected in message


def test_a_key_needs_its_certificate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.touch()
    assert "--tls-certfile" in refused(capsys, "--tls-keyfile", str(key))


def test_unbalanced_quotes_in_the_environment_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert "COMMANDLINE_ARGS" in refused(capsys, COMMANDLINE_ARGS="--output-dir 'pictures")


@pytest.mark.parametrize("flag", FOREIGN_FLAGS, ids=lambda flag: flag.name)
def test_a_flag_of_another_program_is_told_and_swallows_its_values(flag) -> None:
    values = {"nothing": [], "one value": ["x"], "perhaps a value": ["x"], "several values": ["x", "y"]}[flag.takes]
    options = read(flag.name, *values, "--port", "7900")
    assert options.notes == (f"{flag.name} is accepted and changes nothing: {flag.reason}.",)
    assert options.server.port == 7900


def test_flags_of_existing_start_scripts_are_known() -> None:
    scripts = (
        "--listen --port 7861 --autolaunch --api --nowebui --api-auth a:b --gradio-auth a:b --cors-allow-origins x "
        "--subpath s --server-name n --data-dir d --models-dir d --ckpt c --ckpt-dir d --vae-dir d "
        "--text-encoder-dir d --lora-dir d --embeddings-dir d --hypernetwork-dir d --vae-approx-dir d --lowvram "
        "--medvram "
        "--no-half --precision full --device-id 0 --use-cpu all --theme dark --disable-all-extensions "
        "--disable-extra-extensions --skip-install --loglevel INFO --forge-ref-a1111-home h --cpu --novram "
        "--base-directory d --output-directory d --esrgan-models-path d --realesrgan-models-path d "
        "--swinir-models-path d"
    )
    assert read(*scripts.split()).notes == ()
    nothing_here = (
        "--share --scunet-models-path d --no-half-vae --xformers "
        "--opt-sdp-attention --styles-file f --ui-config-file f --ui-settings-file f --hide-ui-dir-config "
        "--freeze-settings --skip-torch-cuda-test --no-hashing --no-download-sd-model --api-log --gpu-only --highvram "
        "--reserve-vram 1 --preview-method auto --extra-model-paths-config f --deterministic --fast fp16_accumulation"
    )
    notes = read(*nothing_here.split()).notes
    assert len(notes) == nothing_here.count("--")
    assert all("is accepted and changes nothing" in note for note in notes)


def test_an_unknown_flag_is_told_with_the_nearest_known_one_and_the_rest_is_read() -> None:
    options = read("--prot", "7900", "--lovram=1", "--zzz", "a", "b", "--cpu")
    assert options.notes == (
        "There is no flag --prot; it is passed over. Did you mean --port?",
        "There is no flag --lovram; it is passed over. Did you mean --lowvram?",
        "There is no flag --zzz; it is passed over.",
    )
    assert options.settings.force_cpu


def test_a_word_that_is_no_flag_is_told() -> None:
    assert read("7861").notes == ('"7861" is passed over: start takes flags only.',)


def test_every_flag_of_ours_has_a_help_text() -> None:
    foreign = {flag.name for flag in FOREIGN_FLAGS}
    help_text = build_parser().format_help()
    for action in build_parser()._actions:
        if not foreign.issuperset(action.option_strings):
            assert action.help
            assert action.option_strings[-1] in help_text


def test_flags_are_read_before_anything_heavy_is_loaded() -> None:
    code = (
        "import sys; from backend.commands import arguments, flags; arguments.build_parser(); flags.build_parser(); "
        "heavy = ('torch', 'gradio', 'transformers', 'fastapi', 'numpy', 'PIL'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == "[]"
