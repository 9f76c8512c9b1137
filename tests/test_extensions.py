"""Extensions: what a good one may do, and that a hostile one is named, undone and takes nobody with it."""

from __future__ import annotations

import locale
import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import backend.extensions.api
from backend.commands.__main__ import main
from backend.diffusion.noise import BatchNoise
from backend.diffusion.noise_levels import NoiseLevels
from backend.diffusion.process import VarianceExploding
from backend.errors import Cancelled, ExtensionError, UnknownName
from backend.events import JobDone, JobQueued, JobStarted
from backend.extensions import loader, observer
from backend.extensions.loaded import Extensions, ExtensionState
from backend.extensions.loader import load_extensions, load_ui_module
from backend.images.png_text import read_png_text
from backend.registry import Registry
from tests.extension_samples import SAMPLER, Host, write_extension, write_good_one
from tests.tiny_checkpoint import write_tiny_checkpoint

# Each is the extension.py of a broken extension, and words of what is said about it
HOSTILE = {
    "raises at import": ("1 / 0", "its extension.py failed: ZeroDivisionError: division by zero"),
    "is no Python": ("def setup(api)", "its extension.py failed: SyntaxError"),
    "imports what is not there": ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
    "exits at import": ("import sys; sys.exit(3)", "its extension.py failed: SystemExit: 3"),
    "has no setup": ("x = 1", "its extension.py has no function setup(api)"),
    "setup takes nothing": ("def setup(): pass", "TypeError"),
    "setup exits": ("def setup(api): raise SystemExit", "its extension.py failed: SystemExit"),
    "registers no sampler": ("def setup(api): api.add_sampler('euler')", "a Sampler was expected, not str"),
    "observes with nothing": ("def setup(api): api.observe(None)", "a function was expected, not NoneType"),
    "registers, then raises": (
        SAMPLER.format(name="half_done") + "    raise RuntimeError('too late')",
        "its extension.py failed: RuntimeError: too late",
    ),
    "takes a built-in name": (
        SAMPLER.format(name="Euler"),
        'its sampler "Euler" cannot be called "Euler": that is the sampler "euler" of Emulsion itself. Choose another',
    ),
    "takes another one's name": (
        SAMPLER.format(name="good"),
        'its sampler "good" cannot be called "good": that is the sampler "good" of the extension "good"',
    ),
    "has a name without end": (SAMPLER.format(name="x" * 61), "is no name for a sampler; use one line of 1 to 60"),
    "has a blank name": (SAMPLER.format(name=" "), "is no name for a sampler"),
    "counts on a schedule that is not there": (
        SAMPLER.format(name="lost").replace("sample=sample", 'sample=sample, default_schedule="mine"'),
        'the default schedule "mine" of its sampler "lost" does not exist. Known: normal, karras',
    ),
}

# Each is a line that changes the process, and what is said to have been changed
MEDDLING = {
    "working folder": ("import os; os.chdir('/')", "the working folder"),
    "locale": ("import locale; locale.setlocale(locale.LC_NUMERIC, 'C.UTF-8')", "the locale"),
    "stdout": ("import io, sys; sys.stdout = io.StringIO()", "sys.stdout or sys.stderr"),
    "import path": ("import sys; sys.path.insert(0, '/')", "sys.path"),
    "default dtype": ("import torch; torch.set_default_dtype(torch.float64)", "torch's default dtype"),
    "default device": ("import torch; torch.set_default_device('meta')", "torch's default device"),
    "threads": ("import torch; torch.set_num_threads(torch.get_num_threads() + 1)", "torch's number of threads"),
    "gradients": ("import torch; torch.set_grad_enabled(not torch.is_grad_enabled())", "torch's gradient mode"),
    "a function": ("import backend.registry; backend.registry._key = str", "backend.registry._key"),
    "a class": ("import backend.registry; backend.registry.Registry = dict", "backend.registry.Registry"),
    "a method": (
        "from backend.registry import Registry; Registry.names = lambda self: []",
        "backend.registry.Registry.names",
    ),
    "a missing method": (
        "from backend.registry import Registry; del Registry.names",
        "backend.registry.Registry.names",
    ),
    "a module": ("import sys; del sys.modules['backend.registry']", "backend.registry"),
}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def folder(host: Host) -> Path:
    return host.settings.extensions_dir


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    yield
    assert not [name for name in sys.modules if name.startswith("emulsion_extensions.")]
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("observer of")]


def problems_of(extensions: Extensions) -> dict[str, tuple[str, ...]]:
    return {report.id: report.problems for report in extensions.report()}


def test_what_an_extension_may_import_is_decided_here():
    """A name that is taken away breaks extensions; one that is added is kept for good."""
    assert backend.extensions.api.__all__ == [
        "BytesDone",
        "Denoise",
        "Detector",
        "EmulsionError",
        "Event",
        "ExtensionApi",
        "ExtensionError",
        "ImageSaved",
        "Infotext",
        "JobCancelled",
        "JobDone",
        "JobFailed",
        "JobQueued",
        "JobStarted",
        "Levels",
        "NoiseLevels",
        "NoiseSource",
        "Notice",
        "PreviewReady",
        "Process",
        "Progress",
        "Sample",
        "Sampler",
        "Schedule",
        "Settings",
        "StageStarted",
        "extension_data_dir",
        "half_log_snr",
        "read_infotext",
        "write_atomically",
    ]
    assert all(hasattr(backend.extensions.api, name) for name in backend.extensions.api.__all__)


def test_every_event_can_be_imported():
    assert set(backend.events.Event.__args__) <= {
        vars(backend.extensions.api)[name] for name in backend.extensions.api.__all__
    }


def test_what_is_registered_can_be_picked_like_a_built_in_one(host: Host, folder: Path):
    code = """
        from backend.extensions.api import ExtensionApi, NoiseLevels, Sampler, Schedule

        def even(steps: int, levels: NoiseLevels) -> list[float]:
            return [levels.sigma_max * (1 - i / steps) for i in range(steps + 1)]

        def sample(denoise, x, sigmas, process, noise):
            return denoise(x, sigmas[0])

        def setup(api: ExtensionApi) -> None:
            api.add_schedule(Schedule(name="even", label="Even", sigmas=even))
            api.add_sampler(Sampler(name="one_shot", label="One shot", sample=sample, default_schedule="even"))
    """
    write_extension(folder, "both", code)
    with load_extensions(folder, host) as extensions:
        assert problems_of(extensions) == {"both": ()}
        assert host.catalog.samplers["One Shot"].default_schedule == "even"
        levels = NoiseLevels.scaled_linear()
        assert host.catalog.schedules["even"].sigmas(2, levels) == [levels.sigma_max, levels.sigma_max / 2, 0.0]
    for registry in (host.catalog.samplers, host.catalog.schedules):
        assert "one_shot" not in registry
        assert "even" not in registry


@pytest.mark.parametrize(("code", "problem"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_extension_is_named_and_undone_and_the_others_go_on(
    host: Host, folder: Path, caplog: pytest.LogCaptureFixture, code: str, problem: str
):
    before = (host.catalog.samplers.names(), host.catalog.schedules.names())
    write_good_one(folder)
    write_extension(folder, "hostile", code)
    with load_extensions(folder, host) as extensions:
        assert [loaded.manifest.id for loaded in extensions.loaded] == ["good"]
        [failed] = extensions.failed
        assert failed.id == "hostile"
        assert problem in failed.problem
        assert host.catalog.samplers.names() == [*before[0], "good"]
        assert [loaded for loaded in sys.modules if loaded.startswith("emulsion_extensions.hostile")] == []
    assert (host.catalog.samplers.names(), host.catalog.schedules.names()) == before
    assert f"Extension hostile is not used: {failed.problem}" in caplog.text
    assert any(record.exc_info for record in caplog.records)


def test_a_folder_with_a_broken_manifest_is_named_and_its_code_not_run(host: Host, folder: Path):
    write_good_one(folder)
    write_extension(folder, "future", "raise AssertionError", api="99")
    (folder / "empty").mkdir()
    with load_extensions(folder, host) as extensions:
        reports = extensions.report()
    assert [(report.id, report.state) for report in reports] == [
        ("empty", ExtensionState.FAILED),
        ("future", ExtensionState.FAILED),
        ("good", ExtensionState.ON),
    ]
    assert "holds no extension.toml" in reports[0].problems[0]
    assert '"api" is 99' in reports[1].problems[0]


def test_circles_missing_foundations_and_shared_ids_are_named(host: Host, folder: Path):
    write_good_one(folder)
    for id, after in (("a", "b"), ("b", "a"), ("c", "missing")):
        write_extension(folder, id, "raise AssertionError", after=f'["{after}"]')
    write_extension(folder, "twin", "raise AssertionError")
    write_extension(folder, "twin", "raise AssertionError", folder="twin of it")
    with load_extensions(folder, host) as extensions:
        assert [loaded.manifest.id for loaded in extensions.loaded] == ["good"]
        assert [failed.id for failed in extensions.failed] == ["twin", "twin", "a", "b", "c"]


def test_an_extension_is_not_set_up_when_its_foundation_failed(host: Host, folder: Path):
    write_extension(folder, "a-base", "1 / 0")
    write_extension(folder, "on-top", "raise AssertionError", after='["a-base"]')
    with load_extensions(folder, host) as extensions:
        assert problems_of(extensions)["on-top"] == ('it builds on the extension "a-base", which failed',)


def test_an_extension_may_use_the_modules_of_its_foundation(host: Host, folder: Path):
    base = write_extension(folder, "z-base", "def setup(api): pass")
    (base / "names.py").write_text('NAME = "from_base"')
    code = "from emulsion_extensions.z_base.names import NAME\n" + SAMPLER.format(name="x").replace(
        'name="x"', "name=NAME"
    )
    write_extension(folder, "on-top", code.replace("\n    ", "\n"), after='["z-base"]')
    with load_extensions(folder, host) as extensions:
        assert problems_of(extensions) == {"on-top": (), "z-base": ()}
        assert "from_base" in host.catalog.samplers


def test_modules_of_the_same_name_do_not_meet(host: Host, folder: Path):
    for id in ("one", "two"):
        path = write_extension(folder, id, "from .helper import ID\ndef setup(api): api.add_problem(ID)")
        (path / "helper.py").write_text(f"ID = {id!r}")
    import_path = list(sys.path)
    with load_extensions(folder, host) as extensions:
        assert problems_of(extensions) == {"one": ("one",), "two": ("two",)}
    assert sys.path == import_path


def test_extensions_that_are_switched_off_are_not_run(host: Host, folder: Path):
    write_good_one(folder)
    write_extension(folder, "unwanted", "raise AssertionError")
    with load_extensions(folder, host, disabled=["unwanted"]) as extensions:
        assert {report.id: report.state for report in extensions.report()} == {
            "good": ExtensionState.ON,
            "unwanted": ExtensionState.OFF,
        }


def test_safe_mode_runs_none(host: Host, folder: Path):
    write_extension(folder, "a", "raise AssertionError", after='["b"]')
    write_extension(folder, "b", "raise AssertionError")
    with load_extensions(folder, host, safe_mode=True) as extensions:
        assert {report.id: report.state for report in extensions.report()} == {
            "a": ExtensionState.OFF,
            "b": ExtensionState.OFF,
        }


def test_without_a_folder_there_are_no_extensions(host: Host, folder: Path):
    assert not folder.exists()
    assert load_extensions(folder, host).report() == []


@pytest.mark.parametrize(("code", "what"), MEDDLING.values(), ids=MEDDLING.keys())
@pytest.mark.parametrize("ending", ["", "    raise RuntimeError"], ids=["goes well", "raises"])
def test_what_an_extension_changes_of_the_process_is_put_back(
    host: Host, folder: Path, code: str, what: str, ending: str
):
    settings = _process_settings()
    write_extension(folder, "meddler", f"def setup(api):\n    {code}\n{ending}")
    with load_extensions(folder, host) as extensions:
        assert _process_settings() == settings
        assert Registry.names(host.catalog.samplers) == host.catalog.samplers.names() != []
        [report] = extensions.report()
        if ending:
            assert report.problems == ("its extension.py failed: RuntimeError: ",)
        else:
            assert report.state is ExtensionState.ON
            assert report.problems == (f"its extension.py changed {what}, which was put back",)


def _process_settings() -> list[object]:
    return [
        os.getcwd(),
        locale.setlocale(locale.LC_ALL),
        sys.stdout,
        list(sys.path),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        sys.modules["backend.registry"],
        vars(sys.modules["backend.registry"])["Registry"],
        vars(sys.modules["backend.registry"])["_key"],
    ]


def test_random_numbers_are_the_same_as_without_the_extension(host: Host, folder: Path):
    write_extension(folder, "dice", "import random, torch\nrandom.seed(1)\ntorch.manual_seed(1)\ndef setup(api): pass")
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with load_extensions(folder, host) as extensions:
        assert problems_of(extensions) == {"dice": ()}
    assert torch.equal(torch.rand(3), expected)


def test_an_extension_that_hangs_is_named_in_the_log(
    host: Host, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loader, "SLOW_SECONDS", 0.02)
    write_extension(folder, "sleeper", "import time\ndef setup(api): time.sleep(0.3)")
    with load_extensions(folder, host):
        assert "Extension sleeper: its extension.py has been running for 0 seconds" in caplog.text


def test_an_extension_has_a_folder_a_log_and_the_output_folder(
    host: Host, folder: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    code = """
        def setup(api):
            (api.data_dir / "kept.txt").write_text(str(api.output_dir))
            api.log.info("Ready")
    """
    write_extension(folder, "my-notes", code)
    with load_extensions(folder, host) as extensions:
        assert problems_of(extensions) == {"my-notes": ()}
    kept = host.settings.data_dir / "extensions" / "my-notes" / "kept.txt"
    assert kept.read_text() == str(host.settings.output_dir)
    assert ("emulsion_extensions.my_notes", logging.INFO, "Ready") in caplog.record_tuples


def test_nothing_can_be_registered_after_the_end(host: Host, folder: Path):
    write_good_one(folder)
    with load_extensions(folder, host) as extensions:
        [good] = extensions.loaded
        sampler = host.catalog.samplers["good"]
    with pytest.raises(ExtensionError, match="Extension good: it was switched off and cannot register anything"):
        good.api.add_sampler(sampler)
    with pytest.raises(ExtensionError, match="was switched off"):
        good.api.observe(print)


# Samplers and schedules while they run


def run(host: Host, sampler: str, denoise: object) -> torch.Tensor:
    noise = BatchNoise([1], (4, 2, 2))
    return host.catalog.samplers[sampler].sample(denoise, noise(), [2.0, 1.0, 0.0], VarianceExploding(), noise)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("raise KeyError('x')", "its sampler \"s\" failed: KeyError: 'x'"),
        ("return None", 'its sampler "s" must return latents, not NoneType'),
        (
            "return x[0]",
            r"must return latents of shape \[1, 4, 2, 2\] and type float32, not latents of shape \[4, 2, 2\]",
        ),
        ("return x.double()", 'its sampler "s" must return .* not latents of shape .* and type float64'),
        ("return denoise(x.half(), 1.0)", 'its sampler "s" must call denoise with latents of .* not .* type float16'),
    ],
)
def test_a_sampler_that_breaks_is_told_with_its_extension(host: Host, folder: Path, body: str, problem: str):
    code = SAMPLER.format(name="s").replace("return denoise(x, sigmas[0])", body)
    write_extension(folder, "owner", code)
    with load_extensions(folder, host), pytest.raises(ExtensionError, match=f"Extension owner: .*{problem}"):
        run(host, "s", lambda x, sigma: x)


@pytest.mark.parametrize(
    "error", [Cancelled(), RuntimeError("of the network"), MemoryError(), torch.OutOfMemoryError()]
)
def test_what_the_network_raises_is_not_blamed_on_the_sampler(host: Host, folder: Path, error: Exception):
    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        raise error

    write_good_one(folder)
    with load_extensions(folder, host), pytest.raises(type(error)) as caught:
        run(host, "good", denoise)
    assert caught.value is error


@pytest.mark.parametrize(
    ("levels", "problem"),
    [
        ("[2.0, 1.0]", "must give 4 levels for 3 steps, not 2"),
        ("[3.0, 2.0, 1.0, 0.5]", "must go down at every step and end at 0"),
        ("[1.0, 2.0, 0.5, 0.0]", "must go down at every step and end at 0"),
        ("[3.0, float('nan'), 1.0, 0.0]", "gave a level that is not a number"),
        ("[float('inf'), 2.0, 1.0, 0.0]", "gave a level that is not a number"),
        ("None", "failed: TypeError"),
        ("[steps / 0]", "failed: ZeroDivisionError"),
    ],
)
def test_a_schedule_that_breaks_is_told_with_its_extension(host: Host, folder: Path, levels: str, problem: str):
    code = f"""
        from backend.extensions.api import Schedule

        def setup(api):
            api.add_schedule(Schedule(name="s", label="S", sigmas=lambda steps, levels: {levels}))
    """
    write_extension(folder, "owner", code)
    with (
        load_extensions(folder, host),
        pytest.raises(ExtensionError, match=f'Extension owner: its schedule "s" {problem}'),
    ):
        host.catalog.schedules["s"].sigmas(3, NoiseLevels.scaled_linear())


# Observers

OBSERVER = """
    def setup(api):
        def observe(event):
            {body}
        api.observe(observe)
"""


def test_an_observer_gets_every_event_in_order(host: Host, folder: Path):
    body = "open(api.data_dir / 'seen', 'a').write(f'{type(event).__name__} {event.job_id}\\n')"
    write_extension(folder, "watcher", OBSERVER.format(body=body))
    with load_extensions(folder, host) as extensions:
        for event in (JobQueued(job_id="1"), JobStarted(job_id="1"), JobDone(job_id="1", seconds=1.0)):
            host.publish(event)
    assert problems_of(extensions) == {"watcher": ()}
    seen = host.settings.data_dir / "extensions" / "watcher" / "seen"
    assert seen.read_text().splitlines() == ["JobQueued 1", "JobStarted 1", "JobDone 1"]
    assert host.observers == []


@pytest.mark.parametrize("fault", ["raise OSError('no disk')", "raise SystemExit('no disk')"])
def test_an_observer_that_raises_three_times_is_switched_off_and_told(host: Host, folder: Path, fault: str):
    body = f"open(api.data_dir / 'seen', 'a').write('x'); {fault}"
    write_extension(folder, "grumbler", OBSERVER.format(body=body))
    other = "open(api.data_dir / 'seen', 'a').write('x')"
    write_extension(folder, "other", OBSERVER.format(body=other))
    with load_extensions(folder, host) as extensions:
        for _ in range(5):
            host.publish(JobStarted(job_id="1"))
    kind = fault.split("(")[0].split()[1]
    assert problems_of(extensions) == {
        "grumbler": (f"its observer failed 3 times; last: {kind}: no disk. It was switched off until the next start",),
        "other": (),
    }
    seen = {id: len((host.settings.data_dir / "extensions" / id / "seen").read_text()) for id in ("grumbler", "other")}
    assert seen == {"grumbler": 3, "other": 5}


def test_an_observer_that_raises_once_goes_on_and_is_told(host: Host, folder: Path):
    body = "open(api.data_dir / 'seen', 'a').write('x'); event.job_id == '1' and 1 / 0"
    write_extension(folder, "stumbler", OBSERVER.format(body=body))
    with load_extensions(folder, host) as extensions:
        for id in ("1", "2"):
            host.publish(JobStarted(job_id=id))
    [problem] = problems_of(extensions)["stumbler"]
    assert problem == "its observer failed 1 of 3 tolerated times; last: ZeroDivisionError: division by zero"
    assert (host.settings.data_dir / "extensions" / "stumbler" / "seen").read_text() == "xx"


def test_an_observer_that_hangs_holds_nobody_up_and_is_told(host: Host, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(observer, "MAX_BEHIND", 4)
    body = "import time, pathlib\n            while not (api.data_dir / 'go').exists(): time.sleep(0.01)"
    write_extension(folder, "sleeper", OBSERVER.format(body=body))
    with load_extensions(folder, host) as extensions:
        for _ in range(20):
            host.publish(JobStarted(job_id="1"))
        [problem] = problems_of(extensions)["sleeper"]
        go = host.settings.data_dir / "extensions" / "sleeper" / "go"
        go.parent.mkdir(parents=True, exist_ok=True)  # the observer makes it when its thread first runs
        go.touch()
    assert problem == "its observer fell 4 events behind. It was switched off until the next start"


def test_a_command_can_have_the_samplers_without_the_observers(host: Host, folder: Path):
    write_good_one(folder)
    write_extension(folder, "watcher", OBSERVER.format(body="1 / 0"))
    with load_extensions(folder, host, with_events=False) as extensions:
        host.publish(JobStarted(job_id="1"))
        assert "good" in host.catalog.samplers
    assert problems_of(extensions) == {"good": (), "watcher": ()}


def test_a_sampler_of_an_extension_makes_a_picture(host: Host, folder: Path, tmp_path: Path, capsys):
    write_tiny_checkpoint(host.settings.checkpoint_dirs[0] / "tiny.safetensors")
    write_good_one(folder)
    write_extension(
        folder, "failing", SAMPLER.format(name="failing").replace("return denoise", "return 1 / 0, denoise")
    )
    flags = ["--data-dir", str(tmp_path), "--cpu", "--steps", "2", "--size", "64x64"]
    output = tmp_path / "picture.png"
    assert main(["generate", "a heart", "-o", str(output), "--sampler", "Good of the test", *flags]) == 0
    assert "Sampler: good of the test" in read_png_text(output.read_bytes())["parameters"]
    assert main(["generate", "a heart", "-o", str(tmp_path / "no.png"), "--sampler", "failing", *flags]) == 1
    assert 'Extension failing: its sampler "failing" failed: ZeroDivisionError' in capsys.readouterr().err


# The page's side


def test_the_page_gets_the_ui_module(host: Host, folder: Path):
    path = write_extension(folder, "tab", "def setup(api): pass", ui="from .words import LABEL")
    (path / "words.py").write_text('LABEL = "Mine"')
    with load_extensions(folder, host) as extensions:
        [tab] = extensions.loaded
        assert tab.manifest.ui
        assert load_ui_module(tab).LABEL == "Mine"


@pytest.mark.parametrize(
    ("ui", "problem"),
    [("1 / 0", "ZeroDivisionError"), ("raise SystemExit", "SystemExit"), (None, "ModuleNotFoundError")],
    ids=["raises", "exits", "missing"],
)
def test_a_broken_ui_module_is_an_error_of_the_extension(host: Host, folder: Path, ui: str | None, problem: str):
    write_extension(folder, "tab", "def setup(api): pass", ui=ui)
    with load_extensions(folder, host) as extensions:
        [tab] = extensions.loaded
        with pytest.raises(ExtensionError, match=rf"Extension tab: its ui\.py failed: {problem}"):
            load_ui_module(tab)


def test_registries_know_nothing_of_a_failed_extension(host: Host, folder: Path):
    write_extension(folder, "half", SAMPLER.format(name="gone") + "    1 / 0")
    with load_extensions(folder, host), pytest.raises(UnknownName):
        host.catalog.samplers["gone"]
