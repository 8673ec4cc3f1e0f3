"""`xyscan eval` on sets at addresses: the numbers of the same files on this machine, and what goes wrong."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.web import serving
from xyscan_cli.app import app
from xyscannet.reports.results import Evaluation, from_json

pytest.importorskip("skimage", reason="the metrics' packages are not installed")


@pytest.fixture
def box(tmp_path: Path, memory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pairs and what two methods made of them in box/, and the same under memory://box."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    random = np.random.default_rng(0)
    for i in range(3):
        sharp = random.integers(0, 256, (24, 32, 3)).astype(float)
        blur = cv2.GaussianBlur(sharp, (0, 0), 1)
        near = (blur + sharp) / 2
        for kind, image in (("set/blur", blur), ("set/sharp", sharp), ("near", near), ("far", blur / 2)):
            (tmp_path / "box" / kind).mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(f"box/{kind}/{i}.png", image.round().astype(np.uint8))
    memory.put("box", "/", recursive=True)
    assert memory.exists("/box/set/blur/0.png")
    Path("memory:").touch()  # so that no folder of this name can be made here
    return tmp_path / "box"


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, ["eval", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    assert not list(Path("tmp").iterdir()), "something is left in the temporary folder"
    return result


def evaluations(*arguments: object, code: int = 0) -> list[Evaluation]:
    lines = run(*arguments, "--fresh", "--json", "-", code=code).stdout.splitlines()
    return [from_json(line) for line in lines if '"comparison"' not in line]


def values(found: list[Evaluation]) -> list:
    return [(each.label, [(image.name, image.values) for image in each.images]) for each in found]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--root", "{}/set", "--blurred"],
        ["--pairs", "{}/set/blur", "{}/set/sharp"],
        ["--restored", "{}/near", "--sharp", "{}/set/sharp"],
        ["{}/near", "{}/far", "--paired", "--pairs", "{}/set/blur", "{}/set/sharp"],
        ["{}/near", "--dataset", "gopro", "--root", "{}/set"],
    ],
    ids=["root", "pairs", "restored", "paired", "dataset"],
)
def test_the_numbers_are_those_of_files(arguments: list[str], box: Path, tiny_weights: Path) -> None:
    if not {"--restored", "{}/near"} & set(arguments):
        arguments = [str(tiny_weights), *arguments]
    here, there = (
        evaluations(*(each.format(place) for each in arguments)) for place in ("box", "memory://box")
    )
    assert values(there) == values(here) and here
    assert [image.sharp for image in there[-1].images] == [
        f"memory://box/set/sharp/{i}.png" for i in range(3)
    ]
    assert Path("memory:").is_file()


def test_a_run_goes_on(box: Path, memory) -> None:
    arguments = ["memory://box/near", "--root", "memory://box/set", "--out", "out"]
    first = run(*arguments)
    again = run(*arguments)
    assert "3 images were measured before" in again.stderr and again.stdout == first.stdout
    memory.put_file("box/far/0.png", "/box/near/0.png")
    assert "--fresh" in run(*arguments, code=2).stderr


def test_the_page_and_the_figures_show_the_images(box: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    files = ["--report", "page.html", "--figures", "figures", "--csv", "images.csv"]
    run("memory://box/near", "--root", "memory://box/set", "--out", "there", *files)
    page = Path("page.html").read_text()
    assert page.count("data:image/webp;base64,") == 9 and page.count('"problems": []') == 3
    assert Path("images.csv").read_text().count("\n") == 4
    assert any(path.name.startswith("qualitative") for path in Path("figures").iterdir())


def test_a_file_that_vanishes_is_its_images_failure(box: Path, memory, monkeypatch) -> None:
    fetch = type(memory).get_file

    def vanishing(self, path, *arguments, **more):
        if path.endswith(("blur/1.png", "sharp/2.png")):
            memory.rm_file(path)
        return fetch(self, path, *arguments, **more)

    monkeypatch.setattr(type(memory), "get_file", vanishing)
    result = run(
        "--restored", "memory://box/set/blur", "--sharp", "memory://box/set/sharp", "--json", "-", code=1
    )
    images = json.loads(result.stdout)["images"]
    assert images[0]["values"]["psnr"] is not None and not images[0]["failures"]
    assert images[1]["failures"] == {"image": "memory://box/set/blur/1.png: there is no such file or folder"}
    assert images[2]["failures"] == {"image": "memory://box/set/sharp/2.png: there is no such file or folder"}
    assert "2 failed:" in result.stderr


def test_a_damaged_file_is_named_by_its_address(box: Path, memory) -> None:
    memory.pipe_file("/box/set/blur/1.png", b"nothing")
    result = run("--restored", "memory://box/set/blur", "--sharp", "memory://box/set/sharp", code=1)
    assert "blur, 1: image" not in result.stderr
    assert "memory://box/set/blur/1.png: this is not an image" in result.stderr


def test_results_are_those_that_are_written_here(box: Path, memory) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    names = {"report": "page.html", "csv": "i.csv", "markdown": "t.md", "latex": "t.tex", "json": "r.jsonl"}
    arguments = ["memory://box/near", "--root", "memory://box/set", "--blurred", "--out", "out"]

    def written(place: str):
        files = [word for option, name in names.items() for word in (f"--{option}", f"{place}/{name}")]
        return run(*arguments, *files, "--figures", f"{place}/figures")

    Path("here").mkdir()
    expected, found = written("here"), written("memory://box/there/new")
    assert found.stderr.count("wrote memory://box/there/new/") == expected.stderr.count("wrote here/") > 6
    here = {path.relative_to("here").as_posix(): path for path in Path("here").rglob("*") if path.is_file()}
    there = {name.removeprefix("/box/there/new/"): name for name in memory.find("/box/there/new")}
    assert sorted(here) == sorted(there) and {*names.values(), "figures/captions.txt"} < here.keys()
    # Tables tell when they were made, and captions by which command, broken into lines.
    for name in here.keys() - {"page.html", "r.jsonl"}:
        found, expected = (
            b" ".join(re.sub(rb"T\d\d:\d\d:\d\d", b"", each).split()).replace(
                b"memory://box/there/new", b"here"
            )
            for each in (memory.cat(there[name]), here[name].read_bytes())
        )
        assert found == expected, name
    images = [from_json(line).images for line in memory.cat("/box/there/new/r.jsonl").decode().splitlines()]
    assert images == [from_json(line).images for line in Path("here/r.jsonl").read_text().splitlines()]
    page = memory.cat("/box/there/new/page.html").decode()
    assert page.count("data:image/webp;base64,") == Path("here/page.html").read_text().count(
        "data:image/webp"
    )


def test_a_result_that_is_refused_costs_no_measurement(box: Path, memory, monkeypatch) -> None:
    put, arguments = type(memory).put_file, ["box/near", "--root", "box/set", "--csv", "memory://out/i.csv"]

    def refusing(self, *_: object, **__: object) -> None:
        raise PermissionError("quota")

    monkeypatch.setattr(type(memory), "put_file", refusing)
    error = run(*arguments, code=1).stderr.partition("error: ")[2]
    assert error == "memory://out/i.csv: no permission: check the credentials\n" and not memory.find("/out")
    monkeypatch.setattr(type(memory), "put_file", put)
    assert "3 images were measured before" in run(*arguments).stderr
    assert memory.cat("/out/i.csv").count(b"\n") == 4


def test_the_journal_stays_on_this_machine(box: Path) -> None:
    result = run("box/near", "--root", "box/set", "--out", "memory://out/file", code=2)
    assert "Invalid value for '--out': memory://out/file is an address, and the journal" in result.stderr
    assert result.stderr.count("error:") == 1 and not Path("runs").exists()


@pytest.mark.parametrize("option", ["--report", "--figures", "--json", "--csv", "--markdown", "--latex"])
@pytest.mark.parametrize(
    ("place", "code", "words"),
    [
        ("https://host/results", 2, "https addresses can be read, not written: https://host/results"),
        ("nosuch://out/file", 2, "nosuch://out/file: there is no such kind of address"),
        ("s3://bucket/file", 3, "s3://bucket/file cannot be reached without a package: pip install s3fs"),
    ],
)
def test_where_no_result_can_go_is_told_before_the_work(
    option: str, place: str, code: int, words: str, box: Path, monkeypatch
) -> None:
    if place.startswith("http"):
        pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    result = run("box/near", "--root", "box/set", option, place, code=code)
    assert result.stderr.startswith(f"error: {words}") and result.stderr.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize("option", ["--report", "--json", "--csv", "--markdown", "--latex"])
@pytest.mark.parametrize("place", ["box/set", "memory://out/folder/"])
def test_a_folder_is_no_file_to_write(option: str, place: str, box: Path) -> None:
    error = run("box/near", "--root", "box/set", option, place, code=2).stderr
    assert error == f"error: {option} {place}: is a folder; name a file\n" and not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--root", "memory://box/gone"], 3, "memory://box/gone: there is no such file or folder"),
        (["--root", "memory://box/near"], 3, "memory://box/near holds no test split of pairs"),
        (["--root", "memory://box/*"], 2, "is a pattern; give the address of a folder"),
        (["--root", "nosuch://box"], 2, "no such kind of address"),
        (["--root", "http://127.0.0.1:9/set"], 3, "http://127.0.0.1:9/set: cannot be reached"),
        (["--pairs", "box/set/blur", "memory://gone"], 3, "memory://gone: there is no such"),
        (["memory://gone", "--root", "memory://box/set"], 3, "memory://gone: there is no such"),
        (["memory://box/tiny.pth", "--root", "box/set"], 3, "memory://box/tiny.pth: there is no such"),
        (["s3://bucket/near", "--root", "box/set"], 3, "pip install s3fs"),
        (["--dataset", "gopro"], 2, "XYSCAN_DATA names folders of this machine"),
    ],
)
def test_what_cannot_be_measured(arguments: list[str], code: int, words: str, box: Path, monkeypatch) -> None:
    if "http" in str(arguments):
        pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    monkeypatch.setenv("XYSCAN_DATA", "memory://box")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    error = run(*arguments, code=code).stderr.partition("error: ")[2]
    assert words in error and error.count("\n") == 1


def test_a_web_servers_set(box: Path, tiny_weights: Path) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    (box / "near").rename(box / "near by")
    arguments = [tiny_weights, "{}/near by", "--root", "{}/set"]
    here = evaluations(*(str(each).format("box") for each in arguments))
    with serving("box") as server:
        there = evaluations(*(str(each).format(server).replace("near by", "near%20by") for each in arguments))
        assert values(there) == values(here)
    assert there[1].images[0].restored == f"{server}/near%20by/0.png" and there[1].label == "near by"
