"""JPEG. The segments beside the pixels are read and written here; the pixels go through Pillow.

A JPEG that stays one is written with the input's own quantisation tables, chroma subsampling and scan order.
Source: ITU-T T.81, JFIF 1.02, and the CIPA and ICC documents on application segments.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import numpy as np
from PIL import Image, JpegImagePlugin

from . import exif as exif_block
from .decoded import Decoded, Header, exactly, from_pillow
from .formats import BadImage, check_size
from .photo import JpegCoding

EXIF, XMP, _XMP_MORE = (
    b"Exif\0\0",
    b"http://ns.adobe.com/xap/1.0/\0",
    b"http://ns.adobe.com/xmp/extension/\0",
)
ICC, PHOTOSHOP, JFIF = b"ICC_PROFILE\0", b"Photoshop 3.0\0", b"JFIF\0"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset([0x01, *range(0xD0, 0xD8)])
_HUFFMAN_FRAMES = (0xC0, 0xC1, 0xC2)
_BLOCK = 16  # pixels, of the last unit that is coded
_MOST_SCANS = 100  # a progressive file has about ten; each goes over the whole picture
_PADDING = bytes(range(1, 255, 7)) * 8
_THUMBNAILS = (1033, 1036)  # Photoshop resources that hold one


@dataclass
class _Segments:
    """The segments up to the first scan, sorted by what they are, and where that scan starts."""

    width: int = 0
    height: int = 0
    precision: int = 0
    arithmetic: bool = False
    components: int = 0
    jfif: bytes | None = None
    adobe: bytes | None = None
    exif: bytes = b""
    xmp: bytes | None = None
    more_xmp: bool = False
    icc: dict[int, bytes] = field(default_factory=dict)
    icc_count: int = 0
    photoshop: bytes = b""
    comments: list[bytes] = field(default_factory=list)
    further_pictures: bool = False
    unknown: set[str] = field(default_factory=set)  # application segments that are not understood
    coding: list[bytes] = field(default_factory=list)  # tables, frame header and scan header, complete
    scan: int = 0
    least_bits: int = 0  # that the picture's pixels take


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _segments(fp: BinaryIO) -> _Segments:
    found = _Segments()
    fp.seek(2)
    while True:
        lead = exactly(fp, 1)
        if lead != b"\xff":
            raise BadImage("the JPEG file is damaged: a marker is missing")
        marker = exactly(fp, 1)[0]
        while marker == 0xFF:
            marker = exactly(fp, 1)[0]
        if marker in _ALONE:
            continue
        if marker in (0x00, 0xD8, 0xD9):
            raise BadImage("the JPEG file is damaged: it holds no pixels")
        size = struct.unpack(">H", exactly(fp, 2))[0]
        if size < 2:
            raise BadImage("the JPEG file is damaged: a segment's length makes no sense")
        content = exactly(fp, size - 2)
        if marker in _FRAMES:
            if len(content) < 6 or found.width:
                raise BadImage("the JPEG file is damaged: its frame header makes no sense")
            found.precision, found.height, found.width, found.components = struct.unpack(">BHHB", content[:6])
            check_size(found.width, found.height)
            found.arithmetic = marker not in _HUFFMAN_FRAMES
            if not found.arithmetic:
                found.least_bits = _least_bits(found, content[7::3])
        if 0xE0 <= marker <= 0xEF or marker == 0xFE:
            _sort(found, marker, content)
        else:
            found.coding.append(struct.pack(">BBH", 0xFF, marker, size) + content)
        if marker == 0xDA:
            if not found.width:
                raise BadImage("the JPEG file is damaged: it has no frame header")
            found.scan = fp.tell()
            return found


def _least_bits(found: _Segments, sampling: bytes) -> int:
    """Every component has a block in each unit of the picture, and a block a code of one bit or more."""
    across = 8 * max([1, *(factors >> 4 for factors in sampling)])
    down = 8 * max([1, *(factors & 15 for factors in sampling)])
    return -(-found.width // across) * -(-found.height // down) * found.components


def _sort(found: _Segments, marker: int, content: bytes) -> None:
    if marker == 0xE0 and content.startswith(JFIF):
        found.jfif = content
    elif marker == 0xEE and content.startswith(b"Adobe"):
        found.adobe = content
    elif marker == 0xE1 and content.startswith(EXIF):
        found.exif += content[len(EXIF) :]
    elif marker == 0xE1 and content.startswith(XMP):
        found.xmp = content[len(XMP) :]
    elif marker == 0xE1 and content.startswith(_XMP_MORE):
        found.more_xmp = True
    elif marker == 0xE2 and content.startswith(ICC) and len(content) >= 14:
        found.icc[content[12]], found.icc_count = content[14:], content[13]
    elif marker == 0xE2 and content.startswith(b"MPF\0"):
        found.further_pictures = True
    elif marker == 0xED and content.startswith(PHOTOSHOP):
        found.photoshop += content[len(PHOTOSHOP) :]
    elif marker == 0xFE:
        found.comments.append(content)
    elif not (marker == 0xE0 and content.startswith(b"JFXX")):  # an old kind of thumbnail
        found.unknown.add(f"APP{marker - 0xE0}")


def header(fp: BinaryIO) -> Header:
    """Size, kind and orientation from the segments before the pixels. Raises BadImage."""
    found = _segments(fp)
    channels = {1: "grey", 3: "rgb", 4: "cmyk"}.get(found.components)
    _check_kind(found)
    assert channels is not None
    result = Header(found.width, found.height, 8, channels, False)
    if found.exif:
        try:
            result.orientation = exif_block.orientation(found.exif)
        except (ValueError, struct.error):
            pass
    return result


def _check_kind(found: _Segments) -> None:
    if found.precision != 8:
        raise BadImage(
            f"a JPEG with {found.precision} bits per channel is not supported: convert it to PNG or TIFF"
        )
    if found.components not in (1, 3, 4):
        raise BadImage(f"a JPEG with {found.components} channels is not supported")


def _check_end(data: bytes, start: int) -> int:
    """The offset behind the end marker, walking over all scans. Raises BadImage when there is none."""
    body = np.frombuffer(data, np.uint8)
    after = body[start + 1 :]
    special = (body[start:-1] == 0xFF) & (after != 0) & (after != 0xFF) & ((after & 0xF8) != 0xD0)
    position, scans = start, 1
    for at in (np.flatnonzero(special) + start).tolist():
        if at < position:
            continue  # inside a segment's content
        if data[at + 1] == 0xD9:
            return at + 2
        if data[at + 1] == 0x01 or at + 4 > len(data):
            continue
        scans += data[at + 1] == 0xDA
        if scans > _MOST_SCANS:
            raise BadImage(f"the JPEG file is damaged: it has more than {_MOST_SCANS} scans")
        position = at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    raise BadImage("the JPEG file is truncated: its end is missing")


def decode(data: bytes) -> Decoded:
    """The whole picture. Raises BadImage for a truncated or damaged file."""
    found = _segments(io.BytesIO(data))
    _check_kind(found)
    end = _check_end(data, found.scan)
    if 8 * (end - found.scan) < found.least_bits:
        raise BadImage("the JPEG file is truncated or damaged: some of its pixels are missing")
    decoded = Decoded(np.empty(0))
    rest = data[end:]
    if found.further_pictures or b"\xff\xd8\xff" in rest or b"ftyp" in rest[:64]:
        decoded.notes.append("pictures or video embedded behind the main picture are not kept")
    if found.more_xmp:
        decoded.notes.append("the extension of the XMP block is not kept")
    if found.unknown:
        decoded.notes.append(
            f"data of other programs is not kept ({', '.join(sorted(found.unknown))} segments)"
        )
    icc = None
    if found.icc:
        icc = b"".join(found.icc.get(i, b"") for i in range(1, found.icc_count + 1))
        if set(found.icc) != set(range(1, found.icc_count + 1)):
            icc = None
            decoded.notes.append("incomplete colour profile dropped")
    decoded.exif = found.exif or None
    decoded.metadata = replace(
        decoded.metadata,
        icc=icc,
        xmp=found.xmp,
        photoshop=without_thumbnails(found.photoshop) or None,
        dpi=_density(found.jfif),
        comments=tuple(found.comments),
    )
    parts = [b"\xff\xd8"]
    if found.jfif is not None:
        parts.append(segment(0xE0, found.jfif))
    if found.adobe is not None:
        parts.append(segment(0xEE, found.adobe))
    parts += [*found.coding, memoryview(data)[found.scan : end - 2]]
    start = b"".join(parts)
    with JpegImagePlugin.JpegImageFile(io.BytesIO(start + b"\xff\xd9")) as opened:
        opened.load()
        coding = _coding(opened)
        decoded.metadata = replace(decoded.metadata, jpeg=coding)
        if coding is None:
            decoded.notes.append(
                "its quantisation tables cannot be kept: written with quality 95 unless --quality"
            )
        elif _sampling(opened) not in (0, 1, 2):
            decoded.notes.append("its chroma subsampling cannot be kept: written with full chroma (4:4:4)")
        _check_complete(opened, start, found.arithmetic)
        return from_pillow(opened, decoded)


def _check_complete(opened: Image.Image, start: bytes, arithmetic: bool) -> None:
    """Raise BadImage when the scan ends before the picture does.

    The decoder fills up in silence what an end marker cuts off. What it fills in then depends on the bytes behind
    the scan; behind a complete scan they are skipped, but for an arithmetic decoder's last bits.
    """
    with JpegImagePlugin.JpegImageFile(io.BytesIO(start + _PADDING + b"\xff\xd9")) as padded:
        differs = np.asarray(padded) != np.asarray(opened)
    if arithmetic:
        differs = differs.copy()
        # One pixel more, of colours that are interpolated from the last unit.
        top, left = (max((size - 1) // _BLOCK * _BLOCK - 1, 0) for size in differs.shape[:2])
        differs[top:, left:] = False
    if differs.any():
        raise BadImage("the JPEG file is truncated or damaged: some of its pixels are missing")


def _density(jfif: bytes | None) -> tuple[float, float] | None:
    if jfif is None or len(jfif) < 12:
        return None
    unit, across, down = struct.unpack(">BHH", jfif[7:12])
    if unit not in (1, 2) or not across or not down:
        return None
    scale = 2.54 if unit == 2 else 1.0
    return across * scale, down * scale


def _coding(opened: JpegImagePlugin.JpegImageFile) -> JpegCoding | None:
    numbers = [layer[3] for layer in opened.layer[:2]]
    tables = [opened.quantization.get(number) for number in numbers]
    if not tables or any(table is None or len(table) != 64 or max(table) > 255 for table in tables):
        return None
    sampling, progressive = _sampling(opened), bool(opened.info.get("progressive"))
    return JpegCoding(
        tuple(tuple(table) for table in tables), sampling if sampling in (1, 2) else 0, progressive
    )


def _sampling(opened: JpegImagePlugin.JpegImageFile) -> int:
    """Chroma subsampling by Pillow's numbers, -1 for one that it does not write."""
    return JpegImagePlugin.get_sampling(opened) if len(opened.layer) == 3 else 0


def without_thumbnails(resources: bytes) -> bytes:
    """Photoshop image resource blocks without those that hold a thumbnail; damaged blocks are dropped."""
    kept, at = b"", 0
    while resources[at : at + 4] == b"8BIM" and at + 12 <= len(resources):
        name_bytes = resources[at + 6] + 1
        size_at = at + 6 + name_bytes + name_bytes % 2
        if size_at + 4 > len(resources):
            break
        size = struct.unpack_from(">I", resources, size_at)[0]
        end = size_at + 4 + size
        if end > len(resources):
            break
        if struct.unpack_from(">H", resources, at + 4)[0] not in _THUMBNAILS:
            kept += resources[at:end] + b"\0" * (size % 2)
        at = end + size % 2
    return kept
