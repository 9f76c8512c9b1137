"""The generation log that ships: what it writes down, how its file stays whole and bounded, and its tab."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gradio as gr
import pytest

from backend.engine.engine import Engine
from backend.engine.job import JobState
from backend.engine.settings import Settings
from backend.events import ImageSaved, JobDone, Progress
from backend.extensions.loaded import Extensions, LoadedExtension
from backend.extensions.loader import load_extensions, load_ui_module
from backend.extensions.manifest import read_manifest
from backend.extensions.modules import import_module
from backend.request import GenerationRequest
from tests.extension_samples import Host
from tests.tiny_checkpoint import write_tiny_checkpoint
from ui.api import PageApi

SHIPPED = Path(__file__).parents[1] / "extensions"
ID = "generation-log"
INFOTEXT = """a cat, (red:1.2)
in the rain
Negative prompt: blurry
Steps: 20, Sampler: Euler a, Schedule type: Karras, CFG scale: 7, Seed: 5, Size: 512x768, Model: tiny"""
ROW_WITHOUT_TIME = [
    "2026-11-24/00001-5.png",
    "5",
    "512x768",
    "tiny",
    "Euler a",
    "Karras",
    "20",
    "7",
    "a cat, (red:1.2) in the rain",
    "blurry",
]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def table(host: Host) -> Path:
    return host.settings.data_dir / "extensions" / ID / "generation-log.csv"


@pytest.fixture
def extensions(host: Host) -> Iterator[Extensions]:
    with load_extensions(SHIPPED, host) as loaded:
        yield loaded


@pytest.fixture
def log_file(extensions: Extensions) -> ModuleType:
    return import_module(extensions.loaded[0].manifest, "log_file")


def saved(host: Host, name: str = "00001-5.png", infotext: str = INFOTEXT) -> ImageSaved:
    return ImageSaved(job_id="1", path=host.settings.output_dir / "2026-11-24" / name, seed=5, infotext=infotext)


def rows_in(path: Path) -> list[list[str]]:
    """The table as any reader of CSV sees it."""
    return list(csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline="")))


def row(*cells: str) -> list[str]:
    return [*cells, *[""] * (11 - len(cells))]


def test_every_extension_that_ships_can_be_set_up(extensions: Extensions):
    assert [(report.id, report.state.value, report.problems) for report in extensions.report()] == [(ID, "on", ())]


def test_a_saved_picture_becomes_a_row_and_other_events_do_not(host: Host, extensions: Extensions, table: Path):
    host.publish(Progress(job_id="1", step=1, steps=2, seconds_per_step=1, eta_seconds=1))
    host.publish(saved(host))
    host.publish(JobDone(job_id="1", seconds=1.0))
    extensions.close()
    header, cells = rows_in(table)
    assert header[:4] == ["time", "file", "seed", "size"]
    assert cells[1:] == ROW_WITHOUT_TIME
    assert len(cells[0]) == len("2026-11-24 12:00:00")


def test_what_other_programs_leave_out_stays_empty(host: Host, extensions: Extensions, table: Path):
    host.publish(saved(host, infotext="only a prompt"))
    extensions.close()
    assert rows_in(table)[1][2:] == ["5", "", "", "", "", "", "", "only a prompt", ""]


@pytest.mark.parametrize(
    "prompt", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\uff1dcmd", "'=1", "''-x", "'quoted'", "a=1", ""]
)
def test_no_prompt_is_a_formula_and_every_one_comes_back(log_file: ModuleType, tmp_path: Path, prompt: str):
    log = log_file.LogFile(tmp_path / "log.csv")
    log.append(row(prompt, prompt))
    written = rows_in(tmp_path / "log.csv")[1][0]
    assert not written.startswith(("=", "+", "-", "@", "\t", "\uff1d"))
    assert log.newest(1) == [row(prompt.strip(), prompt.strip())]


@pytest.mark.parametrize(
    "cell", ["a\nb", "a\r\nb", "a\x1b[31mb", "a\u2028b", "a\0b", "a\ud800b", 'a "b", c', "नमस्ते 🇫🇷"]
)
def test_a_row_is_one_line_whatever_is_in_it(log_file: ModuleType, tmp_path: Path, cell: str):
    log = log_file.LogFile(tmp_path / "log.csv")
    log.append(row("first"))
    log.append(row(cell))
    log.append(row("last"))
    assert len((tmp_path / "log.csv").read_text("utf-8-sig").splitlines()) == 4
    assert [newest[0][0] for newest in log.newest(3)] == ["l", "a" if cell[0] == "a" else "न", "f"]


def test_a_line_that_a_power_failure_cut_off_costs_only_itself(log_file: ModuleType, tmp_path: Path):
    log = log_file.LogFile(tmp_path / "log.csv")
    log.append(row("first"))
    with (tmp_path / "log.csv").open("ab") as file:
        file.write(b'"cut, off')
    log.append(row("last"))
    assert [newest[0] for newest in log.newest(9)] == ["last", "cut, off", "first"]


def test_a_file_that_somebody_emptied_gets_its_header_again(log_file: ModuleType, tmp_path: Path):
    (tmp_path / "log.csv").touch()
    log = log_file.LogFile(tmp_path / "log.csv")
    log.append(row("x"))
    assert rows_in(tmp_path / "log.csv")[0][:2] == ["time", "file"]
    assert log.newest(5) == [row("x")]


def test_the_table_is_bounded_and_the_newest_rows_stay(log_file: ModuleType, tmp_path: Path):
    log = log_file.LogFile(tmp_path / "log.csv", max_bytes=1000, num_kept=2)
    for number in range(200):
        log.append(row(str(number)))
    files = list(tmp_path.glob("log*.csv"))
    assert len(files) == 3
    assert all(file.stat().st_size <= 1000 for file in files)
    assert all(rows_in(file)[0][0] == "time" for file in files)
    newest = [int(cells[0]) for cells in log.newest(1000)]
    assert newest == list(range(199, 199 - len(newest), -1))
    assert len(newest) > 20
    assert [cells[0] for cells in log.newest(3)] == ["199", "198", "197"]


def test_the_download_holds_all_rows_the_oldest_first(log_file: ModuleType, tmp_path: Path):
    log = log_file.LogFile(tmp_path / "log.csv", max_bytes=1000, num_kept=9)
    for number in range(60):
        log.append(row(str(number), "=1"))
    (tmp_path / "download").write_bytes(log.as_csv())
    header, *rows = rows_in(tmp_path / "download")
    assert header[0] == "time"
    assert [cells[:2] for cells in rows] == [[str(number), "'=1"] for number in range(60)]


def test_an_empty_log_has_a_header_and_no_rows(log_file: ModuleType, tmp_path: Path):
    log = log_file.LogFile(tmp_path / "log.csv")
    assert log.newest(10) == []
    assert log.as_csv().startswith(b'\xef\xbb\xbf"time","file"')


def test_a_log_that_cannot_be_written_is_told_and_stops_nothing(host: Host, extensions: Extensions, table: Path):
    table.mkdir(parents=True)
    for _ in range(3):
        host.publish(saved(host))
    extensions.close()
    [report] = extensions.report()
    assert "its observer failed 3 times; last: " in report.problems[0]
    assert "switched off until the next start" in report.problems[0]


def test_a_real_job_is_written_down(tmp_path: Path):
    settings = Settings.for_root(tmp_path, force_cpu=True)
    write_tiny_checkpoint(settings.checkpoint_dirs[0] / "tiny.safetensors")
    request = GenerationRequest(
        prompt="=a red circle", negative_prompt="blue", sampler="heun", schedule="karras", steps=2, width=64, height=64,
        guidance_scale=3, seed=7, batch_size=2
    )  # fmt: skip
    engine = Engine.open(settings)
    try:
        with load_extensions(SHIPPED, engine):
            view = engine.wait(engine.submit(request), timeout=60)
            assert view.state is JobState.DONE, view.error
    finally:
        engine.close()
    _, *rows = rows_in(settings.data_dir / "extensions" / ID / "generation-log.csv")
    assert [settings.output_dir / cells[1] for cells in rows] == [image.path for image in view.images]
    made_with = ["64x64", "tiny", "Heun", "Karras", "2", "3", "'=a red circle", "blue"]
    assert [cells[2:] for cells in rows] == [["7", *made_with], ["8", *made_with]]


# The tab


@pytest.fixture
def page(host: Host, extensions: Extensions, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tab in a page of its own, not served."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(host.settings.root / "gradio"))
    [extension] = extensions.loaded
    api = PageApi(extension.manifest.id)
    load_ui_module(extension).setup_page(api)
    [tab] = api.tabs
    assert (tab.name, tab.label) == (ID, "Generation log")
    with gr.Blocks() as blocks, gr.Tab(tab.label):
        tab.build(host)
    return blocks


def press(page: Any, label: str) -> Any:
    """What the button does first."""
    [button] = [id for id, block in page.blocks.items() if isinstance(block, gr.Button) and block.value == label]
    return next(fn for fn in page.fns.values() if (button, "click") in fn.targets).fn()


def load(page: Any) -> Any:
    return next(fn for fn in page.fns.values() if "load" in [event for _, event in fn.targets]).fn()


def test_the_tab_shows_the_newest_rows_when_the_page_opens_and_on_refresh(
    host: Host, extensions: Extensions, page: Any
):
    assert load(page) == []
    for name in ("00001-5.png", "00002-5.png"):
        host.publish(saved(host, name))
    extensions.close()
    assert [cells[1] for cells in press(page, "Refresh")] == ["2026-11-24/00002-5.png", "2026-11-24/00001-5.png"]
    assert load(page) == press(page, "Refresh")


def test_the_download_is_one_file_that_is_replaced(host: Host, extensions: Extensions, page: Any):
    host.publish(saved(host))
    extensions.close()
    first, second = Path(press(page, "Download as CSV")), Path(press(page, "Download as CSV"))
    assert first == second
    assert rows_in(first)[1][1:] == ROW_WITHOUT_TIME


def test_the_events_of_the_tab_are_private(page: Any):
    assert [fn.api_visibility for fn in page.fns.values()] == ["private"] * len(page.fns)
    assert len(page.fns) == 4


def test_the_manifest_says_what_it_does(extensions: Extensions):
    extension: LoadedExtension = extensions.loaded[0]
    assert read_manifest(SHIPPED / ID) == extension.manifest
    assert extension.manifest.needs == ()
