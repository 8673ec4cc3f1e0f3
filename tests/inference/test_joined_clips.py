"""Joined clips have all that their sources had, as far as the container holds it; what it does not is told."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.inference.restoring import Gain, restored, same_beside_the_pixels
from tests.video import clips
from xyscannet import video
from xyscannet.errors import InputError
from xyscannet.inference import restore_segment
from xyscannet.video import decode
from xyscannet.video.clip import is_cover

pytest.importorskip("av")


def test_everything_else_is_kept(tmp_path: Path) -> None:
    source = clips.write(
        tmp_path / "a.mp4",
        clips.pan(100, 48, 64),
        times=clips.uneven(100, 9000),
        rotation=90,
        chapters=True,
        gop=20,
    )
    clip = restored(source, tmp_path / "out.mp4", Gain())
    before, after = clips.read(source), clips.read(tmp_path / "out.mp4")
    same_beside_the_pixels(before, after)
    assert after["rotation"] == 90 and len(after["packets"][1]) > 150 and len(after["chapters"]) == 2
    assert len(after["pixels"]) == clip.frames == 100
    assert np.abs(before["pixels"].astype(int) - after["pixels"]).mean() < 3


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_titles_that_are_not_utf8_are_kept_as_they_are(tmp_path: Path, suffix: str) -> None:
    source = clips.write(tmp_path / f"a{suffix}", clips.pan(10, 32, 48), sound=False)
    latin = "café!".encode("latin-1")
    source.write_bytes(source.read_bytes().replace(b"a clip", latin + b" "))
    assert latin in source.read_bytes()
    restored(source, tmp_path / f"out{suffix}", Gain())
    assert latin in (tmp_path / f"out{suffix}").read_bytes()


def test_subtitles_and_attached_files_are_kept(tmp_path: Path) -> None:
    clips.write(tmp_path / "plain.mkv", clips.pan(20, 32, 48), codec="ffv1")
    source = clips.with_subtitles(tmp_path / "plain.mkv", tmp_path / "a.mkv")
    restored(source, tmp_path / "b.mkv", Gain())
    before, after = clips.read(source), clips.read(tmp_path / "b.mkv")
    same_beside_the_pixels(before, after)
    assert after["streams"] == ["video", "audio", "subtitle", "attachment"]
    assert [text for _, text in after["packets"][2]] == [b"line 3", b"line 9"]
    assert after["attached"] == [("font.ttf", b"a font")] and after["languages"][2] == "eng"


def test_metadata_is_stripped_where_asked(tmp_path: Path) -> None:
    source = clips.write(tmp_path / "a.mp4", clips.pan(6, 32, 48), rotation=90, chapters=True)
    clip = video.plan_clip(source)
    coding = video.choose_coding(clip, "b.mp4")
    restore_segment(clip, clip.segments[0], coding, tmp_path / "part", Gain())
    assert video.join(clip, coding, [tmp_path / "part"], tmp_path / "b.mp4", strip_metadata=True) == ()
    before, after = clips.read(source), clips.read(tmp_path / "b.mp4")
    assert before["metadata"]["title"] and "title" not in after["metadata"]
    assert [titles for *_, titles in before["chapters"]] == [{"title": "one"}, {"title": "two"}]
    assert [titles.get("title", "") for *_, titles in after["chapters"]] == ["", ""]
    assert after["languages"][1] == "deu" and after["rotation"] == 90
    assert before["packets"] == after["packets"] and before["colour"] == after["colour"]


@pytest.mark.parametrize(
    ("name", "codec"), [("mkv", "libx264"), ("mp4", "libx264"), ("ts", "libx264"), ("ts", "mpeg2video")]
)
def test_interlaced_clips_stay_so_with_a_note(tmp_path: Path, name: str, codec: str) -> None:
    import av

    if not hasattr(av.codec.CodecContext.create("libx264", "w"), "field_order"):
        pytest.skip("this PyAV does not tell the order of fields")
    source, output = tmp_path / f"a.{name}", tmp_path / f"b.{name}"
    clips.write(source, clips.pan(6, 32, 48), codec=codec, sound=False, fields="bff")
    clip = restored(source, output, Gain())
    for path in (source, output):
        first = decode.first_frame(video.probe(path))
        assert first.interlaced_frame and not decode.shows_top_first(first)
    (note,) = video.choose_coding(clip, f"b.{name}").notes
    assert note.startswith("interlaced: each field is restored by itself")


@pytest.mark.parametrize("start", [0.0, 0.1])
def test_the_cover_is_kept(tmp_path: Path, start: float) -> None:
    import av

    plain = clips.write(tmp_path / "plain.mp4", clips.pan(9, 32, 48))
    source = clips.with_cover(plain, tmp_path / "a.mp4")
    outputs = [tmp_path / name for name in ("b.mp4", "c.mkv", "d.mkv", "e.mp4")]
    covers = []
    for before, after in itertools.pairwise([source, *outputs]):
        restored(before, after, Gain(), start=start if before == source else 0)
    for path in (source, *outputs):
        with av.open(str(path)) as container:
            cover = next(stream for stream in container.streams.video if is_cover(stream))
            covers.append([bytes(packet) for packet in container.demux(cover) if packet.size])
    assert all(each == covers[0] for each in covers) and len(covers[0]) == 1


def test_a_cover_that_the_container_does_not_hold_is_told(tmp_path: Path) -> None:
    plain = clips.write(tmp_path / "plain.mp4", clips.pan(3, 32, 48), sound=False)
    clip = video.plan_clip(clips.with_cover(plain, tmp_path / "a.mp4"))
    coding = video.choose_coding(clip, "b.mov")
    restore_segment(clip, clip.segments[0], coding, tmp_path / "part", Gain())
    notes = video.join(clip, coding, [tmp_path / "part"], tmp_path / "b.mov")
    assert notes == ("cover picture left out: mov does not hold it",)


@pytest.mark.parametrize(
    ("suffix", "start", "notes"),
    [
        ("mov", 0, ()),
        ("mp4", 0, ()),
        ("avi", 0, ("data stream 1 left out: avi does not hold it",)),
        ("mov", 0.1, ("time code left out: it is that of the whole clip's beginning",)),
    ],
)
def test_a_time_code_is_kept_or_told(tmp_path: Path, suffix: str, start: float, notes: tuple) -> None:
    import av

    source, output = tmp_path / "a.mov", tmp_path / f"b.{suffix}"
    settings = {"timecode": "10:00:00:12", "codec": "mpeg4", "colour": (0, 2, 2, 2)}
    clips.write(source, clips.pan(6, 32, 48), sound=False, **settings)
    clip = video.plan_clip(source, video.ClipOptions(start=start))
    coding = video.choose_coding(clip, output)
    restore_segment(clip, clip.segments[0], coding, tmp_path / "part", Gain())
    assert video.join(clip, coding, [tmp_path / "part"], output) == notes
    with av.open(str(output)) as container:
        codes = [stream.metadata.get("timecode") for stream in container.streams]
    assert codes == ([None] if notes else ["10:00:00:12"] * 2)


def test_what_the_container_does_not_hold_is_told(tmp_path: Path) -> None:
    source = clips.write(tmp_path / "a.mp4", clips.pan(6, 32, 48), rotation=90, chapters=True, sound=False)
    clip = video.plan_clip(source)
    coding = video.choose_coding(clip, "b.ts")
    restore_segment(clip, clip.segments[0], coding, tmp_path / "part", Gain())
    assert video.join(clip, coding, [tmp_path / "part"], tmp_path / "b.ts") == (
        "rotation left out: mpegts does not hold it",
        "chapters left out: mpegts does not hold it",
        "metadata title left out: mpegts does not hold it",
    )


@pytest.mark.parametrize(("matrix", "lost"), [(1, True), (6, False)])
def test_colours_that_players_cannot_know_are_told(tmp_path: Path, matrix: int, lost: bool) -> None:
    """Small pictures without tags are taken for BT.601."""
    source = clips.write(
        tmp_path / "a.mp4", clips.pan(3, 32, 48), colour=(1, matrix, matrix, matrix), sound=False
    )
    clip = video.plan_clip(source, video.ClipOptions(codec="mpeg4"))
    coding = video.choose_coding(clip, "b.avi")
    restore_segment(clip, clip.segments[0], coding, tmp_path / "part", Gain())
    notes = video.join(clip, coding, [tmp_path / "part"], tmp_path / "b.avi")
    assert ("colour tags left out: avi does not hold it" in notes) is lost


def test_a_variable_frame_rate_in_mpeg4(tmp_path: Path) -> None:
    """Whose mean no codec can count with."""
    times = [0, 2977, 6011, 8989, 11997]
    source = clips.write(tmp_path / "a.mp4", clips.pan(5, 32, 48), times=times, sound=False)
    assert video.probe(source).rate.numerator > 65535
    restored(source, tmp_path / "b.mp4", Gain(), codec="mpeg4")
    assert [time / clips.TICKS for time in clips.read(tmp_path / "b.mp4")["times"]] == times


@pytest.mark.parametrize(
    ("suffix", "codec", "pixel_format", "options"),
    [
        (".mov", "prores_ks", "yuv444p10le", {"profile": "4"}),
        (".mov", "dnxhd", "yuv422p", {"profile": "dnxhr_sq"}),
        (".avi", "utvideo", "yuv420p", {}),
        (".avi", "magicyuv", "gbrp", {}),
    ],
)
def test_profiles_and_tags_that_tell_them_or_the_pixel_format_are_kept(
    tmp_path: Path, suffix: str, codec: str, pixel_format: str, options: dict
) -> None:
    import av

    source, output = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    settings = {"codec": codec, "pixel_format": pixel_format, "options": options, "sound": False}
    clips.write(source, clips.pan(3, 128, 256), **settings)
    restored(source, output, Gain())
    told = []
    for path in (source, output):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            told.append((stream.profile, stream.codec_context.codec_tag))
    before, after = clips.read(source)["pixels"], clips.read(output)["pixels"]
    assert told[0] == told[1] and np.abs(before.astype(int) - after).mean() < 2


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"), [("a.mov", "qtrle", "rgb24"), ("a.mkv", "jpeg2000", "yuv420p")]
)
def test_segments_whose_container_begins_at_another_time(
    tmp_path: Path, name: str, codec: str, pixel_format: str
) -> None:
    settings = {"codec": codec, "pixel_format": pixel_format, "sound": False}
    source = clips.write(tmp_path / name, clips.pan(3, 32, 48), **settings)
    restored(source, tmp_path / f"out{name}", Gain())
    before, after = clips.read(source), clips.read(tmp_path / f"out{name}")
    same_beside_the_pixels(before, after)
    assert np.abs(before["pixels"].astype(int) - after["pixels"]).max() <= 8


@pytest.mark.parametrize(("suffix", "length"), [(".ts", 188), (".m2ts", 192), (".mts", 192)])
def test_packets_of_a_transport_stream_have_the_length_of_their_kind(
    tmp_path: Path, suffix: str, length: int
) -> None:
    source = clips.write(tmp_path / "a.mp4", clips.pan(3, 32, 48), sound=False)
    restored(source, tmp_path / f"b{suffix}", Gain())
    content = (tmp_path / f"b{suffix}").read_bytes()
    assert set(content[length - 188 :: length]) == {0x47} and len(content) % length == 0
    assert len(clips.read(tmp_path / f"b{suffix}")["pixels"]) == 3


def test_a_clip_in_which_no_frame_is_marked_as_a_key(tmp_path: Path) -> None:
    clip = video.plan_clip(clips.write(tmp_path / "a.mp4", clips.pan(6, 32, 48), sound=False))
    clip = replace(clip, index=replace(clip.index, keys=(), seek=()))
    coding = video.choose_coding(clip, "b.mp4")
    assert (
        coding.gop == 250 and restore_segment(clip, clip.segments[0], coding, tmp_path / "b", Gain()).frames
    )


def test_a_part_begins_at_nought_with_its_own_sound(tmp_path: Path) -> None:
    times = clips.uneven(100, 9000)
    source = clips.write(tmp_path / "a.mp4", clips.pan(100, 48, 64), times=times, chapters=True, gop=20)
    clip = restored(source, tmp_path / "out.mp4", Gain(), start=1.0, end=2.5)
    before, after = clips.read(source), clips.read(tmp_path / "out.mp4")
    first = next(i for i, time in enumerate(times) if time - times[0] >= 90000)
    kept = [time for time in times[first:] if time - times[0] < 2.5 * 90000]
    assert [time * 90000 for time in after["times"]] == [time - times[first] for time in kept]
    begin, length = times[first] * clips.TICKS, clip.frames
    sound = [
        packet for time, packet in before["packets"][1] if begin <= time < times[first + length] * clips.TICKS
    ]
    assert [packet for _, packet in after["packets"][1]] == sound
    assert 0 <= after["packets"][1][0][0] < 1024 / 48000
    assert len(after["chapters"]) == 0  # both end before the part begins
    assert np.abs(before["pixels"][first : first + length].astype(int) - after["pixels"]).mean() < 3


def test_what_the_container_does_not_take_is_told_before_the_work(tmp_path: Path) -> None:
    """MXF has certain frame rates only."""
    times = [i * 9000 for i in range(6)]
    source = clips.write(tmp_path / "a.mp4", clips.pan(6, 32, 48), times=times, sound=False)
    clip = video.plan_clip(source, video.ClipOptions(codec="mpeg2video"))
    with pytest.raises(InputError, match=r"a\.mp4: mxf does not take its mpeg2video: choose another"):
        video.choose_coding(clip, tmp_path / "b.mxf")


def test_what_the_container_would_not_give_back_is_told_before_the_work(tmp_path: Path) -> None:
    """Transport streams take any codec."""
    clip = video.plan_clip(clips.write(tmp_path / "a.mp4", clips.pan(3, 32, 48), sound=False))
    clip = replace(clip, options=video.ClipOptions(codec="vp9"))
    with pytest.raises(InputError, match=r"a\.mp4: mpegts does not hold vp9: choose another --codec"):
        video.choose_coding(clip, "b.ts")


@pytest.mark.parametrize(
    ("name", "times", "even"),
    [("a.mp4", None, True), ("a.mkv", None, True), ("a.mp4", [0, 3000, 9000], False)],
)
def test_frames_that_come_evenly_stay_alone_in_avi(
    tmp_path: Path, name: str, times: list | None, even: bool
) -> None:
    """Where the ticks are finer, it has empty frames between them."""
    source = clips.write(tmp_path / name, clips.pan(3, 32, 48), times=times, sound=False)
    restored(source, tmp_path / "b.avi", Gain(), codec="mpeg4")
    info, after = video.probe(tmp_path / "b.avi"), clips.read(tmp_path / "b.avi")["times"]
    assert (info.time_base == Fraction(1, 30)) is (info.frames == 3) is even
    assert after == pytest.approx([time / 90000 for time in times or (0, 3000, 6000)], abs=1e-3)


def test_h264_in_avi(tmp_path: Path) -> None:
    frames = clips.pan(6, 32, 48)
    clips.write(tmp_path / "a.avi", frames, sound=False, max_b_frames=0)
    clips.write(tmp_path / "d.mp4", frames, sound=False)
    for source, output in (("a.avi", "b.avi"), ("b.avi", "c.mp4"), ("d.mp4", "e.avi")):
        restored(tmp_path / source, tmp_path / output, Gain())
        assert video.probe(tmp_path / output).codec == "h264"
        before, after = (clips.read(tmp_path / name)["pixels"].astype(int) for name in (source, output))
        assert np.abs(before - after).mean() < 4
