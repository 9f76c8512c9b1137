"""The program as a process: what it serves, what it says when it cannot, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.tiny_checkpoint import write_tiny_checkpoint

ROOT = Path(__file__).resolve().parents[1]
LONG_JOB = {"prompt": "x", "steps": 1000, "width": 64, "height": 64, "batch_count": 16}


def program(*flags: str) -> list[str]:
    return [sys.executable, str(ROOT / "app.py"), "--no-browser", "--cpu", *flags]


@contextmanager
def running(folder: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and the address that it printed. It is killed after two minutes whatever happens."""
    command = program("--port", "0", "--data-dir", str(folder), *flags)
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        assert process.stdout is not None
        said: list[str] = []
        try:
            for line in process.stdout:
                said.append(line)
                if " runs at " in line:
                    yield process, line.split(" runs at ")[1].strip()
                    break
            else:
                pytest.fail("".join(said))
        finally:
            process.kill()
            watchdog.cancel()


def test_it_serves_page_and_interfaces_and_ends_at_once_in_the_middle_of_a_job(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "models" / "checkpoints" / "tiny.safetensors")
    with running(tmp_path, "--theme", "dark") as (process, url):
        assert url.startswith("http://127.0.0.1:")
        assert url.endswith("/?__theme=dark")
        address = url.partition("?")[0]
        page = httpx.get(address, timeout=60)
        assert page.status_code == 200
        assert "gradio" in page.text
        names = [sampler["name"] for sampler in httpx.get(f"{address}sdapi/v1/samplers", timeout=60).json()]
        assert "DPM++ 2M" in names
        job = httpx.post(f"{address}api/v1/jobs", json=LONG_JOB, timeout=60).json()
        deadline = time.monotonic() + 60
        while httpx.get(f"{address}api/v1/jobs/{job['id']}", timeout=60).json()["step"] < 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert time.monotonic() - began < 10  # five seconds where nothing else runs
    with running(tmp_path, "--nowebui") as (process, address):
        (again,) = httpx.get(f"{address}api/v1/jobs", timeout=60).json()["jobs"]
        assert again["id"] == job["id"]
        assert again["state"] in ("queued", "running")
        assert httpx.get(address, timeout=60).status_code == 404
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_other_machines_need_the_token_that_is_printed(tmp_path: Path) -> None:
    with running(tmp_path, "--nowebui", "--listen") as (process, url):
        address, _, token = url.partition("?token=")
        assert len(token) > 20
        listing = f"{address}sdapi/v1/samplers"
        assert httpx.get(listing, timeout=60).status_code == 401
        assert httpx.get(listing, headers={"Authorization": f"Bearer {token}"}, timeout=60).status_code == 200
        process.terminate()
        assert process.wait(30) == 0


def test_a_port_in_use_is_told_before_anything_slow_is_loaded() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code = (
            f"import sys, app; print(app.main(['--port', '{port}']), 'torch' in sys.modules, 'gradio' in sys.modules)"
        )
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
        )
    assert result.stdout.split() == ["1", "False", "False"]
    assert f"Port {port} is in use" in result.stderr
    assert f"--port {port + 1}" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_folder_that_refuses_files_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    result = subprocess.run(
        program("--port", "0", "--data-dir", str(tmp_path)), capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 1
    assert "--data-dir" in result.stderr


def test_flags_of_other_programs_are_told_in_the_log(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        flags = ("--port", str(taken.getsockname()[1]), "--xformers", "--lovram")
        result = subprocess.run(program(*flags), cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "--xformers is accepted and changes nothing" in result.stderr
    assert "Did you mean --lowvram?" in result.stderr
