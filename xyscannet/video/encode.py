"""Frames into packets, and a segment's file.

A segment's file is Matroska where that holds the codec as the clip's container wants it. Its time stamps are frame
numbers, since Matroska counts milliseconds: `join` puts the source's own in their place.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import shown
from . import pixels
from .pyav import filtered, load, telling
from .segments import Clip, Segment

LEAD = 64  # time stamp of a segment's first frame in its file: no encoder reorders over so many frames
TICK = Fraction(1, 1000)  # seconds, of Matroska
_CONTAINERS = ("matroska", "nut", "mov")
_HEADER_IN_STREAM = {
    "mpeg1video",
    "mpeg2video",
    "mpeg4",
    "h264",
}  # where the clip's container wants no header apart
NONE, TOP_FIRST, BOTTOM_FIRST = 0, 2, 3  # FFmpeg's orders of fields
_QP = 118  # FFmpeg's unit of a fixed quantiser


@dataclass(frozen=True)
class Coding:
    """How a clip's frames are coded; see `choose_coding`.

    Attributes:
        container: of the clip, by FFmpeg's name.
        encoder, codec: FFmpeg's names.
        pixel_format: of the encoder.
        layout: planes that the frames are restored in.
        colour: what their samples mean; see `ClipInfo`.
        rate: frames per second that the encoder counts with.
        gop: frames between key frames at most.
        fields: in which order the fields of interlaced frames are shown, where that is marked.
        by_field: each field of a frame is restored by itself.
        scale: what the quality is given by: "crf" (constant rate factor), "qscale" (fixed quantiser) or nothing.
        quality: on this scale; the lower, the better.
        options: further options of the encoder.
        notes: what the user should hear of.
    """

    container: str
    encoder: str
    codec: str
    pixel_format: str
    layout: pixels.Layout
    colour: tuple[int, int, int, int]
    rate: Fraction
    gop: int
    fields: int = NONE
    by_field: bool = False
    scale: str = ""
    quality: float = 0.0
    options: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def configure(context: Any, clip: Clip, coding: Coding) -> None:
    """Set up an encoder's context."""
    context.width, context.height = clip.info.width, clip.info.height
    context.pix_fmt = coding.pixel_format
    context.time_base = 1 / coding.rate
    context.framerate = coding.rate
    context.gop_size = coding.gop
    context.thread_type = "AUTO"
    if coding.container == "avi":  # has no time stamps for frames that are coded ahead of their place
        context.max_b_frames = 0
    if coding.fields and clip.info.height % 4 == 0:  # other heights x264 does not take
        context.field_order = coding.fields
        context.flags |= int(load().codec.context.Flags.interlaced_dct)
    if clip.info.aspect:
        context.sample_aspect_ratio = clip.info.aspect
    tag_colour(context, coding)
    options = dict(coding.options)
    if coding.scale == "crf":
        options["crf"] = f"{coding.quality:g}"
    elif coding.scale == "qscale":
        context.qscale, context.global_quality = True, round(coding.quality * _QP)
    context.options = options
    flag = int(load().codec.context.Flags.global_header)
    context.flags = context.flags | flag if _header_apart(coding) else context.flags & ~flag


def _header_apart(coding: Coding) -> bool:
    """Whether the codec's header is kept once for all packets."""
    av = load()
    wants = av.ContainerFormat(coding.container, "w").flags & av.format.Flags.global_header.value
    return bool(wants) or coding.codec not in _HEADER_IN_STREAM


def tag_colour(coded: Any, coding: Coding) -> None:
    """Say what the samples of a context or a frame mean."""
    coded.color_range, coded.color_primaries, coded.color_trc, coded.colorspace = coding.colour


def frame_of(planes: Sequence[np.ndarray], number: int, coding: Coding) -> Any:
    """The frame for the encoder, given by planes (h, w) of the coding's layout and its number from 0."""
    frame = pixels.from_planes(planes, coding.layout)
    tag_colour(frame, coding)
    if coding.pixel_format.replace("yuvj", "yuv") != coding.layout.name:
        frame = pixels.converted(frame, coding.pixel_format)
    frame.pts, frame.time_base = number, 1 / coding.rate
    return _with_fields(frame, coding.fields) if coding.fields else frame


def _with_fields(frame: Any, order: int) -> Any:
    """A frame that is marked as interlaced, as PyAV does by a filter only."""
    return filtered(frame, "setfield", "tff" if order == TOP_FIRST else "bff")


def _segment_file(path: Path, coding: Coding) -> tuple[Any, Any]:
    """A container that holds the codec, and its stream."""
    formats = _CONTAINERS[
        coding.codec == "h264" and not _header_apart(coding) :
    ]  # Matroska takes no other H.264
    for format in formats:
        container = load().open(os.fspath(path), "w", format=format)
        try:
            return container, container.add_stream(coding.encoder, rate=coding.rate)
        except ValueError:
            container.close()
    raise InputError(f"{coding.codec} cannot be kept in segments: choose another --codec")


class SegmentWriter:
    """A segment's file in the making.

    Args:
        path: a temporary name; whoever made it moves it into place.
    """

    def __init__(self, path: Path, clip: Clip, segment: Segment, coding: Coding) -> None:
        self._path, self._clip, self._segment, self._coding = path, clip, segment, coding
        self._container, self._stream = _segment_file(path, coding)
        configure(self._stream.codec_context, clip, coding)
        self._frames = self._packets = 0

    def write(self, planes: Sequence[np.ndarray]) -> None:
        """Encode the next frame, given by planes (h, w) of the coding's layout."""
        self._mux(frame_of(planes, self._frames, self._coding))
        self._frames += 1

    def close(self) -> None:
        """Write what the encoder still holds. Raises InputError where frames are missing."""
        self._mux(None)
        with telling(self._path, "written"):
            self._container.close()
        if self._packets != self._segment.frames:
            raise InputError(
                f"{shown(self._clip.info.path)}: {self._coding.encoder} made {self._packets} frames of "
                f"{self._segment.frames}"
            )

    def abandon(self) -> None:
        """Close the file as it is."""
        with contextlib.suppress(Exception):
            self._container.close()

    def _mux(self, frame: Any) -> None:
        """Encode a frame, or with None what is held back; packets get frame numbers for time stamps."""
        with telling(self._path, "written"):
            for packet in self._stream.encode(frame):
                number = round(packet.pts * packet.time_base * self._coding.rate)
                packet.time_base = TICK
                packet.pts, packet.dts, packet.duration = number + LEAD, self._packets, 1
                self._packets += 1
                self._container.mux(packet)
