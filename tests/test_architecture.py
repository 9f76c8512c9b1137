"""What holds for the repository as a whole."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

import backend
from backend.adapters.formats.builtin import BUILTIN
from backend.adapters.formats.control_lora import CONTROL_LORA
from backend.commands import arguments, flags
from backend.commands.foreign_flags import FOREIGN_FLAGS
from backend.engine.catalog import Catalog

ROOT = Path(__file__).resolve().parents[1]


@lru_cache
def project_files() -> tuple[Path, ...]:
    """Files of the project, relative to its root; not what a user added, or what running it made."""
    try:
        listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no checkout of the repository", allow_module_level=True)
    return tuple(Path(name) for name in listing.stdout.splitlines() if (ROOT / name).is_file())


def source_files() -> list[Path]:
    return [ROOT / file for file in project_files() if file.suffix == ".py"]


def packages() -> list[str]:
    """Folders below backend/ and ui/ that hold anything, as "backend/http"."""
    return sorted({file.parent.as_posix() for file in project_files() if file.parts[0] in ("backend", "ui")})


def top_level_folders() -> list[str]:
    return sorted({file.parts[0] for file in project_files() if len(file.parts) > 1})


def modules_loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    return set(result.stdout.split())


def test_the_engine_needs_neither_gradio_nor_transformers() -> None:
    loaded = modules_loaded_by("import backend.engine.engine")
    assert "torch" in loaded
    assert not loaded & {"gradio", "transformers", "diffusers", "fastapi", "uvicorn", "pandas"}


@pytest.mark.parametrize("folder", top_level_folders())
def test_every_top_level_folder_is_on_the_map(folder: str) -> None:
    assert f"`{folder}/`" in (ROOT / "ARCHITECTURE.md").read_text("utf-8")


@pytest.mark.parametrize("package", packages())
def test_every_package_is_on_the_map(package: str) -> None:
    assert f"`{package}/`" in (ROOT / "ARCHITECTURE.md").read_text("utf-8")


def test_nothing_on_the_map_is_gone() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    named = set(re.findall(r"^\| `([\w./]+/)`", text, flags=re.MULTILINE))
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).is_dir()] == []


@pytest.mark.parametrize(
    ("kind", "page"),
    [
        ("samplers", "samplers.md"),
        ("schedules", "samplers.md"),
        ("emphasis_modes", "samplers.md"),
        ("noise_sources", "samplers.md"),
        ("families", "models.md"),
    ],
)
def test_everything_that_can_be_picked_by_name_is_documented(kind: str, page: str) -> None:
    text = (ROOT / "docs" / page).read_text("utf-8")
    entries = list(vars(Catalog.builtin())[kind])
    assert entries
    for entry in entries:
        assert re.search(rf"^\| {re.escape(entry.label)} \| `{re.escape(entry.name)}` \|", text, re.MULTILINE), (
            entry.label
        )


def test_every_format_of_adapters_is_documented() -> None:
    text = (ROOT / "docs" / "formats.md").read_text("utf-8")
    labels = [format.label for format in (*BUILTIN, CONTROL_LORA)]
    assert [label for label in labels if f"\n| {label} |" not in text] == []


def documented_flags() -> set[str]:
    return set(re.findall(r"--[a-zA-Z0-9][a-zA-Z0-9_-]*", (ROOT / "docs" / "command-line.md").read_text("utf-8")))


def test_every_flag_is_documented() -> None:
    documented = documented_flags()
    commands = arguments.build_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    assert set(commands) == {"generate", "upscale", "merge", "info", "convert", "doctor"}
    for parser in (flags.build_parser(), *commands.values()):  # type: ignore[union-attr]
        names = {name for action in parser._actions for name in action.option_strings if name.startswith("--")}
        assert names - documented - {"--help"} == set()
    assert {flag.name for flag in FOREIGN_FLAGS} <= documented


def test_no_flag_is_documented_that_is_gone() -> None:
    commands = arguments.build_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    parsers = (flags.build_parser(), *commands.values())  # type: ignore[union-attr]
    known = {name for parser in parsers for action in parser._actions for name in action.option_strings}
    assert documented_flags() - known == {"--index-url"}  # pip's


def test_the_help_of_launch_sh_names_real_flags() -> None:
    text = (ROOT / "launch.sh").read_text("utf-8").partition("cat <<'HELP'")[2].partition("\nHELP")[0]
    named = set(re.findall(r"^  (--[a-z-]+)", text, flags=re.MULTILINE))
    assert len(named) > 8
    assert named <= {name for action in flags.build_parser()._actions for name in action.option_strings}


def test_no_file_has_a_name_that_says_nothing() -> None:
    names = {"utils", "util", "helpers", "helper", "common", "misc", "shared", "tools", "functions", "stuff"}
    assert [file for file in source_files() if file.stem in names] == []


def test_imports_are_absolute() -> None:
    relative = [
        (file.relative_to(ROOT), node.lineno)
        for file in source_files()
        if "extensions" not in file.relative_to(ROOT).parts[:1]  # an extension does not choose its package's name
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_nothing_is_printed_but_by_the_command_line() -> None:
    printing = [
        file.relative_to(ROOT)
        for file in source_files()
        if file.is_relative_to(ROOT / "backend") or file.is_relative_to(ROOT / "ui")
        if not file.is_relative_to(ROOT / "backend" / "commands")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert printing == []


def test_the_composition_root_stays_small() -> None:
    assert len((ROOT / "app.py").read_text("utf-8").splitlines()) <= 80


def test_contributing_stays_short() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text("utf-8").splitlines()) <= 60


def test_all_places_tell_one_version() -> None:
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.MULTILINE)
    project = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text("utf-8"), flags=re.MULTILINE)
    assert newest is not None
    assert project is not None
    assert newest[1] == project[1] == backend.__version__


def links() -> Iterator[tuple[str, str]]:
    """(page, target) of every link in our pages that leads to a file."""
    for page in project_files():
        for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text("utf-8") if page.suffix == ".md" else ""):
            if not re.match(r"[a-z]+:|#", target):
                yield page.as_posix(), target.partition("#")[0]


@pytest.mark.parametrize(("page", "target"), list(links()))
def test_links_between_pages_lead_somewhere(page: str, target: str) -> None:
    assert ((ROOT / page).parent / target).exists()
