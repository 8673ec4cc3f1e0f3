"""Outputs in buckets of Google Cloud Storage: a file system that answers as gcsfs does stands for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from tests.data.miniature import picture
from xyscan_cli.app import app

pytest.importorskip("fsspec", reason="fsspec is not installed")
from fsspec.implementations.memory import MemoryFileSystem


class Buckets(MemoryFileSystem):
    """What gcsfs says of buckets: a missing one does not exist, and neither does, to an account that may not describe
    it, an empty one; where it may not list it either, access is forbidden, which is no PermissionError there.
    Nothing can be written where no bucket is."""

    protocol = ("gs", "gcs")
    root_marker = ""
    store, pseudo_dirs = {}, []
    there: ClassVar[set[str]] = set()
    described = listed = True

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.partition("://")[2] if "://" in path else path

    def exists(self, path: str, **_: object) -> bool:
        if "/" in path:
            return path in self.store
        if path in self.there and self.described:
            return True
        try:
            return bool(self.ls(path))
        except FileNotFoundError:
            return False

    def ls(self, path: str, detail: bool = True, **_: object) -> list:
        bucket = path.partition("/")[0]
        if not self.listed:
            raise OSError(f"Forbidden: b/{bucket}/o\nstorage.objects.list access is denied")
        if bucket not in self.there:
            raise FileNotFoundError(f"b/{bucket}/o")
        found = [name for name in self.store if name.startswith(f"{path}/")]
        return [{"name": each, "type": "file", "size": 1} for each in found] if detail else found

    def isdir(self, path: str) -> bool:
        return False

    def put_file(self, lpath: str, rpath: str, *_: object, **__: object) -> None:
        if rpath.partition("/")[0] not in self.there:
            raise FileNotFoundError(f"b/{rpath}")
        self.store[rpath] = Path(lpath).read_bytes()


@pytest.fixture
def buckets(monkeypatch: pytest.MonkeyPatch) -> type[Buckets]:
    """The file system of gs:// addresses, with the empty bucket `box`."""
    monkeypatch.setattr(Buckets, "store", {})
    monkeypatch.setattr(Buckets, "there", {"box"})
    for scheme in Buckets.protocol:
        monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, scheme, Buckets)
    return Buckets


@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize("scheme", ["gs", "gcs"])
def test_a_missing_bucket_is_told_once_before_the_work(
    scheme: str, described: bool, deblur, here: Path, buckets, monkeypatch
) -> None:
    monkeypatch.setattr(buckets, "described", described)
    for i in range(3):
        picture(here / f"in/{i}.png", seed=i)
    result = deblur("in", f"{scheme}://none/out")
    assert result.exit_code == 3
    assert result.stderr == f"error: {scheme}://none/out: there is no bucket none: make it first\n"


@pytest.mark.parametrize("option", ["--csv", "--figures"])
def test_a_missing_bucket_for_results_is_told_before_the_work(option: str, here: Path, buckets) -> None:
    picture(here / "in/a.png")
    command = ["eval", "--restored", "in", "--sharp", "in", option, "gs://none/results"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 3
    assert result.stderr == "error: gs://none/results: there is no bucket none: make it first\n"


@pytest.mark.parametrize(("described", "listed"), [(True, True), (False, True), (False, False)])
def test_an_empty_bucket_is_there_whatever_may_be_seen_of_it(
    described: bool, listed: bool, deblur, here: Path, buckets, monkeypatch
) -> None:
    monkeypatch.setattr(buckets, "described", described)
    monkeypatch.setattr(buckets, "listed", listed)
    picture(here / "in/a.png")
    result = deblur("in", "gs://box/out")
    assert result.exit_code == 0, result.output
    assert list(buckets.store) == ["box/out/a.png"]


def test_a_service_that_does_not_answer_is_one_message_too(deblur, here: Path, buckets, monkeypatch) -> None:
    def exists(self, path: str) -> bool:
        raise ConnectionResetError("Connection reset by peer")

    monkeypatch.setattr(buckets, "exists", exists)
    picture(here / "in/a.png")
    result = deblur("in", "gs://box/out")
    assert result.exit_code == 2
    assert result.stderr == "error: gs://box/out: cannot be reached (Connection reset by peer)\n"
