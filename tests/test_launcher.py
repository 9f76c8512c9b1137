"""launch.sh with Pythons that are scripts: what it finds, installs, passes on and says. Nothing is really installed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = (
    *("bash", "awk", "cat", "chmod", "cp", "df", "dirname", "env", "grep", "kill", "ln", "ls", "mkdir", "mv"),
    *("printf", "readlink", "rm", "sed", "sleep", "touch", "uname"),
)

# Writes down every call; makes "environments" that hold another copy of itself; answers -c with a real Python.
STUB = r"""#!/usr/bin/env bash
printf '%s\n' "$*" >>"$LOG"
case "$1 $2" in
    "-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; touch "$3/pyvenv.cfg"; exit ;;
    "-m pip")
        case "$3" in
            --version) exit ;;
            *) if [ -e "$HOME/pip-fails" ]; then echo "pip: no network" >&2; exit 1; fi; exit ;;
        esac ;;
    "-m pytest") printf 'pytest in %s with %s\n' "$PWD" "${*:3}"; exit ;;
    "--version "*) echo "Python 3.12.0"; exit ;;
esac
case "$1" in
    *app.py) printf 'served:'; shift; printf ' <%s>' "$@"; printf ' COMMANDLINE_ARGS=%s\n' "$COMMANDLINE_ARGS"
        env | grep -E '^(GRADIO|HF_HUB)' ; exit 7 ;;
    -c)
        case "$2" in
            *ensurepip*) [ ! -e "$0.has-no-venv" ]; exit ;;
            *version_info*) cat "$0.minor" 2>/dev/null || echo 12; exit ;;
            *runpy*) shift 2; printf 'ran:'; printf ' <%s>' "$@"; echo; exit ;;
            *) exec "$REAL_PYTHON" "$@" ;;
        esac ;;
esac
"""


@dataclass(frozen=True)
class Sandbox:
    """A copy of the program in a folder with spaces, and a PATH with nothing on it but what launch.sh may need."""

    root: Path
    bin: Path
    home: Path

    def add_python(self, name: str, *, minor: int = 12, has_venv: bool = True) -> Path:
        python = self.bin / name
        python.write_text(STUB)
        python.chmod(0o755)
        python.with_name(f"{name}.minor").write_text(str(minor))
        if not has_venv:
            python.with_name(f"{name}.has-no-venv").touch()
        return python

    def run(self, *arguments: str, cwd: Path | None = None, script: Path | None = None, **environment: str):
        return subprocess.run(
            [str(script or self.root / "launch.sh"), *arguments],
            cwd=cwd or self.home,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def environment(self, **more: str) -> dict[str, str]:
        own = {"PATH": str(self.bin), "HOME": str(self.home), "LOG": str(self.log), "REAL_PYTHON": sys.executable}
        return {**own, **more}

    @property
    def log(self) -> Path:
        return self.home / "log"

    def pip_calls(self) -> list[str]:
        """What pip was asked to install since the last look."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line.removeprefix("-m pip install ") for line in lines if line.startswith("-m pip install")]


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    root, folder, home = tmp_path / "the program", tmp_path / "bin", tmp_path / "a home"
    for path in (root / "tests", folder, home):
        path.mkdir(parents=True)
    shutil.copy(ROOT / "launch.sh", root)
    shutil.copy(ROOT / "requirements.txt", root)
    shutil.copy(ROOT / "tests" / "requirements.txt", root / "tests")
    for tool in TOOLS:
        if found := shutil.which(tool):
            (folder / tool).symlink_to(found)
    return Sandbox(root, folder, home)


def test_without_python_it_says_what_to_install(sandbox: Sandbox) -> None:
    result = sandbox.run()
    assert result.returncode == 1
    assert "needs Python 3.10 or newer, and none is there" in result.stderr
    assert "PYTHON=/path/to/python3" in result.stderr


def test_an_old_python_is_named_and_not_used(sandbox: Sandbox) -> None:
    sandbox.add_python("python3", minor=8)
    result = sandbox.run()
    assert result.returncode == 1
    assert "only an older one is there (python3)" in result.stderr
    assert sandbox.pip_calls() == []


def test_a_newer_python_is_taken_when_the_usual_one_is_old(sandbox: Sandbox) -> None:
    sandbox.add_python("python3", minor=8)
    sandbox.add_python("python3.11", minor=11)
    assert sandbox.run().returncode == 7


def test_python_without_venv_names_the_missing_package(sandbox: Sandbox) -> None:
    sandbox.add_python("python3", minor=12, has_venv=False)
    result = sandbox.run()
    assert result.returncode == 1
    assert "sudo apt install python3.12-venv" in result.stderr


def test_python_of_the_environment_is_the_only_one_tried(sandbox: Sandbox) -> None:
    sandbox.add_python("python3.12")
    result = sandbox.run(PYTHON="/nowhere/python3")
    assert result.returncode == 1
    assert 'PYTHON names "/nowhere/python3", which is none' in result.stderr
    elsewhere = sandbox.home / "my python"
    sandbox.add_python("python3.12").rename(elsewhere)
    assert sandbox.run(PYTHON=str(elsewhere)).returncode == 7


def test_the_first_start_installs_and_the_second_only_starts(sandbox: Sandbox) -> None:
    sandbox.add_python("python3")
    assert sandbox.run().returncode == 7
    requirements, override = sandbox.pip_calls()
    assert requirements.startswith(f"-r {sandbox.root}/requirements.txt ")
    assert override.startswith('--no-deps pillow==13.0.0; python_version >= "3.11" ')
    assert (sandbox.root / ".venv" / "emulsion.start").is_file()
    assert not (sandbox.root / ".venv.lock").is_symlink()
    assert sandbox.run().returncode == 7
    assert sandbox.pip_calls() == []


def test_changed_requirements_are_installed_again(sandbox: Sandbox) -> None:
    sandbox.add_python("python3")
    sandbox.run()
    sandbox.pip_calls()
    with (sandbox.root / "requirements.txt").open("a") as file:
        file.write("another-package\n")
    assert sandbox.run().returncode == 7
    assert len(sandbox.pip_calls()) == 2


def test_an_installation_that_failed_is_told_and_done_again(sandbox: Sandbox) -> None:
    sandbox.add_python("python3")
    (sandbox.home / "pip-fails").touch()
    result = sandbox.run()
    assert result.returncode == 1
    assert "pip: no network" in result.stderr
    assert "The installation did not succeed" in result.stderr
    sandbox.pip_calls()
    (sandbox.home / "pip-fails").unlink()
    assert sandbox.run().returncode == 7
    assert len(sandbox.pip_calls()) == 2


def test_an_installation_that_failed_halfway_is_not_taken_for_the_one_before(sandbox: Sandbox) -> None:
    sandbox.add_python("python3")
    sandbox.run()
    (sandbox.home / "pip-fails").touch()
    requirements = sandbox.root / "requirements.txt"
    before = requirements.read_text()
    requirements.write_text(f"{before}another-package\n")
    assert sandbox.run().returncode == 1
    sandbox.pip_calls()
    (sandbox.home / "pip-fails").unlink()
    requirements.write_text(before)
    assert sandbox.run().returncode == 7
    assert len(sandbox.pip_calls()) == 2


def test_a_broken_environment_is_made_anew(sandbox: Sandbox) -> None:
    sandbox.add_python("python3")
    sandbox.run()
    sandbox.pip_calls()
    (sandbox.root / ".venv" / "bin" / "python").unlink()
    assert sandbox.run().returncode == 7
    assert len(sandbox.pip_calls()) == 2


def test_a_folder_that_is_no_environment_is_left_alone(sandbox: Sandbox) -> None:
    sandbox.add_python("python3")
    (sandbox.home / "thesis.txt").touch()
    result = sandbox.run(VENV_DIR=str(sandbox.home))
    assert result.returncode == 1
    assert "holds something else than a virtual environment" in result.stderr
    assert (sandbox.home / "thesis.txt").exists()


def test_two_installations_do_not_run_at_once(sandbox: Sandbox) -> None:
    sandbox.add_python("python3")
    lock = sandbox.root / ".venv.lock"
    lock.symlink_to(str(os.getpid()))
    result = sandbox.run()
    assert result.returncode == 1
    assert f"process {os.getpid()}" in result.stderr
    lock.unlink()
    lock.symlink_to("999999999")  # an installation that was killed
    assert sandbox.run().returncode == 7


def test_a_full_disk_is_told_before_the_installation(sandbox: Sandbox) -> None:
    sandbox.add_python("python3")
    (sandbox.bin / "df").unlink()
    (sandbox.bin / "df").write_text(
        "#!/usr/bin/env bash\necho 'Filesystem 1024-blocks Used Available Capacity Mounted on'\n"
        "echo '/dev/the disk 9000000 8000000 1000000 89% /media/my disk'\n"
    )
    (sandbox.bin / "df").chmod(0o755)
    result = sandbox.run()
    assert result.returncode == 1
    assert "has 0 GB free" in result.stderr
    assert sandbox.pip_calls() == []


def test_flags_pass_through_word_for_word(sandbox: Sandbox) -> None:
    sandbox.add_python("python3")
    result = sandbox.run("--port", "7861", "--models-dir", "my models/*", COMMANDLINE_ARGS="--listen --theme dark")
    assert result.returncode == 7
    assert (
        "served: <--port> <7861> <--models-dir> <my models/*> COMMANDLINE_ARGS=--listen --theme dark" in result.stdout
    )
    assert sandbox.run("start", "--api").stdout.startswith("served: <--api>")


def test_the_environment_cannot_open_the_page_to_others(sandbox: Sandbox) -> None:
    sandbox.add_python("python3")
    result = sandbox.run(GRADIO_SHARE="True", GRADIO_ALLOWED_PATHS="/", GRADIO_MCP_SERVER="1", GRADIO_VIBE_MODE="1")
    told = {line for line in result.stdout.splitlines() if line.startswith(("GRADIO", "HF_HUB"))}
    assert told == {"GRADIO_ANALYTICS_ENABLED=False", "HF_HUB_DISABLE_TELEMETRY=1"}


def test_it_runs_from_any_folder_and_through_links(sandbox: Sandbox) -> None:
    sandbox.add_python("python3")
    (sandbox.home / "launcher").symlink_to("../the program/launch.sh")
    (sandbox.home / "again").symlink_to(sandbox.home / "launcher")
    assert sandbox.run(cwd=Path("/"), script=sandbox.home / "again").returncode == 7
    assert (sandbox.root / ".venv" / "emulsion.start").is_file()


def test_venv_dir_moves_the_installation(sandbox: Sandbox) -> None:
    sandbox.add_python("python3")
    elsewhere = sandbox.home / "not yet there" / "env"
    assert sandbox.run(VENV_DIR=str(elsewhere)).returncode == 7
    assert (elsewhere / "emulsion.start").is_file()
    assert not (sandbox.root / ".venv").exists()


def test_without_an_environment_python_is_used_as_it_is(sandbox: Sandbox) -> None:
    sandbox.add_python("python3")
    assert sandbox.run(VENV_DIR="-").returncode == 7
    assert sandbox.pip_calls() == []


def test_torch_command_replaces_the_installation_of_torch(sandbox: Sandbox) -> None:
    sandbox.add_python("python3")
    assert sandbox.run(TORCH_COMMAND="pip install torch==2.12.0 --index-url https://example.org/rocm").returncode == 7
    first, rest, override = sandbox.pip_calls()
    assert first == "torch==2.12.0 --index-url https://example.org/rocm"
    assert "tmp/requirements.txt" in rest
    assert "pillow" in override
    assert sandbox.run().returncode == 7  # it need not be said again
    assert sandbox.pip_calls() == []


def test_torch_command_is_remembered_when_the_installation_fails(sandbox: Sandbox) -> None:
    sandbox.add_python("python3")
    (sandbox.home / "pip-fails").touch()
    assert sandbox.run(TORCH_COMMAND="pip install torch==2.12.0").returncode == 1
    (sandbox.home / "pip-fails").unlink()
    sandbox.pip_calls()
    assert sandbox.run().returncode == 7
    assert sandbox.pip_calls()[0] == "torch==2.12.0"


def test_skip_install_starts_what_is_there(sandbox: Sandbox) -> None:
    sandbox.add_python("python3")
    result = sandbox.run("--skip-install")
    assert result.returncode == 1
    assert "nothing is installed" in result.stderr
    sandbox.run()
    sandbox.pip_calls()
    (sandbox.root / "requirements.txt").write_text("something-else\n")
    assert sandbox.run("--skip-install").returncode == 7
    assert sandbox.run(COMMANDLINE_ARGS="--skip-install --api").returncode == 7
    assert sandbox.pip_calls() == []


def test_help_needs_neither_python_nor_an_installation(sandbox: Sandbox) -> None:
    for arguments in (["--help"], ["-h"], ["help"], ["--port", "1", "--help"], ["test", "--help"], ["train", "--help"]):
        result = sandbox.run(*arguments)
        assert result.returncode == 0, arguments
        assert "Usage: ./launch.sh" in result.stdout
    sandbox.add_python("python3")
    assert "<backend.commands> <info> <--help>" in sandbox.run("info", "--help").stdout
    assert "served: <--help>" in sandbox.run("start", "--help").stdout
    assert sandbox.pip_calls() == []


def test_help_names_every_command_and_variable(sandbox: Sandbox) -> None:
    text = sandbox.run("--help").stdout
    commands = ("start", "generate", "info", "convert", "doctor", "test", "train")
    for word in (*commands, "COMMANDLINE_ARGS", "PYTHON", "VENV_DIR", "TORCH_COMMAND"):
        assert word in text


def test_an_unknown_command_is_refused(sandbox: Sandbox) -> None:
    result = sandbox.run("strat")
    assert result.returncode == 1
    assert 'There is no command "strat"' in result.stderr


@pytest.mark.parametrize("command", ["info", "generate", "convert", "doctor"])
def test_commands_run_from_the_program_and_not_from_the_current_folder(sandbox: Sandbox, command: str) -> None:
    sandbox.add_python("python3")
    result = sandbox.run(command, "a b.safetensors")
    assert f"ran: <{sandbox.root}> <backend.commands> <{command}> <a b.safetensors>" in result.stdout


def test_another_program_in_the_current_folder_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "backend").mkdir()
    (tmp_path / "backend" / "__init__.py").write_text("raise SystemExit('the wrong backend')")
    result = subprocess.run(
        [str(ROOT / "launch.sh"), "info", "missing.safetensors", "--no-such-flag"],
        cwd=tmp_path,
        env={**os.environ, "VENV_DIR": "-", "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("./launch.sh: unrecognized arguments: --no-such-flag")


def test_tests_install_their_own_requirements_and_satisfy_a_later_start(sandbox: Sandbox) -> None:
    sandbox.add_python("python3")
    result = sandbox.run("test", "-k", "noise and not slow")
    assert f"pytest in {sandbox.root} with -k noise and not slow" in result.stdout
    requirements, override = sandbox.pip_calls()
    assert f"-r {sandbox.root}/tests/requirements.txt" in requirements
    assert "pillow" in override
    sandbox.run()
    sandbox.run("test")
    assert sandbox.pip_calls() == []


def test_signals_reach_python(sandbox: Sandbox) -> None:
    python = sandbox.add_python("python3")
    python.write_text(STUB.replace("exit 7 ;;", "exec sleep 30 ;;"))
    process = subprocess.Popen(
        [str(sandbox.root / "launch.sh")],
        env=sandbox.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("served:")
    began = time.monotonic()
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGTERM
    assert time.monotonic() - began < 5
