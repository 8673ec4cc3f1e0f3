"""From restored segments to the clip: their packets under the source's time stamps, beside all that the source has."""

from __future__ import annotations

import heapq
import io
import math
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import replacing, shown
from .clip import ClipInfo, is_cover, probe, video_stream
from .decode import display_matrix
from .encode import TICK, Coding, tag_colour
from .pixels import FULL_RANGE, is_rgb, matrix_of
from .pyav import keeping_bytes, load, opened, telling
from .segments import Clip

_TIMED_PACKETS = (".m2ts", ".mts")  # of MPEG-TS, each with its time before it, as Blu-ray and AVCHD have them
_PICTURES = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}
_HDR = (16, 18)  # numbers of the transfer functions in ITU-T H.273: PQ, HLG
_TELLING_TAGS = ("prores", "utvideo", "magicyuv")  # of codecs that tell the profile or the pixel format by it
_OWN_KEYS = ("com.apple.", "com.android.")  # of metadata that MP4 keeps only where it is asked to
_CONTAINERS_KEYS = (
    "major_brand",
    "minor_version",
    "compatible_brands",
    "encoder",
)  # of the source's own kind
_NEEDED_KEYS = ("language", "filename", "mimetype")  # of streams' metadata, by players


def join(
    clip: Clip, coding: Coding, files: Sequence[Path], output: Path, *, strip_metadata: bool = False
) -> tuple[str, ...]:
    """Make the clip of its restored segments, in one step.

    Time stamps, audio, subtitles, data, attachments, chapters, metadata and rotation are the source's; packets of other
    streams are copied byte for byte. Where only a part of the clip was restored, it begins at time 0, and packets of
    other streams are kept whole where they begin in that part.

    Args:
        strip_metadata: leave out metadata, titles of chapters, cover pictures and streams of data, but languages and
            names of attachments.

    Returns:
        notes on what the output's container could not hold.

    Raises InputError where frames are missing or the output cannot be written.
    """
    places = _places(clip, files)
    with replacing(output, parents=True) as temporary, opened(clip.info.path) as source:
        with telling(output, "written"):
            timed = output.suffix.lower() in _TIMED_PACKETS
            joined = _Joined(clip, coding, source, temporary, strip_metadata, timed)
            joined.write(files, places)
        _check(clip, temporary, output)
        joined.compare(temporary)
    return tuple(dict.fromkeys(joined.notes))


def _places(clip: Clip, files: Sequence[Path]) -> list[list[int]]:
    """Of each segment, the frames in the order they are coded; every one is seen to be there once."""
    found = []
    for segment, file in zip(clip.segments, files, strict=True):
        with opened(file) as container:
            packets = container.demux(video=0)
            ticks = [round(packet.pts * packet.time_base / TICK) for packet in packets if packet.size]
        places = [tick - min(ticks) for tick in ticks]  # containers differ in where they begin
        if sorted(places) != list(range(segment.frames)):
            raise InputError(
                f"{shown(file)}: holds {len(places)} frames where {segment.frames} belong: delete it and run again"
            )
        found.append(places)
    return found


class _Joined:
    def __init__(self, clip: Clip, coding: Coding, source: Any, path: Path, strip: bool, timed: bool) -> None:
        self._clip, self._coding, self._source, self._strip = clip, coding, source, strip
        self._format = format = coding.container
        self.notes: list[str] = []
        self._base = clip.info.time_base
        options = {"mpegts_m2ts_mode": "1"} if timed else {}
        if format in ("mp4", "mov", "3gp"):
            options["video_track_timescale"] = str(self._base.denominator)
            if any(key.startswith(_OWN_KEYS) for key in source.metadata):
                options["movflags"] = "use_metadata_tags"
        self._out = load().open(
            os.fspath(path), "w", format=format, container_options=options, **keeping_bytes()
        )
        times = clip.times
        self._shift = times[0] * self._base if clip.cut else Fraction(0)  # seconds
        self._until = (
            clip.index.times[clip.segments[0].first + clip.frames]
            if clip.segments[0].first + clip.frames < len(clip.index.times)
            else None
        )

    def write(self, files: Sequence[Path], places: Sequence[Sequence[int]]) -> None:
        with self._out as out:
            copied = self._streams(files[0])
            self._kept = self._chapters()
            out.set_chapters(self._kept)
            out.metadata.update({} if self._strip else self._kept_of(self._source))
            ordered = heapq.merge(
                self._video(files, places),
                self._others(copied),
                key=lambda packet: (packet.dts if packet.dts is not None else packet.pts) * packet.time_base,
            )
            for packet in ordered:
                out.mux(packet)

    def compare(self, path: Path) -> None:
        """Note what of the colours, the rotation, the chapters and the metadata is not in the file."""
        lost, found = [], probe(path)
        if _shown_as(self._coding.colour, found) != _shown_as(found.colour, found):
            lost.append("colour tags")
        if display_matrix(self._clip.info) is not None and display_matrix(found) is None:
            lost.append("rotation")
        with opened(path) as container:
            if len(container.chapters()) < len(self._kept):
                lost.append("chapters")
            there = {key.lower() for key in (*container.metadata, *_CONTAINERS_KEYS)}
            lost += [f"metadata {key}" for key in self._out.metadata if key.lower() not in there]
        self.notes += [f"{what} left out: {self._format} does not hold it" for what in lost]

    def _streams(self, first: Path) -> dict[int, Any]:
        """Add the streams in the source's order; those that are copied, by their index in the source."""
        copied = {}
        with opened(first) as segment:
            for stream in self._source.streams:
                if stream.index == self._clip.info.stream:
                    self._out_video = self._add_video(segment.streams.video[0])
                    self._like(stream, self._out_video)
                elif self._left_out(stream):
                    continue
                elif is_cover(stream) and self._format != "mp4":
                    self._attach(stream)
                elif self._holds(stream):
                    new = self._out.add_stream_from_template(stream, opaque=True)
                    self._like(stream, new)
                    if stream.type != "attachment":
                        copied[stream.index] = new
                elif not (
                    stream.type == "data" and self._source.chapters()
                ):  # QuickTime's titles of chapters
                    self.notes.append(
                        f"{stream.type} stream {stream.index} left out: {self._format} does not hold it"
                    )
        return copied

    def _left_out(self, stream: Any) -> bool:
        """Whether a stream is stripped, or is a time code, which QuickTime's containers make anew of the metadata."""
        if self._strip and (stream.type == "data" or is_cover(stream)):
            return True
        return stream.type == "data" and self._format in ("mov", "mp4") and "timecode" in stream.metadata

    def _attach(self, cover: Any) -> None:
        """Keep a cover picture as Matroska does, in an attached file; no other container but MP4 has any."""
        name, kind = _PICTURES.get(cover.codec_context.name, ("", ""))
        if self._format != "matroska" or not name:
            self.notes.append(f"cover picture left out: {self._format} does not hold it")
            return
        with opened(self._clip.info.path) as source:
            picture = next(packet for packet in source.demux(source.streams[cover.index]) if packet.size)
            self._out.add_attachment(cover.metadata.get("filename", name), kind, bytes(picture))

    def _add_video(self, template: Any) -> Any:
        info = self._clip.info
        stream = self._out.add_stream_from_template(template, opaque=True)
        context = stream.codec_context
        context.framerate = info.rate
        tag_colour(context, self._coding)
        if info.aspect:
            context.sample_aspect_ratio = info.aspect
        if self._coding.codec in _TELLING_TAGS:
            context.codec_tag = template.codec_context.codec_tag
        if self._coding.codec == "hevc" and self._format in ("mp4", "mov"):
            context.codec_tag = "hvc1"  # the one that Apple's players take
        stream.time_base = self._base if self._format != "avi" else self._even_ticks()
        matrix = display_matrix(info)
        if matrix is not None:
            stream.set_display_matrix(matrix)
        return stream

    def _even_ticks(self) -> Fraction:
        """A frame's time where frames come evenly, else the source's tick: AVI has an empty frame for each between."""
        rate = self._clip.info.rate
        places = [(time * self._base - self._shift) * rate + Fraction(1, 2) for time in self._clip.times]
        even = all(
            math.floor(place) == math.floor(places[0]) + i and abs(place - places[0] - i) <= self._base * rate
            for i, place in enumerate(places)
        )
        return 1 / rate if even else self._base

    def _like(self, stream: Any, new: Any) -> None:
        new.metadata.update(self._kept_of(stream))
        new.disposition = stream.disposition

    def _kept_of(self, source: Any) -> dict[str, str]:
        """The metadata of the clip or a stream that is not stripped; a part has not the time code of the beginning."""
        kept = {
            key: source.metadata[key] for key in source.metadata if not self._strip or key in _NEEDED_KEYS
        }
        if self._clip.segments[0].first > 0:
            for key in [key for key in kept if key.lower() == "timecode"]:
                del kept[key]
                self.notes.append("time code left out: it is that of the whole clip's beginning")
        return kept

    def _holds(self, stream: Any) -> bool:
        """Whether the output's container takes a copy of a stream, seen by trying."""
        av = load()
        if stream.type == "data" and self._format in ("avi", "asf"):  # which take it for something else
            return False
        try:
            with av.open(io.BytesIO(), "w", format=self._format, **keeping_bytes()) as trial:
                if stream.type == "attachment":  # a container of nothing else is refused
                    trial.add_stream_from_template(self._source.streams[self._clip.info.stream], opaque=True)
                self._like(stream, trial.add_stream_from_template(stream, opaque=True))
                trial.start_encoding()
        except (av.error.FFmpegError, ValueError):
            return False
        return True

    def _video(self, files: Sequence[Path], places: Sequence[Sequence[int]]) -> Iterator[Any]:
        """The segments' packets under their frames' own time stamps, decoded as far ahead as any is coded."""
        times = self._clip.times
        shift = times[0] if self._clip.cut else 0
        step = times[1] - times[0] if len(times) > 1 else 1
        reorder = max(i - place for each in places for i, place in enumerate(each))
        early = [times[0] - step * i for i in range(reorder, 0, -1)]
        last = self._clip.index.end if self._until is None else self._until
        done = 0
        for file, within in zip(files, places):
            first = done
            with opened(file) as container:
                packets = (packet for packet in container.demux(video=0) if packet.size)
                for packet, place in zip(packets, within, strict=True):
                    after = times[first + place + 1] if first + place + 1 < len(times) else last
                    packet.time_base = self._base
                    packet.pts = times[first + place] - shift
                    packet.dts = (early[done] if done < reorder else times[done - reorder]) - shift
                    packet.duration = after - times[first + place]
                    packet.stream = self._out_video
                    done += 1
                    yield packet

    def _others(self, copied: dict[int, Any]) -> Iterator[Any]:
        """The packets of the other streams, as they are in the source."""
        streams = [self._source.streams[index] for index in copied]
        until = None if self._until is None else self._until * self._base
        with telling(self._clip.info.path, "read"):
            packets = iter(self._source.demux(streams)) if streams else iter(())
        while True:
            with telling(self._clip.info.path, "read"):
                packet = next(packets, None)
            if packet is None:
                return
            cover = is_cover(packet.stream)
            if cover:
                packet.pts = packet.dts = 0
            if packet.size == 0 or (packet.pts is None and packet.dts is None):
                continue
            cut = self._clip.cut and not cover
            time = (packet.dts if packet.pts is None else packet.pts) * packet.time_base
            if cut and (time < self._shift or (until is not None and time >= until)):
                continue
            if cut:
                ticks = round(self._shift / packet.time_base)
                packet.pts = None if packet.pts is None else packet.pts - ticks
                packet.dts = None if packet.dts is None else packet.dts - ticks
            packet.stream = copied[packet.stream.index]
            yield packet

    def _chapters(self) -> list[dict[str, Any]]:
        chapters = self._source.chapters()
        if self._strip:
            chapters = [{**chapter, "metadata": {}} for chapter in chapters]
        if not self._clip.cut:
            return chapters
        end = (self._clip.index.end if self._until is None else self._until) * self._base - self._shift
        kept = []
        for chapter in chapters:
            base = chapter["time_base"]
            start, stop = (chapter[side] * base - self._shift for side in ("start", "end"))
            if stop > 0 and start < end:
                kept.append(
                    {**chapter, "start": round(max(start, 0) / base), "end": round(min(stop, end) / base)}
                )
        return kept


def _shown_as(colour: tuple[int, ...], info: ClipInfo) -> tuple[object, ...]:
    """What players take from tags of colour: the range and matrix of YUV, and whether it is HDR."""
    if is_rgb(info.pixel_format):
        return ()
    return colour[0] == FULL_RANGE, matrix_of(colour[3], info.height), colour[2] in _HDR


def _check(clip: Clip, path: Path, output: Path) -> None:
    """Count the frames that were written."""
    with opened(path) as container:
        count = sum(1 for packet in container.demux(video_stream(container)) if packet.size)
    if count != clip.frames:
        raise InputError(f"{shown(output)}: {count} frames were written of {clip.frames}")
