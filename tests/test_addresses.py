"""Files by address: memory:// and a web server on this machine; s3:// and gs:// go through the same functions."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.web import serving
from xyscan_cli.app import app
from xyscannet.addresses import Address, existing, exists, fetched, place_of, stored
from xyscannet.errors import ConfigError, InputError, UnavailableError
from xyscannet.inference.found import Found, find


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    import torch

    from xyscannet import checkpoint
    from xyscannet.models import XYScanNet, XYScanNetConfig

    torch.manual_seed(0)
    config = XYScanNetConfig(width=8, encoder_blocks=(1, 0, 0), decoder_blocks=(1, 0, 0), d_state=4)
    model = XYScanNet(config)
    torch.nn.init.normal_(model.output.weight, std=0.05)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    checkpoint.save(path, model, config)
    return str(path)


@pytest.fixture
def deblur(here: Path, weights: str):
    def run(*arguments: str):
        return CliRunner().invoke(app, ["deblur", "-w", weights, *arguments])

    return run


def picture(path: str, seed: int = 0) -> bytes:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 28, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return Path(path).read_bytes()


def test_names() -> None:
    address = Address("s3://bucket/photos/a.b.PNG")
    assert (address.name, address.suffix, address.scheme) == ("a.b.PNG", ".PNG", "s3")
    assert address.parent == Address("s3://bucket/photos") and Address("s3://bucket").parent == Address(
        "s3://bucket"
    )
    assert Address("s3://bucket/") / Path("x/y.png") == Address("s3://bucket/x/y.png")
    assert Address("http://host/a.png?size=1").suffix == ".png"
    assert place_of("a/b.png") == Path("a/b.png") and place_of("C:/x") == Path("C:/x")
    assert place_of("file:///tmp/x.png") == Path("/tmp/x.png")
    assert place_of("memory://x") == Address("memory://x")


def test_fetched_and_stored(here: Path, memory) -> None:
    there = Address("memory://box/sub/a.png")
    assert not exists(there)
    with stored(there) as path:
        path.write_bytes(b"whole")
        assert path.suffix == ".png" and not exists(there)
    assert memory.cat("/box/sub/a.png") == b"whole" and not path.exists()
    with pytest.raises(RuntimeError), stored(Address("memory://box/b.png")) as path:
        path.write_bytes(b"half")
        raise RuntimeError
    assert not exists(Address("memory://box/b.png"))
    with fetched(there) as path:
        assert path.read_bytes() == b"whole"
    with pytest.raises(InputError, match=r"^memory://box/sub/a\.png: damaged$"), fetched(there) as path:
        raise InputError(f"{path}: damaged")
    with (
        pytest.raises(InputError, match="memory://box/none: there is no such file"),
        fetched(Address("memory://box/none")),
    ):
        pass
    Path("x").touch()
    with fetched(Path("x")) as path, stored(Path("y")) as other:
        assert (path, other) == (Path("x"), Path("y"))
    asked = [Path("x"), Path("y"), there, Address("memory://box/sub/no"), Address("memory://none/no")]
    assert existing(asked) == {Path("x"), there}


def test_what_cannot_be_reached(monkeypatch) -> None:
    with pytest.raises(ConfigError, match="no such kind of address"):
        Address("nosuch://x").exists()
    with pytest.raises(ConfigError, match="can be read, not written"):
        Address("https://host/out").refuse_writing()
    for scheme, package in (("s3", "s3fs"), ("gs", "gcsfs"), ("http", "aiohttp")):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules, f"fsspec.implementations.{scheme}", raising=False)
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)
        with pytest.raises(UnavailableError, match=f"pip install {package}"):
            Address(f"{scheme}://bucket/a.png").exists()


def test_a_folder_to_an_address_and_on_to_another(deblur, memory) -> None:
    for i in range(3):
        picture(f"in/{i}.png", seed=i)
    picture("in/sub/3.png", seed=3)
    Path("memory:").touch()  # so that no folder of this name can be made or held here
    assert deblur("in", "once").exit_code == 0
    assert deblur("in", "memory://box/out").exit_code == 0
    names = ["0.png", "1.png", "2.png", "sub/3.png"]
    assert sorted(memory.find("/box/out")) == [f"/box/out/{name}" for name in names]
    for name in names:
        assert memory.cat(f"/box/out/{name}") == Path("once", name).read_bytes()

    memory.pipe_file("/box/out/notes.txt", b"")
    memory.pipe_file("/box/out/.hidden.png", b"")
    memory.pipe_file("/box/out/bad.png", b"no image")
    result = deblur("memory://box/out", "memory://box/twice", "--json", "-")
    assert result.exit_code == 1 and deblur("once", "twice").exit_code == 0
    for name in names:
        assert memory.cat(f"/box/twice/{name}") == Path("twice", name).read_bytes()
    records = {each["input"]: each for each in map(json.loads, result.stdout.splitlines())}
    good, bad = records["memory://box/out/sub/3.png"], records["memory://box/out/bad.png"]
    assert good["output"] == "memory://box/twice/sub/3.png" and good["size"] == [28, 20]
    assert bad["error"].startswith("memory://box/out/bad.png: this is not an image") and len(records) == 5
    assert "1 other file ignored" in result.stderr and "4 of 5 images done" in result.stderr


def test_existing_outputs_and_single_files(deblur, memory) -> None:
    data = picture("a.png")
    memory.pipe_file("/box/a.png", data)
    assert deblur("memory://box/a.png", "here.png").exit_code == 0
    assert deblur("a.png", "memory://box/there.png").exit_code == 0
    assert memory.cat("/box/there.png") == Path("here.png").read_bytes()
    result = deblur("memory://box/*.png", "memory://out")
    assert result.exit_code == 0 and sorted(memory.find("/out")) == ["/out/a.png", "/out/there.png"]
    result = deblur("memory://box/*.png", "memory://out")
    assert result.exit_code == 2 and "2 of 2 outputs exist: memory://out/a.png" in result.stderr
    memory.rm_file("/out/a.png")
    before = memory.modified("/out/there.png")
    result = deblur("memory://box/*.png", "memory://out", "--exist", "skip")
    assert result.exit_code == 0 and "1 of 1 images done" in result.stderr
    assert memory.modified("/out/there.png") == before and memory.exists("/out/a.png")
    result = deblur("memory://box/*.png", "memory://out", "--exist", "skip")
    assert result.exit_code == 0 and "none to restore (2 already there and skipped)" in result.stderr


def test_names_that_look_like_patterns(memory) -> None:
    for key in ("/box/set [1]/a[b].png", "/box/set [1]/c.png", "/box/set 1/d.png"):
        memory.pipe_file(key, b"")
    for text, places in (
        ("memory://box/set [1]/a[b].png", ["a[b].png"]),
        ("memory://box/set [1]", ["a[b].png", "c.png"]),
        ("memory://box/set [12]", []),
        ("memory://box/set [12]/*", ["d.png"]),
    ):
        found = Found()
        with pytest.raises(ConfigError, match="no file") if not places else contextlib.nullcontext():
            find(text, found)
        assert [place.name for _, place in found.files] == places


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["memory://gone", "out"], "input does not exist: memory://gone"),
        (["memory://box/*.tif", "out"], "no file matches"),
        (["memory://box", "memory://box/out"], "lies in the input memory://box"),
        (["memory://box/a.png", "memory://box/a.png"], "would replace the input"),
        (["memory://box", "http://127.0.0.1:9/out"], "can be read, not written"),
        (["nosuch://box", "out"], "no such kind of address"),
    ],
)
def test_refused_before_anything_starts(deblur, memory, arguments: list[str], words: str) -> None:
    memory.pipe_file("/box/a.png", picture("a.png"))
    result = deblur(*arguments)
    assert result.exit_code == 2, result.output
    assert words in result.stderr and result.stderr.count("error:") == 1
    assert memory.find("/") == ["/box/a.png"]


def test_names_that_lead_out_of_the_folder_are_listed_and_not_followed(deblur, memory) -> None:
    data = picture("a.png")
    keys = ("/box/good.png", "/box/../../up.png", "/box//etc/absolute.png")
    for key in keys:
        memory.pipe_file(key, data)
    result = deblur("memory://box", "deep/out")
    assert result.exit_code == 1 and "1 of 3 images done" in result.stderr
    assert result.stderr.count("its name leads out of the folder") == 2
    assert sorted(p for p in Path().rglob("*.png")) == [Path("a.png"), Path("deep/out/good.png")]


def test_a_clip(deblur, memory) -> None:
    av = pytest.importorskip("av", reason="PyAV is not installed")
    noise = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    with av.open("clip.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for i in range(6):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(noise[:, i : i + 32]), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    memory.put_file("clip.mp4", "/box/clip.mp4")
    assert deblur("clip.mp4", "here.mp4").exit_code == 0
    result = deblur("memory://box/clip.mp4", "memory://out/there.mp4", "--json", "-")
    assert result.exit_code == 0, result.output
    assert memory.find("/out") == ["/out/there.mp4"]
    assert memory.cat("/out/there.mp4") == Path("here.mp4").read_bytes()
    assert json.loads(result.stdout)["clip"]["frames"] == 6
    result = deblur("memory://box/clip.mp4", "part.mp4", "--end", "0.12")  # 3 frames
    assert result.exit_code == 0 and f"done, {3 * 32 * 32 / 1e6:.2g} MP in" in result.stderr
    assert "clips: 1, of sizes that are known when they are read" in result.stderr


@pytest.fixture
def server(here: Path):
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    Path("web").mkdir()
    with serving("web") as address:
        yield address


def test_a_web_servers_files(deblur, server: str) -> None:
    picture("web/a.png"), picture("web/photos/b.png", seed=1)
    assert deblur("web", "once").exit_code == 0
    result = deblur(f"{server}/a.png", "out")
    assert result.exit_code == 0, result.output
    assert Path("out/a.png").read_bytes() == Path("once/a.png").read_bytes()
    result = deblur(f"{server}/photos", "listed")
    assert result.exit_code == 0, result.output
    assert Path("listed/b.png").read_bytes() == Path("once/photos/b.png").read_bytes()
    result = deblur(f"{server}/gone.png", "out")
    assert result.exit_code == 2 and "input does not exist" in result.stderr


def test_folders_and_patterns_in_an_archive(deblur) -> None:
    picture("photos/a.png"), picture("photos/sub/b.png", seed=1)
    shutil.make_archive("all [1]", "zip", ".", "photos")
    archive = f"{Path.cwd()}/all [1].zip"
    assert deblur("photos", "here/photos").exit_code == 0
    for place, folder, count in (
        ("photos", "here/photos", 2),
        ("photos/*.png", "here/photos", 1),
        ("*/sub/*.png", "here", 1),
        ("", "here", 2),
        ("photos/sub/b.png", "here/photos/sub", 1),
    ):
        result = deblur(f"zip://{place}::{archive}", "out")
        assert result.exit_code == 0, result.output
        made = [path.relative_to("out") for path in Path("out").rglob("*.png")]
        assert len(made) == count
        assert all(Path("out", each).read_bytes() == Path(folder, each).read_bytes() for each in made)
        shutil.rmtree("out")


def test_a_file_in_an_archive_has_its_name_there():
    for scheme in ("zip", "tar"):
        inside = Address(f"{scheme}://photos/a.jpg::archive.{scheme}")
        assert (inside.name, inside.suffix, inside.readable.as_posix()) == ("a.jpg", ".jpg", "photos/a.jpg")
        folder, top = (
            Address(f"{scheme}://photos::archive.{scheme}"),
            Address(f"{scheme}://::archive.{scheme}"),
        )
        assert folder / "a.jpg" == inside and inside.parent == folder and top / "photos" == folder
        assert folder.parent == top and top.parent == top
    assert Address("s3://bucket/odd::name.jpg").name == "odd::name.jpg"
