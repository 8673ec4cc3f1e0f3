"""Clips that the tests make: sharp ones by moving a window over a photograph, with sound and odd time stamps."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
TICKS = Fraction(1, 90000)
SOUND = 8000  # samples per second


def pan(count: int, height: int = 48, width: int = 64, photo: str = "canyon.jpg") -> np.ndarray:
    """Frames (count, H, W, 3) uint8: a window that moves one pixel a frame over a photograph."""
    picture = Image.open(EXAMPLES / photo).convert("RGB")
    pixels = np.asarray(picture.resize((width + count + 8, height + 8), Image.Resampling.LANCZOS))
    return np.stack([pixels[4 : 4 + height, i : i + width] for i in range(count)])


def uneven(count: int, start: int = 0) -> list[int]:
    """Time stamps of a variable frame rate, in TICKS."""
    steps = np.random.default_rng(1).integers(1500, 6000, count)
    return [start, *(start + np.cumsum(steps)[:-1]).tolist()]


def write(
    path: Path,
    frames: np.ndarray,
    *,
    times: list[int] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    colour: tuple[int, int, int, int] = (1, 1, 1, 1),
    sound: bool = True,
    rotation: int = 0,
    chapters: bool = False,
    gop: int = 12,
    format: str | None = None,
    fields: str | None = None,
    timecode: str | None = None,
    **settings: object,
) -> Path:
    """Write frames as a clip; times are in TICKS."""
    import av

    times = [i * 3000 for i in range(len(frames))] if times is None else times
    seconds = float((times[-1] + 3000) * TICKS)
    path.parent.mkdir(parents=True, exist_ok=True)
    tracks = {"video_track_timescale": "90000"} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", format=format, container_options=tracks) as out:
        stream = out.add_stream(codec, rate=30, options=options or {})
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = frames.shape[2], frames.shape[1], pixel_format
        context.time_base, context.gop_size = TICKS, gop
        if codec in ("mpeg4", "mpeg2video"):
            context.time_base = Fraction(1, 30)
        context.color_range, context.color_primaries, context.color_trc, context.colorspace = colour
        for name, value in settings.items():
            setattr(context, name, value)
        if fields:
            context.field_order = 2 if fields == "tff" else 3
            context.flags |= int(av.codec.context.Flags.interlaced_dct)
        if rotation:
            stream.set_display_rotation(rotation)
        if timecode:
            stream.metadata["timecode"] = timecode
        if sound:
            audio = out.add_stream("aac" if path.suffix != ".webm" else "libopus", rate=SOUND * 6)
            audio.codec_context.layout = "mono"
            audio.metadata["language"] = "deu"
        if chapters:
            out.set_chapters(
                [
                    {
                        "id": 1,
                        "start": 0,
                        "end": 400,
                        "time_base": Fraction(1, 1000),
                        "metadata": {"title": "one"},
                    },
                    {
                        "id": 2,
                        "start": 400,
                        "end": 900,
                        "time_base": Fraction(1, 1000),
                        "metadata": {"title": "two"},
                    },
                ]
            )
        out.metadata["title"] = "a clip"
        for pixels, time in zip(frames, times):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24" if pixels.dtype == np.uint8 else "rgb48le")
            matrix = {1: 1, 9: 9}.get(colour[3], 5)  # BT.709, 2020, for which PyAV 17 has no name, 601
            frame = frame.reformat(format=pixel_format, dst_colorspace=matrix, dst_color_range=colour[0])
            frame.color_range, frame.color_primaries, frame.color_trc, frame.colorspace = colour
            frame.pts, frame.time_base = time, TICKS
            out.mux(stream.encode(interlaced(frame, fields) if fields else frame))
        out.mux(stream.encode(None))
        if sound:
            tone = np.sin(np.arange(int(seconds * SOUND * 6)) / 20).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(tone[None], "fltp", "mono")
            frame.sample_rate, frame.pts = SOUND * 6, 0
            out.mux(audio.encode(frame))
            out.mux(audio.encode(None))
    return path


def interlaced(frame: Any, fields: str) -> Any:
    """A frame marked as interlaced, "tff" or "bff"."""
    import av

    graph = av.filter.Graph()
    size = {"width": frame.width, "height": frame.height, "time_base": frame.time_base}
    nodes = (
        graph.add_buffer(format=frame.format, **size),
        graph.add("setfield", fields),
        graph.add("buffersink"),
    )
    graph.link_nodes(*nodes).configure()
    graph.push(frame)
    return graph.pull()


def with_subtitles(source: Path, path: Path, milliseconds: int = 200) -> Path:
    """A copy of a clip, as Matroska, with two lines of subtitles, each so long, and an attached file."""
    import av

    with av.open(str(source)) as clip, av.open(str(path), "w") as out:
        copied = [out.add_stream_from_template(stream, opaque=True) for stream in clip.streams]
        subtitles = out.add_mux_stream("subrip")
        subtitles.metadata["language"] = "eng"
        out.add_attachment("font.ttf", "application/x-truetype-font", b"a font")
        for number, packet in enumerate(packet for packet in clip.demux() if packet.size):
            packet.stream = copied[packet.stream.index]
            out.mux(packet)
            if number in (3, 9):
                line = av.Packet(f"line {number}".encode())
                line.stream, line.time_base = subtitles, Fraction(1, 1000)
                line.pts = line.dts = number * 30
                line.duration = milliseconds
                out.mux(line)
    return path


def with_cover(source: Path, path: Path) -> Path:
    """A copy of a clip with a cover picture before it."""
    import av
    from av.stream import Disposition

    with av.open(str(source)) as clip, av.open(str(path), "w") as out:
        cover = out.add_stream("mjpeg")
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        copied = [out.add_stream_from_template(stream, opaque=True) for stream in clip.streams]
        picture = av.VideoFrame(32, 32, "yuvj420p")
        picture.pts = 0
        out.mux([*cover.encode(picture), *cover.encode(None)])
        for packet in clip.demux():
            if packet.size:
                packet.stream = copied[packet.stream.index]
                out.mux(packet)
    return path


def read(path: Path) -> dict:
    """What a clip holds: frames (n, H, W, 3) as floats, their times in seconds, packets of other streams, ..."""
    import av

    with av.open(str(path)) as container:
        found: dict = {"pixels": [], "times": [], "packets": {}, "metadata": dict(container.metadata)}
        found["chapters"] = [
            (c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"])
            for c in container.chapters()
        ]
        stream = container.streams.video[0]
        context = stream.codec_context
        found["codec"], found["pixel_format"] = context.codec.canonical_name, context.pix_fmt
        found["colour"] = (
            context.color_range,
            context.color_primaries,
            context.color_trc,
            context.colorspace,
        )
        found["time_base"], found["streams"] = stream.time_base, [s.type for s in container.streams]
        found["languages"] = [s.metadata.get("language") for s in container.streams]
        found["duration"] = container.duration / 1e6
        found["attached"] = [
            (s.metadata["filename"], s.data) for s in container.streams if s.type == "attachment"
        ]
        for packet in container.demux():
            if packet.size and packet.stream.type != "video":
                found["packets"].setdefault(packet.stream.index, []).append(
                    (packet.pts * packet.time_base, bytes(packet))
                )
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            found["times"].append(frame.pts * frame.time_base)
            found["rotation"] = frame.rotation
            found["pixels"].append(frame.to_ndarray(format="rgb24"))
    found["pixels"] = np.stack(found["pixels"])
    return found


def luma(path: Path) -> np.ndarray:
    """The luma samples of a clip's frames, (n, H, W)."""
    import av

    found = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            plane = frame.planes[0]
            kind = np.uint16 if frame.format.components[0].bits > 8 else np.uint8
            rows = np.frombuffer(plane, kind).reshape(plane.height, -1)
            found.append(rows[:, : plane.width].astype(float))
    return np.stack(found)
