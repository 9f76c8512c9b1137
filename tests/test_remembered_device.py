"""What was measured of a processor holds at every later start, so that pictures stay the same."""

import json
from pathlib import Path

import pytest

from backend.engine.remembered_device import remembered_device
from backend.memory import device


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Measurements that come out differently each time, and how many were taken."""
    taken: list[bool] = []

    def measure() -> bool:
        taken.append(len(taken) % 2 == 0)
        return taken[-1]

    monkeypatch.setattr(device, "_cpu_has_bfloat16", measure)
    return taken


def test_a_processor_is_measured_once(tmp_path: Path, measurements: list[bool]) -> None:
    file = tmp_path / "device.json"
    facts = [remembered_device(file, force_cpu=True) for _ in range(3)]
    assert [fact.has_bfloat16 for fact in facts] == [True] * 3
    assert len(measurements) == 1


@pytest.mark.parametrize("change", [{"torch": "1.0"}, {"device": {"kind": "cpu"}}, {"device": None}, "not json"])
def test_another_version_or_a_damaged_file_is_measured_anew(
    tmp_path: Path, measurements: list[bool], change: object
) -> None:
    file = tmp_path / "device.json"
    remembered_device(file, force_cpu=True)
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **change}) if isinstance(change, dict) else str(change))
    assert remembered_device(file, force_cpu=True).has_bfloat16 is False
    assert len(measurements) == 2


def test_another_processor_is_measured_anew(
    tmp_path: Path, measurements: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "device.json"
    remembered_device(file, force_cpu=True)
    monkeypatch.setattr(device, "_processor_name", lambda: "Another Processor 9000")
    assert remembered_device(file, force_cpu=True).name == "Another Processor 9000"
    assert len(measurements) == 2


def test_a_folder_that_cannot_be_written_costs_only_the_memory(tmp_path: Path, measurements: list[bool]) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    assert remembered_device(tmp_path / "data" / "device.json", force_cpu=True).has_bfloat16 is True
    assert len(measurements) == 1
