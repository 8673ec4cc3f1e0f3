"""Clips: what they are, cutting them into segments, decoding and encoding these, joining them (PyAV, extra `video`)."""

from __future__ import annotations

from .clip import SUFFIXES, ClipInfo, FrameIndex, probe, read_index
from .coding import check_options, choose_coding
from .encode import Coding, SegmentWriter
from .join import join
from .segments import Clip, ClipOptions, Segment, plan_clip

__all__ = [
    "SUFFIXES",
    "Clip",
    "ClipInfo",
    "ClipOptions",
    "Coding",
    "FrameIndex",
    "Segment",
    "SegmentWriter",
    "check_options",
    "choose_coding",
    "join",
    "plan_clip",
    "probe",
    "read_index",
]
