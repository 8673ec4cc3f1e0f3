"""Frames of a segment, decoded exactly: each is the one that the index promises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import InputError
from ..files import shown
from .clip import ClipInfo, FrameIndex
from .pyav import filtered, load, opened


def frames(info: ClipInfo, index: FrameIndex, first: int, count: int) -> Iterator[Any]:
    """The frames (`av.VideoFrame`) number `first` to `first + count - 1`, in the order they are shown.

    Raises InputError where one is missing or cannot be decoded, or has another size than the header says.
    """
    wanted = index.times[first : first + count]
    key = index.key_before(first)
    decoded = _decoded(info, index.seek[key] if key > 0 else None)
    frame = next(decoded, None)
    if key > 0 and (frame is None or frame.pts > wanted[0]):  # the container sought too far
        decoded = _decoded(info, None)
        frame = next(decoded, None)
    for number, time in enumerate(wanted, first):
        while frame is not None and frame.pts < time:
            frame = next(decoded, None)
        if frame is None or frame.pts != time:
            at = float((time - index.times[0]) * info.time_base)
            untimed = (info.codec, info.path.suffix.lower()) == ("h264", ".avi")
            why = ", or has B-frames, which is not supported for H.264 in AVI" if untimed else ""
            raise InputError(
                f"{shown(info.path)}: frame {number + 1} (at {at:.2f} s) cannot be decoded: the clip is damaged{why}"
            )
        if (frame.width, frame.height) != (info.width, info.height):
            raise InputError(
                f"{shown(info.path)}: the picture changes from {info.width}x{info.height} to "
                f"{frame.width}x{frame.height} at frame {number + 1}, which is not supported"
            )
        yield frame
        frame = next(decoded, None) if number + 1 < first + count else None
    decoded.close()


def _decoded(info: ClipInfo, time: int | None) -> Iterator[Any]:
    """Frames from the last key frame at or before a time stamp on; from the clip's beginning without one."""
    av = load()
    with opened(info.path) as container:
        stream = container.streams[info.stream]
        stream.thread_type = "AUTO"
        if time is not None:
            try:
                container.seek(time, stream=stream, backward=True)
            except av.error.FFmpegError:  # a container that cannot seek: from its beginning
                pass
        for packet in container.demux(stream):
            for frame in packet.decode():
                if frame.pts is not None:
                    yield frame


def first_frame(info: ClipInfo) -> Any:
    """The clip's first frame (`av.VideoFrame`); None where there is none."""
    return next(_decoded(info, None), None)


def shows_top_first(frame: Any) -> bool:
    """Whether the upper field of an interlaced frame is shown first, which PyAV tells by a filter only."""
    return filtered(frame, "select", r"eq(interlace_type\,TOPFIRST)") is not None


def display_matrix(info: ClipInfo) -> list[int] | None:
    """The nine numbers of the matrix that turns a clip's frames for display; None where there is none."""
    import numpy as np

    frame = first_frame(info)
    side = None if frame is None else frame.side_data.get("DISPLAYMATRIX")
    return None if side is None else np.frombuffer(side, np.int32).tolist()
