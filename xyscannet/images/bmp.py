"""BMP. It is written with pixels and resolution alone."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from typing import BinaryIO

import numpy as np
from PIL import BmpImagePlugin, Image

from .decoded import Decoded, Header, from_pillow
from .formats import BadImage, check_size
from .photo import Photo


def _opened(fp: BinaryIO) -> BmpImagePlugin.BmpImageFile:
    fp.seek(0)
    try:
        opened = BmpImagePlugin.BmpImageFile(fp)
    except Exception as error:  # the plugin raises whatever its parsing runs into
        raise BadImage(f"the BMP file is damaged or of an unsupported kind ({error})") from error
    check_size(*opened.size)
    return opened


def header(fp: BinaryIO) -> Header:
    """Size and kind. Raises BadImage."""
    opened = _opened(fp)
    channels = {"1": "grey", "L": "grey", "P": "palette"}.get(opened.mode, "rgb")
    return Header(*opened.size, 8, channels, opened.mode == "RGBA")


def decode(data: bytes) -> Decoded:
    """The whole picture. Raises BadImage for a truncated or damaged file."""
    opened = _opened(io.BytesIO(data))
    decoded = Decoded(np.empty(0))
    dpi = opened.info.get("dpi")
    if dpi and dpi[0] > 0 and dpi[1] > 0:
        decoded.metadata = replace(decoded.metadata, dpi=(float(dpi[0]), float(dpi[1])))
    for kind, _, offset, arguments in opened.tile:  # before Pillow takes memory for what the header claims
        if kind == "raw" and offset + (opened.height - 1) * arguments[1] > len(data):
            raise BadImage("the BMP file is truncated")
    opened.load()
    decoded.metadata = replace(decoded.metadata, icc=_profile(data))
    return from_pillow(opened, decoded)


def _profile(data: bytes) -> bytes | None:
    """The colour profile that a version 5 header names; None where there is none in the file."""
    if len(data) < 138 or struct.unpack_from("<I4x", data, 14)[0] != 124 or data[70:74] != b"DEBM":
        return None
    offset, size = struct.unpack_from("<II", data, 126)
    held = data[14 + offset : 14 + offset + size]
    return held if size and len(held) == size else None


def encode(photo: Photo) -> tuple[bytes, list[str]]:
    """The file's bytes and what could not be kept. The photograph has 8 bits."""
    metadata = photo.metadata
    lost = [
        name
        for name, block in (
            ("EXIF", metadata.exif),
            ("XMP", metadata.xmp),
            ("colour profile", metadata.icc),
            ("IPTC", metadata.photoshop),
            ("comments", metadata.comments),
            ("PNG text and colour chunks", metadata.png_chunks),
        )
        if block
    ]
    notes = [f"BMP cannot hold {', '.join(lost)}: dropped"] if lost else []
    if photo.alpha is not None:
        if photo.grey:
            notes.append("BMP has no grey pictures with alpha: written as RGB with alpha")
        return _with_alpha(photo), notes
    buffer = io.BytesIO()
    options = {"dpi": metadata.dpi} if metadata.dpi else {}
    image = Image.fromarray(np.ascontiguousarray(photo.rgb[..., 0] if photo.grey else photo.rgb))
    image.save(buffer, "BMP", **options)
    return buffer.getvalue(), notes


def _with_alpha(photo: Photo) -> bytes:
    """A 32-bit BMP with the version 4 header, which names the alpha channel."""
    pixels = np.dstack([photo.rgb[..., ::-1], photo.alpha])[::-1].tobytes()
    per_metre = [round(value / 0.0254) for value in photo.metadata.dpi or (0, 0)]
    masks = (0x00FF0000, 0x0000FF00, 0x000000FF, 0xFF000000)
    info = struct.pack(
        "<IiiHHIIiiII", 108, photo.width, photo.height, 1, 32, 3, len(pixels), *per_metre, 0, 0
    )
    info += struct.pack("<4I4s", *masks, b"BGRs") + bytes(36 + 12)
    start = 14 + len(info)
    return struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start) + info + pixels
