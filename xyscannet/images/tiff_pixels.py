"""The pixels of a TIFF file.

Plain 8- and 16-bit samples are put together here from their decompressed bytes: Pillow has no 16-bit colour. Other
kinds go through Pillow, which is given a directory made clean.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import ImageFile, TiffImagePlugin

from .decoded import Decoded, from_pillow
from .exif import Layout, integers, pack_ifd
from .formats import BadImage
from .tiff_page import (
    BITS,
    COLOURS,
    COMPRESSION,
    FILL_ORDER,
    HEIGHT,
    PHOTOMETRIC,
    PIECES,
    PLANAR,
    PREDICTOR,
    ROWS_PER_STRIP,
    SAMPLES,
    STRUCTURE,
    TILE_HEIGHT,
    TILE_WIDTH,
    WIDTH,
    Page,
    check_extent,
)

_LAYOUT = (
    HEIGHT,
    COMPRESSION,
    FILL_ORDER,
    ROWS_PER_STRIP,
    TILE_HEIGHT,
)  # a plane's directory takes these over
_SIMPLE = (1, 8, 32946)  # none and deflate
_WHOLE_BYTES = frozenset([1, 5, 8, 32773, 32946, 34925, 50000])  # compressions that know bytes, not samples


class _Tiff(TiffImagePlugin.TiffImageFile):
    """Pillow's reader without its own limit of pixels, which stands beside ours."""

    def load_prepare(self) -> None:
        ImageFile.ImageFile.load_prepare(self)


def decode_pixels(page: Page, data: bytes, decoded: Decoded) -> None:
    """Fill in pixels and alpha. Raises BadImage for what is damaged or of a kind that is not supported."""
    check_extent(page, len(data))
    if _plain(page):
        _decode_plain(page, data, decoded)
    elif page.bits == 16 or page.alpha is not None or page.value(PLANAR, 1) == 2:
        raise BadImage(
            "TIFF pictures of this kind compressed in this way are not supported: save with LZW or deflate"
        )
    else:
        with _Tiff(io.BytesIO(_clean(page, data))) as opened:
            opened.load()
            from_pillow(opened, decoded)


def _plain(page: Page) -> bool:
    """Whether the pixels are 8- or 16-bit samples of grey or RGB, compressed as bytes."""
    compression, photometric = page.value(COMPRESSION, 1), page.value(PHOTOMETRIC, 1)
    plain = page.bits in (8, 16) and photometric in (0, 1, 2)
    return plain and compression in _WHOLE_BYTES and page.value(PREDICTOR, 1) in (1, 2)


def _decode_plain(page: Page, data: bytes, decoded: Decoded) -> None:
    planes = page.samples if page.value(PLANAR, 1) == 2 else 1
    together = page.samples // planes  # samples of a pixel that lie side by side
    dtype = np.uint16 if page.bits == 16 else np.uint8
    pixels = np.empty((page.height, page.width, page.samples), dtype)
    for plane in range(planes):
        _put_plane(page, data, plane, planes, pixels[..., plane * together : (plane + 1) * together])
    if page.alpha is not None:
        decoded.alpha = np.ascontiguousarray(pixels[..., -1])
    colours = COLOURS[page.channels]
    decoded.pixels = np.ascontiguousarray(pixels[..., 0] if colours == 1 else pixels[..., :colours])
    if page.value(PHOTOMETRIC, 1) == 0:
        decoded.pixels = ~decoded.pixels  # white is zero


def _put_plane(page: Page, data: bytes, plane: int, planes: int, out: np.ndarray) -> None:
    """Decode one plane into out, (H, W, samples of a pixel in it)."""
    together, step = out.shape[2], out.shape[2] * out.itemsize
    tiled = TILE_WIDTH in page.fields
    width = page.value(TILE_WIDTH, page.width)
    rows = page.value(TILE_HEIGHT, 0) if tiled else min(page.value(ROWS_PER_STRIP, page.height), page.height)
    if page.value(COMPRESSION, 1) not in _SIMPLE or page.value(FILL_ORDER, 1) != 1:
        raw = _plane_through_pillow(page, data, plane, planes)
        for left in range(0, page.width, width):
            part = raw[:, left * step : (left + width) * step]
            out[:, left : left + width] = _samples(page, part.tobytes(), page.height, together)
        return
    begins, counts = (
        integers(page.fields.get(tag), page.layout) for tag in (PIECES[2:] if tiled else PIECES[:2])
    )
    across, down = -(-page.width // width), -(-page.height // rows)
    for number in range(across * down):
        top, left = number // across * rows, number % across * width
        height = rows if tiled else min(rows, page.height - top)
        begin, count = begins[plane * across * down + number], counts[plane * across * down + number]
        raw = _decompressed(page, data[begin : begin + count], height * width * step, rows * width * step)
        part = out[top : top + height, left : left + width]
        part[:] = _samples(page, raw, height, together)[: part.shape[0], : part.shape[1]]


def _decompressed(page: Page, piece: bytes, size: int, whole: int) -> bytes:
    """The first size bytes of a strip or tile, whose last one may be stored with all its rows (whole bytes)."""
    complete = True
    if page.value(COMPRESSION, 1) != 1:
        inflate = zlib.decompressobj()
        try:
            piece = inflate.decompress(piece, size)
            inflate.decompress(inflate.unconsumed_tail, whole + 1)  # up to the checksum
        except zlib.error as error:
            raise BadImage("the TIFF file is damaged: its pixels cannot be decompressed") from error
        complete = inflate.eof
    if len(piece) < size or not complete:
        raise BadImage("the TIFF file is truncated or damaged: some of its pixels are missing")
    return piece[:size]


def _samples(page: Page, raw: bytes, height: int, together: int) -> np.ndarray:
    """(height, W, together) samples from their bytes; predictor 2 stored each as its difference to the one before."""
    dtype = np.dtype(np.uint16 if page.bits == 16 else np.uint8)
    values = np.frombuffer(raw, dtype.newbyteorder(page.layout.order)).reshape(height, -1, together)
    if page.value(PREDICTOR, 1) == 2:
        return np.cumsum(values, axis=1, dtype=dtype)
    return values


def _plane_through_pillow(page: Page, data: bytes, plane: int, planes: int) -> np.ndarray:
    """(H, bytes of a row) uint8: the bytes of one plane, decompressed as those of an 8-bit grey picture."""
    order, step = page.layout.order, page.bits // 8 * (page.samples // planes)

    def longs(*values: int) -> tuple[int, int, bytes]:
        return 4, len(values), struct.pack(f"{order}{len(values)}I", *values)

    fields = {tag: entry[:3] for tag, entry in page.fields.items() if tag in _LAYOUT}
    fields |= {WIDTH: longs(page.width * step), BITS: longs(8), PHOTOMETRIC: longs(1), SAMPLES: longs(1)}
    for tag in PIECES:
        values = integers(page.fields.get(tag), page.layout)
        if values:
            share = len(values) // planes
            fields[tag] = longs(*values[plane * share : (plane + 1) * share])
    if TILE_WIDTH in page.fields:
        fields[TILE_WIDTH] = longs(page.value(TILE_WIDTH, 0) * step)
    with _Tiff(io.BytesIO(_with_directory(page, data, fields))) as opened:
        opened.load()
        return np.array(opened)


def _clean(page: Page, data: bytes) -> bytes:
    """The file with a new first directory that describes the pixels alone."""
    return _with_directory(page, data, {tag: e[:3] for tag, e in page.fields.items() if tag in STRUCTURE})


def _with_directory(page: Page, data: bytes, fields: dict[int, tuple[int, int, bytes]]) -> bytes:
    """The file, made classic where it was BigTIFF, with a directory of the given fields at its end."""
    order, offset = page.layout.order, len(data) + len(data) % 2
    if offset > 0xFFFF0000:
        raise BadImage("TIFF files above 4 GB are not supported")
    fields = dict(fields)
    for tag, (kind, count, content) in fields.items():
        if kind in (16, 18):
            wide = struct.unpack(f"{order}{count}Q", content)
            fields[tag] = (4, count, struct.pack(f"{order}{count}I", *(min(v, 0xFFFFFFFF) for v in wide)))
    head = data[:2] + struct.pack(order + "HI", 42, offset)
    return b"".join(
        [head, memoryview(data)[8:], bytes(offset - len(data)), pack_ifd(fields, Layout(order), offset)]
    )
