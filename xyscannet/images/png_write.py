"""PNG, written: 8-bit pixels through Pillow, 16-bit pixels here, as Pillow has no 16-bit colour."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from .decoded import profile_space
from .photo import Photo
from .png import SIGNATURE, XMP_KEY, chunk

_BAND_BYTES = 1 << 20


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
    chunks, notes = _metadata_chunks(photo)
    return b"".join([body[:first], *chunks, body[first:]]), notes


def _encode_16(samples: np.ndarray) -> bytes:
    """A 16-bit PNG of (H, W, 1 to 4) samples: each row filtered in the way that leaves the smallest values."""
    height, width, count = samples.shape
    step, row_bytes = 2 * count, 2 * count * width
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[count]
    deflate = zlib.compressobj(4, zlib.DEFLATED, 15, 9, zlib.Z_FILTERED)
    parts = []
    band = max(1, _BAND_BYTES // row_bytes)
    above = np.zeros((1, row_bytes), np.uint8)
    for top in range(0, height, band):
        rows = np.ascontiguousarray(samples[top : top + band], ">u2").view(np.uint8).reshape(-1, row_bytes)
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
    ihdr = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    stream = b"".join(parts)
    pieces = [chunk(b"IDAT", stream[i : i + _BAND_BYTES]) for i in range(0, len(stream), _BAND_BYTES)]
    return b"".join([SIGNATURE, ihdr, *pieces, chunk(b"IEND", b"")])


def _paeth(left: np.ndarray, upper: np.ndarray, upper_left: np.ndarray) -> np.ndarray:
    a, b, c = (x.astype(np.int16) for x in (left, upper, upper_left))
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    return np.where((to_a <= to_b) & (to_a <= to_c), left, np.where(to_b <= to_c, upper, upper_left))


def _metadata_chunks(photo: Photo) -> tuple[list[bytes], list[str]]:
    """The chunks that stand before the pixels, and what could not be kept."""
    metadata, notes = photo.metadata, []
    chunks = []
    if metadata.icc is not None:
        if profile_space(metadata.icc) == ("GRAY" if photo.grey else "RGB"):
            chunks.append(chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc)))
        else:
            notes.append("colour profile dropped: PNG allows only one that fits the picture's channels")
    chunks += [chunk(kind, content) for kind, content in metadata.png_chunks]
    if metadata.dpi is not None and b"pHYs" not in dict(metadata.png_chunks):
        across, down = (max(1, round(value / 0.0254)) for value in metadata.dpi)
        chunks.append(chunk(b"pHYs", struct.pack(">IIB", across, down, 1)))
    if metadata.exif is not None:
        chunks.append(chunk(b"eXIf", metadata.exif))
    if metadata.xmp is not None:
        chunks.append(chunk(b"iTXt", XMP_KEY + b"\0\0\0\0" + metadata.xmp))
    return chunks, notes
