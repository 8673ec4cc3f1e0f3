"""Weights at addresses: fetched once a command, then what the same file on this machine is, whatever is in it."""

from __future__ import annotations

import json
import pickle
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import xyscannet
from tests.data.miniature import picture
from tests.test_checkpoint import OFFICIAL, Evil
from tests.web import serving
from xyscan_cli.app import app
from xyscannet import checkpoint
from xyscannet.errors import ConfigError, UnavailableError

THERE = "memory://box/tiny.safetensors"


@pytest.fixture
def box(tmp_path: Path, memory, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny network's file, and the authors', here and under memory://box; photographs in blur/ and sharp/."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    for path in (tiny_weights, OFFICIAL):
        Path(path.name).write_bytes(path.read_bytes())
        memory.put_file(str(path), f"/box/{path.name}")
    for i in range(2):
        picture(tmp_path / f"blur/{i}.png", seed=i)
        picture(tmp_path / f"sharp/{i}.png", seed=i + 5)
    return tmp_path


@pytest.fixture
def gets(memory, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is fetched from memory:// addresses."""
    fetched, get = [], type(memory).get_file

    def counting(self, path, *arguments, **more):
        fetched.append(path)
        return get(self, path, *arguments, **more)

    monkeypatch.setattr(type(memory), "get_file", counting)
    return fetched


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    assert not list(Path("tmp").glob("xyscan-*")), "something is left in the temporary folder"
    return result


def test_deblur(box: Path, gets: list[str]) -> None:
    result = run("deblur", "-w", THERE, "blur", "there")
    assert f"network: {THERE}, 0." in result.stderr and gets == ["/box/tiny.safetensors"]
    run("deblur", "-w", "tiny.safetensors", "blur", "here")
    for i in range(2):
        assert Path(f"there/{i}.png").read_bytes() == Path(f"here/{i}.png").read_bytes()


def test_what_is_there_now_is_used(box: Path, memory) -> None:
    run("deblur", "-w", THERE, "blur/0.png", "first.png")
    held = checkpoint.read("tiny.safetensors")
    checkpoint.save("other.safetensors", {name: t * 0.5 for name, t in held.state.items()}, held.config)
    memory.put_file("other.safetensors", "/box/tiny.safetensors")
    run("deblur", "-w", THERE, "blur/0.png", "second.png")
    run("deblur", "-w", "other.safetensors", "blur/0.png", "other.png")
    assert Path("second.png").read_bytes() == Path("other.png").read_bytes() != Path("first.png").read_bytes()


@pytest.mark.parametrize("form", ["source", "option"])
def test_eval_goes_on_with_the_same_weights_from_elsewhere(form: str, box: Path, gets: list[str]) -> None:
    pytest.importorskip("skimage", reason="scikit-image is not installed")

    def evaluate(weights: str) -> str:
        source = ["--weights", weights] if form == "option" else [weights]
        result = run("eval", *source, "--pairs", "blur", "sharp", "--out", "run", "--json", "-")
        assert json.loads(result.stdout)["label"] == "tiny"
        return result.stderr

    assert "measured before" not in evaluate(THERE)
    assert "2 images were measured before" in evaluate("tiny.safetensors")
    assert gets == ["/box/tiny.safetensors"]


@pytest.mark.parametrize("name", ["tiny.safetensors", OFFICIAL.name])
def test_models(name: str, box: Path, gets: list[str]) -> None:
    here, there = (
        json.loads(run("models", "info", f"{place}{name}", "--json").stdout)
        for place in ("", "memory://box/")
    )
    assert there == {**here, "file": f"memory://box/{name}"} and gets == [f"/box/{name}"]
    run("models", "convert", name, "here.safetensors")
    run("models", "convert", f"memory://box/{name}", "there.safetensors")
    assert Path("here.safetensors").read_bytes() == Path("there.safetensors").read_bytes()


@pytest.mark.parametrize(
    "command",
    [
        ["erf", "blur", "--size", "8", "--inputs", "1", "--json", "-", "--models"],
        ["erf", "blur", "--size", "8", "--inputs", "1", "--json", "-", "--random", "--models"],
        ["features", "blur/0.png", "--size", "8", "--json", "-", "--models"],
    ],
    ids=["erf", "random", "features"],
)
def test_what_looks_into_networks(command: list[str], box: Path, gets: list[str]) -> None:
    def records(weights: str) -> list[dict]:
        lines = [json.loads(line) for line in run(*command, weights).stdout.splitlines()]
        return [{k: v for k, v in each.items() if k not in ("model", "command")} for each in lines]

    assert records(THERE) == records("tiny.safetensors") and gets == ["/box/tiny.safetensors"]


def test_bench(box: Path, gets: list[str]) -> None:
    quick = ["--sizes", "16x16", "--repeats", 1, "--no-memory", "--no-parity", "--device", "cpu"]
    result = run("bench", "--models", THERE, *quick)
    assert "\ntiny " in result.stdout and gets == ["/box/tiny.safetensors"]


def test_the_library(box: Path) -> None:
    image = torch.rand(1, 3, 12, 16)
    here, there = (xyscannet.load(name) for name in ("tiny.safetensors", THERE))
    assert torch.equal(here(image), there(image))
    held = checkpoint.read(f"memory://box/{OFFICIAL.name}")
    assert held.metadata == {"imported_from": OFFICIAL.name}
    assert str(held.source) == f"memory://box/{OFFICIAL.name}"
    with pytest.raises(UnavailableError, match=r"^memory://box/gone\.pth: there is no such file or folder$"):
        xyscannet.load("memory://box/gone.pth")
    with pytest.raises(ConfigError, match="no such kind of address"):
        xyscannet.load("nosuch://box/gone.pth")


def test_a_web_servers_weights(box: Path) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    with serving(box) as server:
        run("deblur", "-w", f"{server}/tiny.safetensors?download=true", "blur/0.png", "there.png")
        run("models", "info", f"{server}/gone.safetensors", code=3)
    run("deblur", "-w", "tiny.safetensors", "blur/0.png", "here.png")
    assert Path("there.png").read_bytes() == Path("here.png").read_bytes()


@pytest.mark.parametrize("command", [["deblur", "blur", "out", "-w"], ["models", "info"]], ids=lambda c: c[0])
@pytest.mark.parametrize(
    ("weights", "code", "words"),
    [
        ("memory://box/gone.pth", 3, "memory://box/gone.pth: there is no such file or folder"),
        ("memory://box", 2, "memory://box: is a folder, not a checkpoint"),
        ("memory://box/cut.safetensors", 2, "memory://box/cut.safetensors: is damaged or truncated"),
        ("memory://box/empty.pth", 2, "memory://box/empty.pth: is empty"),
        ("memory://box/evil.pth", 2, "memory://box/evil.pth: refused: "),
        ("nosuch://box/a.pth", 2, "nosuch://box/a.pth: there is no such kind of address"),
        ("s3://bucket/a.pth", 3, "s3://bucket/a.pth cannot be reached without a package: pip install s3fs"),
        ("http://127.0.0.1:9/a.pth", 3, "http://127.0.0.1:9/a.pth: cannot be reached"),
    ],
)
def test_what_is_no_network(
    command: list[str], weights: str, code: int, words: str, box: Path, memory, monkeypatch
) -> None:
    if weights.startswith("http"):
        pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    memory.pipe_file("/box/cut.safetensors", Path("tiny.safetensors").read_bytes()[:-8])
    memory.pipe_file("/box/empty.pth", b"")
    memory.pipe_file("/box/evil.pth", pickle.dumps({"state_dict": Evil(box / "trace")}, protocol=2))
    error = run(*command, weights, code=code).stderr
    assert error.startswith(f"error: {words}") and error.count("error:") == 1
    assert not Path("trace").exists() and not Path("out").exists() and "xyscan-" not in error


def test_without_fsspec_its_extra_is_named(box: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    error = run("deblur", "-w", "s3://bucket/a.pth", "blur", "out", code=3).stderr
    assert error == "error: s3://bucket/a.pth needs fsspec: pip install fsspec\n"
