"""Text is written whole or not at all."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tempfile
import threading
from fnmatch import fnmatch
from pathlib import Path

import pytest

import xyscannet
from xyscannet.errors import ConfigError, InputError
from xyscannet.files import held, is_stream, remove_leftovers, replacing, write_bytes, write_text


def test_text_replaces_text_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "one\n")
    write_text(path, "zwei – ü\n")
    assert path.read_bytes() == "zwei – ü\n".encode()
    assert [each.name for each in path.parent.iterdir()] == ["a.txt"]


def test_until_it_is_whole_a_file_has_a_hidden_name_and_then_the_rights_of_any_other(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "a" / "b.bin", parents=True) as temporary:
            assert temporary.parent == tmp_path / "a" and fnmatch(temporary.name, ".*.part")
            temporary.write_bytes(b"x")
    finally:
        os.umask(before)
    assert [(p.name, p.stat().st_mode & 0o777) for p in (tmp_path / "a").iterdir()] == [("b.bin", 0o640)]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm")
def test_what_is_a_stream():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:  # files like any others
        path = Path(folder, "a.txt")
        write_text(path, "one\n")
        assert not is_stream(path) and path.read_text() == "one\n"
        path.unlink()
        path.symlink_to("/dev/stdout")
        assert is_stream(path) and is_stream("/dev/null") and is_stream("/proc/self/fd/1")


def test_only_one_function_moves_files_into_place():
    """Records of deblur, which are streamed, excepted."""
    root = Path(xyscannet.__file__).parents[1]
    code = [*root.glob("xyscannet/**/*.py"), *root.glob("xyscan_cli/**/*.py")]
    found = [path.name for path in code if re.search(r"os\.(replace|rename)\(", path.read_text())]
    assert sorted(found) == ["_deblur_report.py", "files.py"]


def test_what_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        write_text(tmp_path / "absent" / "b.txt", "text")
    with pytest.raises(InputError, match="there is a folder with this name"):
        write_text(tmp_path, "text")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_folder_is_held_by_one_at_a_time_and_let_go(tmp_path):
    folder = tmp_path / "a" / "out"
    with held(folder):
        assert folder.is_dir()
        with pytest.raises(ConfigError, match="another run is writing to .*out: wait"), held(folder):
            pass
        with held(tmp_path / "b"):  # another one is free
            (tmp_path / "b" / "file").touch()
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["b", "b/file"]
    with pytest.raises(RuntimeError), held(folder):
        raise RuntimeError
    with held(folder):
        (folder / "kept").touch()
    assert [path.name for path in folder.iterdir()] == ["kept"]


def test_an_empty_folder_is_removed_before_it_is_let_go(tmp_path, monkeypatch):
    remove, removed = Path.rmdir, []

    def rmdir(path: Path) -> None:
        with pytest.raises(ConfigError, match="another run"), held(path):
            pass
        removed.append(path.name)
        remove(path)

    monkeypatch.setattr(Path, "rmdir", rmdir)
    with held(tmp_path / "out"):
        pass
    assert removed == ["out"]


def test_a_file_system_without_locks_holds_nothing_and_keeps_what_is_left(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / ".0123456789abcdef.part").touch()
    with held(tmp_path), held(tmp_path):
        write_text(tmp_path / "a.txt", "text")
    assert sorted(each.name for each in tmp_path.iterdir()) == [".0123456789abcdef.part", "a.txt"]


def test_what_a_killed_process_was_writing_goes_away_and_what_is_written_now_stays(tmp_path):
    writer = "import os, sys; from xyscannet.files import replacing; open_ = replacing(sys.argv[1]); " + (
        "open_.__enter__().write_bytes(b'half'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", writer, tmp_path / "a.txt"]).returncode == -9
    (left,) = tmp_path.iterdir()
    foreign = tmp_path / ".mine.part"
    foreign.touch()
    with replacing(tmp_path / "b.txt") as temporary:
        temporary.write_bytes(b"whole")
        remove_leftovers(tmp_path)
        assert not left.exists() and temporary.exists()
    left.touch()
    with held(tmp_path):
        assert sorted(each.name for each in tmp_path.iterdir()) == [foreign.name, "b.txt"]
    remove_leftovers(tmp_path / "absent")


def test_a_name_that_is_taken_for_a_leftover_is_not_used(tmp_path, monkeypatch):
    """Somebody may look for leftovers between a file's creation and its lock."""
    import fcntl

    locked, swept = fcntl.flock, []

    def flock(handle: int, how: int) -> None:
        if not swept:
            swept.append(handle)
            remove_leftovers(tmp_path)
        locked(handle, how)

    monkeypatch.setattr("fcntl.flock", flock)
    write_text(tmp_path / "a.txt", "text")
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"] and swept


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"), held(tmp_path / "file" / "out"):
        pass


def test_what_is_no_file_is_written_to_and_stays(tmp_path: Path) -> None:
    """A pipe, or a device such as /dev/stdout, is not replaced by a file."""
    pipe, heard = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_bytes(pipe, b"told")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    reader.join(10)
    assert heard == [b"told"] and list(tmp_path.iterdir()) == [pipe]
