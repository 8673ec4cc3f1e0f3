"""What a clip is: the facts of its header, and the time stamp of every frame."""

from __future__ import annotations

import itertools
import math
import os
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import ConfigError, InputError
from ..files import shown
from ..images.formats import BadImage, check_size
from .pixels import FULL_RANGE
from .pyav import opened

SUFFIXES: dict[str, str] = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
    ".ts": "mpegts",
    ".mts": "mpegts",
    ".m2ts": "mpegts",
    ".mpg": "mpeg",
    ".mpeg": "mpeg",
    ".flv": "flv",
    ".wmv": "asf",
    ".3gp": "3gp",
    ".mxf": "mxf",
}
"""Suffixes of clips, and the container that is written under each."""

_INTERLACED = (2, 3, 4, 5)  # of FFmpeg's orders of fields
_SLACK = 1.0  # seconds that a whole file may end before its header says
_TYPES_IN_TIME = ("video", "audio", "subtitle")


@dataclass(frozen=True)
class ClipInfo:
    """What a clip's header says.

    Attributes:
        stream: index of the video stream that is restored, the first that is no cover picture.
        codec, pixel_format: FFmpeg's names.
        width, height: of the frames as they are coded, in pixels, without the rotation for display.
        frames: number of frames, as far as the header tells or lets one guess; 0 where it does not.
        rate: average frames per second.
        time_base: seconds per tick of the time stamps.
        colour: numbers of range, primaries, transfer and matrix in ITU-T H.273.
    """

    path: Path
    stream: int
    codec: str
    profile: str | None
    pixel_format: str
    width: int
    height: int
    frames: int
    rate: Fraction
    time_base: Fraction
    aspect: Fraction | None
    colour: tuple[int, int, int, int]

    def part(self, start: float, end: float) -> ClipInfo:
        """The same of the frames between two times in seconds only, as far as the header lets one guess."""
        first, last = (self._shown_before(at) for at in (start, end))
        return replace(self, frames=last - first)

    def _shown_before(self, at: float) -> int:
        return self.frames if math.isinf(at) else min(math.ceil(Fraction(str(at)) * self.rate), self.frames)


@dataclass(frozen=True)
class FrameIndex:
    """Every frame of a clip, in the order they are shown.

    Attributes:
        times: time stamps in ticks of the time base, ascending.
        keys: numbers of the frames that decoding can start with.
        seek: for each of these, the time stamp to seek to.
        sizes: bytes of each frame's packet.
        end: the time stamp at which the last frame is over.
        headless: number of frames before these that cannot be decoded, as what they refer to was cut off.
    """

    times: tuple[int, ...]
    keys: tuple[int, ...]
    seek: tuple[int, ...]
    sizes: tuple[int, ...]
    end: int
    headless: int = 0

    def between(self, start: float, end: float, time_base: Fraction) -> range:
        """Numbers of the frames that are shown from `start` on and before `end`, in seconds from the first."""
        ticks = [
            math.inf if math.isinf(at) else self.times[0] + Fraction(str(at)) / time_base
            for at in (start, end)
        ]
        first, last = (bisect_left(self.times, at) for at in ticks)
        return range(first, last)

    def without(self, headless: int) -> FrameIndex:
        """The same without its first frames, none of which is a key."""
        keys = tuple(key - headless for key in self.keys)
        return FrameIndex(
            self.times[headless:], keys, self.seek, self.sizes[headless:], self.end, self.headless + headless
        )

    def key_before(self, number: int) -> int:
        """Position in `keys` of the last one at or before a frame; -1 where there is none."""
        return bisect_right(self.keys, number) - 1


def probe(path: str | os.PathLike[str]) -> ClipInfo:
    """Read a clip's header.

    Raises InputError for a file that is no clip, that has no video stream, or whose codec cannot be decoded;
    UnavailableError where PyAV is missing.
    """
    with opened(path) as container:
        stream = video_stream(container)
        if stream is None:
            kinds = sorted({each.type for each in container.streams})
            raise InputError(f"{shown(path)}: no video stream (only {', '.join(kinds) or 'nothing'})")
        context = stream.codec_context
        if context is None or context.pix_fmt is None:
            name = "unknown" if context is None else context.name
            raise InputError(
                f"{shown(path)}: its video cannot be decoded (codec {name}): it is unsupported or damaged"
            )
        try:
            check_size(context.width, context.height)
        except BadImage as error:
            raise InputError(f"{shown(path)}: {error}") from error
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        seconds = _seconds(container, stream)
        return ClipInfo(
            path=Path(path),
            stream=stream.index,
            codec=context.codec.canonical_name,
            profile=stream.profile,
            pixel_format=context.pix_fmt,
            width=context.width,
            height=context.height,
            frames=stream.frames or round(seconds * rate),
            rate=rate,
            time_base=stream.time_base,
            aspect=stream.sample_aspect_ratio,
            colour=(_range(context), context.color_primaries, context.color_trc, context.colorspace),
        )


def video_stream(container: Any) -> Any:
    """The first video stream that is no cover picture; None where there is none."""
    return next((stream for stream in container.streams.video if not is_cover(stream)), None)


def is_cover(stream: Any) -> bool:
    """Whether a stream is a cover picture."""
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


def _range(context: Any) -> int:
    return FULL_RANGE if context.pix_fmt.startswith("yuvj") else context.color_range


def _seconds(container: Any, stream: Any) -> float:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6


def read_index(info: ClipInfo) -> FrameIndex:
    """Find every frame of a clip by its packets; nothing is decoded.

    Raises InputError for a file that ends before its header says, whose packets are marked as damaged, or that lack
    time stamps.
    """
    found: list[tuple[int, int, bool, int]] = []  # time stamp, seek to, key, bytes
    end, ended, second = 0, 0.0, False
    with opened(info.path) as container:
        field = _field_ticks(info, container)
        for packet in container.demux():
            if packet.stream_index == info.stream and packet.size and packet.duration == field and second:
                *first, size = found[-1]
                found[-1], second = (*first, size + packet.size), False
                end = max(end, first[0] + 2 * field)
                continue
            if packet.pts is None or packet.size == 0:
                if packet.size and packet.stream_index == info.stream:
                    raise InputError(f"{shown(info.path)}: frame {len(found) + 1} has no time stamp")
                continue
            if packet.stream.type in _TYPES_IN_TIME:
                ended = max(ended, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index != info.stream or packet.is_discard or _hidden(packet, info.codec):
                continue
            if packet.is_corrupt:
                raise InputError(f"{shown(info.path)}: frame {len(found) + 1} is cut off or damaged")
            dts = packet.pts if packet.dts is None else min(packet.pts, packet.dts)
            found.append((packet.pts, dts, packet.is_keyframe, packet.size))
            second = packet.duration == field
            end = max(end, packet.pts + (packet.duration or 0))
        promised = ((container.start_time or 0) + (container.duration or 0)) / 1e6
    if not found:
        raise InputError(f"{shown(info.path)}: there is not a single frame in it")
    if ended < promised - _SLACK:
        raise InputError(
            f"{shown(info.path)}: it ends after {ended:.1f} s of {promised:.1f} s: the file is truncated"
        )
    found.sort()
    times = tuple(each[0] for each in found)
    if any(before == after for before, after in itertools.pairwise(times)):
        raise InputError(f"{shown(info.path)}: two frames have the same time stamp")
    keys = tuple(i for i, each in enumerate(found) if each[2])
    tick = max(1, round(1 / (info.rate * info.time_base)))
    return FrameIndex(
        times,
        keys,
        tuple(found[i][1] for i in keys),
        tuple(each[3] for each in found),
        end if end > times[-1] else times[-1] + tick,
    )


def _field_ticks(info: ClipInfo, container: Any) -> int | None:
    """How long a packet of one field lasts; H.264 in transport streams may have two for a frame. None for others."""
    order = getattr(container.streams[info.stream].codec_context, "field_order", 0)
    if order not in _INTERLACED or (info.codec, container.format.name) != ("h264", "mpegts"):
        return None
    return int(1 / (2 * info.rate * info.time_base))


def _hidden(packet: Any, codec: str) -> bool:
    """Whether a packet of VP8 holds a frame that is only referred to."""
    return codec == "vp8" and not bytes(packet)[0] >> 4 & 1


def seconds_of(text: str | float) -> float:
    """A time: seconds, or `[h:]mm:ss[.fff]`. Raises ConfigError for anything else."""
    try:
        parts = [float(part) for part in str(text).split(":")]
    except ValueError:
        parts = []
    if not 1 <= len(parts) <= 3 or any(part < 0 or not math.isfinite(part) for part in parts):
        raise ConfigError(f"{text!r} is not a time: give seconds, or h:mm:ss")
    return float(sum(Fraction(str(part)) * 60**i for i, part in enumerate(reversed(parts))))
