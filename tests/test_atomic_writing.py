"""Files are complete or absent: full disks, refusing folders, killed processes."""

import errno
import itertools
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from backend.errors import DiskFull, NotWritable, OutputError
from backend.weights.atomic import atomic_file, sweep_parts, told_as_output_errors, write_atomically
from backend.weights.safetensors_file import write_safetensors

ROOT = Path(__file__).resolve().parents[1]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail_with(number: int):
    def fail(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    return fail


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def write_while_another_does(path: Path) -> None:
    with atomic_file(path) as file:
        file.write(b"mine")
        path.write_bytes(b"theirs")


def write_half(path: Path) -> None:
    with atomic_file(path, replace=True) as file:
        file.write(b"half")
        raise ZeroDivisionError


def test_a_file_appears_complete_in_a_folder_that_is_made_for_it(tmp_path):
    path = tmp_path / "a" / "b" / "x.png"
    with atomic_file(path) as file:
        file.write(b"123")
        assert not path.exists()
    assert path.read_bytes() == b"123"
    assert names(path.parent) == ["x.png"]


def test_an_existing_file_is_kept_unless_it_is_to_be_replaced(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(FileExistsError):
        write_atomically(path, b"new", replace=False)
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["x"]


def test_a_file_that_appears_while_another_is_written_is_kept(tmp_path):
    path = tmp_path / "x"
    with pytest.raises(FileExistsError):
        write_while_another_does(path)
    assert path.read_bytes() == b"theirs"
    assert names(tmp_path) == ["x"]


def test_an_existing_name_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "x"
    path.symlink_to("nowhere")
    with pytest.raises(FileExistsError), atomic_file(path):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("replace", [True, False])
def test_a_file_system_without_hard_links_does_as_well(tmp_path, monkeypatch, replace):
    monkeypatch.setattr(os, "link", fail_with(errno.EPERM))
    write_atomically(tmp_path / "x", b"1", replace=replace)
    with pytest.raises(FileExistsError):
        write_while_another_does(tmp_path / "y")
    assert (tmp_path / "x").read_bytes() == b"1"
    assert (tmp_path / "y").read_bytes() == b"theirs"
    assert names(tmp_path) == ["x", "y"]


def test_an_error_in_the_block_leaves_no_trace_and_comes_through(tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        write_half(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EACCES, NotWritable),
        (errno.EROFS, NotWritable),
        (errno.EIO, OutputError),
        (errno.EMFILE, OutputError),
        (errno.ENAMETOOLONG, OutputError),
    ],
)
@pytest.mark.parametrize("call", ["mkdir", "open", "fsync", "replace"])
def test_a_refusal_of_the_system_is_told_and_keeps_the_old_file(tmp_path, monkeypatch, call, number, error):
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(os if call == "fsync" else Path, call, fail_with(number))
    with pytest.raises(error, match=r"picture\.png") as raised:
        write_atomically(path, b"new")
    assert type(raised.value) is error
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["picture.png"]


def test_every_call_of_the_system_may_fail_once(tmp_path, monkeypatch):
    """The n-th call fails, n = 1, 2 ... until nothing fails: the file is old or new, and nothing else remains."""
    path = tmp_path / "x"
    path.write_bytes(b"old")
    originals = {
        (os, "fsync"): os.fsync,
        (os, "open"): os.open,
        (Path, "open"): Path.open,
        (Path, "replace"): Path.replace,
    }
    for failing in itertools.count(1):
        calls = itertools.count(1)

        def counted(original, calls=calls, failing=failing):
            def call(*args, **kwargs):
                if next(calls) == failing:
                    raise OSError(errno.EIO, "Input/output error")
                return original(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for (owner, name), original in originals.items():
                patch.setattr(owner, name, counted(original))
            try:
                write_atomically(path, b"new")
            except OutputError:
                assert path.read_bytes() == b"old"
        assert names(tmp_path) == ["x"]
        if next(calls) <= failing:
            break
    assert failing > 4
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("size", [10, 100_000, 40 * 2**20])
def test_a_disk_that_takes_no_more_is_told_whatever_is_still_in_the_buffer(tmp_path, size):
    """A limit on file sizes stands in for the disk: it, too, refuses the rest once more when the file is closed."""
    script = """
        import resource, sys
        from pathlib import Path
        from backend.errors import OutputError
        from backend.weights.atomic import write_atomically
        limit = int(sys.argv[2]) // 2
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            write_atomically(Path(sys.argv[1]), bytes(int(sys.argv[2])))
        except OutputError as error:
            print(error)
    """
    path = tmp_path / "x.png"
    path.write_bytes(b"old")
    done = run(script, path, size)
    assert done.returncode == 0, done.stderr
    assert "x.png could not be written" in done.stdout
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["x.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_told(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(NotWritable, match="Choose another output folder"):
        write_atomically(tmp_path / "x", b"1")
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("path", ["file/x", "file/folder/x"])
def test_a_file_in_the_place_of_the_folder_is_told(tmp_path, path):
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(OutputError, match="not a folder"):
        write_atomically(tmp_path / path, b"1", replace=False)


def test_a_folder_in_the_place_of_the_file_is_told(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(OutputError):
        write_atomically(tmp_path / "x", b"1")
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("name", ["a" * 255, "\u732b" * 85, ".hidden", "a.b.c", "x\ny", "123.456.part"])
def test_any_name_that_the_system_allows_can_be_written(tmp_path, name):
    write_atomically(tmp_path / name, b"1", replace=False)
    assert names(tmp_path) == [name]


def test_a_name_that_is_too_long_is_told(tmp_path):
    with pytest.raises(OutputError, match="name too long"):
        write_atomically(tmp_path / ("a" * 256), b"1")


def test_files_are_readable_as_the_mask_of_the_process_says(tmp_path):
    write_atomically(tmp_path / "x", b"1")
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o666 & ~mask


def test_errors_that_are_no_refusals_of_the_system_come_through():
    with pytest.raises(FileExistsError), told_as_output_errors(Path("x")):
        raise FileExistsError
    with pytest.raises(KeyError), told_as_output_errors(Path("x")):
        raise KeyError


KILLED = """
    import os, signal, sys, threading
    from pathlib import Path
    from backend.weights.atomic import atomic_file
    with atomic_file(Path(sys.argv[1]), replace=True) as file:
        file.write(bytes(100_000))
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_the_old_file_and_a_part_that_is_swept(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    assert run(KILLED, path).returncode == -9
    assert path.read_bytes() == b"old"
    assert len(names(tmp_path)) == 2
    assert sweep_parts(tmp_path) == 1
    assert names(tmp_path) == ["model.safetensors"]


def test_the_part_of_a_process_that_runs_is_not_swept(tmp_path):
    with atomic_file(tmp_path / "x") as file:
        file.write(b"1")
        assert sweep_parts(tmp_path) == 0
    assert (tmp_path / "x").read_bytes() == b"1"


def test_an_old_part_is_swept_even_if_its_number_was_given_again(tmp_path):
    part = tmp_path / f".x.{os.getpid()}.0123abcd.part"
    part.write_bytes(b"1")
    assert sweep_parts(tmp_path) == 0
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(part, (long_ago, long_ago))
    assert sweep_parts(tmp_path) == 1


def test_files_of_others_are_not_swept(tmp_path):
    others = (
        ".x.part",
        "x.999999999.0123abcd.part",
        ".x.999999999.part",
        ".x.y.0123abcd.part",
        "..part",
        ".x.99.zz.part",
    )
    for name in others:
        (tmp_path / name).write_bytes(b"1")
    assert sweep_parts(tmp_path) == 0
    assert sweep_parts(tmp_path / "missing") == 0
    assert len(names(tmp_path)) == len(others)


def test_a_checkpoint_that_meets_a_full_disk_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", fail_with(errno.ENOSPC))
    with pytest.raises(DiskFull, match=r"model\.safetensors was not written"):
        write_safetensors(tmp_path / "model.safetensors", {"a": torch.ones(5)})
    assert not names(tmp_path)
