"""`xyscan deblur` of clips: beside photographs, interrupted and gone on with, told what is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.video import clips
from xyscannet.inference import clip_runs, restore_segment

pytest.importorskip("av")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 frames in two segments."""
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    return clips.write(path, clips.pan(100, 16, 24), times=clips.uneven(100), gop=20)


def put(source: Path, place: str) -> Path:
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(source.read_bytes())
    return path


def left_over(folder: str = ".") -> list[str]:
    return sorted(str(path) for path in Path(folder).rglob("*") if path.is_file())


def test_photographs_and_clips_in_one_folder(deblur, clip: Path) -> None:
    put(clip, "in/sub/a.mp4"), put(clip, "in/bad.mkv").write_text("no clip\n" * 99)
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save("in/b.png")
    result = deblur("in", "out", "--json", "-", "--format", "jpeg")
    assert result.exit_code == 1, result.output
    records = {Path(record["input"]).name: record for record in map(json.loads, result.stdout.splitlines())}
    assert {name: record["status"] for name, record in records.items()} == {
        "a.mp4": "done",
        "b.png": "done",
        "bad.mkv": "failed",
    }
    facts = records["a.mp4"]["clip"]
    assert (facts["frames"], facts["segments"], facts["frames_found"]) == (100, 2, 0)
    assert facts["frames_per_second"] > 0 and 0 <= facts["waiting_share"] < 1
    assert records["a.mp4"]["plan"]["mode"] == "whole" and "clip" not in records["b.png"]
    assert left_over("out") == ["out/b.jpg", "out/sub/a.mp4"]
    assert "clips: 1, about 100 frames" in result.stderr and "2 of 3 files done" in result.stderr
    assert "the network waited" in result.stderr
    assert result.stderr.count("in/bad.mkv") == 1 and "cannot be read as a video" in result.stderr
    before, after = clips.read(clip), clips.read(Path("out/sub/a.mp4"))
    assert before["times"] == after["times"] and before["packets"] == after["packets"]
    assert np.abs(before["pixels"].astype(int) - after["pixels"]).max() > 2


def test_one_clip_into_another_container(deblur, clip: Path) -> None:
    put(clip, "a.mp4")
    options = ["--codec", "ffv1", "--pix-fmt", "yuv420p10le", "--start", "0.5", "--end", "0:01"]
    result = deblur("a.mp4", "new/b.mkv", *options)
    assert result.exit_code == 0, result.output
    after = clips.read(Path("new/b.mkv"))
    assert (after["codec"], after["pixel_format"], after["times"][0]) == ("ffv1", "yuv420p10le", 0)
    assert len(after["pixels"]) == sum(45000 <= time < 90000 for time in clips.uneven(100))


def test_only_the_frames_of_the_part_are_counted(deblur, clip: Path) -> None:
    put(clip, "a.mp4")
    result = deblur("a.mp4", "b.mp4", "--start", "0.5", "--end", "0.7")
    rate = 90000 * 100 / (clips.uneven(100)[-1] + 3000)
    frames = int(result.stderr.split("clips: 1, about ")[1].split()[0])
    assert result.exit_code == 0 and abs(frames - 0.2 * rate) <= 1
    assert f"done, {frames * 16 * 24 / 1e6:.2g} MP in" in result.stderr


def interrupted_after(monkeypatch: pytest.MonkeyPatch, segments: int) -> None:
    """Ctrl-C arrives in the middle of the segment after so many."""

    def interrupting(clip, segment, *arguments, progress, **options):
        def stop(frames: float) -> None:
            progress(frames)
            if segment.number == segments and frames > 3:
                raise KeyboardInterrupt

        return restore_segment(clip, segment, *arguments, progress=stop, **options)

    monkeypatch.setattr(clip_runs, "restore_segment", interrupting)


def test_what_was_interrupted_goes_on(deblur, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(clip, "a.mp4")
    assert deblur("a.mp4", "whole.mp4").exit_code == 0
    with monkeypatch.context() as patch:
        interrupted_after(patch, 1)
        result = deblur("a.mp4", "out", "--json", "-")
    assert result.exit_code == 130 and json.loads(result.stdout)["status"] == "interrupted"
    assert "--exist skip" in result.stderr
    folder = "out/.a.mp4.segments"
    (segment,) = left_over("out")
    assert segment.startswith(folder) and segment.endswith("-000000")
    result = deblur("a.mp4", "out", "--exist", "skip", "--json", "-")
    assert result.exit_code == 0 and "60 of them found restored" in result.stderr
    assert json.loads(result.stdout)["clip"]["frames_found"] == 60
    assert left_over("out") == ["out/a.mp4"] and not Path(folder).exists()
    assert np.array_equal(clips.read(Path("out/a.mp4"))["pixels"], clips.read(Path("whole.mp4"))["pixels"])


def test_segments_of_other_settings_are_not_mixed_in(
    deblur, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(clip, "a.mp4")
    with monkeypatch.context() as patch:
        interrupted_after(patch, 1)
        assert deblur("a.mp4", "out", "--crf", "40").exit_code == 130
    result = deblur("a.mp4", "out", "--crf", "10", "--json", "-")
    assert result.exit_code == 0 and json.loads(result.stdout)["clip"]["frames_found"] == 0
    assert "segments of an earlier run with other settings are made again" in result.stderr
    assert deblur("a.mp4", "fresh.mp4", "--crf", "10").exit_code == 0
    assert Path("fresh.mp4").read_bytes() == Path("out/a.mp4").read_bytes()


def test_a_second_run_on_one_output_is_refused(deblur, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other settings, while the first is at its second segment."""
    put(clip, "a.mp4")
    seconds = []

    def meanwhile(clip, segment, *arguments, **options):
        if segment.number == 1 and not seconds:
            seconds.append(None)
            before = left_over()
            seconds[0] = deblur("a.mp4", "b.mp4", "--crf", "40")
            assert left_over() == before
        return restore_segment(clip, segment, *arguments, **options)

    monkeypatch.setattr(clip_runs, "restore_segment", meanwhile)
    assert deblur("a.mp4", "b.mp4", "--crf", "10").exit_code == 0
    assert seconds[0].exit_code == 2, seconds[0].output
    assert "another run is writing to" in seconds[0].stderr and ".b.mp4.segments" in seconds[0].stderr
    assert left_over() == ["a.mp4", "b.mp4"]


def test_a_dry_run_plans_clips(deblur, clip: Path) -> None:
    put(clip, "in/a.mp4")
    result = deblur("in", "out", "--dry-run", "--json", "-")
    assert result.exit_code == 0 and json.loads(result.stdout)["status"] == "planned"
    assert "in/a.mp4 -> out/a.mp4" in result.stderr and not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.mp4", "b.png"], "cannot write .png"),
        (["c.png", "d.mp4"], "cannot write .mp4"),
        (["a.mp4", "out", "--codec", "nonsense"], "--codec nonsense: no such video encoder"),
        (["a.mp4", "out", "--codec", "rawvideo"], "--codec rawvideo: no such video encoder"),
        (["a.mp4", "out", "--codec", "ffv1", "--crf", "20"], "--crf is for libx264"),
        (["a.mp4", "out", "--codec", "h264", "--pix-fmt", "rgb24"], "--pix-fmt rgb24: libx264 takes yuv420p"),
        (["a.mp4", "out", "--pix-fmt", "nonsense"], "no such pixel format"),
        (["a.mp4", "out", "--start", "soon"], "'soon' is not a time"),
        (["a.mp4", "out", "--start", "3", "--end", "2"], "not before the end"),
        (["a.mp4", "out", "--crf", "99"], "--crf"),
    ],
)
def test_refused_before_anything_starts(deblur, clip: Path, arguments: list[str], words: str) -> None:
    put(clip, "a.mp4")
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save("c.png")
    result = deblur(*arguments)
    assert result.exit_code == 2 and words in result.stderr, result.output
    assert result.stderr.count("error:") == 1 and left_over() == ["a.mp4", "c.png"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--codec", "utvideo"], "a.mp4: mp4 does not hold utvideo: choose another --codec"),
        (["--start", "60"], "a.mp4: no frame between start and end: the clip lasts 4"),
    ],
)
def test_what_one_clip_cannot_have(deblur, clip: Path, options: list[str], words: str) -> None:
    put(clip, "a.mp4")
    result = deblur("a.mp4", "out", *options)
    assert result.exit_code == 1 and words in result.stderr, result.output
    assert left_over() == ["a.mp4"]


def test_what_cannot_be_written_as_it_is_names_a_way(deblur) -> None:
    """Raw video of which only a tag tells the pixel format."""
    frames = clips.pan(3)
    clips.write(Path("raw.avi"), frames, codec="rawvideo", sound=False)
    result = deblur("raw.avi", "out")
    assert result.exit_code == 1 and left_over() == ["raw.avi"], result.output
    assert (
        "its codec, rawvideo, can be read but not written: choose another by --codec (ffv1" in result.stderr
    )
    result = deblur("raw.avi", "out", "--codec", "ffv1")
    assert result.exit_code == 0 and clips.read(Path("out/raw.avi"))["codec"] == "ffv1", result.output


def test_without_the_package(deblur, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(clip, "in/a.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    result = deblur("in", "out")
    assert result.exit_code == 3 and "pip install 'xyscannet[video]'" in result.stderr
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save("in/b.png")
    result = deblur("in", "out")
    assert result.exit_code == 1 and "in/a.mp4" in result.stderr and left_over("out") == ["out/b.png"]
    assert "xyscannet[video]" in result.stderr


def test_a_full_disk_keeps_what_is_finished(deblur, clip: Path) -> None:
    resource = pytest.importorskip("resource")
    put(clip, "a.mp4")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))
    try:
        result = deblur("a.mp4", "out", "--crf", "1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result.exit_code == 1 and "cannot be written" in result.stderr, result.output
    assert left_over("out") == []


def test_the_tiny_network_is_deterministic(tiny_weights: Path) -> None:
    """What the tests above compare bit for bit."""
    from xyscannet import checkpoint

    model = checkpoint.load_model(tiny_weights)
    image = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(model(image), model(image))
