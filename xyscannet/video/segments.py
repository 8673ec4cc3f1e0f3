"""How a clip is cut into segments, each restored by itself: here, later, or on another machine.

`plan_clip` gives the same plan for the same file and options everywhere. A segment is restored into a file of its own
(`xyscannet.inference.restore_segment`), and `join` makes the clip of them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from bisect import bisect_left
from dataclasses import asdict, dataclass

from ..errors import InputError
from ..files import shown
from . import decode
from .clip import ClipInfo, FrameIndex, probe, read_index

SHORTEST, LONGEST = 48, 240  # frames of a segment: from the first key frame after so many, cut at so many


@dataclass(frozen=True)
class ClipOptions:
    """What is restored of a clip, and how it is coded; see `choose_coding`.

    Attributes:
        codec: a codec or an encoder, by FFmpeg's name; by default the source's.
        crf: constant rate factor of x264, x265, VP8, VP9 and AV1; by default one that needs as many bits as the source.
        pixel_format: FFmpeg's name; by default the source's.
        start, end: seconds from the clip's first frame; frames shown from `start` on and before `end` are kept.
        deflicker: blend what is changed in consecutive frames, against flicker; see `deflicker`.
    """

    codec: str | None = None
    crf: float | None = None
    pixel_format: str | None = None
    start: float = 0.0
    end: float = math.inf
    deflicker: bool = False


@dataclass(frozen=True)
class Segment:
    """Consecutive frames of a clip.

    Attributes:
        number: from 0.
        first: number of its first frame in the whole clip.
        frames: how many.
    """

    number: int
    first: int
    frames: int


@dataclass(frozen=True)
class Clip:
    """A clip to restore: what it is, its frames, and the segments it is restored in."""

    info: ClipInfo
    index: FrameIndex
    options: ClipOptions
    segments: tuple[Segment, ...]

    @property
    def frames(self) -> int:
        """Number of frames that are restored."""
        return sum(segment.frames for segment in self.segments)

    @property
    def times(self) -> tuple[int, ...]:
        """Time stamps of the restored frames, in the source's ticks."""
        first = self.segments[0].first
        return self.index.times[first : first + self.frames]

    @property
    def cut(self) -> bool:
        """Whether only a part of the clip is restored; it then begins at time 0."""
        return self.frames < len(self.index.times)

    def fingerprint(self, *more: object) -> str:
        """A digest of the source (size, frames) and of all that decides what a segment's file holds; `more` is what
        the restoring adds. Segments of two fingerprints must not be joined."""
        facts = [asdict(self.options), os.path.getsize(self.info.path), self.index.times, self.index.sizes]
        text = json.dumps([*facts, [asdict(each) for each in self.segments], *more], default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def plan_clip(path: str | os.PathLike[str], options: ClipOptions | None = None) -> Clip:
    """Read a clip's packets (all of them, hardly any is decoded) and cut it into segments.

    Frames at the beginning that refer to ones before it, as where a broadcast was cut, are left out.

    Raises InputError for what `probe` and `read_index` refuse and where no frame lies between start and end.
    """
    options = options or ClipOptions()
    info = probe(path)
    index = read_index(info)
    if index.keys and index.keys[0] > 0 and (shown_first := decode.first_frame(info)) is not None:
        index = index.without(min(bisect_left(index.times, shown_first.pts), index.keys[0]))
    chosen = index.between(options.start, options.end, info.time_base)
    if not chosen:
        length = float((index.end - index.times[0]) * info.time_base)
        raise InputError(f"{shown(path)}: no frame between start and end: the clip lasts {length:.2f} s")
    cuts = _cuts(index, chosen)
    segments = [
        Segment(number, first, last - first)
        for number, (first, last) in enumerate(itertools.pairwise([*cuts, chosen.stop]))
    ]
    return Clip(info, index, options, tuple(segments))


def _cuts(index: FrameIndex, chosen: range) -> list[int]:
    """Where segments begin: at key frames where they come often enough, so that nothing is decoded twice."""
    cuts = [chosen.start]
    keys = [key for key in index.keys if key in chosen]
    for key in [*keys, chosen.stop]:
        while key - cuts[-1] > LONGEST:
            cuts.append(cuts[-1] + LONGEST)
        if key - cuts[-1] >= SHORTEST and chosen.stop - key >= SHORTEST // 2:
            cuts.append(key)
    return cuts
