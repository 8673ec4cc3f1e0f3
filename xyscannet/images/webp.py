"""WebP. Lossless stays lossless; lossy is written with quality 90 where none is given, as the file does not tell it.

OpenCV decodes: Pillow refuses pictures above a limit of its own, for which it has no switch but a global one.

Source: WebP container specification (Google) and RFC 9649.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

import numpy as np
from PIL import Image, WebPImagePlugin  # noqa: F401 - the plugin registers what encodes

from ..opencv import cv2
from . import exif as exif_block
from .decoded import Decoded, Header, profile_space
from .formats import BadImage, check_size
from .photo import Photo

DEFAULT_QUALITY = 90


def _chunks(fp: BinaryIO, *, pixels: bool) -> Iterator[tuple[bytes, bytes]]:
    """(type, data) of the chunks; without pixels only the first bytes of pixel chunks are read."""
    fp.seek(0, io.SEEK_END)
    length = fp.tell()
    fp.seek(4)
    end = struct.unpack("<I", fp.read(4))[0] + 8
    if length < end or end < 20:
        raise BadImage("the WebP file is truncated: its end is missing")
    at = 12
    while at + 8 <= end:
        fp.seek(at)
        kind, size = struct.unpack("<4sI", fp.read(8))
        if not kind.strip().isalnum():
            raise BadImage("the WebP file is truncated or damaged: a chunk header makes no sense")
        if at + 8 + size > end:
            raise BadImage("the WebP file is truncated: a chunk is cut off")
        brief = kind in (b"VP8 ", b"VP8L", b"ALPH", b"ANMF") and not pixels
        yield kind, fp.read(min(size, 16) if brief else size)
        at += 8 + size + size % 2


def header(fp: BinaryIO) -> Header:
    """Size, alpha and orientation from the chunk headers. Raises BadImage."""
    result: Header | None = None
    for kind, data in _chunks(fp, pixels=False):
        if result is None:
            result = _frame(kind, data)
            if result is not None:
                check_size(result.width, result.height)
        elif kind == b"EXIF":
            try:
                result.orientation = exif_block.orientation(exif_block.bare(data))
            except (ValueError, struct.error):
                pass
    if result is None:
        raise BadImage("the WebP file is damaged: it holds no pixels")
    return result


def _frame(kind: bytes, data: bytes) -> Header | None:
    if kind == b"VP8X" and len(data) >= 10:
        if data[0] & 0x02:
            raise BadImage("it is an animation with several frames: extract the frames first")
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (4, 7))
        return Header(width, height, 8, "rgb", bool(data[0] & 0x10))
    if kind == b"VP8L" and len(data) >= 5 and data[0] == 0x2F:
        bits = int.from_bytes(data[1:5], "little")
        return Header((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 8, "rgb", bool(bits >> 28 & 1))
    if kind == b"VP8 " and len(data) >= 10 and data[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", data[6:10])
        return Header(width & 0x3FFF, height & 0x3FFF, 8, "rgb", False)
    return None


def decode(data: bytes) -> Decoded:
    """The whole picture. Raises BadImage for a truncated, damaged or animated file."""
    found = header(io.BytesIO(data))
    chunks: dict[bytes, bytes] = {}
    for kind, content in _chunks(io.BytesIO(data), pixels=True):
        chunks.setdefault(kind, content)
    decoded = Decoded(np.empty(0))
    if b"EXIF" in chunks:
        decoded.exif = exif_block.bare(chunks[b"EXIF"])
    decoded.metadata = replace(
        decoded.metadata,
        icc=chunks.get(b"ICCP"),
        xmp=chunks.get(b"XMP "),
        webp_lossless=b"VP8L" in chunks,
    )
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim != 3 or pixels.shape[:2] != (found.height, found.width):
        raise BadImage("the WebP file is truncated or damaged: its pixels cannot be decoded")
    decoded.pixels = np.ascontiguousarray(pixels[..., 2::-1])
    if pixels.shape[2] == 4:
        decoded.alpha = np.ascontiguousarray(pixels[..., 3])
    return decoded


def encode(photo: Photo, quality: int | None) -> tuple[bytes, list[str]]:
    """The file's bytes and what could not be kept. The photograph has 8 bits."""
    metadata = photo.metadata
    options: dict = {"quality": DEFAULT_QUALITY if quality is None else quality}
    if metadata.webp_lossless and quality is None:
        options = {"lossless": True, "quality": 75, "exact": True}
    elif photo.alpha is not None:
        options["exact"] = True
    notes = ["WebP has no grey pictures: written as RGB"] if photo.grey else []
    icc = metadata.icc
    if icc is not None and profile_space(icc) != "RGB":
        icc = None
        notes.append("colour profile dropped: WebP allows only one for RGB")
    for name, block in (("exif", metadata.exif), ("icc_profile", icc), ("xmp", metadata.xmp)):
        if block is not None:
            options[name] = block
    pixels = photo.rgb if photo.alpha is None else np.dstack([photo.rgb, photo.alpha])
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "WEBP", **options)
    return buffer.getvalue(), notes
