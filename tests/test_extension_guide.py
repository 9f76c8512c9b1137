"""The page about writing extensions: its examples run, and it is complete. And extensions import nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest
import torch

import backend.extensions.api
from backend.diffusion.noise import BatchNoise
from backend.diffusion.noise_levels import NoiseLevels
from backend.diffusion.process import Process, RectifiedFlow, VarianceExploding
from backend.events import JobDone, JobFailed, JobQueued
from backend.extensions.loaded import Extensions
from backend.extensions.loader import load_extensions, load_ui_module
from backend.extensions.manifest import Manifest
from tests.extension_samples import Host
from ui.api import PageApi

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "extensions.md").read_text("utf-8")
FILE = re.compile(r"^`extensions/(\S+)`:\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = dict(FILE.findall(GUIDE))
SPREAD = 0.5

# What the files of an extension may import of Emulsion, besides one another
INTERFACE = {"backend.extensions.api"}
INTERFACE_OF_UI = INTERFACE | {"ui.api"}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def extensions(host: Host) -> Iterator[Extensions]:
    """The examples of the guide, as somebody would type them in."""
    for name, text in EXAMPLES.items():
        path = host.settings.extensions_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    with load_extensions(host.settings.extensions_dir, host) as loaded:
        yield loaded


def error_after(host: Host, process: Process, steps: int) -> float:
    """How far the sampler of the guide ends from the exact solution of its ODE for normally distributed data."""

    def spread(sigma: float) -> float:
        return (process.alpha(sigma) ** 2 * SPREAD**2 + sigma**2) ** 0.5

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return x * process.alpha(sigma) * SPREAD**2 / spread(sigma) ** 2

    first, last = (0.99, 0.01) if isinstance(process, RectifiedFlow) else (10.0, 0.1)
    sigmas = [first * (last / first) ** (i / steps) for i in range(steps + 1)]
    noise = BatchNoise([1], (4, 4, 4))
    start = noise() * spread(first)
    end = host.catalog.samplers["Midpoint"].sample(denoise, start.double(), sigmas, process, noise)
    return float((end - start * spread(last) / spread(first)).abs().max())


def test_the_guide_has_the_files_that_it_speaks_of():
    assert list(EXAMPLES) == [
        "midpoint/extension.toml",
        "midpoint/extension.py",
        "cosine-schedule/extension.toml",
        "cosine-schedule/extension.py",
        "job-diary/extension.toml",
        "job-diary/extension.py",
        "job-diary/ui.py",
    ]
    assert GUIDE.count("\n```") == 2 * len(EXAMPLES)


def test_every_example_can_be_set_up(extensions: Extensions):
    assert [(report.id, report.problems) for report in extensions.report()] == [
        ("cosine-schedule", ()),
        ("job-diary", ()),
        ("midpoint", ()),
    ]


@pytest.mark.parametrize("process", [VarianceExploding(), RectifiedFlow()], ids=["ve", "flow"])
def test_the_error_of_the_sampler_falls_with_the_square_of_the_steps(
    host: Host, extensions: Extensions, process: Process
):
    coarse, fine = error_after(host, process, 40), error_after(host, process, 80)
    assert coarse / fine == pytest.approx(4, rel=0.1)


def test_the_sampler_calls_the_model_as_often_as_it_says(host: Host, extensions: Extensions):
    calls: list[float] = []

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        calls.append(sigma)
        return torch.zeros_like(x)

    noise = BatchNoise([1], (4, 2, 2))
    sampler = host.catalog.samplers["midpoint"]
    end = sampler.sample(denoise, noise(), [4.0, 1.0, 0.25, 0.0], VarianceExploding(), noise)
    assert calls == [4.0, 2.0, 1.0, 0.5, 0.25]
    assert len(calls) == sampler.evaluations_per_step * 3 - 1
    assert torch.equal(end, torch.zeros_like(end))


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_the_schedule_of_the_guide_goes_all_the_way(host: Host, extensions: Extensions, steps: int):
    levels = NoiseLevels.scaled_linear()
    sigmas = host.catalog.schedules["Cosine"].sigmas(steps, levels)
    assert len(sigmas) == steps + 1
    assert sigmas[0] == pytest.approx(levels.sigma_max)
    assert sigmas[-1] == 0


def test_the_diary_of_the_guide_is_written_and_shown(host: Host, extensions: Extensions):
    diary = next(extension for extension in extensions.loaded if extension.manifest.ui)
    api = PageApi(diary.manifest.id)
    load_ui_module(diary).setup_page(api)
    with gr.Blocks() as page:
        api.tabs[0].build(host)
    [read] = page.fns.values()
    assert read.api_visibility == "private"
    assert read.fn() == "No job has ended yet."
    host.publish(JobQueued(job_id="1"))
    host.publish(JobDone(job_id="1", seconds=2.0))
    host.publish(JobFailed(job_id="2", kind="DiskFull", message="The disk is full."))
    extensions.close()
    assert read.fn() == "1 took 2.0 s\n2 failed: The disk is full.\n"


def test_the_guide_explains_every_name_of_the_interface():
    section = GUIDE.split("## What can be imported")[1].split("\n## ")[0]
    missing = [name for name in backend.extensions.api.__all__ if f"`{name}`" not in section]
    assert missing == []


def test_the_guide_explains_every_field_of_a_manifest():
    section = GUIDE.split("## The manifest")[1].split("\n## ")[0]
    fields = set(Manifest.__dataclass_fields__) - {"ui", "folder"}
    assert {field for field in fields if f"`{field}`" not in section} == set()


def imported_from_emulsion(source: str) -> set[str]:
    """The modules of Emulsion that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            found.add(node.module)
    return {name for name in found if name.split(".")[0] in ("backend", "ui", "app")}


def shipped_and_shown() -> dict[str, str]:
    """Every Python file of an extension that ships or stands in the guide."""
    shipped = {
        path.relative_to(ROOT / "extensions").as_posix(): path.read_text("utf-8")
        for path in (ROOT / "extensions").rglob("*.py")
    }
    return shipped | {name: text for name, text in EXAMPLES.items() if name.endswith(".py")}


@pytest.mark.parametrize("name", shipped_and_shown())
def test_extensions_import_nothing_but_the_interface(name: str):
    source = shipped_and_shown()[name]
    is_ui = name.endswith("/ui.py")
    assert imported_from_emulsion(source) <= (INTERFACE_OF_UI if is_ui else INTERFACE)
    assert is_ui or "gradio" not in source


def test_forbidden_imports_are_found_wherever_they_stand():
    source = "import ui.page\ndef f():\n    from backend.engine import engine\nfrom .backend import x\nimport torch"
    assert imported_from_emulsion(source) == {"ui.page", "backend.engine"}
