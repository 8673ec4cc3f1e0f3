"""Headers, time stamps and segments of clips; what is no clip."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.video import clips, fields
from xyscannet import video
from xyscannet.errors import ConfigError, InputError, UnavailableError
from xyscannet.video import clip as clip_module
from xyscannet.video import decode, pixels, pyav

pytest.importorskip("av")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "a.mp4"
    return clips.write(path, clips.pan(130, 32, 48), times=clips.uneven(130, 9000), rotation=90, gop=20)


def test_the_header(source: Path) -> None:
    info = video.probe(source)
    assert (info.codec, info.pixel_format, info.width, info.height) == ("h264", "yuv420p", 48, 32)
    assert (info.frames, info.time_base, info.colour) == (130, clips.TICKS, (1, 1, 1, 1))
    assert decode.display_matrix(info) == [0, -65536, 0, 65536, 0, 0, 0, 0, 1 << 30]


def test_the_index_has_every_frame(source: Path) -> None:
    index = video.read_index(video.probe(source))
    assert list(index.times) == clips.uneven(130, 9000)
    assert index.keys[:3] == (0, 20, 40) and len(index.sizes) == 130
    assert index.between(0, float("inf"), clips.TICKS) == range(130)
    first = Fraction(index.times[7] - index.times[0], 90000)
    assert index.between(float(first) - 1e-4, float(first) + 1e-4, clips.TICKS) == range(7, 8)


@pytest.mark.parametrize("rate", [10, 25])
def test_decimal_times_are_exact(rate: int) -> None:
    index = clip_module.FrameIndex(tuple(range(50)), (0,), (0,), (1,) * 50, 50)
    for tenths in range(1, 20):
        first = -(-tenths * rate // 10)
        seconds = clip_module.seconds_of(f"0:00:0{tenths / 10}")
        assert index.between(tenths / 10, 2, Fraction(1, rate)) == range(first, 2 * rate)
        assert index.between(0, seconds, Fraction(1, rate)) == range(first)


def test_segments_begin_at_key_frames(source: Path) -> None:
    clip = video.plan_clip(source)
    assert [(each.first, each.frames) for each in clip.segments] == [(0, 60), (60, 70)]
    assert clip == video.plan_clip(source) and clip.fingerprint() == video.plan_clip(source).fingerprint()
    part = video.plan_clip(source, video.ClipOptions(start=1.0))
    assert part.cut and part.fingerprint() != clip.fingerprint() != clip.fingerprint("bf16")
    assert part.times[0] - clip.times[0] >= 90000 > clip.times[clip.frames - part.frames - 1] - clip.times[0]


def test_a_long_way_between_key_frames_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    index = clip_module.FrameIndex(tuple(range(1000)), (0, 700), (0, 700), (1,) * 1000, 1000)
    from xyscannet.video.segments import _cuts

    assert _cuts(index, range(1000)) == [0, 240, 480, 700, 940]
    assert _cuts(index, range(10, 30)) == [10]


@pytest.mark.parametrize("first", [0, 1, 19, 20, 67, 129])
def test_any_frame_is_decoded_exactly(source: Path, first: int) -> None:
    info = video.probe(source)
    index = video.read_index(info)
    (frame,) = decode.frames(info, index, first, 1)
    assert frame.pts == index.times[first]
    everything = list(decode.frames(info, index, 0, 130))
    layout = pixels.layout("yuv420p")
    for one, other in zip(pixels.to_planes(frame, layout), pixels.to_planes(everything[first], layout)):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1.5", 1.5), ("90", 90), ("1:30", 90), ("1:02:03.5", 3723.5), (2, 2)]
)
def test_times(text: str, seconds: float) -> None:
    assert clip_module.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "-1", "1:2:3:4", "nan", "1:-3"])
def test_no_times(text: str) -> None:
    with pytest.raises(ConfigError, match="not a time"):
        clip_module.seconds_of(text)


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001)])
def test_two_fields_are_a_frame(tmp_path: Path, rate: Fraction) -> None:
    import av

    if not hasattr(av.codec.CodecContext.create("libx264", "w"), "field_order"):
        pytest.skip("this PyAV does not tell the order of fields")
    written = np.random.default_rng(0).integers(16, 235, (6, fields.HEIGHT, fields.WIDTH), dtype=np.uint8)
    info = video.probe(fields.write(tmp_path / "a.ts", written, rate))
    index = video.read_index(info)
    ticks = [*index.times, index.end]
    assert [after - before for before, after in itertools.pairwise(ticks)] == pytest.approx(
        [90000 / rate] * 6, abs=1
    )
    assert index.keys == tuple(range(6)) and min(index.sizes) > 2 * 384
    read = [
        pixels.to_planes(frame, pixels.layout("yuv420p"))[0] for frame in decode.frames(info, index, 0, 6)
    ]
    assert np.array_equal(np.stack(read), written)


def test_frames_before_the_first_key_frame_are_left_out_with_a_note(tmp_path: Path) -> None:
    """A transport stream may begin anywhere."""
    source = clips.write(tmp_path / "a.ts", clips.pan(60, 64, 96), sound=False)
    whole = video.plan_clip(source).index
    data = source.read_bytes()
    source.write_bytes(data[len(data) // 188 // 6 * 188 :])
    clip = video.plan_clip(source)
    assert clip.index.keys[0] == 0 and 0 < clip.index.headless < 12 and not clip.cut
    assert clip.times == whole.times[-clip.frames :] and clip.times[0] in {whole.times[k] for k in whole.keys}
    assert sum(1 for _ in decode.frames(clip.info, clip.index, 0, clip.frames)) == clip.frames
    (note,) = video.choose_coding(clip, "b.ts").notes
    assert note.startswith(f"the first {clip.index.headless} frames left out: not to be decoded")


def test_what_is_no_clip(tmp_path: Path, source: Path) -> None:
    data = source.read_bytes()
    for name, content, words in (
        ("empty.mp4", b"", "empty"),
        ("text.mp4", b"no clip at all\n" * 50, "cannot be read as a video"),
        ("cut.mp4", data[: len(data) // 2], "cannot be read as a video"),
        ("noise.mkv", bytes(range(256)) * 40, "cannot be read as a video"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=words) as failure:
            video.plan_clip(path)
        assert name in str(failure.value) and "\n" not in str(failure.value)


def test_what_cannot_be_written_is_not_called_damaged(tmp_path: Path) -> None:
    import av

    plain = clips.write(tmp_path / "a.mp4", clips.pan(3, 32, 48), sound=False)
    output = tmp_path / "b.avi"
    refused = pytest.raises(InputError, match=r"b\.avi: cannot be written: ")
    with (
        refused,
        pyav.telling(output, "written"),
        av.open(str(plain)) as source,
        av.open(str(output), "w") as out,
    ):
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            packet.stream = stream
            out.mux(packet)


def test_sound_alone_is_no_clip(tmp_path: Path) -> None:
    import av

    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=48000)
        stream.codec_context.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with pytest.raises(InputError, match="no video stream"):
        video.probe(path)


def test_a_clip_that_ends_early(tmp_path: Path) -> None:
    whole = clips.write(tmp_path / "whole.mkv", clips.pan(130, 32, 48), gop=20)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(InputError, match=r"it ends after \d\.\d s of 4\.\d s: the file is truncated"):
        video.plan_clip(cut)


def test_subtitles_may_end_after_the_pictures(tmp_path: Path) -> None:
    plain = clips.write(tmp_path / "plain.mkv", clips.pan(20, 32, 48))
    assert video.plan_clip(clips.with_subtitles(plain, tmp_path / "a.mkv", 5000)).frames == 20


def test_frames_without_their_time_stamps_are_not_read(tmp_path: Path) -> None:
    """AVI has none for frames that are coded ahead of their place."""
    options = {"bf": "2", "b_strategy": "0"}
    source = clips.write(tmp_path / "a.avi", clips.pan(10, 32, 48), sound=False, options=options)
    with pytest.raises(
        InputError, match=r"frame 2 .* or has B-frames, which is not supported for H\.264 in AVI"
    ):
        video.choose_coding(video.plan_clip(source), "b.avi")


def test_no_frame_between_start_and_end(source: Path) -> None:
    with pytest.raises(InputError, match="no frame between start and end"):
        video.plan_clip(source, video.ClipOptions(start=100))


def test_without_the_package(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(UnavailableError, match=r"pip install 'xyscannet\[video\]'"):
        video.probe(source)


def test_a_package_too_old_is_told(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One without rotation for display."""
    monkeypatch.setattr("av.__version__", "17.0.1")
    with pytest.raises(UnavailableError, match=r"video needs av 17\.1 or later, not 17\.0\.1"):
        video.probe(source)


@pytest.mark.parametrize("version, some", [("17.1.0", True), ("18.1.0", True), ("19.0.2", False)])
def test_what_later_versions_of_the_package_do_without(
    monkeypatch: pytest.MonkeyPatch, version: str, some: bool
) -> None:
    monkeypatch.setattr("av.__version__", version)
    assert bool(pyav.keeping_bytes()) is some
