"""`xyscan data check` of sets at addresses: what it says of the same files on this machine."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.data import miniature
from tests.web import serving
from xyscan_cli.app import app


@pytest.fixture
def box(tmp_path: Path, memory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set with four faults in box/set, which `upload` puts under memory://box/set."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    home = miniature.put(
        tmp_path / "box", *(f"set/{role}/{i}.png" for role in ("blur", "sharp") for i in range(20))
    )
    miniature.picture(home / "set/sharp/3.png", size=(12, 16))
    (home / "set/blur/5.png").write_bytes(b"no picture")
    (home / "set/sharp/5.png").write_bytes(b"")
    (home / "set/sharp/7.png").unlink()
    for path in home.rglob("*.png"):
        memory.put_file(str(path), f"/box/{path.relative_to(home).as_posix()}")
    return home


def check(*arguments: object, code: int):
    result = CliRunner().invoke(app, ["data", "check", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    assert not list(Path("tmp").iterdir()), "something is left in the temporary folder"
    return result


@pytest.mark.parametrize("options", [[], ["--deep"]], ids=["headers", "deep"])
@pytest.mark.parametrize("server", [False, True], ids=["memory", "web"])
def test_a_set_with_faults(options: list[str], server: bool, box: Path) -> None:
    here = check("box/set", *options, "--json", "-", code=1).stdout
    if server:
        pytest.importorskip("aiohttp", reason="aiohttp is not installed")
        with serving("box") as address:
            there = check(f"{address}/set", *options, "--json", "-", code=1).stdout
    else:
        address = "memory://box"
        there = check(f"{address}/set", *options, "--json", "-", code=1).stdout
    assert there.replace(address, "box") == here
    (record,) = map(json.loads, there.splitlines())
    assert record["samples"] == 19 and len(record["problems"]) == 4 and record["root"] == f"{address}/set"


def test_a_file_that_vanishes_is_a_problem(box: Path, memory, monkeypatch) -> None:
    get = type(memory).get_file

    def vanishing(self, path, *arguments, **more):
        if path.endswith("blur/1.png"):
            memory.rm_file(path)
        return get(self, path, *arguments, **more)

    monkeypatch.setattr(type(memory), "get_file", vanishing)
    error = check("memory://box/set", code=1).stderr
    assert "5 problems" in error and "memory://box/set/blur/1.png: there is no such file or folder" in error


@pytest.mark.parametrize(
    ("address", "code", "words"),
    [
        ("memory://gone", 3, "memory://gone: there is no such file or folder"),
        ("memory://box/notes", 3, "memory://box/notes holds no data set"),
        ("memory://box/*", 2, "is a pattern; give the address of a folder"),
        ("nosuch://box", 2, "no such kind of address"),
        ("s3://bucket/set", 3, "pip install s3fs"),
    ],
)
def test_what_cannot_be_checked(address: str, code: int, words: str, box: Path, memory, monkeypatch) -> None:
    memory.pipe_file("/box/notes/a.txt", b"")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    error = check(address, code=code).stderr
    assert error.startswith("error: ") and words in error and error.count("\n") == 1
