"""H.264 in which each field of a frame is a picture of its own, as of camcorders and television; x264 makes none."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import numpy as np

HEIGHT, WIDTH = 32, 16  # of a frame: one macroblock in each field
_GREY = bytes([128]) * 128  # chroma of a macroblock


def write(path: Path, frames: np.ndarray, rate: Fraction) -> Path:
    """Write luma (count, HEIGHT, WIDTH), uint8 above 3, as a transport stream of uncompressed fields."""
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_mux_stream("h264", width=WIDTH, height=HEIGHT)
        for number, frame in enumerate(frames):
            fields = (_field(frame[bottom::2], number, bottom) for bottom in (0, 1))
            packet = av.Packet(_headers(rate) + b"".join(fields))
            packet.stream, packet.time_base, packet.is_keyframe = stream, 1 / rate, True
            packet.pts = packet.dts = number + 10
            out.mux(packet)
    return path


def _headers(rate: Fraction) -> bytes:
    """The parameter sets: main profile, level 3, one macroblock in a field, two fields in a frame's time."""
    timing = f"{rate.denominator:032b}{2 * rate.numerator:032b}"
    sequence = f"{77:08b}{0:08b}{30:08b}{_codes(0, 0, 0, 4, 1)}0{_codes(0, 0)}0010100001{timing}100100"
    picture = f"{_codes(0, 0)}00{_codes(0, 0, 0)}000{_codes(0, 0, 0)}100"
    return _unit(9, "000") + _unit(0x67, sequence) + _unit(0x68, picture)


def _field(luma: np.ndarray, number: int, bottom: int) -> bytes:
    """A field, intra coded; decoding begins anew with the top one."""
    order = f"{bottom:08b}"
    refreshed = f"{order}0" if bottom else f"{_codes(number % 2)}{order}00"
    header = f"{_codes(0, 7, 0)}00001{bottom}{refreshed}{_codes(0, 1, 25)}"
    return _unit(0x61 if bottom else 0x65, header, luma.tobytes() + _GREY + b"\x80")


def _codes(*numbers: int) -> str:
    """Exp-Golomb codes, as bits."""
    return "".join(f"{number + 1:0{2 * (number + 1).bit_length() - 1}b}" for number in numbers)


def _unit(kind: int, bits: str, samples: bytes = b"") -> bytes:
    bits += "" if samples else "1"
    bits += "0" * (-len(bits) % 8)
    body = int(bits, 2).to_bytes(len(bits) // 8, "big") + samples
    return b"\0\0\0\1" + bytes([kind]) + re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", body)
