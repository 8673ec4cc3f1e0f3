"""`xyscan deblur` and `xyscan eval` on S3: moto's server stands for it, on this machine."""

from __future__ import annotations

import json
import logging
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from xyscan_cli.app import app

s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
moto = pytest.importorskip("moto.server", reason="moto's server is not installed")

NAMES = ["0.png", "1.png", "sub/2.png", "sub/ä #?.png"]


@pytest.fixture(scope="module")
def endpoint():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells of every request
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The file system of the server, which has the empty bucket `box`; the current folder has photographs in in/."""
    monkeypatch.chdir(tmp_path)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    ask(endpoint, "reset")
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem(use_listings_cache=False)
    fs.mkdir("box")
    for seed, name in enumerate(NAMES):
        picture(Path("in", name), seed)
    yield fs
    ask(endpoint, "reset-auth", "inf")
    s3fs.S3FileSystem.clear_instance_cache()


def ask(endpoint: str, what: str, text: str = "") -> None:
    """Ask moto itself: to forget everything, or to look at credentials after so many requests."""
    request = urllib.request.Request(
        f"{endpoint}/moto-api/{what}", text.encode(), headers={"Content-Type": "text/plain"}, method="POST"
    )
    urllib.request.urlopen(request).close()


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (20, 28, 3), np.uint8))


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def stored(fs, folder: str) -> dict[str, bytes]:
    return {name[len(folder) + 1 :]: fs.cat_file(name) for name in fs.find(folder)}


def test_photographs(bucket, tiny_weights: Path) -> None:
    deblur = ["deblur", "-w", tiny_weights]
    run(*deblur, "in", "out")
    expected = {name: Path("out", name).read_bytes() for name in NAMES}
    run(*deblur, "in", "s3://box/from-here")
    assert stored(bucket, "box/from-here") == expected
    bucket.put("in/", "box/in/", recursive=True)
    bucket.touch("box/in/notes.txt"), bucket.touch("box/in/made in a browser/")
    assert "1 other file ignored" in run(*deblur, "s3://box/in", "s3://box/out").stderr
    assert stored(bucket, "box/out") == expected
    run(*deblur, "s3://box/in/0.png", "one.png")
    assert Path("one.png").read_bytes() == expected["0.png"]

    assert "4 of 4 outputs exist" in run(*deblur, "s3://box/in", "s3://box/out", code=2).stderr
    bucket.rm_file("box/out/sub/2.png")
    assert "1 of 1 images done" in run(*deblur, "s3://box/in", "s3://box/out", "--exist", "skip").stderr
    assert stored(bucket, "box/out") == expected
    run(*deblur, "s3://box/in/*.png", "s3://box/matched")
    assert sorted(stored(bucket, "box/matched")) == NAMES[:2]


def test_a_set(bucket, tiny_weights: Path) -> None:
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    for role in ("blur", "sharp"):
        for i in range(2):
            picture(Path(f"data/GoPro/test/GOPR0384_11_00/{role}/{i}.png"), seed=i + 5 * (role == "sharp"))
            picture(Path(f"data/theirs/{i}.png"), seed=i + 10)
    bucket.put("data/", "box/data/", recursive=True)

    def values(place: str) -> list:
        root = ["--dataset", "gopro", "--root", f"{place}/GoPro"]
        result = run("eval", tiny_weights, f"{place}/theirs", *root, "--json", "-", "--fresh")
        found = [image for line in result.stdout.splitlines() for image in json.loads(line)["images"]]
        return [(image["name"], image["values"]) for image in found]

    assert values("s3://box/data") == values("data") != []
    again = ["eval", "s3://box/data/theirs", "--root", "s3://box/data/GoPro", "--out", "there"]
    run(*again), picture(Path("other.png"), seed=20)
    assert "2 images were measured before" in run(*again).stderr
    bucket.put_file("other.png", "box/data/theirs/0.png")
    assert "--fresh begins anew" in run(*again, code=2).stderr
    arguments = ["eval", "data/theirs", "--root", "data/GoPro"]
    for option in ("--csv", "--report"):
        run(*arguments, option, "s3://box/results/file")
        assert b"GOPR0384_11_00" in bucket.cat_file("box/results/file")
        error = run(*arguments, option, "s3://none/file", code=3).stderr
        assert error == "error: s3://none/file: there is no bucket none: make it first\n"


def test_weights(bucket, tiny_weights: Path) -> None:
    bucket.put_file(str(tiny_weights), "box/tiny.safetensors")
    run("deblur", "-w", tiny_weights, "in/0.png", "here.png")
    run("deblur", "-w", "s3://box/tiny.safetensors", "in/0.png", "there.png")
    assert Path("here.png").read_bytes() == Path("there.png").read_bytes()
    for place in ("s3://none/a.pth", "s3://box/a.pth"):
        error = run("deblur", "-w", place, "in", "out", code=3).stderr
        assert error == f"error: {place}: there is no such file or folder\n"


def test_what_is_not_there(bucket, tiny_weights: Path) -> None:
    deblur = ["deblur", "-w", tiny_weights]
    none = "there is no bucket none: make it first"
    assert f"s3://none/out: {none}" in run(*deblur, "in", "s3://none/out", code=3).stderr
    assert "input does not exist: s3://none/in" in run(*deblur, "s3://none/in", "out", code=2).stderr
    assert "input does not exist: s3://box/in" in run(*deblur, "s3://box/in", "out", code=2).stderr
    for place in ("s3://none/set", "s3://box/set"):
        assert f"{place}: there is no such file or folder" in run("eval", "--root", place, code=3).stderr


def test_who_may_not_enter(bucket, endpoint: str, tiny_weights: Path, monkeypatch) -> None:
    bucket.put("in/", "box/in/", recursive=True)
    commands = [
        (["deblur", "-w", tiny_weights, "s3://box/in", "out"], 2, "s3://box/in"),
        (["deblur", "-w", tiny_weights, "in", "s3://box/out"], 2, "s3://box/out"),
        (["eval", "--root", "s3://box/in"], 3, "s3://box/in"),
    ]

    def refused(words: str) -> None:
        s3fs.S3FileSystem.clear_instance_cache()
        for command, code, place in commands:
            error = run(*command, code=code).stderr
            assert error.startswith(f"error: {place}: {words}") and error.count("\n") == 1

    ask(endpoint, "reset-auth", "0")
    refused("no permission: check the credentials")
    ask(endpoint, "reset-auth", "inf")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    refused("cannot be reached (Unable to locate credentials)")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    refused("cannot be reached (Could not connect to the endpoint URL")
