"""Manifests are read without running code, and every fault in one is told with its file and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.errors import ExtensionError
from backend.extensions.manifest import Manifest, extension_folders, read_manifest
from backend.extensions.order import load_order

GOOD = {
    "id": '"my-sampler"',
    "name": '"My sampler"',
    "version": '"1.2"',
    "description": '"Samples."',
    "api": "1",
}

# What is wrong: the manifest's lines that differ from GOOD, and words of the message
BAD = {
    "no id": ({"id": None}, '"id" is missing'),
    "no version": ({"version": None}, '"version" is missing'),
    "id in capitals": ({"id": '"My-Sampler"'}, '"id" must be lower case'),
    "id with an underscore": ({"id": '"my_sampler"'}, '"id" must be lower case'),
    "id that climbs": ({"id": '"../etc"'}, '"id" must be lower case'),
    "id with a double hyphen": ({"id": '"my--sampler"'}, '"id" must be lower case'),
    "id without end": ({"id": f'"{"a" * 61}"'}, '"id" must be lower case'),
    "id is a number": ({"id": "7"}, '"id" must be lower case letters, digits and single hyphens, as my-sampler, not 7'),
    "empty name": ({"name": '"  "'}, '"name" must be one line'),
    "name of two lines": ({"name": '"a\\nb"'}, '"name" must be one line'),
    "name with an escape sequence": ({"name": '"\\u001b[31mred"'}, '"name" must be one line'),
    "description is a list": ({"description": "[]"}, '"description" must be text'),
    "long description": ({"description": f'"{"x" * 301}"'}, '"description" must be one line of at most 300'),
    "api of the future": ({"api": "2"}, '"api" is 2, but this Emulsion knows version 1; install a newer'),
    "api zero": ({"api": "0"}, '"api" must be a whole number from 1'),
    "api is text": ({"api": '"1"'}, '"api" must be a whole number from 1'),
    "api is true": ({"api": "true"}, '"api" must be a whole number from 1'),
    "unknown field": ({"autor": '"Me"'}, '"autor" is not a field of a manifest. Known: id, name'),
    "unknown table": ({"tool": "{}"}, '"tool" is not a field'),
    "folder as a field": ({"folder": '"/"'}, '"folder" is not a field'),
    "needs is text": ({"needs": '"net"'}, '"needs" must be a list of texts'),
    "unknown need": ({"needs": '["root"]'}, "\"needs\" may hold net, fs, pip, not 'root'"),
    "need twice": ({"needs": '["net", "net"]'}, "\"needs\" holds 'net' twice"),
    "after holds a number": ({"after": "[1]"}, '"after" must be a list of texts, but holds 1'),
    "after no id": ({"after": '["No Id"]'}, '"after" must be lower case'),
    "after itself": ({"after": '["my-sampler"]'}, '"after" names the extension itself'),
}


def write(folder: Path, /, **changes: str | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{field} = {value}" for field, value in (GOOD | changes).items() if value is not None]
    (folder / "extension.toml").write_text("\n".join(lines), "utf-8")
    return folder


def manifest(id: str, *after: str, folder: str | None = None) -> Manifest:
    return Manifest(
        id=id, name=id, version="1", description=id, api=1, after=after, folder=Path("extensions", folder or id)
    )


def test_a_manifest_is_read_without_running_the_code(tmp_path: Path):
    folder = write(tmp_path / "any folder", author='"Me"', licence='"MIT"', needs='["net"]', after='["other"]')
    (folder / "extension.py").write_text("raise SystemExit")
    (folder / "ui.py").write_text("raise SystemExit")
    assert read_manifest(folder) == Manifest(
        id="my-sampler",
        name="My sampler",
        version="1.2",
        description="Samples.",
        api=1,
        author="Me",
        licence="MIT",
        needs=("net",),
        after=("other",),
        ui=True,
        folder=folder,
    )


def test_what_may_be_left_out_is_empty(tmp_path: Path):
    read = read_manifest(write(tmp_path / "short"))
    assert (read.author, read.licence, read.needs, read.after, read.ui) == ("", "", (), (), False)


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_field_is_named(tmp_path: Path, changes: dict[str, str | None], message: str):
    with pytest.raises(ExtensionError) as caught:
        read_manifest(write(tmp_path / "broken", **changes))
    assert str(caught.value).startswith("Extension broken: extension.toml: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"id = ",
        b'id = "a"\nid = "b"',
        b'name = "\xff"',
        b"x = " + b"[" * 20_000,
        b"api = " + b"9" * 10_000,
        b"\0",
    ],
    ids=["half a line", "key twice", "not UTF-8", "deep nesting", "number without end", "NUL"],
)
def test_what_is_no_toml_is_told(tmp_path: Path, data: bytes):
    folder = write(tmp_path / "broken")
    (folder / "extension.toml").write_bytes(data)
    with pytest.raises(ExtensionError, match=r"Extension broken: extension\.toml is no valid TOML: "):
        read_manifest(folder)


def test_a_manifest_without_end_is_not_read_to_its_end(tmp_path: Path):
    folder = write(tmp_path / "broken")
    (folder / "extension.toml").write_bytes(b"# " + b"x" * 100_000)
    with pytest.raises(ExtensionError, match=r"larger than 65,536 bytes"):
        read_manifest(folder)


def test_a_folder_without_a_manifest_is_told(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExtensionError, match=r"Extension empty: its folder holds no extension\.toml"):
        read_manifest(tmp_path / "empty")


def test_only_folders_that_can_be_extensions_are_looked_at(tmp_path: Path):
    for name in ("b", "a", ".git", "__pycache__"):
        (tmp_path / name).mkdir()
    (tmp_path / "README.md").write_text("about")
    assert [path.name for path in extension_folders(tmp_path)] == ["a", "b"]
    assert extension_folders(tmp_path / "missing") == []


def test_an_extension_comes_behind_those_that_it_builds_on():
    order = load_order([manifest("a", "c"), manifest("b"), manifest("c", "d"), manifest("d")])
    assert [ready.id for ready in order.ready] == ["b", "d", "c", "a"]
    assert order.refused == ()


def test_the_order_does_not_depend_on_the_folders():
    ids = [manifest("a", "c"), manifest("b", "a"), manifest("c"), manifest("d")]
    assert load_order(ids).ready == load_order(ids[::-1]).ready


def test_extensions_that_wait_for_one_another_are_refused_with_the_circle():
    order = load_order([manifest("a", "b"), manifest("b", "c"), manifest("c", "a"), manifest("d", "a"), manifest("e")])
    assert [ready.id for ready in order.ready] == ["e"]
    assert {refused.id: problem for refused, problem in order.refused} == {
        "a": "it waits for itself: a after b after c after a",
        "b": "it waits for itself: b after c after a after b",
        "c": "it waits for itself: c after a after b after c",
        "d": 'it builds on the extension "a", which cannot be set up',
    }


def test_a_missing_foundation_is_named():
    order = load_order([manifest("a", "b"), manifest("c")])
    assert [ready.id for ready in order.ready] == ["c"]
    [(refused, problem)] = order.refused
    assert refused.id == "a"
    assert problem.startswith('it builds on the extension "b", which is missing or broken; install it')


def test_a_foundation_that_is_switched_off_is_named():
    order = load_order([manifest("a", "b"), manifest("b")], disabled=["b"])
    assert [off.id for off in order.off] == ["b"]
    assert [problem for _, problem in order.refused] == ['it builds on the extension "b", which is switched off']


def test_of_two_with_one_id_neither_is_taken():
    order = load_order([manifest("a", folder="a"), manifest("a", folder="a-copy"), manifest("b")])
    assert [ready.id for ready in order.ready] == ["b"]
    assert [(refused.folder.name, problem) for refused, problem in order.refused] == [
        ("a", 'its id is also that of "a-copy"; keep one of these folders'),
        ("a-copy", 'its id is also that of "a"; keep one of these folders'),
    ]
