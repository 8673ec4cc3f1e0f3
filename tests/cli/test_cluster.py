"""Work on a Ray cluster of two workers on this machine: results of a single process, whatever is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from tests.web import serving
from xyscan_cli.app import app
from xyscan_cli.progress import Progress

# Ray's start takes about ten seconds, a worker's about three.
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")]
NAMES = [f"{i:02d}.png" for i in range(10)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(NAMES):
        picture(Path("in", name), 40 + i, seed=i)
    return tmp_path


def picture(path: Path, height: int, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def deblur(here: Path, tiny_weights: Path):
    def run(*arguments: str):
        return CliRunner().invoke(app, ["deblur", "-w", str(tiny_weights), *arguments])

    return run


CLUSTER = ("--cluster", "auto", "--cpus-per-worker", "1")


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_the_files_are_those_of_a_single_process(deblur, ray_here) -> None:
    Path("in/bad.png").write_text("text")
    Path("in/sub").mkdir()
    picture(Path("in/sub/deep.png"), 50)
    single = deblur("in", "one", "--json", "-", "--scales", "2")
    several = deblur("in", "two", *CLUSTER, "--json", "-", "--scales", "2")
    assert single.exit_code == several.exit_code == 1, several.output
    assert contents("one/sub") == contents("two/sub")
    Path("one/sub/deep.png").unlink(), Path("two/sub/deep.png").unlink()
    Path("one/sub").rmdir(), Path("two/sub").rmdir()
    assert contents("one") == contents("two") and len(contents("two")) == 10
    assert "cluster: 2 workers on 1 machine, 1 CPU each" in several.stderr
    assert "11 of 12 images done" in several.stderr
    assert single.stderr.split("error: ")[1] == several.stderr.split("error: ")[1]

    def records(result) -> list[dict]:
        found = sorted(map(json.loads, result.stdout.splitlines()), key=lambda record: record["input"])
        for record in found:
            record.pop("seconds")
            record["output"] = record["output"].partition("/")[2]
            if record["plan"]:
                record["plan"].pop("reason")
        return found

    assert records(single) == records(several)
    assert all(record["scales"] == {"2": 1.0} for record in records(several) if record["status"] == "done")


def test_a_worker_that_is_killed_changes_nothing(deblur, ray_here) -> None:
    for _ in range(3):  # a worker that has just handed over what it did loses nothing by its death
        shutil.rmtree("two", ignore_errors=True)
        result, killed = deblur_while_a_worker_is_killed(deblur)
        if "lost" in result.stderr:
            break
    assert result.exit_code == 0, result.output
    assert killed and "note: 1 worker was lost over it before" in result.stderr
    assert "10 of 10 images done" in result.stderr
    assert deblur("in", "one", "--ensemble").exit_code == 0
    assert contents("two") == contents("one")

    before = {name: Path("two", name).stat().st_mtime_ns for name in NAMES}
    result = deblur("in", "two", *CLUSTER, "--exist", "skip")
    assert result.exit_code == 0 and "none to restore (10 already there and skipped)" in result.stderr
    assert {name: Path("two", name).stat().st_mtime_ns for name in NAMES} == before


def deblur_while_a_worker_is_killed(deblur) -> tuple[Result, list[int]]:
    """The command's result, and the process that was killed once two images were there."""
    killed: list[int] = []

    def kill() -> None:
        while not killed and any(not Path("two", name).exists() for name in NAMES):
            if len(list(Path("two").glob("*.png"))) >= 2:
                killed.extend(kill_a_worker())

    killer = threading.Thread(target=kill)
    killer.start()
    result = deblur("in", "two", *CLUSTER, "--ensemble")
    killer.join()
    return result, killed


def kill_a_worker() -> list[int]:
    """Kill -9 a worker that is at a unit, as its title says; nothing where none is."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                title = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::_do"):
                os.kill(int(entry.name), signal.SIGKILL)
                return [int(entry.name)]
    return []


def test_a_clips_segments_are_those_of_a_single_process(deblur, ray_here, monkeypatch) -> None:
    av = pytest.importorskip("av", reason="PyAV is not installed")
    picture(Path("clips/a.png"), 40)
    clip(av, Path("clips/moving.mp4"), frames=130)
    Path("clips/broken.mp4").write_bytes(Path("clips/moving.mp4").read_bytes()[:2000])
    single = deblur("clips", "one", "--json", "-", "--scan", "cpu")
    several = deblur("clips", "two", *CLUSTER, "--json", "-")
    assert single.exit_code == several.exit_code == 1, several.output
    assert contents("one") == contents("two") and set(contents("two")) == {"a.png", "moving.mp4"}
    found = {}
    for line in several.stdout.splitlines():
        record = json.loads(line)
        found[record["input"]] = record
    assert found["clips/moving.mp4"]["clip"]["segments"] == 3
    assert found["clips/moving.mp4"]["clip"]["frames"] == 130
    assert found["clips/broken.mp4"]["status"] == "failed"


def clip(av, path: Path, frames: int) -> None:
    """Noise that moves, with a key frame every 48 frames."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32 + frames, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "ultrafast"}
        stream.gop_size = 48
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(noise[:, i : i + 32]), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_an_interruption_is_reported_and_finished_later(deblur, ray_here, monkeypatch) -> None:

    update = Progress.update

    def interrupting(self, *arguments, **more):
        update(self, *arguments, **more)
        if self.finished == 3:
            patch.undo()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", interrupting)
        result = deblur("in", "out", *CLUSTER, "--json", "-")
    assert result.exit_code == 130, result.output
    there = set(contents("out"))
    assert 3 <= len(there) < 10
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(records) == 10
    assert {Path(each["input"]).name for each in records if each["status"] == "done"} == there
    result = deblur("in", "out", *CLUSTER, "--exist", "skip")
    assert result.exit_code == 0 and set(contents("out")) == set(NAMES)
    assert deblur("in", "one").exit_code == 0 and contents("one") == contents("out")


def test_a_dry_run_writes_nothing(deblur, ray_here) -> None:
    result = deblur("in", "out", *CLUSTER, "--dry-run")
    assert result.exit_code == 0 and "in/00.png -> out/00.png" in result.stderr
    assert not Path("out").exists()
    result = deblur("in", "out", *CLUSTER, "--devices", "all")
    assert result.exit_code == 2 and "--devices are of this machine" in result.stderr
    result = deblur("in", "out", *CLUSTER, "--scan", "triton")
    assert result.exit_code == 3 and "triton" in result.stderr


def test_photographs_of_a_web_server(deblur, ray_here) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    with serving("in") as address:
        result = deblur(*(f"{address}/{name}" for name in NAMES[:3]), "out", *CLUSTER)
    assert result.exit_code == 0, result.output
    assert deblur(*(f"in/{name}" for name in NAMES[:3]), "one").exit_code == 0
    assert contents("out") == contents("one")


def test_weights_at_an_address_reach_the_workers(deblur, tiny_weights: Path, memory, ray_here) -> None:
    """The workers are other processes, whose memory:// is empty: only what the command fetches is there."""
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    memory.put_file(str(tiny_weights), "/box/tiny.safetensors")
    inputs = [f"in/{name}" for name in NAMES[:2]]
    assert deblur(*inputs, "one").exit_code == 0
    result = deblur(*inputs, "two", "-w", "memory://box/tiny.safetensors", *CLUSTER)
    assert result.exit_code == 0, result.output
    assert contents("one") == contents("two")
    pairs = ["memory://box/tiny.safetensors", "--pairs", "in", "in", "--limit", "2"]
    result = CliRunner().invoke(app, ["eval", *pairs, *CLUSTER])
    assert result.exit_code == 0, result.output


def test_an_evaluation_is_that_of_a_single_process(here: Path, tiny_weights: Path, ray_here) -> None:
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    for i in range(5):
        picture(Path("sharp", f"{i}.png"), 40, seed=i)
        picture(Path("blur", f"{i}.png"), 40, seed=10 + i)
    Path("blur/3.png").write_bytes(b"nothing")

    def evaluate(out: str, *arguments: str):
        options = [str(tiny_weights), "--pairs", "blur", "sharp", "--json", "-", "--out", out, *arguments]
        return CliRunner().invoke(app, ["eval", *options])

    def images(result) -> list:
        found = json.loads(result.stdout)["images"]
        for image in found:
            image.pop("restored_seconds")
            image["restored"] = image["restored"] and Path(image["restored"]).read_bytes()
        return found

    single, several = evaluate("one", "--keep"), evaluate("two", "--keep", *CLUSTER)
    assert single.exit_code == several.exit_code == 1, several.output
    assert images(single) == images(several)
    assert (
        "cluster: 2 workers on 1 machine" in several.stderr and "tiny, image: blur/3.png: " in several.stderr
    )
    again = evaluate("two", "--keep", *CLUSTER)
    assert "5 images were measured before" in again.stderr and images(again) == images(several)


def test_a_set_of_a_web_server_is_measured_by_workers_that_fetch_it(
    here: Path, tiny_weights: Path, ray_here
) -> None:
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    for i in range(3):
        for kind, seed in (("blur", 10), ("sharp", 0), ("theirs", 20)):
            picture(Path("web", kind, f"{i}.png"), 40, seed=seed + i)

    def evaluate(place: str, *arguments: str) -> list:
        pairs = ["--pairs", f"{place}/blur", f"{place}/sharp", "--json", "-", "--fresh"]
        result = CliRunner().invoke(app, ["eval", str(tiny_weights), f"{place}/theirs", *pairs, *arguments])
        assert result.exit_code == 0, result.output
        found = [image for line in result.stdout.splitlines() for image in json.loads(line)["images"]]
        return [(image["name"], image["values"], image["blur"]) for image in found]

    with serving("web") as address:
        several = evaluate(address, *CLUSTER)
    single = evaluate("web")
    assert [each[:2] for each in several] == [each[:2] for each in single] and len(single) == 6
    assert several[0][2] == f"{address}/blur/0.png"


def test_without_ray_the_extra_is_named(deblur, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = deblur("in", "out", *CLUSTER)
    assert result.exit_code == 3 and 'pip install "xyscannet[cluster]"' in result.stderr
    assert not Path("out").exists()
