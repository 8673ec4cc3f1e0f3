"""`xyscan deblur` from the outside: what it makes of good and bad inputs, and what it says."""

from __future__ import annotations

import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from xyscan_cli.app import app
from xyscan_cli.commands import deblur as deblur_command
from xyscan_cli.commands._deblur_places import Place
from xyscannet import checkpoint
from xyscannet.inference import Settings, make_jobs, plan_image, restore
from xyscannet.models import XYScanNetConfig


def picture(path: str | Path, height: int = 20, width: int = 28, seed: int = 0) -> np.ndarray:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def left_over(folder: str | Path = ".") -> list[str]:
    return sorted(str(p) for p in Path(folder).rglob("*") if p.is_file())


def test_the_result_is_the_networks(deblur, tiny_weights: Path) -> None:
    blurred = picture("a.png", 33, 50)
    result = deblur("a.png", "b.png", "--dtype", "fp32")
    assert result.exit_code == 0, result.output
    image = torch.from_numpy(blurred).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        expected = restore(checkpoint.load_model(tiny_weights), image)[0].permute(1, 2, 0).numpy()
    assert np.abs(pixels("b.png") - expected * 255).max() <= 0.51
    assert np.abs(pixels("b.png").astype(int) - blurred).max() > 2


def test_a_tree_is_mirrored_with_a_plan_and_a_summary(deblur) -> None:
    picture("in/a.png"), picture("in/sub/b.jpg"), Path("in/notes.txt").touch()
    Path("out/sub").mkdir(parents=True)
    Path("out/sub/.0123456789abcdef.part").touch()  # of a run that was killed
    result = deblur("in", "out")
    assert result.exit_code == 0, result.output
    assert left_over("out") == ["out/a.png", "out/sub/b.jpg"]
    assert result.stdout == ""
    for words in (
        r"images: 2, 0.0011 MP \(1 other file ignored: .txt\)",
        r"network: .*tiny.safetensors, 0.06 M parameters",
        r"scan: (cpu|reference)",
        r"device: cpu",
        r"tiles: none, whole images",
        r"memory: about \d+ MiB",
        r"2 of 2 images done",
    ):
        assert re.search(words, result.stderr), (words, result.stderr)
    assert "\x1b" not in result.stderr and "\r" not in result.stderr


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (7, 13), (65, 65)])
def test_any_size(deblur, height: int, width: int) -> None:
    picture("a.png", height, width)
    assert deblur("a.png", "out").exit_code == 0
    assert pixels("out/a.png").shape == (height, width, 3)


def test_tiles_are_announced_and_near_the_whole(deblur) -> None:
    picture("a.png", 150, 220)
    assert deblur("a.png", "whole.png").exit_code == 0
    result = deblur("a.png", "tiled.png", "--tile", "128")
    assert "in tiles" in result.stderr and "tiles of at most 128 were asked for" in result.stderr
    assert np.abs(pixels("whole.png").astype(int) - pixels("tiled.png")).mean() < 3


def test_ensemble_and_options(deblur) -> None:
    picture("a.png", 24, 40)
    result = deblur("a.png", "out", "--ensemble", "--dtype", "fp32", "--device", "cpu", "--scan", "reference")
    assert result.exit_code == 0, result.output
    assert "averaged over 8 flips and rotations" in result.stderr
    # of the CPU's own, which was not asked for, no fault is told
    assert re.search(r"scan: reference \(.*triton: ", result.stderr) and "cpu: not" not in result.stderr


def test_several_devices(deblur) -> None:
    for i in range(4):
        picture(f"in/{i}.png", 20 + i, seed=i)
    Path("in/bad.png").write_text("text")
    assert deblur("in", "one").exit_code == 1
    result = deblur("in", "two", "--devices", "cpu,cpu", "--json", "-")
    assert result.exit_code == 1, result.output
    assert "devices: cpu, cpu (" in result.stderr and "4 of 5 images done" in result.stderr
    records = {record["input"]: record["status"] for record in map(json.loads, result.stdout.splitlines())}
    assert records == {**{f"in/{i}.png": "done" for i in range(4)}, "in/bad.png": "failed"}
    for i in range(4):
        assert Path(f"one/{i}.png").read_bytes() == Path(f"two/{i}.png").read_bytes()
    result = deblur("in", "three", "--device", "cpu", "--devices", "all")
    assert result.exit_code == 2 and "exclude each other" in result.stderr


def test_the_plan_for_another_machine_is_what_it_would_plan(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture("a.png", 400, 500)
    jobs = make_jobs(["a.png"], "b.png")
    config, free = XYScanNetConfig(width=24), 600 * 2**20
    with monkeypatch.context() as there:
        there.setattr("xyscannet.inference.plan.available_memory", lambda device: free)
        planned = plan_image(400, 500, config, device="cpu", dtype=torch.float32)
    place = Place(config, "a network", Settings(), "cpu", free, {}, restore)
    assert planned.strips and [record.plan for record in deblur_command._plans(jobs, place)] == [planned]


@pytest.mark.parametrize("where", [(), ("--cluster", "auto", "--device", "cuda")], ids=["here", "cluster"])
def test_where_nothing_is_to_be_done_no_network_is_loaded(
    here: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[str, ...]
) -> None:
    picture("in/a.png"), picture("out/a.png"), Path("in/b.png").touch()
    monkeypatch.setattr("xyscan_cli.networks.load_network", None)
    result = CliRunner().invoke(app, ["deblur", "in", "out", "--exist", "skip", "--json", "-", *where])
    assert result.exit_code == 1 and "none to restore" in result.stderr
    assert [json.loads(line)["status"] for line in result.stdout.splitlines()] == ["skipped", "failed"]


def test_stdout_is_no_output(deblur) -> None:
    picture("in/a.png")
    result = deblur("in/a.png", "-")
    assert result.exit_code == 2 and "name a file or a folder" in result.stderr


def test_processors_of_workers_that_are_not_there(deblur) -> None:
    picture("in/a.png")
    result = deblur("in", "out", "--cpus-per-worker", "2")
    assert result.exit_code == 2 and "--cluster" in result.stderr


def test_every_scan_backend_offered_is_in_the_table() -> None:
    from xyscan_cli.options import Scan
    from xyscannet import ops

    assert {scan.value for scan in Scan} == {"auto", *(backend.name for backend in ops.backends())}


def test_dry_run_writes_nothing(deblur) -> None:
    picture("in/a.png"), picture("in/sub/b.png")
    result = deblur("in", "out", "--dry-run", "--json", "-")
    assert result.exit_code == 0
    assert "in/sub/b.png -> out/sub/b.png" in result.stderr
    assert [json.loads(line)["status"] for line in result.stdout.splitlines()] == ["planned", "planned"]
    assert not Path("out").exists()


def test_a_dry_run_tells_what_cannot_be_read_and_the_tiles(deblur) -> None:
    picture("in/a.png", 20, 150), Path("in/broken.png").write_bytes(b"no image")
    result = deblur("in", "out", "--dry-run", "--tile", "128", "--json", "-")
    assert result.exit_code == 1 and "in/broken.png: " in result.stderr.split("1 failed:")[1]
    planned, failed = map(json.loads, result.stdout.splitlines())
    assert planned["plan"]["mode"] == "tiles" and "broken.png" in failed["error"]


def test_existing_outputs(deblur) -> None:
    picture("in/a.png"), picture("in/b.png"), picture("out/b.png", seed=1)
    before = Path("out/b.png").read_bytes()
    result = deblur("in", "out")
    assert result.exit_code == 2 and "1 output exists: out/b.png" in result.stderr
    assert not Path("out/a.png").exists()
    result = deblur("in", "out", "--exist", "skip")
    assert result.exit_code == 0 and Path("out/a.png").exists()
    assert Path("out/b.png").read_bytes() == before and "1 already there" in result.stderr
    assert deblur("in", "out", "--exist", "overwrite").exit_code == 0
    assert Path("out/b.png").read_bytes() != before


def test_metadata_are_kept_unless_they_are_to_be_left_out(deblur) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    Path("in").mkdir()
    Image.fromarray(picture("a.png")).save("in/a.jpg", exif=exif, quality=90, comment="a comment")
    assert deblur("in", "kept").exit_code == deblur("in", "bare", "--strip-metadata").exit_code == 0
    kept, bare = (Image.open(f"{folder}/a.jpg") for folder in ("kept", "bare"))
    assert kept.getexif()[0x010F] == "a maker" and kept.info["comment"] == b"a comment"
    assert not bare.getexif() and "comment" not in bare.info
    assert kept.quantization == bare.quantization == Image.open("in/a.jpg").quantization


def test_format_and_quality(deblur) -> None:
    picture("in/a.png"), picture("misnamed/b.png")
    Path("misnamed/b.png").rename("misnamed/b.jpg")
    assert deblur("misnamed", "named", "--format", "jpeg").exit_code == 0
    assert Image.open("named/b.jpg").format == "JPEG"
    assert deblur("in", "out", "--format", "jpeg", "--quality", "50").exit_code == 0
    Image.open("in/a.png").save("like.jpg", quality=50)
    assert Image.open("out/a.jpg").quantization == Image.open("like.jpg").quantization
    for format, suffix in (("png", ".png"), ("webp", ".webp"), ("tiff", ".tif"), ("bmp", ".bmp")):
        assert deblur("in", format, "--format", format).exit_code == 0
        (path,) = left_over(format)
        assert path == f"{format}/a{suffix}" and Image.open(path).format == format.upper()
    result = deblur("in", "out2", "--format", "png", "--quality", "50")
    assert result.exit_code == 2 and "--quality" in result.stderr


def bomb(path: str, side: int = 30000) -> None:
    """A small PNG whose header promises side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(10_000_000), 9)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    Path(path).write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def truncate(path: str) -> None:
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: len(data) // 2])


def test_bad_files_are_listed_and_the_others_done(deblur) -> None:
    for name in (
        "a.png",
        "cut.png",
        "cut.jpg",
        "\u00fcml\u00e4ut \u5199\u771f.png",
        "new\nline.png",
        "z.jpg",
    ):
        picture(f"in/{name}", 64, 64)
    truncate("in/cut.png"), truncate("in/cut.jpg")
    Path("in/empty.png").touch()
    Path("in/text.png").write_text("no image at all\n")
    bomb("in/bomb.png")
    Path("in/folder.png").mkdir()
    result = deblur("in", "out")
    assert result.exit_code == 1
    head, failures = result.stderr.split("error: 5 failed:\n")
    lines = failures.splitlines()
    for name, words in (
        ("bomb.png", "900 megapixels"),
        ("cut.jpg", "truncated"),
        ("cut.png", "truncated"),
        ("empty.png", "empty"),
        ("text.png", "not an image"),
    ):
        (line,) = [line for line in lines if line.startswith(f"  in/{name}: ")]
        assert words in line
    assert len(lines) == 5 and "4 of 9 images done" in head
    assert sorted(p.name for p in Path("out").iterdir()) == [
        "a.png",
        "new\nline.png",
        "z.jpg",
        "\u00fcml\u00e4ut \u5199\u771f.png",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gone", "out"], "input does not exist: gone"),
        (["empty", "out"], "no image in empty"),
        (["in", "in"], "is the input folder"),
        (["in", "in/out"], "lies inside the input folder"),
        (["in/a.png", "in/a.png"], "would replace the input"),
        (["in/a.png", "other/a.png", "out"], "two inputs would go to one output: in/a.png and other/a.png"),
        (["in", "file/out"], "file is no folder"),
        (["in", "out", "--device", "tpu"], "no such device"),
        (["in", "out", "--tile", "5"], "at least 64"),
    ],
)
def test_refused_before_anything_starts(deblur, arguments: list[str], words: str) -> None:
    picture("in/a.png"), picture("other/a.png"), Path("empty").mkdir(), Path("file").touch()
    before = left_over()
    result = deblur(*arguments)
    assert result.exit_code == 2, result.output
    assert words in result.stderr and result.stderr.count("error:") == 1 and "Traceback" not in result.stderr
    assert left_over() == before and not Path("out").exists()


def test_what_the_machine_lacks_exits_3(deblur) -> None:
    picture("in/a.png")
    for options in (["--device", "cuda:99"], ["--device", "cpu", "--scan", "triton"]):
        result = deblur("in", "out", *options)
        assert result.exit_code == 3, result.output
        assert result.stderr.startswith("error: ") and not Path("out").exists()


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("was-run"),)


def test_bad_checkpoints(here: Path) -> None:
    picture("in/a.png")
    Path("broken.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{broken")
    torch.save({"model": torch.zeros(3)}, "foreign.pth")
    torch.save(Evil(), "evil.pth")
    for name in ("broken.safetensors", "foreign.pth", "evil.pth", "gone.safetensors", "nosuchname"):
        result = CliRunner().invoke(app, ["deblur", "in", "out", "--weights", name])
        assert result.exit_code in (2, 3), (name, result.output)
        assert (
            name in result.stderr and result.stderr.count("error:") == 1 and "Traceback" not in result.stderr
        )
    assert not Path("was-run").exists() and not Path("out").exists()


def test_an_output_that_cannot_be_written_fails_alone(deblur) -> None:
    picture("in/a.png"), picture("in/sub/b.png"), Path("out").mkdir(), Path("out/sub").touch()
    result = deblur("in", "out")
    assert result.exit_code == 1 and Path("out/a.png").exists()
    assert "out/sub/b.png" in result.stderr.split("1 failed:")[1]


def test_notes_are_gathered(deblur) -> None:
    Path("in").mkdir()
    for name in "ab":
        Image.new("CMYK", (9, 9), (10, 200, 30, 0)).save(f"in/{name}.jpg")
    result = deblur("in", "out")
    assert result.exit_code == 0
    (note,) = [line for line in result.stderr.splitlines() if "CMYK" in line]
    assert note.startswith("note: ") and note.endswith("in/a.jpg, in/b.jpg")
