"""Segments of clips: restored by themselves and joined, they are the clip, with all that it had."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.inference.restoring import Gain, restored, same_beside_the_pixels
from tests.video import clips
from xyscannet import video
from xyscannet.errors import InputError
from xyscannet.inference import Settings, make_jobs, restore_segment, run_jobs
from xyscannet.inference import clips as inference_clips
from xyscannet.inference.clip_runs import ClipTimes, restore_clip
from xyscannet.metrics.temporal import flicker
from xyscannet.models import XYScanNet, XYScanNetConfig
from xyscannet.video import segments

pytest.importorskip("av")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("a.mkv", {"codec": "ffv1"}),
        ("a.mkv", {"codec": "ffv1", "pixel_format": "yuv422p10le", "colour": (2, 9, 16, 9)}),
        ("a.mkv", {"codec": "ffv1", "pixel_format": "bgr0", "colour": (0, 1, 1, 0)}),
        ("a.mkv", {"codec": "ffv1", "pixel_format": "gray"}),
    ],
    ids=["yuv420p", "10 bit, full range, BT.2020", "rgb", "grey"],
)
def test_what_the_network_leaves_alone_comes_out_bit_for_bit(
    tmp_path: Path, name: str, settings: dict
) -> None:
    source = clips.write(tmp_path / name, clips.pan(100, 32, 48), gop=20, **settings)
    clip = restored(source, tmp_path / "out.mkv", Gain())
    assert len(clip.segments) == 2
    before, after = clips.read(source), clips.read(tmp_path / "out.mkv")
    assert np.array_equal(before["pixels"], after["pixels"])
    same_beside_the_pixels(before, after)


@pytest.mark.parametrize(
    ("before", "options", "after", "colour"),
    [
        (("png", "rgb24", (2, 1, 1, 0)), {"codec": "h264"}, "yuv444p", (1, 1, 1, 6)),
        (("png", "rgb24", (2, 1, 1, 0)), {"codec": "mjpeg"}, "yuvj444p", (2, 1, 1, 5)),
        (("libx264", "yuv444p", (1, 1, 1, 1)), {"codec": "mjpeg"}, "yuvj444p", (2, 1, 1, 5)),
        (("libx264", "yuv444p", (1, 1, 1, 1)), {"pixel_format": "yuvj444p"}, "yuvj444p", (2, 1, 1, 1)),
        (("libx264rgb", "rgb24", (2, 1, 1, 0)), {}, "gbrp", (2, 1, 1, 0)),
        (("libx264", "yuv444p", (1, 1, 1, 1)), {"codec": "libx264rgb"}, "gbrp", (2, 1, 1, 0)),
    ],
)
def test_rgb_and_yuv_of_either_range_have_the_same_colours(
    tmp_path: Path, before: tuple, options: dict, after: str, colour: tuple
) -> None:
    reds = np.zeros((3, 32, 48, 3), np.uint8) + np.array([200, 40, 90], np.uint8)
    codec, pixel_format, tags = before
    source = clips.write(
        tmp_path / "a.mov", reds, codec=codec, pixel_format=pixel_format, colour=tags, sound=False
    )
    restored(source, tmp_path / "b.mov", Gain(), **options)
    found = clips.read(tmp_path / "b.mov")
    assert (found["pixel_format"], found["colour"]) == (after, colour)
    assert np.abs(found["pixels"].astype(int) - reds).max() <= 4


def test_ten_bits_are_restored_as_ten_bits(tmp_path: Path) -> None:
    """A ramp finer than 8 bits, halved, still has its 10-bit steps."""
    ramp = np.tile(np.arange(256, dtype=np.uint16)[None, :, None] * 128 + 16384, (16, 1, 3))
    settings = {"pixel_format": "yuv444p10le", "colour": (2, 1, 1, 1), "codec": "ffv1", "sound": False}
    source = clips.write(tmp_path / "a.mkv", np.stack([ramp] * 3), **settings)
    restored(source, tmp_path / "b.mkv", Gain(0.5))
    before, after = (clips.luma(tmp_path / name) for name in ("a.mkv", "b.mkv"))
    assert np.abs(before / 2 - after).max() <= 0.51
    assert len(np.unique(after)) > 64  # 8 bits would leave 65 at most of 257 steps


def test_a_segment_is_restored_once_and_whole_or_not_at_all(tmp_path: Path) -> None:
    source = clips.write(tmp_path / "a.mkv", clips.pan(20, 32, 48), codec="ffv1")
    clip = video.plan_clip(source)
    coding = video.choose_coding(clip, "b.mkv")
    file = tmp_path / "segments" / "0"

    def interrupt(done: float) -> None:
        if done > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore_segment(clip, clip.segments[0], coding, file, Gain(), progress=interrupt)
    assert list(file.parent.iterdir()) == []
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith(("xyscan de", "xyscan en"))
    ]
    seen: list[float] = []
    assert restore_segment(clip, clip.segments[0], coding, file, Gain(), progress=seen.append).frames == 20
    assert seen == sorted(seen) and seen[-1] == 20
    content = file.read_bytes()
    assert restore_segment(clip, clip.segments[0], coding, file, Gain(0.5)).frames == 0
    assert file.read_bytes() == content and list(file.parent.iterdir()) == [file]


def test_progress_is_the_share_of_all_segments(tmp_path: Path) -> None:
    source = clips.write(tmp_path / "a.mkv", clips.pan(100, 16, 24), codec="ffv1", gop=20)
    seen: list[float] = []
    options = {"tell": pytest.fail, "progress": seen.append}
    times = restore_clip(source, tmp_path / "b.mkv", Gain(), Settings(), **options)
    assert times.segments == 2 and seen == sorted(seen) and seen[-1] == 1 and 0.6 in seen
    assert ClipTimes(100, 40, 2, 6.0, 1.5).to_dict() == {
        "frames": 100,
        "frames_found": 40,
        "segments": 2,
        "frames_per_second": 10,
        "waiting_share": 0.25,
    }
    assert ClipTimes(100, 100, 2, 0.0, 0.0).to_dict()["frames_per_second"] is None


def test_frames_do_not_depend_on_those_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = clips.write(tmp_path / "a.mkv", clips.pan(11, 24, 32), codec="ffv1")
    torch.manual_seed(0)
    model = XYScanNet(XYScanNetConfig(width=8, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1))).eval()
    nn.init.normal_(model.output.weight, std=0.05)
    found = []
    for pixels in (0, 10**9, 4 * 24 * 32):
        monkeypatch.setitem(inference_clips.BATCH_PIXELS, "cpu", pixels)
        output = tmp_path / f"{pixels}.mkv"
        restored(source, output, model)
        found.append(clips.read(output)["pixels"].astype(int))
    assert np.abs(found[0] - clips.read(source)["pixels"]).max() > 5
    for other in found[1:]:  # where rounding falls the other way, one step of chroma is two of red or blue
        assert np.abs(found[0] - other).max() <= 2 and (found[0] != other).mean() < 1e-3


def test_frames_go_through_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(inference_clips.BATCH_PIXELS, "cpu", 4 * 24 * 32)
    source = clips.write(tmp_path / "a.mkv", clips.pan(11, 24, 32), codec="ffv1", sound=False)
    model = Gain()
    restored(source, tmp_path / "b.mkv", model)
    assert model.batches == [4, 4, 3]


@pytest.mark.parametrize(
    ("scales", "sizes"),
    [
        (1, [(128, 136)]),
        (2, [(64, 68), (128, 136)]),
        ("auto", [(128, 136), (64, 68), (128, 136)]),  # half the size changes more than the full one
    ],
)
def test_frames_go_through_the_scales_asked_for(tmp_path: Path, scales: str | int, sizes: list) -> None:
    source = clips.write(tmp_path / "a.mkv", clips.pan(2, 128, 136), codec="ffv1", sound=False)
    clip = video.plan_clip(source, video.ClipOptions())
    seen = []

    class Stronger(Gain):
        """On smaller pictures."""

        def forward(self, x: Tensor) -> Tensor:
            seen.append(tuple(x.shape[2:]))
            return x * self.gain ** (128 / x.shape[2])

    coding = video.choose_coding(clip, tmp_path / "b.mkv")
    restore_segment(clip, clip.segments[0], coding, tmp_path / "part", Stronger(0.9), scales=scales)
    assert seen == sizes  # both frames together


class Smear(Gain):
    """Averages rows."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, (5, 1), 1, (2, 0), count_include_pad=False)


def test_fields_of_a_frame_know_nothing_of_each_other(tmp_path: Path) -> None:
    frames = np.zeros((3, 32, 48, 3), np.uint8)
    frames[:, ::2], frames[:, 1::2] = (200, 40, 60), (30, 90, 220)
    settings = {"codec": "ffv1", "pixel_format": "yuv444p", "fields": "tff", "sound": False}
    source = clips.write(tmp_path / "a.mkv", frames, **settings)
    restored(source, tmp_path / "b.mkv", Smear())
    before, after = (clips.read(tmp_path / name)["pixels"].astype(int) for name in ("a.mkv", "b.mkv"))
    assert np.abs(before - after).max() <= 1


def test_a_damaged_clip_is_told_with_its_frame(tmp_path: Path) -> None:
    source = clips.write(tmp_path / "a.mkv", clips.pan(30, 64, 96), codec="ffv1", sound=False)
    clip = video.plan_clip(source)
    coding = video.choose_coding(clip, "b.mkv")
    data = bytearray(source.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    source.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.mkv"):
        restore_segment(clip, clip.segments[0], coding, tmp_path / "segment", Gain())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mkv"]


def test_a_segment_that_is_not_whole_is_not_joined(tmp_path: Path) -> None:
    source = clips.write(tmp_path / "a.mkv", clips.pan(20, 32, 48), codec="ffv1")
    clip = video.plan_clip(source)
    coding = video.choose_coding(clip, "b.mkv")
    other = clips.write(tmp_path / "other.mkv", clips.pan(15, 32, 48), codec="ffv1", sound=False)
    with pytest.raises(InputError, match="holds 15 frames where 20 belong"):
        video.join(clip, coding, [other], tmp_path / "b.mkv")
    assert not (tmp_path / "b.mkv").exists()


class Unblur(nn.Module):
    """Undoes a blur along rows by [1, 2, 1] / 4 in part: where that keeps a share H of a frequency, this leaves an
    error of (1 - H)^3 of it, where the blurred picture has 1 - H. So it improves every picture."""

    def __init__(self) -> None:
        super().__init__()
        self.config = XYScanNetConfig(width=8)
        self.taps = nn.Parameter(torch.tensor([0.25, 0.5, 0.25]), requires_grad=False)

    def _blurred(self, x: Tensor) -> Tensor:
        padded = nn.functional.pad(x, (1, 1, 0, 0), mode="replicate")
        return sum(tap * padded[..., i : i + x.shape[3]] for i, tap in enumerate(self.taps))

    def forward(self, x: Tensor) -> Tensor:
        once = x - self._blurred(x)
        return x + once + (once - self._blurred(once))


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / ((one.astype(float) - other) ** 2).mean()))


def test_a_clip_comes_back_sharper_with_its_sound_and_its_time(tmp_path: Path) -> None:
    sharp = clips.pan(60, 96, 128)
    times = clips.uneven(60, 4500)
    blur = torch.from_numpy(sharp).permute(0, 3, 1, 2).float()
    blurred = Unblur()._blurred(blur).round().byte().permute(0, 2, 3, 1).numpy()
    source = clips.write(tmp_path / "a.mp4", blurred, times=times, options={"crf": "8"}, gop=15)
    clip = restored(source, tmp_path / "out.mp4", Unblur())
    before, after = clips.read(source), clips.read(tmp_path / "out.mp4")
    assert len(after["pixels"]) == len(before["pixels"]) == clip.frames == 60
    assert after["times"] == before["times"] == [time * clips.TICKS for time in times]
    assert after["duration"] == pytest.approx(before["duration"], abs=1 / 30)
    sound = [packet for _, packet in before["packets"][1]]
    assert [packet for _, packet in after["packets"][1]] == sound and len(sound) > 100
    true = 16 + sharp @ np.array([0.2126, 0.7152, 0.0722]) * 219 / 255  # luma of BT.709
    pairs = zip(true, clips.luma(source), clips.luma(tmp_path / "out.mp4"))
    gains = [psnr(y, restored) - psnr(y, blurred) for y, blurred, restored in pairs]
    assert min(gains) > 1 and np.mean(gains) > 2, gains


class Overflowing(Gain):
    """Overflows in half precision alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.0 * nn.functional.conv2d(x * 3e5, torch.ones(3, 3, 1, 1))


def test_what_is_told_of_many_frames_is_one_note(tmp_path: Path) -> None:
    source = clips.write(tmp_path / "a.mkv", clips.pan(20, 32, 48), codec="ffv1", sound=False)
    jobs, records = make_jobs([str(source)], str(tmp_path / "b.mkv")), []
    run_jobs(jobs.jobs, Overflowing(), Settings(dtype=torch.float16), finished=records.append)
    assert records[0].notes == ("not finite in float16: computed again in float32",)


class Shimmer(Gain):
    """Brightens each frame by another amount, which its mean decides."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0.8 + 0.1 + 0.03 * torch.sin(3000 * x.mean((1, 2, 3), keepdim=True))


def test_deflickered_clips_flicker_less_and_do_not_know_their_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = clips.write(tmp_path / "a.mkv", clips.pan(60, 32, 48), codec="ffv1", gop=6, sound=False)
    for name, deflicker, shortest in (("plain", False, 48), ("deflicker", True, 48), ("parts", True, 6)):
        monkeypatch.setattr(segments, "SHORTEST", shortest)
        clip = restored(source, tmp_path / f"{name}.mkv", Shimmer(), deflicker=deflicker)
        assert len(clip.segments) == (1 if shortest == 48 else 10)
    before, plain, deflicker, parts = (
        clips.read(tmp_path / f"{name}.mkv")["pixels"] for name in ("a", "plain", "deflicker", "parts")
    )
    added, left = flicker(plain, before), flicker(deflicker, before)
    assert left.output < 0.6 * added.output
    assert (
        len(parts) == 60
        and np.abs(deflicker.astype(int) - parts).mean() < 0.5 * np.abs(deflicker.astype(int) - plain).mean()
    )
