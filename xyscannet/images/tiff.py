"""TIFF, read. 8-bit pixels go through Pillow and 16-bit through OpenCV, each given a directory made clean here.

Source: TIFF 6.0 with Technical Note 2, BigTIFF.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, replace
from typing import BinaryIO

import cv2
import numpy as np
from PIL import TiffImagePlugin

from .decoded import Decoded, Header, from_pillow
from .exif import (
    ORIENTATION,
    Entry,
    Layout,
    Reader,
    ifd_resolution,
    integers,
    layout_of,
    pack_ifd,
    pack_tree,
    read_ifd,
)
from .formats import BadImage, check_size

XMP, IPTC, PHOTOSHOP, ICC = 700, 33723, 34377, 34675
RESOLUTION = (282, 283, 296)
STRUCTURE = frozenset(
    [256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325]
    + [332, 333, 334, 338, 339, 347, 512, 513, 514, 519, 520, 521, 529, 530, 531, 532]
)
_OTHER_DROPPED = frozenset(
    [254, 255, 263, 280, 281, 288, 289, 290, 291, 297, 301, 318, 319, 330, 336, 340, 341]
)
_LAYERS = 37724  # Photoshop's layers: they would show the blurred picture
DROPPED = STRUCTURE | _OTHER_DROPPED | {XMP, PHOTOSHOP, ICC, _LAYERS}
_COMPRESSIONS = {1: "none", 5: "lzw", 8: "deflate", 32946: "deflate"}
_PHOTOMETRIC = {0: "grey", 1: "grey", 2: "rgb", 3: "palette", 5: "cmyk", 6: "rgb", 8: "lab"}
_COLOURS = {"grey": 1, "rgb": 3, "palette": 1, "cmyk": 4, "lab": 3}
_CLASSIC_TYPES = frozenset(range(1, 14))


@dataclass
class _Page:
    """The one picture of a TIFF file."""

    layout: Layout
    fields: dict[int, Entry]
    width: int
    height: int
    bits: int
    samples: int
    channels: str
    alpha: str | None  # "straight" "premultiplied"
    unspecified: bool  # the file does not say that the extra channel is alpha
    has_reduced: bool  # it also holds reduced versions of the picture


def _page(at: Reader) -> _Page:
    try:
        layout, offset = layout_of(at(0, 16))
        fields, following = read_ifd(at, layout, offset)
        reduced, seen = False, {offset}
        while following and following not in seen and len(seen) < 64:
            seen.add(following)
            further, following = read_ifd(at, layout, following)
            if not (integers(further.get(254), layout) or (0,))[0] & 5:
                raise BadImage("it holds several pages: split them into single pictures first")
            reduced = True
    except ValueError as error:
        raise BadImage(f"the TIFF file is truncated or damaged: {error}") from error

    def value(tag: int, default: int) -> int:
        return (integers(fields.get(tag), layout) or (default,))[0]

    if 50706 in fields:
        raise BadImage("camera raw (DNG) is not supported: develop it to TIFF or JPEG first")
    width, height, samples = value(256, 0), value(257, 0), value(277, 1)
    check_size(width, height)
    bits = set(integers(fields.get(258), layout) or (1,))
    kinds = set(integers(fields.get(339), layout) or (1,))
    channels = _PHOTOMETRIC.get(value(262, 1))
    if channels is None:
        raise BadImage(
            f"TIFF pictures of the photometric kind {value(262, 1)} are not supported: convert to RGB first"
        )
    if not kinds <= {1, 4}:
        kind = "floating-point" if 3 in kinds else "signed or complex"
        raise BadImage(f"{kind} TIFF pictures are not supported: convert to 8- or 16-bit first")
    allowed = {1, 2, 4, 8, 16} if samples == 1 else {8, 16}
    if len(bits) != 1 or not bits <= allowed:
        shown = "/".join(str(b) for b in sorted(bits))
        raise BadImage(
            f"TIFF pictures with {shown} bits per channel are not supported: convert to 8 or 16 bit first"
        )
    depth = bits.pop()
    if depth == 16 and (channels in ("palette", "cmyk", "lab") or value(262, 1) == 6):
        raise BadImage(
            f"16-bit TIFF pictures of this kind ({channels}) are not supported: convert to RGB first"
        )
    extra = samples - _COLOURS[channels]
    if extra not in (0, 1) or (extra and channels not in ("grey", "rgb")):
        raise BadImage(f"TIFF pictures with {samples} channels of the kind {channels} are not supported")
    meaning = value(338, 0) if extra else 0
    alpha = None if not extra else "premultiplied" if meaning == 1 else "straight"
    unspecified = bool(extra) and meaning not in (1, 2)
    return _Page(layout, fields, width, height, depth, samples, channels, alpha, unspecified, reduced)


def header(fp: BinaryIO) -> Header:
    """Size, depth and kind from the directory. Raises BadImage."""

    def at(offset: int, size: int) -> bytes:
        fp.seek(offset)
        return fp.read(size)

    page = _page(at)
    orientation = (integers(page.fields.get(ORIENTATION), page.layout) or (1,))[0]
    depth = 16 if page.bits == 16 else 8
    turned = orientation if 1 <= orientation <= 8 else 1
    return Header(page.width, page.height, depth, page.channels, page.alpha is not None, turned)


def decode(data: bytes) -> Decoded:
    """The whole picture. Raises BadImage for a truncated, damaged or many-paged file."""

    def at(offset: int, size: int) -> bytes:
        return data[offset : offset + size]

    page = _page(at)
    _check_extent(page, len(data))
    decoded = Decoded(np.empty(0))
    decoded.orientation = (integers(page.fields.get(ORIENTATION), page.layout) or (1,))[0]
    compression = (integers(page.fields.get(259), page.layout) or (1,))[0]
    decoded.exif, dropped = _metadata(page, at)
    decoded.metadata = replace(
        decoded.metadata,
        icc=_bytes(page, ICC),
        xmp=_bytes(page, XMP),
        photoshop=_bytes(page, PHOTOSHOP),
        dpi=ifd_resolution(page.fields, page.layout),
        tiff_compression=_COMPRESSIONS.get(compression, "deflate"),
    )
    decoded.notes += dropped
    if page.has_reduced:
        decoded.notes.append("reduced versions of the picture inside the file are not kept")
    if page.unspecified:
        decoded.notes.append("the extra channel, which the file does not explain, is taken for alpha")
    clean = _clean(page, data)
    if page.bits == 16:
        _decode_16(page, clean, decoded)
    else:
        with TiffImagePlugin.TiffImageFile(io.BytesIO(clean)) as opened:
            opened.load()
            from_pillow(opened, decoded)
    if page.alpha == "premultiplied":
        _unpremultiply(decoded)
    return decoded


def _bytes(page: _Page, tag: int) -> bytes | None:
    return page.fields[tag].data if tag in page.fields else None


def _check_extent(page: _Page, size: int) -> None:
    for starts, lengths in ((273, 279), (324, 325)):
        begins = integers(page.fields.get(starts), page.layout)
        counts = integers(page.fields.get(lengths), page.layout)
        if any(begin + count > size for begin, count in zip(begins, counts)) or any(
            begin > size for begin in begins
        ):
            raise BadImage("the TIFF file is truncated: some of its pixels are missing")
        if begins:
            return
    raise BadImage("the TIFF file is truncated or damaged: it does not say where its pixels are")


def _metadata(page: _Page, at: Reader) -> tuple[bytes | None, list[str]]:
    """The descriptive fields as an EXIF block, None when there are none but the resolution."""
    kept = {
        tag: entry
        for tag, entry in page.fields.items()
        if tag not in DROPPED and entry.type in _CLASSIC_TYPES
    }
    notes = ["Photoshop layers are not kept"] if _LAYERS in page.fields else []
    if not set(kept) - set(RESOLUTION) - {ORIENTATION}:
        return None, notes
    target = Layout(page.layout.order)
    head = {"<": b"II", ">": b"MM"}[target.order] + struct.pack(target.order + "HI", 42, 8)
    return head + pack_tree(kept, at, page.layout, target, 8), notes


def _clean(page: _Page, data: bytes) -> bytes:
    """The file with a new first directory at its end that describes the pixels alone."""
    layout = page.layout
    fields = {tag: tuple(entry[:3]) for tag, entry in page.fields.items() if tag in STRUCTURE}
    if page.alpha is not None:
        fields[338] = (3, 1, struct.pack(layout.order + "H", 2))
    offset = len(data) + len(data) % 2
    head = bytearray(data[:16])
    struct.pack_into(layout.order + layout.word, head, 8 if layout.big else 4, offset)
    rest = memoryview(data)[16:]
    return b"".join([head, rest, bytes(offset - len(data)), pack_ifd(fields, layout, offset)])


def _decode_16(page: _Page, clean: bytes, decoded: Decoded) -> None:
    pixels = cv2.imdecode(np.frombuffer(clean, np.uint8), cv2.IMREAD_UNCHANGED)
    shape = (page.height, page.width) + ((page.samples,) if page.samples > 1 else ())
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape != shape:
        raise BadImage(
            "the TIFF file is damaged or its 16-bit pixels are stored in a way that is not supported"
        )
    if page.alpha is not None:
        decoded.alpha = np.ascontiguousarray(pixels[..., -1])
    if page.channels == "grey":
        decoded.pixels = np.ascontiguousarray(pixels if pixels.ndim == 2 else pixels[..., 0])
    else:
        decoded.pixels = np.ascontiguousarray(pixels[..., 2::-1])


def _unpremultiply(decoded: Decoded) -> None:
    white = np.iinfo(decoded.pixels.dtype).max
    alpha = decoded.alpha if decoded.pixels.ndim == 2 else decoded.alpha[..., None]
    scaled = decoded.pixels.astype(np.float64) * white / np.maximum(alpha, 1)
    decoded.pixels = np.rint(np.minimum(scaled, white)).astype(decoded.pixels.dtype)
    decoded.notes.append("premultiplied alpha converted to straight alpha")
