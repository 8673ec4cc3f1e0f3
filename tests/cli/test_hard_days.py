"""What goes wrong around a command: a second run beside it, a termination at any moment, a disk that fills up."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from tests.limits import FullDisk, bounded
from xyscan_cli.app import app
from xyscannet.data.photos import SharpPhotos
from xyscannet.errors import InputError
from xyscannet.files import held

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals, limits and locks")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photographs in `in/` and `sharp/`, a copy of `in/` in `pairs/blur` and `pairs/sharp`, weights in `w`."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for folder, side in (("in", 24), ("sharp", 160), ("pairs/blur", 24), ("pairs/sharp", 24)):
        Path(folder).mkdir(parents=True)
        for number in range(4):
            pixels = random.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
            image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
            image.save(f"{folder}/{number}.png")
    Path("w.safetensors").write_bytes(tiny_weights.read_bytes())
    return tmp_path


def xyscan(command: str) -> Result:
    return CliRunner().invoke(app, shlex.split(command))


def files(folder: str | Path = ".") -> list[str]:
    """Every file, hidden ones included."""
    root = Path(folder)
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


COMMANDS = {
    "deblur": "deblur in out -w w.safetensors",
    "eval": "eval --pairs pairs/blur pairs/sharp -w w.safetensors --metrics psnr --out run",
    "synth": "data synth sharp pairs2 --strength small --crop 64",
    "convert": "models convert w.safetensors out.safetensors",
    "bench": "bench --models w.safetensors --sizes 16x16 --repeats 1 --json b.json --csv b.csv",
    "train": "train smoke --set data.photos=[sharp/] --set data.validation=sharp/ --set data.patch=32 "
    "--set 'model={width: 8, encoder_blocks: [1, 0, 0], decoder_blocks: [1, 0, 0], d_state: 4}' "
    "--set iterations=9 --set tensorboard=false --set validation.crop=64 "
    "--set save_every=2 --set data.workers=1 --output run --device cpu",
    "erf": "erf in --models w.safetensors --size 16 --inputs 3 --json e.json --csv e.csv",
    "features": "features in/0.png --models w.safetensors --json f.json --maps f.npz",
    "card": "models card sharp -w w.safetensors --crop 64 --metrics psnr --json c.json --markdown c.md",
}
# Where the signal comes: in the middle of the work, at the moment when a file is about to be moved into place.
# `ablate`, whose cells train, is in test_ablate.py.
MOMENTS = {
    "deblur": [("xyscannet.inference.run.restore_at_scales", 3), ("os.replace", 3)],
    "eval": [("xyscannet.evaluation.sources.restore_at_scales", 3)],
    "synth": [("xyscannet.data.synth.write", 4), ("os.replace", 4)],
    "convert": [("os.replace", 1)],
    "bench": [("xyscannet.analysis.bench.compare", 1), ("os.replace", 1)],
    "train": [("xyscannet.training.loop.Trainer.make_batch", 4)],
    "erf": [("xyscannet.analysis.erf.gradient", 2), ("os.replace", 2)],
    "features": [("xyscannet.analysis.features.features", 1)],
    "card": [("xyscannet.analysis.card.render", 3), ("os.replace", 1)],
}
KEPT = {"deblur": "out/0.png", "eval": "run/w/journal.jsonl", "synth": "pairs2/test/0/blur/000001.png"}
CASES = [(name, *moment) for name, moments in MOMENTS.items() for moment in moments]


@pytest.mark.parametrize(("name", "place", "turn"), CASES)
def test_terminated_at_any_moment(
    name: str, place: str, turn: int, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line of error, finished work kept, no temporary file; the same command then finishes.

    The exit code is 143, and 130 where the state is saved first.
    """
    calls = 0
    real = _at(place)

    def interrupted(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == turn:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)  # the handler runs in the main thread
        return real(*arguments, **options)

    monkeypatch.setattr(place, interrupted)
    before = files()
    result = xyscan(COMMANDS[name])
    assert calls >= turn, result.output
    assert result.exit_code == (130 if name == "train" else 143), result.output
    assert result.stderr.count("error:") == 1 and "Traceback" not in result.output
    new = set(files()) - set(before)
    assert not [path for path in new if Path(path).name.startswith(".")], new
    if name in KEPT:
        assert KEPT[name] in new
    monkeypatch.undo()
    os.chdir(here)
    again = {"deblur": " --exist skip", "synth": " --exist skip", "train": " --resume auto"}.get(name, "")
    assert xyscan(COMMANDS[name] + again).exit_code == 0
    assert not [path for path in files() if Path(path).name.startswith(".")]


def _at(place: str) -> object:
    module, parts = place, []
    while True:
        try:
            found: object = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, part = module.rpartition(".")
            parts.insert(0, part)
    for part in parts:
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(
    ("name", "folder"), [("deblur", "out"), ("eval", "run/w"), ("synth", "pairs2"), ("train", "run")]
)
def test_a_second_run_on_the_same_folder_is_refused(name: str, folder: str, here: Path) -> None:
    before = files()
    with held(folder):
        result = xyscan(COMMANDS[name])
    assert result.exit_code == 2, result.output
    assert f"another run is writing to {folder}" in result.stderr.replace(str(here) + "/", "")
    assert files() == before
    assert xyscan(COMMANDS[name]).exit_code == 0


def test_a_killed_run_holds_its_folder_no_longer(here: Path) -> None:
    code = "from xyscannet.files import held\nwith held('out'): print(flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    process.stdout.readline()
    try:
        assert xyscan(COMMANDS["deblur"]).exit_code == 2
        assert xyscan(COMMANDS["deblur"] + " --dry-run").exit_code == 0
    finally:
        process.kill()
        process.communicate()
    assert xyscan(COMMANDS["deblur"]).exit_code == 0


def test_records_that_do_not_fit_on_the_disk_are_told_and_the_pictures_are_made(here: Path) -> None:
    for path in Path("in").iterdir():
        Image.new("RGB", (8, 8), (9, 9, 9)).save(path)
    assert xyscan(COMMANDS["deblur"].replace("out", "warm")).exit_code == 0
    with FullDisk(300):
        result = xyscan(COMMANDS["deblur"] + " --json log.jsonl")
    assert result.exit_code == 1, result.output
    assert "log.jsonl cannot be written, its records are lost: File too large" in result.stderr
    assert result.stderr.count("error:") == 1 and "4 of 4 images done" in result.stderr
    assert len(files("out")) == 4 and not list(here.glob("*.jsonl")) and not list(here.glob(".*"))


def test_an_evaluation_on_a_full_disk_keeps_what_it_measured(here: Path) -> None:
    assert xyscan(COMMANDS["eval"].replace("run", "warm")).exit_code == 0
    size = Path("warm/w/journal.jsonl").stat().st_size
    with FullDisk(size - 10):
        result = xyscan(COMMANDS["eval"])
    assert result.exit_code == 1, result.output
    assert "run/w: cannot be written: the file would be larger than the system allows" in result.stderr
    assert "what was measured before is kept" in result.stderr
    assert result.stderr.count("error:") == 1
    lines = Path("run/w/journal.jsonl").read_bytes().splitlines()
    assert len(lines) >= 4 and json.loads(lines[1])["image"]
    result = xyscan(COMMANDS["eval"])
    assert result.exit_code == 0, result.output
    assert [line for line in files("run") if Path(line).name.startswith(".")] == []


def test_pairs_and_weights_on_a_full_disk(here: Path) -> None:
    with FullDisk(2000):
        synth, convert = xyscan(COMMANDS["synth"]), xyscan(COMMANDS["convert"])
    assert synth.exit_code == 1 and "4 of 4 photographs failed" in synth.stderr, synth.output
    assert convert.exit_code == 1 and "out.safetensors: cannot be written" in convert.stderr
    left = files()
    assert not [path for path in left if path.startswith("pairs2/test") or "out.safetensors" in path], left
    assert not [path for path in left if Path(path).name.startswith(".")]


def test_links_that_lead_in_circles_are_walked_once(here: Path) -> None:
    Path("sharp/loop").symlink_to(".")
    Path("sharp/self").symlink_to("self")
    Path("sharp/up").symlink_to("..")
    with bounded(seconds=20):
        result = xyscan(COMMANDS["synth"])
    assert result.exit_code == 0, result.output
    assert len([path for path in files("pairs2") if "/blur/" in path]) == 4


def test_members_of_an_archive_neither_leave_it_nor_swell(here: Path) -> None:
    """Names with .., absolute names and links are read from the archive alone; a sparse member is not unpacked."""
    picture = Path("in/0.png").read_bytes()
    with tarfile.open("photos.tar", "w") as archive:
        for name in ("../../escaped.png", "/absolute.png", "a/fine.png"):
            member = tarfile.TarInfo(name)
            member.size = len(picture)
            archive.addfile(member, io.BytesIO(picture))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    before = files()
    photos = SharpPhotos(["photos.tar"])
    assert len(photos.photos) == 3 and files() == before
    with tarfile.open("bomb.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("bomb.png")
        member.pax_headers = {
            "GNU.sparse.major": "0",
            "GNU.sparse.minor": "1",
            "GNU.sparse.map": f"0,1,{1 << 40},0",
            "GNU.sparse.size": str(1 << 40),
            "GNU.sparse.numblocks": "2",
        }
        member.size = 1
        archive.addfile(member, io.BytesIO(picture))
    with (
        bounded(seconds=2, mebibytes=32),
        pytest.raises(InputError, match=r"bomb\.png claims 1099511627776 bytes"),
    ):
        SharpPhotos(["bomb.tar"])


def test_no_duration_is_taken_from_a_clock_that_jumps() -> None:
    """`time.time()` and file times go backwards when the clock is set: nothing may wait for, or choose by, them."""
    for package in ("xyscannet", "xyscan_cli"):
        for path in (ROOT / package).rglob("*.py"):
            found = re.findall(
                r"time\.time\(|getmtime|getctime|st_[mc]time\b", path.read_text(encoding="utf-8")
            )
            assert not found, path
