"""TIFF, written: 8 or 16 bit, grey or RGB, with alpha; uncompressed, LZW or deflate."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction

import numpy as np
from PIL import Image

from .exif import Entry, Layout, blob_reader, integers, layout_of, pack_tree, read_ifd
from .photo import Photo
from .tiff_page import DROPPED, ICC, PHOTOSHOP, RESOLUTION, XMP

_STRIP_BYTES = 1 << 18
_CODES = {"none": 1, "lzw": 5, "deflate": 8}


def encode(photo: Photo) -> tuple[bytes, list[str]]:
    """The file's bytes and what could not be kept. Deflate where the input's compression is not known."""
    metadata, notes = photo.metadata, []
    layout, fields, at = Layout("<"), {}, blob_reader(b"")
    if metadata.exif is not None:
        layout, first = layout_of(metadata.exif[:16])
        at = blob_reader(metadata.exif)
        found, _ = read_ifd(at, layout, first)
        fields = {tag: entry for tag, entry in found.items() if tag not in DROPPED}
    order = layout.order
    compression = metadata.tiff_compression or "deflate"
    rows, strips = _strips(photo, order, compression)
    sizes = [len(strip) for strip in strips]

    samples = (1 if photo.grey else 3) + (photo.alpha is not None)

    def short(*values: int) -> Entry:
        return Entry(3, len(values), struct.pack(f"{order}{len(values)}H", *values), 0)

    def long(*values: int) -> Entry:
        code, kind = ("Q", 16) if layout.big else ("I", 4)
        return Entry(kind, len(values), struct.pack(f"{order}{len(values)}{code}", *values), 0)

    def ifd(first_strip: int, start: int) -> bytes:
        fields[273] = long(*(first_strip + int(b) for b in np.cumsum([0, *sizes[:-1]])))
        return pack_tree(fields, at, Layout(order), layout, start)

    if sum(sizes) + sum(len(e.data) for e in fields.values()) > 0xF0000000:
        layout = Layout(order, True)
    fields |= {256: long(photo.width), 257: long(photo.height), 258: short(*[photo.bit_depth] * samples)}
    fields |= {259: short(_CODES[compression]), 262: short(1 if photo.grey else 2), 277: short(samples)}
    fields |= {278: long(rows), 279: long(*sizes), 284: short(1), 339: short(*[1] * samples)}
    if compression != "none":
        fields[317] = short(2)
    if photo.alpha is not None:
        fields[338] = short(2)
    if metadata.dpi is not None and not set(RESOLUTION) <= set(fields):
        for tag, dpi in zip(RESOLUTION, metadata.dpi):
            ratio = Fraction(dpi).limit_denominator(10000)
            fields[tag] = Entry(5, 1, struct.pack(order + "II", ratio.numerator, ratio.denominator), 0)
        fields[296] = short(2)
    for tag, kind, block in (
        (XMP, 1, metadata.xmp),
        (PHOTOSHOP, 1, metadata.photoshop),
        (ICC, 7, metadata.icc),
    ):
        if block:
            fields[tag] = Entry(kind, len(block), block, 0)
    mark = {"<": b"II", ">": b"MM"}[order]
    head = mark + struct.pack(
        order + ("HHHQ" if layout.big else "HI"), *((43, 8, 0, 16) if layout.big else (42, 8))
    )
    first_strip = len(head) + len(ifd(0, len(head)))
    first_strip += first_strip % 2
    directory = ifd(first_strip, len(head))
    return b"".join([head, directory.ljust(first_strip - len(head), b"\0"), *strips]), notes


def _strips(photo: Photo, order: str, compression: str) -> tuple[int, list[bytes]]:
    """Rows per strip, and the compressed strips."""
    planes = [photo.rgb[..., :1] if photo.grey else photo.rgb]
    if photo.alpha is not None:
        planes.append(photo.alpha[..., None])
    samples = np.concatenate(planes, axis=2) if len(planes) > 1 else planes[0]
    if compression != "none":
        differences = samples.copy()
        differences[:, 1:] -= samples[:, :-1]  # modulo 2^bits: the predictor
        samples = differences
    raw = np.ascontiguousarray(samples, samples.dtype.newbyteorder(order))
    raw = raw.view(np.uint8).reshape(photo.height, -1)
    if compression == "lzw":
        return _lzw(raw)
    rows = max(1, _STRIP_BYTES // raw.shape[1])
    parts = [raw[top : top + rows].tobytes() for top in range(0, photo.height, rows)]
    return rows, [zlib.compress(part, 6) for part in parts] if compression == "deflate" else parts


def _lzw(raw: np.ndarray) -> tuple[int, list[bytes]]:
    """Strips of any bytes, (rows, bytes per row): Pillow compresses them as an 8-bit grey picture."""
    buffer = io.BytesIO()
    Image.fromarray(raw).save(buffer, "TIFF", compression="tiff_lzw")
    data = buffer.getvalue()
    layout, first = layout_of(data[:16])
    fields, _ = read_ifd(blob_reader(data), layout, first)
    starts, counts, rows = (integers(fields.get(tag), layout) for tag in (273, 279, 278))
    return rows[0], [data[start : start + count] for start, count in zip(starts, counts)]
