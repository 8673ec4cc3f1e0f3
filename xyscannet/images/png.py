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

import cv2
import numpy as np
from PIL import Image, PngImagePlugin

from . import exif as exif_block
from .decoded import Decoded, Header, from_pillow, profile_space
from .formats import BadImage, check_size
from .photo import Photo

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KEPT_COLOUR = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI")
_KEPT_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"tIME")
_KINDS = {0: "grey", 2: "rgb", 3: "palette", 4: "grey", 6: "rgb"}
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_XMP_KEY = b"XML:com.adobe.xmp\0"
_MAX_INFLATED = 64 << 20  # of a compressed ICC profile or text, bytes
_BAND_BYTES = 1 << 20


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


def header(fp: BinaryIO) -> Header:
    """Size, depth and kind from the chunks; the pixels are skipped. Raises BadImage."""
    found: Header | None = None
    colour = 0
    for kind, data, _ in _chunks(fp, pixels=False):
        if found is None:
            width, height, depth, colour, _ = _image_header(kind, data)
            found = Header(width, height, 16 if depth == 16 else 8, _KINDS[colour], colour in (4, 6))
        elif kind == b"tRNS":
            found.has_alpha = True
        elif kind == b"eXIf":
            try:
                found.orientation = exif_block.orientation(data)
            except (ValueError, struct.error):
                pass
    assert found is not None  # the loop raises when it finds no header
    return found


def decode(data: bytes) -> Decoded:
    """The whole picture. Raises BadImage for a truncated, damaged or animated file."""
    decoded = Decoded(np.empty(0))
    image = bytearray(SIGNATURE)
    stream: list[bytes] = []
    size: tuple[int, int, int, int, int] | None = None
    transparency: bytes | None = None
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
        if kind == b"acTL" and len(content) == 8 and struct.unpack(">I", content[:4])[0] > 1:
            raise BadImage("it is an animation with several frames: extract the frames first")
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            image += _chunk(kind, content)
            if kind == b"IDAT":
                stream.append(content)
            elif kind == b"tRNS":
                transparency = content
        elif kind == b"eXIf":
            decoded.exif = content
        elif kind == b"iCCP":
            icc = _profile(content)
            if icc is None:
                decoded.notes.append("unreadable colour profile dropped")
            metadata = replace(metadata, icc=icc)
        elif kind == b"pHYs" and len(content) == 9:
            across, down, unit = struct.unpack(">IIB", content)
            if unit == 1 and across and down:
                metadata = replace(metadata, dpi=(across * 0.0254, down * 0.0254))
            else:
                kept.append((kind, content))
        elif kind == b"iTXt" and content.startswith(_XMP_KEY):
            metadata = replace(metadata, xmp=_xmp(content))
        elif kind in _KEPT_COLOUR or kind in _KEPT_TEXT:
            kept.append((kind, content))
    if not stream or size is None:
        raise BadImage("the PNG file is damaged: it holds no pixels")
    decoded.metadata = replace(metadata, png_chunks=tuple(kept))
    if size[2] == 16:
        _decode_16(bytes(image), stream, size, transparency, decoded)
        return decoded
    with PngImagePlugin.PngImageFile(io.BytesIO(image)) as opened:
        opened.load()
        return from_pillow(opened, decoded)


def _decode_16(
    image: bytes,
    stream: list[bytes],
    size: tuple[int, int, int, int, int],
    key: bytes | None,
    decoded: Decoded,
) -> None:
    width, height, _, colour, interlace = size
    _check_stream(stream, _stream_bytes(width, height, 2 * _SAMPLES[colour], interlace))
    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[:2] != (height, width):
        raise BadImage("the PNG file is damaged: its pixels cannot be decoded")
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        decoded.alpha = np.ascontiguousarray(pixels[..., -1])
    if colour in (0, 4):
        grey = pixels if pixels.ndim == 2 else pixels[..., 0]
        decoded.pixels = np.ascontiguousarray(grey)
    else:
        decoded.pixels = np.ascontiguousarray(pixels[..., 2::-1])
    if colour == 0 and key is not None and len(key) >= 2:
        decoded.alpha = _keyed(decoded.pixels[..., None], struct.unpack(">H", key[:2]))
    elif colour == 2 and key is not None and len(key) >= 6:
        decoded.alpha = _keyed(decoded.pixels, struct.unpack(">3H", key[:6]))
    elif colour in (0, 2):
        decoded.alpha = None


def _keyed(pixels: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
    """Alpha of a picture whose pixels of one colour are transparent."""
    return np.where((pixels == np.array(key, np.uint16)).all(axis=2), np.uint16(0), np.uint16(65535))


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


def _profile(content: bytes) -> bytes | None:
    _, separator, rest = content.partition(b"\0")
    return _inflated(rest[1:]) if separator and rest[:1] == b"\0" else None


def _xmp(content: bytes) -> bytes | None:
    compressed, method = content[len(_XMP_KEY) : len(_XMP_KEY) + 2].ljust(2, b"\1")
    parts = content[len(_XMP_KEY) + 2 :].split(b"\0", 2)
    if len(parts) < 3:
        return None
    return parts[2] if not compressed else _inflated(parts[2]) if not method else None


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def encode(photo: Photo) -> tuple[bytes, list[str]]:
    """The file's bytes and what could not be kept."""
    planes = [photo.rgb[..., :1]] if photo.grey else [photo.rgb]
    if photo.alpha is not None:
        planes.append(photo.alpha[..., None])
    samples = np.concatenate(planes, axis=2) if len(planes) > 1 else planes[0]  # (H, W, samples)
    if photo.bit_depth == 16:
        body = _encode_16(samples)
    else:
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(samples if samples.shape[2] > 1 else samples[..., 0])).save(
            buffer, "PNG"
        )
        body = buffer.getvalue()
    first = len(SIGNATURE) + 25  # signature and header
    before, after, notes = _metadata_chunks(photo)
    return b"".join([body[:first], before, body[first:-12], after, body[-12:]]), notes


def _encode_16(samples: np.ndarray) -> bytes:
    """A 16-bit PNG of (H, W, 1 to 4) samples: each row filtered in the way that leaves the smallest values."""
    height, width, count = samples.shape
    step, row_bytes = 2 * count, 2 * count * width
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[count]
    deflate = zlib.compressobj(6, zlib.DEFLATED, 15, 9, zlib.Z_FILTERED)
    parts = []
    band = max(1, _BAND_BYTES // row_bytes)
    above = np.zeros((1, row_bytes), np.uint8)
    for top in range(0, height, band):
        rows = samples[top : top + band].astype(">u2").view(np.uint8).reshape(-1, row_bytes)
        upper = np.concatenate([above, rows[:-1]])
        left, upper_left = np.zeros_like(rows), np.zeros_like(rows)
        left[:, step:], upper_left[:, step:] = rows[:, :-step], upper[:, :-step]
        candidates = np.stack([rows, rows - left, rows - upper, rows - _paeth(left, upper, upper_left)])
        best = np.abs(candidates.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64).argmin(axis=0)
        filtered = np.empty((len(rows), 1 + row_bytes), np.uint8)
        filtered[:, 0] = np.array([0, 1, 2, 4], np.uint8)[best]
        filtered[:, 1:] = candidates[best, np.arange(len(rows))]
        parts.append(deflate.compress(filtered.tobytes()))
        above = rows[-1:]
    parts.append(deflate.flush())
    ihdr = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    stream = b"".join(parts)
    pieces = [_chunk(b"IDAT", stream[i : i + _BAND_BYTES]) for i in range(0, len(stream), _BAND_BYTES)]
    return b"".join([SIGNATURE, ihdr, *pieces, _chunk(b"IEND", b"")])


def _paeth(left: np.ndarray, upper: np.ndarray, upper_left: np.ndarray) -> np.ndarray:
    a, b, c = (x.astype(np.int16) for x in (left, upper, upper_left))
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    return np.where((to_a <= to_b) & (to_a <= to_c), left, np.where(to_b <= to_c, upper, upper_left))


def _metadata_chunks(photo: Photo) -> tuple[bytes, bytes, list[str]]:
    """Chunks that stand before the pixels, chunks behind them, and what could not be kept."""
    metadata, notes = photo.metadata, []
    before = []
    if metadata.icc is not None:
        if profile_space(metadata.icc) == ("GRAY" if photo.grey else "RGB"):
            before.append(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc)))
        else:
            notes.append("colour profile dropped: PNG allows only one that fits the picture's channels")
    before += [_chunk(kind, content) for kind, content in metadata.png_chunks]
    if metadata.dpi is not None:
        across, down = (max(1, round(value / 0.0254)) for value in metadata.dpi)
        before.append(_chunk(b"pHYs", struct.pack(">IIB", across, down, 1)))
    if metadata.exif is not None:
        before.append(_chunk(b"eXIf", metadata.exif))
    if metadata.xmp is not None:
        before.append(_chunk(b"iTXt", _XMP_KEY + b"\0\0\0\0" + metadata.xmp))
    return b"".join(before), b"", notes
