"""TIFF, read."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import BinaryIO

import numpy as np

from .decoded import Decoded, Header
from .exif import EXIF_POINTER, GPS_POINTER, LAYERS, ORIENTATION, Layout, Reader, ifd_resolution, pack_tree
from .jpeg import without_thumbnails
from .tiff_page import (
    COLOURS_AS_FIELDS,
    COMPRESSION,
    DROPPED,
    ICC,
    PHOTOSHOP,
    RESOLUTION,
    XMP,
    Page,
    read_page,
)
from .tiff_pixels import decode_pixels

_COMPRESSIONS = {1: "none", 5: "lzw", 8: "deflate", 32946: "deflate"}
_CLASSIC_TYPES, _DIRECTORIES = frozenset(range(1, 14)), (EXIF_POINTER, GPS_POINTER)


def header(fp: BinaryIO) -> Header:
    """Size, depth and kind from the directory. Raises BadImage."""

    def at(offset: int, size: int) -> bytes:
        fp.seek(offset)
        return fp.read(size)

    page = read_page(at)
    orientation = page.value(ORIENTATION, 1)
    depth = 16 if page.bits == 16 else 8
    turned = orientation if 1 <= orientation <= 8 else 1
    return Header(page.width, page.height, depth, page.channels, page.alpha is not None, turned)


def decode(data: bytes) -> Decoded:
    """The whole picture. Raises BadImage for a truncated, damaged or many-paged file."""

    def at(offset: int, size: int) -> bytes:
        return data[offset : offset + size]

    page = read_page(at)
    decoded = Decoded(np.empty(0))
    decoded.orientation = page.value(ORIENTATION, 1)
    decoded.exif, dropped = _metadata(page, at)
    decoded.metadata = replace(
        decoded.metadata,
        icc=_bytes(page, ICC),
        xmp=_bytes(page, XMP),
        photoshop=without_thumbnails(_bytes(page, PHOTOSHOP) or b"") or None,
        dpi=ifd_resolution(page.fields, page.layout),
        tiff_compression=_COMPRESSIONS.get(page.value(COMPRESSION, 1), "deflate"),
    )
    decoded.notes += dropped
    if page.has_reduced:
        decoded.notes.append("reduced versions of the picture inside the file are not kept")
    if page.unspecified:
        decoded.notes.append("the extra channel, which the file does not explain, is taken for alpha")
    decode_pixels(page, data, decoded)
    if page.alpha == "premultiplied":
        _unpremultiply(decoded)
    return decoded


def _bytes(page: Page, tag: int) -> bytes | None:
    return page.fields[tag].data if tag in page.fields else None


def _metadata(page: Page, at: Reader) -> tuple[bytes | None, list[str]]:
    """The descriptive fields as an EXIF block, None when there are none but the resolution."""
    kept = {
        tag: entry
        for tag, entry in page.fields.items()
        if tag not in DROPPED and (entry.type in _CLASSIC_TYPES or tag in _DIRECTORIES)
    }
    notes = ["Photoshop layers are not kept"] if LAYERS in page.fields else []
    if not COLOURS_AS_FIELDS.isdisjoint(page.fields):
        notes.append("white point, primaries and transfer function outside a colour profile are not kept")
    if not set(kept) - set(RESOLUTION) - {ORIENTATION}:
        return None, notes
    target = Layout(page.layout.order)
    head = {"<": b"II", ">": b"MM"}[target.order] + struct.pack(target.order + "HI", 42, 8)
    return head + pack_tree(kept, at, page.layout, target, 8), notes


def _unpremultiply(decoded: Decoded) -> None:
    white = np.iinfo(decoded.pixels.dtype).max
    alpha = decoded.alpha if decoded.pixels.ndim == 2 else decoded.alpha[..., None]
    scaled = decoded.pixels.astype(np.float64) * white / np.maximum(alpha, 1)
    decoded.pixels = np.rint(np.minimum(scaled, white)).astype(decoded.pixels.dtype)
    decoded.notes.append("premultiplied alpha converted to straight alpha")
