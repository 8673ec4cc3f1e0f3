"""PNG. The chunks beside the pixels are read and written here; 8-bit pixels go through Pillow, 16-bit through OpenCV.

Source: PNG specification, third edition (W3C).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

import numpy as np
from PIL import PngImagePlugin

from ..opencv import cv2
from . import exif as exif_block
from .decoded import Decoded, Header, from_pillow
from .formats import BadImage, check_size

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI")
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"tIME")
_KINDS = {0: "grey", 2: "rgb", 3: "palette", 4: "grey", 6: "rgb"}
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
XMP_KEY = b"XML:com.adobe.xmp\0"
_RAW_EXIF = (b"Raw profile type exif\0", b"Raw profile type APP1\0")  # EXIF before the eXIf chunk was defined
_MAX_INFLATED = 64 << 20  # of a compressed ICC profile or text, bytes
_BAND_BYTES = 1 << 20


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _chunks(fp: BinaryIO, *, pixels: bool) -> Iterator[tuple[bytes, bytes, bool]]:
    """(type, data, intact) of every chunk up to IEND; without pixels the data of IDAT is skipped and left empty."""
    fp.seek(len(SIGNATURE))
    while True:
        head = fp.read(8)
        if len(head) < 8:
            raise BadImage("the PNG file is truncated: its end is missing")
        size, kind = struct.unpack(">I4s", head)
        if size > 0x7FFFFFFF or not kind.isalpha():
            raise BadImage("the PNG file is damaged: a chunk header makes no sense")
        if kind == b"IDAT" and not pixels:
            fp.seek(size + 4, io.SEEK_CUR)
            yield kind, b"", True
            continue
        data = fp.read(size)
        check = fp.read(4)
        if len(data) < size or len(check) < 4:
            raise BadImage("the PNG file is truncated: its end is missing")
        yield kind, data, zlib.crc32(kind + data) == struct.unpack(">I", check)[0]
        if kind == b"IEND":
            return


def _image_header(kind: bytes, data: bytes) -> tuple[int, int, int, int, int]:
    """Width, height, bit depth, colour type, interlace method."""
    if kind != b"IHDR" or len(data) != 13:
        raise BadImage("the PNG file is damaged: it does not begin with its header")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", data)
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
        raise BadImage("the PNG file is damaged: its header makes no sense")
    check_size(width, height)
    return width, height, depth, colour, interlace


def _refuse_animation(kind: bytes, content: bytes) -> None:
    if kind == b"acTL" and len(content) == 8 and struct.unpack(">I", content[:4])[0] > 1:
        raise BadImage("it is an animation with several frames: extract the frames first")


def header(fp: BinaryIO) -> Header:
    """Size, depth and kind from the chunks; the pixels are skipped. Raises BadImage."""
    found: Header | None = None
    colour, exif = 0, None
    for kind, data, intact in _chunks(fp, pixels=False):
        if found is None:
            width, height, depth, colour, _ = _image_header(kind, data)
            found = Header(width, height, 16 if depth == 16 else 8, _KINDS[colour], colour in (4, 6))
        elif kind == b"tRNS":
            found.has_alpha = True
        elif kind == b"eXIf" and intact:
            exif = exif_block.bare(data)
        elif kind in (b"tEXt", b"zTXt") and data.startswith(_RAW_EXIF) and intact:
            exif = exif or _raw_exif(kind, data)
        else:
            _refuse_animation(kind, data)
    assert found is not None  # the loop raises when it finds no header
    if exif:
        try:
            found.orientation = exif_block.orientation(exif)
        except (ValueError, struct.error):
            pass
    return found


def decode(data: bytes) -> Decoded:
    """The whole picture. Raises BadImage for a truncated, damaged or animated file."""
    decoded = Decoded(np.empty(0))
    image = bytearray(SIGNATURE)
    stream: list[bytes] = []
    size: tuple[int, int, int, int, int] | None = None
    key = b""  # the colour that stands for transparent
    kept: list[tuple[bytes, bytes]] = []
    metadata = decoded.metadata
    for kind, content, intact in _chunks(io.BytesIO(data), pixels=True):
        if size is None:
            size = _image_header(kind, content)
        if not intact:
            if not kind[0] & 0x20:
                raise BadImage(
                    f"the PNG file is damaged: its {kind.decode('latin-1')} chunk has a wrong checksum"
                )
            decoded.notes.append(f"damaged {kind.decode('latin-1')} chunk dropped")
            continue
        _refuse_animation(kind, content)
        if kind == b"tRNS" and size[3] in (0, 2):
            key = content
        elif kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            image += chunk(kind, content)
            if kind == b"IDAT":
                stream.append(content)
        elif kind == b"eXIf":
            decoded.exif = exif_block.bare(content)
        elif kind == b"iCCP":
            icc = _profile(content)
            if icc is None:
                decoded.notes.append("unreadable colour profile dropped")
            metadata = replace(metadata, icc=icc)
        elif kind in (b"tEXt", b"zTXt") and content.startswith(_RAW_EXIF):
            decoded.exif = decoded.exif or _raw_exif(kind, content)
            if decoded.exif is None:
                decoded.notes.append("corrupt EXIF dropped")
        elif kind == b"pHYs" and len(content) == 9:
            across, down, unit = struct.unpack(">IIB", content)
            if unit == 1 and across and down:
                metadata = replace(metadata, dpi=(across * 0.0254, down * 0.0254))
            else:
                kept.append((kind, content))
        elif kind == b"iTXt" and content.startswith(XMP_KEY):
            metadata = replace(metadata, xmp=_xmp(content))
        elif kind in COLOUR_CHUNKS or kind in _TEXT_CHUNKS:
            kept.append((kind, content))
    if not stream or size is None:
        raise BadImage("the PNG file is damaged: it holds no pixels")
    decoded.metadata = replace(metadata, png_chunks=tuple(kept))
    if size[2] == 16:
        _check_stream(stream, _stream_bytes(*size[:2], 2 * _SAMPLES[size[3]], size[4]))
        _decode_16(bytes(image), size, decoded)
    else:
        with PngImagePlugin.PngImageFile(io.BytesIO(image)) as opened:
            opened.load()
            from_pillow(opened, decoded)
    if key and decoded.alpha is None:
        decoded.alpha = _keyed(decoded.pixels, key, size[2])
    return decoded


def _decode_16(image: bytes, size: tuple[int, int, int, int, int], decoded: Decoded) -> None:
    width, height, _, colour, _ = size
    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[:2] != (height, width):
        raise BadImage("the PNG file is damaged: its pixels cannot be decoded")
    if colour in (4, 6):
        decoded.alpha = np.ascontiguousarray(pixels[..., -1])
    if colour in (0, 4):
        decoded.pixels = np.ascontiguousarray(pixels if pixels.ndim == 2 else pixels[..., 0])
    else:
        decoded.pixels = np.ascontiguousarray(pixels[..., 2::-1])


def _keyed(pixels: np.ndarray, key: bytes, depth: int) -> np.ndarray | None:
    """Alpha of a picture, (H, W) or (H, W, 3), whose pixels of the key's colour are transparent."""
    channels = 1 if pixels.ndim == 2 else 3
    if len(key) < 2 * channels:
        return None
    white = np.iinfo(pixels.dtype).max
    colour = np.frombuffer(key, ">u2", channels) * (white // ((1 << depth) - 1))
    matching = (pixels.reshape(*pixels.shape[:2], channels) == colour).all(axis=2)
    return np.where(matching, 0, white).astype(pixels.dtype)


def _stream_bytes(width: int, height: int, pixel_bytes: int, interlace: int) -> int:
    passes = ((0, 0, 1, 1),)
    if interlace:
        passes = (
            (0, 0, 8, 8),
            (4, 0, 8, 8),
            (0, 4, 4, 8),
            (2, 0, 4, 4),
            (0, 2, 2, 4),
            (1, 0, 2, 2),
            (0, 1, 1, 2),
        )
    total = 0
    for x, y, dx, dy in passes:
        columns, rows = -(-(width - x) // dx), -(-(height - y) // dy)
        if columns > 0 and rows > 0:
            total += rows * (1 + columns * pixel_bytes)
    return total


def _check_stream(stream: list[bytes], expected: int) -> None:
    """Raise BadImage unless the compressed pixels inflate to the expected number of bytes."""
    inflate = zlib.decompressobj()
    size = 0
    try:
        for part in stream:
            while part:
                size += len(inflate.decompress(part, _BAND_BYTES))
                part = inflate.unconsumed_tail
        size += len(inflate.flush())
    except zlib.error as error:
        raise BadImage("the PNG file is damaged: its pixels cannot be decompressed") from error
    if size < expected or not inflate.eof:
        raise BadImage("the PNG file is truncated: some of its pixels are missing")


def _inflated(data: bytes) -> bytes | None:
    inflate = zlib.decompressobj()
    try:
        content = inflate.decompress(data, _MAX_INFLATED)
    except zlib.error:
        return None
    return content if inflate.eof else None


def _raw_exif(kind: bytes, content: bytes) -> bytes | None:
    """EXIF written as text: a name and a length on lines of their own, then hexadecimal digits."""
    text: bytes | None = content[len(_RAW_EXIF[0]) :]
    if kind == b"zTXt":
        text = _inflated(text[1:])
    lines = (text or b"").split()
    try:
        block = bytes.fromhex(b"".join(lines[2:]).decode("ascii"))
    except ValueError:
        return None
    return exif_block.bare(block) or None


def _profile(content: bytes) -> bytes | None:
    _, separator, rest = content.partition(b"\0")
    return _inflated(rest[1:]) if separator and rest[:1] == b"\0" else None


def _xmp(content: bytes) -> bytes | None:
    compressed, method = content[len(XMP_KEY) : len(XMP_KEY) + 2].ljust(2, b"\1")
    parts = content[len(XMP_KEY) + 2 :].split(b"\0", 2)
    if len(parts) < 3:
        return None
    return parts[2] if not compressed else _inflated(parts[2]) if not method else None
