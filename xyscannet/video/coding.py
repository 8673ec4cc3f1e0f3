"""Which encoder writes a clip, and how well: as its source is coded, unless its options say otherwise."""

from __future__ import annotations

import io
import itertools
import math
import os
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from ..errors import ConfigError, InputError
from ..files import shown
from . import decode, encode, hdr, pixels
from .clip import SUFFIXES
from .encode import Coding, configure, frame_of, tag_colour
from .pyav import load
from .segments import Clip, ClipOptions


@dataclass(frozen=True)
class _Encoder:
    """What is known of an encoder.

    Attributes:
        scale: how its quality is given; see `Coding`.
        fine: the quality for another codec than the source's: hardly any loss to the eye.
        limits: of the quality.
        octave: steps of the quality over which it needs half the bits, about.
        options: always given.
    """

    scale: str
    fine: float
    limits: tuple[float, float]
    octave: float = 6.0
    options: tuple[tuple[str, str], ...] = ()


_NAMES = {"h264": "libx264", "hevc": "libx265", "vp8": "libvpx", "vp9": "libvpx-vp9", "av1": "libsvtav1"}
_NAMES |= {"prores": "prores_ks", "flv1": "flv"}
_VPX = (("deadline", "good"), ("cpu-used", "4"))
_ENCODERS = {
    "libx264": _Encoder("crf", 17, (4, 34)),
    "libx264rgb": _Encoder("crf", 17, (4, 34)),
    "libx265": _Encoder("crf", 19, (4, 36), options=(("x265-params", "log-level=none"),)),
    "libvpx": _Encoder("crf", 8, (4, 50), 12, (*_VPX, ("b", "100M"))),
    "libvpx-vp9": _Encoder("crf", 20, (4, 50), 10, (*_VPX, ("b", "0"), ("row-mt", "1"))),
    "libsvtav1": _Encoder("crf", 22, (4, 50), 8),
    **{name: _Encoder("qscale", 2, (1, 31), 3) for name in ("mpeg4", "mpeg2video", "mpeg1video", "mjpeg")},
    **{name: _Encoder("qscale", 2, (1, 31), 3) for name in ("flv", "wmv1", "wmv2", "msmpeg4v3", "h263")},
}
_PRORES = {"Proxy": "0", "LT": "1", "Standard": "2", "HQ": "3", "4444": "4", "4444 XQ": "5"}
_X265_WIDTH = (
    64  # of frames; below, x265 writes past its memory where it follows blocks over time (seen up to 48)
)
_MOST_TICKS = 65535  # per second, of MPEG-4
_SAMPLE = 24  # frames that the source's quality is found on
_TRIALS = 4
_CLOSE = 0.05  # of the bits


def check_options(options: ClipOptions) -> None:
    """Raise ConfigError for options that suit no clip, UnavailableError where PyAV is missing."""
    if options.start >= options.end:
        raise ConfigError(f"the start, {options.start:g} s, is not before the end, {options.end:g} s")
    if options.codec is not None:
        encoder = _encoder(options.codec)
        if encoder is None:
            raise ConfigError(
                f"--codec {options.codec}: no such video encoder here (there are h264, hevc, vp9, av1, ffv1, ...)"
            )
        offered = _formats(encoder)
        if options.crf is not None and not _has_crf(encoder):
            raise ConfigError(f"--crf is for {_with_crf()}, not for {encoder.name}")
        if options.pixel_format is not None and offered and options.pixel_format not in offered:
            raise ConfigError(f"--pix-fmt {options.pixel_format}: {encoder.name} takes {', '.join(offered)}")
    if options.pixel_format is not None:
        try:
            load().VideoFormat(options.pixel_format)
        except ValueError:
            raise ConfigError(f"--pix-fmt {options.pixel_format}: no such pixel format") from None


def choose_coding(clip: Clip, output: str | os.PathLike[str]) -> Coding:
    """Decide how a clip is coded; once for all its segments.

    The codec, pixel format and distance of key frames are the source's, unless its options say otherwise. So is the
    quality: it is the one at which the encoder needs as many bits for some of the source's own frames as the source
    has spent on them.

    Raises InputError where the clip cannot be written so, or not into the output's container; ConfigError as
    `check_options`.
    """
    check_options(clip.options)
    info, options = clip.info, clip.options
    rgb = (info.codec, info.pixel_format, options.pixel_format) == ("h264", "gbrp", None)
    encoder = _encoder(options.codec or ("libx264rgb" if rgb else info.codec))
    if encoder is None:
        raise InputError(
            f"{shown(info.path)}: its codec, {info.codec}, can be read but not written: choose another by --codec "
            f"(ffv1 loses nothing)"
        )
    if options.crf is not None and not _has_crf(encoder):
        raise InputError(f"{shown(info.path)}: --crf is for {_with_crf()}, not for its {encoder.name}")
    known = _ENCODERS.get(encoder.name)
    more = dict(known.options) if known else {}
    if encoder.name == "libx265" and info.width < _X265_WIDTH:
        more["x265-params"] += ":cutree=0"
    if encoder.name == "prores_ks" and info.profile in _PRORES:
        more["profile"] = _PRORES[info.profile]
    if encoder.name == "dnxhd" and (info.profile or "").startswith("DNXHR"):
        more["profile"] = info.profile.lower().replace(" ", "_")
    pixel_format, notes = _pixel_format(encoder, clip)
    if encoder.name == "mjpeg" and options.pixel_format is None:  # which has full range only
        pixel_format = pixel_format.replace("yuv4", "yuvj4")
    colour = pixels.colour_in(pixel_format, info.pixel_format, info.colour, info.height)
    if count := clip.index.headless:
        which = "the first frame" if count == 1 else f"the first {count} frames"
        notes += (f"{which} left out: not to be decoded without what came before the clip",)
    layout = pixels.planar(load().VideoFormat(pixel_format))
    if encoder.name == "mjpeg" and info.codec != "mjpeg":  # nor has it another matrix
        layout, colour = replace(layout, matrix=pixels.JPEG_MATRIX), (*colour[:3], pixels.JPEG_MATRIX)
    first = decode.first_frame(info)
    interlaced = first is not None and first.interlaced_frame
    fields = encode.NONE
    if interlaced and hasattr(load().VideoCodecContext, "field_order"):  # PyAV from 18.1 on
        fields = encode.TOP_FIRST if decode.shows_top_first(first) else encode.BOTTOM_FIRST
    by_field = interlaced and info.height % (2 * layout.down) == 0
    if by_field:
        notes += ("interlaced: each field is restored by itself, which takes twice the time",)
    metadata = None if first is None or info.colour[2] != hdr.PQ else hdr.of_frame(first)
    if metadata is not None:
        added = metadata.options(encoder.name)
        if added is None:
            notes += (
                f"HDR10's metadata of display and brightness left out: {encoder.name} does not write them",
            )
        more |= {
            name: ":".join(filter(None, (more.get(name), value))) for name, value in (added or {}).items()
        }
    coding = Coding(
        container=SUFFIXES[os.path.splitext(output)[1].lower()],
        encoder=encoder.name,
        codec=encoder.canonical_name,
        pixel_format=pixel_format,
        layout=layout,
        colour=colour,
        rate=_rate(encoder, info.rate),
        gop=_gop(clip),
        fields=fields,
        by_field=by_field,
        options=more,
        notes=notes,
    )
    if known is not None:
        quality = known.fine if options.crf is None else options.crf
        coding = replace(coding, scale=known.scale, quality=quality)
    _try(clip, coding)
    if known is not None and options.crf is None and coding.codec == info.codec:
        coding = replace(coding, quality=_as_source(clip, coding, known))
    return coding


def _encoder(name: str) -> Any:
    """The encoder for a codec's name, or of this name; None where there is none.

    Nor for raw video: its pixel format is told by the container's tag alone, which not every container keeps.
    """
    av = load()
    if name == "rawvideo":
        return None
    try:
        encoder = av.codec.Codec(_NAMES.get(name, name), "w")
    except (av.error.FFmpegError, ValueError):
        return None
    return encoder if encoder.type == "video" else None


def _has_crf(encoder: Any) -> bool:
    return encoder.name in _ENCODERS and _ENCODERS[encoder.name].scale == "crf"


def _with_crf() -> str:
    return ", ".join(name for name, encoder in _ENCODERS.items() if encoder.scale == "crf")


def _formats(encoder: Any) -> list[str]:
    """The pixel formats that an encoder takes; none where it takes any."""
    return [each.name for each in encoder.video_formats or ()]


def _pixel_format(encoder: Any, clip: Clip) -> tuple[str, tuple[str, ...]]:
    """The format that was asked for, else the source's, else the encoder's nearest; and a note on that."""
    offered, asked, source = _formats(encoder), clip.options.pixel_format, clip.info.pixel_format
    if asked is not None:
        if offered and asked not in offered:
            raise InputError(
                f"{shown(clip.info.path)}: --pix-fmt {asked}: its {encoder.name} takes {', '.join(offered)}"
            )
        return asked, ()
    if source in offered:
        return source, ()
    wanted = pixels.planar(load().VideoFormat(source))
    if not offered or wanted.name in offered:
        return wanted.name, ()

    def loss(name: str) -> tuple:
        found = pixels.planar(load().VideoFormat(name))
        return (
            found.bits < wanted.bits,
            wanted.alpha and not found.alpha,
            found.across > wanted.across or found.down > wanted.down,
            found.kind != wanted.kind,
            abs(found.bits - wanted.bits),
            wanted.across + wanted.down - found.across - found.down,
        )

    nearest = min(offered, key=loss)
    if pixels.planar(load().VideoFormat(nearest)) == wanted:  # the same samples in other places
        return nearest, ()
    return nearest, (f"pixel format {source} becomes {nearest}: {encoder.name} has none that is nearer",)


def _rate(encoder: Any, rate: Fraction) -> Fraction:
    """The source's frame rate, or the nearest that a codec knows."""
    known = [Fraction(each.numerator, each.denominator) for each in encoder.frame_rates or ()]
    if encoder.name == "mpeg4":
        return 1 / (1 / rate).limit_denominator(_MOST_TICKS)
    return min(known, key=lambda each: abs(each - rate)) if known else rate


def _gop(clip: Clip) -> int:
    """The source's largest distance between key frames."""
    keys = [*clip.index.keys, len(clip.index.times)]
    return max((after - before for before, after in itertools.pairwise(keys)), default=250)


def _try(clip: Clip, coding: Coding) -> None:
    """Open the encoder, and look whether the container keeps a frame that it codes, before any work."""
    av = load()
    trial = io.BytesIO()
    unheld = InputError(
        f"{shown(clip.info.path)}: {coding.container} does not hold {coding.codec}: choose another --codec"
    )
    with av.open(trial, "w", format=coding.container) as container:
        try:
            stream = container.add_stream(coding.encoder, rate=coding.rate)
        except ValueError:
            raise unheld from None
        configure(stream.codec_context, clip, coding)
        stream.time_base = clip.info.time_base  # as the clip's
        try:
            stream.codec_context.open()
        except av.error.FFmpegError as error:
            size = f"{clip.info.width}x{clip.info.height}"
            raise InputError(
                f"{shown(clip.info.path)}: {coding.encoder} cannot write {size} in {coding.pixel_format}: choose "
                f"another --codec or --pix-fmt"
            ) from error
        frame = load().VideoFrame(clip.info.width, clip.info.height, coding.pixel_format)
        tag_colour(frame, coding)
        frame.pts, frame.time_base = 0, 1 / coding.rate
        try:
            container.mux([*stream.encode(frame), *stream.encode(None)])
            container.close()
        except av.error.FFmpegError as error:
            raise InputError(
                f"{shown(clip.info.path)}: {coding.container} does not take its {coding.codec}: choose another --codec "
                f"or another suffix of the output"
            ) from error
    if _codec_in(trial) != coding.codec:
        raise unheld


def _codec_in(file: io.BytesIO) -> str | None:
    """The codec of the video in a file, as far as it can be told."""
    av = load()
    file.seek(0)
    try:
        with av.open(file) as container:
            context = next((stream.codec_context for stream in container.streams.video), None)
            return None if context is None else context.codec.canonical_name
    except av.error.FFmpegError:
        return None


def _as_source(clip: Clip, coding: Coding, encoder: _Encoder) -> float:
    """The quality at which the encoder spends on frames from the clip's middle what the source spent on them."""
    index = clip.index
    middle = clip.segments[0].first + clip.frames // 2
    key = index.key_before(middle)
    first = index.keys[key] if key >= 0 else 0
    count = min(_SAMPLE, len(index.times) - first)
    sample = [
        [plane.copy() for plane in pixels.to_planes(frame, coding.layout)]
        for frame in decode.frames(clip.info, index, first, count)
    ]
    target = math.log2(sum(index.sizes[first : first + count]))
    low, high = encoder.limits
    quality, octave, before = encoder.fine, encoder.octave, None
    for _ in range(_TRIALS):
        bits = math.log2(_bytes(sample, clip, replace(coding, quality=quality)))
        if before is not None and before[0] != quality and bits < before[1] != (quality < before[0]):
            octave = min(
                max((quality - before[0]) / (before[1] - bits), encoder.octave / 2), encoder.octave * 2
            )
        before = quality, bits
        if abs(bits - target) < _CLOSE:
            break
        quality = round(min(max(quality + (bits - target) * octave, low), high), 1)
        if quality == before[0]:
            break
    return quality


def _bytes(sample: list[list], clip: Clip, coding: Coding) -> int:
    """What the encoder makes of frames, in bytes."""
    context = load().codec.CodecContext.create(coding.encoder, "w")
    configure(context, clip, coding)
    total = 0
    for number, planes in enumerate(sample):
        total += sum(packet.size for packet in context.encode(frame_of(planes, number, coding)))
    return max(total + sum(packet.size for packet in context.encode(None)), 1)
