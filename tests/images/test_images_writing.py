"""A file is written whole or not at all, and an earlier one is replaced only by a whole one."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys

import numpy as np
import pytest

from tests.images.samples import picture
from tests.subprocesses import environment
from xyscannet.errors import InputError
from xyscannet.images import Photo, read, write


def folder(path):
    return sorted(p.name for p in path.iterdir())


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "file size limit"),
        (errno.EACCES, "no permission"),
        (errno.EROFS, "read-only"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_earlier_file(tmp_path, monkeypatch, number, words, call):
    path = tmp_path / "x.png"
    write(Photo(picture()), path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(InputError, match=words) as caught:
        write(Photo(255 - picture()), path)
    assert str(path) in str(caught.value)
    monkeypatch.undo()
    assert path.read_bytes() == before and folder(tmp_path) == ["x.png"]
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(InputError):
        write(Photo(picture()), tmp_path / "new.png")
    monkeypatch.undo()
    assert folder(tmp_path) == ["x.png"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch, call):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, call, interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(Photo(picture()), tmp_path / "x.png")
    monkeypatch.undo()
    assert folder(tmp_path) == []


def test_the_system_runs_out_of_room_for_real(tmp_path):
    """A limit of file size in a process of its own stands for a full disk."""
    pytest.importorskip("resource")
    program = """
import resource, sys
import numpy as np
from xyscannet.errors import InputError
from xyscannet.images import Photo, write
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
noise = np.random.default_rng(0).integers(0, 256, (100, 200, 3), dtype=np.uint8)
write(Photo(noise[:20, :20]), sys.argv[1] + "/small.png")
for name in ("x.png", "x.tif", "x.bmp", "x.webp", "x.jpg"):
    try:
        write(Photo(noise), sys.argv[1] + "/" + name)
    except InputError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    assert done.stdout.count("file size limit") == 5 and done.stderr == ""
    assert folder(tmp_path) == ["small.png"]
    assert read(tmp_path / "small.png").width == 20


def test_file_mode_follows_the_umask(tmp_path):
    for mask, mode in ((0o022, 0o644), (0o077, 0o600)):
        earlier = os.umask(mask)
        try:
            write(Photo(picture()), tmp_path / "x.png")
        finally:
            os.umask(earlier)
        assert stat.S_IMODE((tmp_path / "x.png").stat().st_mode) == mode


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("x")
    for path, words in (
        (tmp_path / "folder.png", "folder with this name"),
        (tmp_path / "file" / "x.png", "part of the path is a file"),
        (tmp_path / ("n" * 300 + ".png"), "name is too long"),
    ):
        with pytest.raises(InputError, match=words):
            write(Photo(picture()), path)
    assert folder(tmp_path) == ["file", "folder.png"] and folder(tmp_path / "folder.png") == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="no permission"):
            write(Photo(picture()), tmp_path / "x.png")
    finally:
        tmp_path.chmod(0o700)


def test_folders_are_made_and_links_replaced(tmp_path):
    (tmp_path / "real.png").write_bytes(b"untouched")
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    write(Photo(picture()), tmp_path / "link.png")
    assert (tmp_path / "real.png").read_bytes() == b"untouched"
    write(Photo(picture()), tmp_path / "a" / "b" / "x.png")
    assert read(tmp_path / "a" / "b" / "x.png").width == 31


def test_sizes_a_format_cannot_hold(tmp_path):
    wide = Photo(np.zeros((1, 70_000, 3), np.uint8))
    for name in ("x.jpg", "x.webp"):
        with pytest.raises(InputError, match="70000x1"):
            write(wide, tmp_path / name)
    assert folder(tmp_path) == []
    for name in ("x.png", "x.tif", "x.bmp"):
        write(wide, tmp_path / name)
        assert read(tmp_path / name).width == 70_000


def test_wrong_arrays_are_refused():
    with pytest.raises(ValueError, match="uint8 or uint16"):
        Photo(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="does not fit"):
        Photo(picture(), np.zeros((2, 2), np.uint8))
    with pytest.raises(ValueError, match="at least one pixel"):
        Photo(np.zeros((0, 4, 3), np.uint8))


def test_importing_images_imports_no_torch():
    program = "import sys, xyscannet.images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], env=environment()).returncode == 0
