"""JPEG, written: the pixels through Pillow, the segments beside them here."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image

from .jpeg import EXIF, ICC, JFIF, PHOTOSHOP, XMP, segment
from .photo import Photo

DEFAULT_QUALITY = 95
_MAX_SEGMENT = 65533
_LEAST_BUFFER = 65536  # bytes


def encode(photo: Photo, quality: int | None) -> tuple[bytes, list[str]]:
    """The file's bytes and what could not be kept. The photograph has 8 bits and no alpha."""
    metadata, notes = photo.metadata, []
    body = _encode_pixels(photo, quality, notes)
    first = 4 + struct.unpack(">H", body[4:6])[0] if body[2:4] == b"\xff\xe0" else 2
    across, down = (min(65535, max(1, round(v))) for v in metadata.dpi or (1, 1))
    jfif = JFIF + struct.pack(">BBBHHBB", 1, 1, 1 if metadata.dpi else 0, across, down, 0, 0)
    parts = [b"\xff\xd8", segment(0xE0, jfif)]
    for marker, lead, content, name in (
        (0xE1, EXIF, metadata.exif, "EXIF block"),
        (0xE1, XMP, metadata.xmp, "XMP block"),
    ):
        if content is not None and len(lead) + len(content) <= _MAX_SEGMENT:
            parts.append(segment(marker, lead + content))
        elif content is not None:
            notes.append(f"{name} dropped: it is larger than a JPEG file can hold")
    photoshop = _pieces(metadata.photoshop, _MAX_SEGMENT - len(PHOTOSHOP))
    parts += [segment(0xED, PHOTOSHOP + piece) for piece in photoshop]
    parts += _icc_segments(metadata.icc, notes)
    parts += [segment(0xFE, comment) for comment in metadata.comments]
    return b"".join([*parts, body[first:]]), notes


def _encode_pixels(photo: Photo, quality: int | None, notes: list[str]) -> bytes:
    coding = photo.metadata.jpeg
    options: dict = {"quality": DEFAULT_QUALITY if quality is None else quality, "subsampling": 0}
    if coding is not None:
        options["subsampling"] = coding.subsampling
        if quality is None:
            tables = coding.tables[:1] if photo.grey else coding.tables
            options["qtables"] = [list(table) for table in tables]
            del options["quality"]
    if photo.grey:
        del options["subsampling"]
    image = Image.fromarray(np.ascontiguousarray(photo.rgb[..., 0] if photo.grey else photo.rgb))
    body = _saved(image, options)
    if coding is None or not coding.progressive:
        return body
    if len(body) > 0.8 * max(_LEAST_BUFFER, photo.width * photo.height):
        # Pillow gives the progressive encoder a buffer of this size, which libjpeg must not run out of
        notes.append(
            "written as a baseline JPEG, not a progressive one: its compression is too light for that"
        )
        return body
    return _saved(image, {**options, "progressive": True})


def _saved(image: Image.Image, options: dict) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _icc_segments(icc: bytes | None, notes: list[str]) -> list[bytes]:
    pieces = _pieces(icc, _MAX_SEGMENT - len(ICC) - 2)
    if len(pieces) > 255:
        notes.append("colour profile dropped: it is larger than a JPEG file can hold")
        return []
    return [segment(0xE2, ICC + bytes([i, len(pieces)]) + piece) for i, piece in enumerate(pieces, 1)]


def _pieces(content: bytes | None, size: int) -> list[bytes]:
    content = content or b""
    return [content[i : i + size] for i in range(0, len(content), size)]
