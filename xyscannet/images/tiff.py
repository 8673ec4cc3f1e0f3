"""TIFF, read. The pixels go through Pillow, which is given a directory made clean here.

Source: TIFF 6.0 with Technical Note 2, BigTIFF.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, replace
from typing import BinaryIO

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

XMP, PHOTOSHOP, ICC = 700, 34377, 34675
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR = 256, 257, 258, 259, 262, 277, 284
PREDICTOR, TILE_WIDTH, EXTRA, SAMPLE_FORMAT = 317, 322, 338, 339
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
_PIECES = (273, 279, 324, 325)  # offsets and sizes of strips, of tiles
_LAYOUT = frozenset([HEIGHT, COMPRESSION, 266, 278, 323])  # what a plane's own directory takes over
_WHOLE_BYTES = frozenset([1, 5, 8, 32773, 32946, 34925, 50000])  # compressions that know bytes, not samples
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

    def value(self, tag: int, default: int) -> int:
        """The first value of an integer field."""
        return (integers(self.fields.get(tag), self.layout) or (default,))[0]


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
    width, height, samples = value(WIDTH, 0), value(HEIGHT, 0), value(SAMPLES, 1)
    check_size(width, height)
    bits = set(integers(fields.get(BITS), layout) or (1,))
    kinds = set(integers(fields.get(SAMPLE_FORMAT), layout) or (1,))
    channels = _PHOTOMETRIC.get(value(PHOTOMETRIC, 1))
    if channels is None:
        raise BadImage(
            f"TIFF pictures of the photometric kind {value(PHOTOMETRIC, 1)} are not supported: convert to RGB first"
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
    if depth == 16 and (channels in ("palette", "cmyk", "lab") or value(PHOTOMETRIC, 1) == 6):
        raise BadImage(
            f"16-bit TIFF pictures of this kind ({channels}) are not supported: convert to RGB first"
        )
    extra = samples - _COLOURS[channels]
    if extra not in (0, 1) or (extra and channels not in ("grey", "rgb")):
        raise BadImage(f"TIFF pictures with {samples} channels of the kind {channels} are not supported")
    meaning = value(EXTRA, 0) if extra else 0
    alpha = None if not extra else "premultiplied" if meaning == 1 else "straight"
    unspecified = bool(extra) and meaning not in (1, 2)
    return _Page(layout, fields, width, height, depth, samples, channels, alpha, unspecified, reduced)


def header(fp: BinaryIO) -> Header:
    """Size, depth and kind from the directory. Raises BadImage."""

    def at(offset: int, size: int) -> bytes:
        fp.seek(offset)
        return fp.read(size)

    page = _page(at)
    orientation = page.value(ORIENTATION, 1)
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
    decoded.orientation = page.value(ORIENTATION, 1)
    decoded.exif, dropped = _metadata(page, at)
    decoded.metadata = replace(
        decoded.metadata,
        icc=_bytes(page, ICC),
        xmp=_bytes(page, XMP),
        photoshop=_bytes(page, PHOTOSHOP),
        dpi=ifd_resolution(page.fields, page.layout),
        tiff_compression=_COMPRESSIONS.get(page.value(COMPRESSION, 1), "deflate"),
    )
    decoded.notes += dropped
    if page.has_reduced:
        decoded.notes.append("reduced versions of the picture inside the file are not kept")
    if page.unspecified:
        decoded.notes.append("the extra channel, which the file does not explain, is taken for alpha")
    if _by_bytes(page):
        _decode_samples(page, data, decoded)
    elif page.bits == 16 or page.alpha is not None or page.value(PLANAR, 1) == 2:
        raise BadImage(
            "TIFF pictures of this kind compressed in this way are not supported: save with LZW or deflate"
        )
    else:
        with TiffImagePlugin.TiffImageFile(io.BytesIO(_clean(page, data))) as opened:
            opened.load()
            from_pillow(opened, decoded)
    if page.alpha == "premultiplied":
        _unpremultiply(decoded)
    return decoded


def _bytes(page: _Page, tag: int) -> bytes | None:
    return page.fields[tag].data if tag in page.fields else None


def _check_extent(page: _Page, size: int) -> None:
    """Raise BadImage unless every strip or tile of the picture is there and lies within the file's size."""
    tiled = TILE_WIDTH in page.fields
    begins, counts = (
        integers(page.fields.get(tag), page.layout) for tag in (_PIECES[2:] if tiled else _PIECES[:2])
    )
    if tiled:
        across, down = (
            -(-page.width // max(1, page.value(TILE_WIDTH, 0))),
            -(-page.height // max(1, page.value(323, 0))),
        )
    else:
        across, down = 1, -(-page.height // max(1, min(page.value(278, page.height), page.height)))
    pieces = across * down * (page.samples if page.value(PLANAR, 1) == 2 else 1)
    cut_off = (
        any(begin + count > size for begin, count in zip(begins, counts)) or max(begins, default=0) >= size
    )
    if len(begins) < pieces or cut_off or 0 in begins or 0 in counts:
        raise BadImage("the TIFF file is truncated or damaged: some of its pixels are missing")


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
    """The file with a new first directory that describes the pixels alone."""
    return _with_directory(page, data, {tag: e[:3] for tag, e in page.fields.items() if tag in STRUCTURE})


def _with_directory(page: _Page, data: bytes, fields: dict[int, tuple[int, int, bytes]]) -> bytes:
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


def _by_bytes(page: _Page) -> bool:
    """Whether `_decode_samples` can decode the pixels."""
    compression, photometric = page.value(COMPRESSION, 1), page.value(PHOTOMETRIC, 1)
    plain = page.bits in (8, 16) and photometric in (0, 1, 2)
    return plain and compression in _WHOLE_BYTES and page.value(PREDICTOR, 1) in (1, 2)


def _decode_samples(page: _Page, data: bytes, decoded: Decoded) -> None:
    """8- or 16-bit samples: their bytes are decompressed as those of an 8-bit grey picture, then put together."""
    planes = page.samples if page.value(PLANAR, 1) == 2 else 1
    together = page.samples // planes  # samples of a pixel that lie side by side
    planar = [_samples(page, _plane_bytes(page, data, plane, planes), together) for plane in range(planes)]
    pixels = planar[0] if planes == 1 else np.concatenate(planar, axis=2)  # (H, W, samples)
    colours = _COLOURS[page.channels]
    if page.alpha is not None:
        decoded.alpha = np.ascontiguousarray(pixels[..., -1])
    decoded.pixels = np.ascontiguousarray(pixels[..., 0] if colours == 1 else pixels[..., :colours])
    if page.value(PHOTOMETRIC, 1) == 0:
        decoded.pixels = ~decoded.pixels  # white is zero


def _plane_bytes(page: _Page, data: bytes, plane: int, planes: int) -> np.ndarray:
    """(H, bytes of a row) uint8: the decompressed bytes of one plane."""
    order, step = page.layout.order, page.bits // 8 * (page.samples // planes)

    def longs(*values: int) -> tuple[int, int, bytes]:
        return 4, len(values), struct.pack(f"{order}{len(values)}I", *values)

    fields = {tag: entry[:3] for tag, entry in page.fields.items() if tag in _LAYOUT}
    fields |= {WIDTH: longs(page.width * step), BITS: longs(8), PHOTOMETRIC: longs(1), SAMPLES: longs(1)}
    for tag in _PIECES:
        values = integers(page.fields.get(tag), page.layout)
        if values:
            share = len(values) // planes
            fields[tag] = longs(*values[plane * share : (plane + 1) * share])
    if TILE_WIDTH in page.fields:
        fields[TILE_WIDTH] = longs(page.value(TILE_WIDTH, 0) * step)
    with TiffImagePlugin.TiffImageFile(io.BytesIO(_with_directory(page, data, fields))) as opened:
        opened.load()
        return np.array(opened)


def _samples(page: _Page, raw: np.ndarray, together: int) -> np.ndarray:
    """(H, W, together) samples from their bytes; predictor 2 stored each as its difference to the one before it."""
    dtype = np.dtype(np.uint16 if page.bits == 16 else np.uint8)
    values = np.ascontiguousarray(raw).view(dtype.newbyteorder(page.layout.order)).astype(dtype)
    values = values.reshape(raw.shape[0], -1, together)
    if page.value(PREDICTOR, 1) == 2:
        tile = max(1, page.value(TILE_WIDTH, page.width))
        for left in range(0, values.shape[1], tile):
            part = values[:, left : left + tile]
            np.cumsum(part, axis=1, dtype=dtype, out=part)
    return values


def _unpremultiply(decoded: Decoded) -> None:
    white = np.iinfo(decoded.pixels.dtype).max
    alpha = decoded.alpha if decoded.pixels.ndim == 2 else decoded.alpha[..., None]
    scaled = decoded.pixels.astype(np.float64) * white / np.maximum(alpha, 1)
    decoded.pixels = np.rint(np.minimum(scaled, white)).astype(decoded.pixels.dtype)
    decoded.notes.append("premultiplied alpha converted to straight alpha")
