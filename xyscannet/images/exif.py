"""EXIF as the TIFF structure it is: changed in place, so that maker notes and whatever else is in it stay valid.

Also the reader and writer of IFDs (image file directories) that TIFF files themselves need. Source: TIFF 6.0 and the
EXIF 2.32 standard (CIPA DC-008).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

TYPE_BYTES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
ORIENTATION = 0x0112
EXIF_POINTER, GPS_POINTER, INTEROP_POINTER = 0x8769, 0x8825, 0xA005
_POINTERS = (EXIF_POINTER, GPS_POINTER, INTEROP_POINTER)
_MAX_ENTRIES = 4096
_MAX_BYTES = 256 << 20  # of all values of a directory together
LAYERS = 37724  # Photoshop's layers, as large as the picture many times over: noticed, not read

Reader = Callable[[int, int], bytes]  # (offset, size) -> at most size bytes


class Entry(NamedTuple):
    """One field of an IFD: its type, how many values, their bytes, and where those bytes lie."""

    type: int
    count: int
    data: bytes
    at: int


@dataclass(frozen=True)
class Layout:
    """Byte order ("<" or ">") of a TIFF structure and whether it is BigTIFF (64-bit offsets)."""

    order: str
    big: bool = False

    @property
    def word(self) -> str:
        return "Q" if self.big else "I"


def layout_of(head: bytes) -> tuple[Layout, int]:
    """Layout and offset of the first IFD from the first 16 bytes. Raises ValueError if it is no TIFF structure."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(head[:2]))
    if order is None or len(head) < 8:
        raise ValueError("no TIFF structure")
    version = struct.unpack(order + "H", head[2:4])[0]
    if version == 42:
        return Layout(order), struct.unpack(order + "I", head[4:8])[0]
    if version == 43 and len(head) >= 16:
        return Layout(order, True), struct.unpack(order + "Q", head[8:16])[0]
    raise ValueError("no TIFF structure")


def read_ifd(at: Reader, layout: Layout, offset: int) -> tuple[dict[int, Entry], int]:
    """The fields of the IFD at an offset, and the offset of the next one (0: none).

    A field of unknown type, or whose value lies outside, is left out. Raises ValueError when the directory itself
    does.
    """
    count_code, entry_bytes, inline = ("Q", 20, 8) if layout.big else ("H", 12, 4)
    count_bytes = struct.calcsize("<" + count_code)
    head = at(offset, count_bytes)
    if offset < 8 or len(head) < count_bytes:
        raise ValueError("a directory lies outside the file")
    count = struct.unpack(layout.order + count_code, head)[0]
    table = at(offset + count_bytes, count * entry_bytes) if count <= _MAX_ENTRIES else b""
    if not count or len(table) < count * entry_bytes:
        raise ValueError("a directory is cut off")
    fields: dict[int, Entry] = {}
    total = 0
    for index in range(count):
        start = index * entry_bytes
        tag, kind, number = struct.unpack_from(layout.order + "HH" + layout.word, table, start)
        size = TYPE_BYTES.get(kind, 0) * number
        if not size or tag in fields:
            continue
        where = offset + count_bytes + start + entry_bytes - inline
        if size > inline:
            where = struct.unpack_from(layout.order + layout.word, table, start + entry_bytes - inline)[0]
        data = b"" if tag == LAYERS else at(where, size)
        total += len(data)
        if total > _MAX_BYTES:
            raise ValueError("the values of a directory are too large")
        if len(data) == size or tag == LAYERS:
            fields[tag] = Entry(kind, number, data, where)
    end = offset + count_bytes + count * entry_bytes
    tail = at(end, inline)
    following = struct.unpack(layout.order + layout.word, tail)[0] if len(tail) == inline else 0
    return fields, following


def integers(entry: Entry | None, layout: Layout) -> tuple[int, ...]:
    """The values of an integer field, () when it is absent or of another type."""
    if entry is None or entry.type not in _INTEGERS:
        return ()
    return struct.unpack(f"{layout.order}{entry.count}{_INTEGERS[entry.type]}", entry.data)


def rational(entry: Entry | None, layout: Layout) -> float | None:
    """The first value of an unsigned rational field, None when there is none."""
    if entry is None or entry.type != 5:
        return None
    above, below = struct.unpack_from(layout.order + "II", entry.data)
    return above / below if below else None


def pack_ifd(fields: dict[int, tuple[int, int, bytes]], layout: Layout, offset: int) -> bytes:
    """An IFD for the given offset, its values behind it: {tag: (type, count, bytes)} -> bytes."""
    count_code, entry_bytes, inline = ("Q", 20, 8) if layout.big else ("H", 12, 4)
    head = struct.pack(layout.order + count_code, len(fields))
    values_at = offset + len(head) + entry_bytes * len(fields) + inline
    table, values = bytearray(), bytearray()
    for tag in sorted(fields):
        kind, count, data = fields[tag][:3]
        table += struct.pack(layout.order + "HH" + layout.word, tag, kind, count)
        if len(data) <= inline:
            table += data.ljust(inline, b"\0")
        else:
            table += struct.pack(layout.order + layout.word, values_at + len(values))
            values += data + b"\0" * (len(data) % 2)
    return head + bytes(table) + b"\0" * inline + bytes(values)


def pack_tree(
    fields: dict[int, Entry],
    at: Reader,
    source: Layout,
    target: Layout,
    offset: int,
    pointers: tuple[int, ...] = (EXIF_POINTER, GPS_POINTER),
) -> bytes:
    """`pack_ifd` with the directories behind it that the fields point to: EXIF, GPS and, in EXIF, interoperability."""
    flat: dict[int, tuple[int, int, bytes]] = {
        tag: entry[:3] for tag, entry in fields.items() if tag not in _POINTERS
    }
    children: dict[int, dict[int, Entry]] = {}
    for tag in set(pointers) & set(fields):
        where = integers(fields[tag], source)
        try:
            children[tag] = read_ifd(at, source, where[0])[0]
        except (ValueError, IndexError):
            continue
        flat[tag] = (4, 1, bytes(4))
    end = offset + len(pack_ifd(flat, target, offset))
    tail = b""
    for tag, child in children.items():
        inner = (INTEROP_POINTER,) if tag == EXIF_POINTER else ()
        flat[tag] = (4, 1, struct.pack(target.order + "I", end + len(tail)))
        packed = pack_tree(child, at, source, target, end + len(tail), inner)
        tail += packed + b"\0" * (len(packed) % 2)
    return pack_ifd(flat, target, offset) + tail


def blob_reader(blob: bytes) -> Reader:
    return lambda offset, size: blob[offset : offset + size]


def bare(block: bytes) -> bytes:
    """EXIF without the mark that it has in JPEG files, which some programs write in others, too."""
    return block.removeprefix(b"Exif\0\0")


def orientation(blob: bytes) -> int:
    """The orientation (1 to 8) an EXIF block gives; 1 when it gives none. Raises ValueError for a corrupt block."""
    layout, first = layout_of(blob[:16])
    fields, _ = read_ifd(blob_reader(blob), layout, first)
    value = (integers(fields.get(ORIENTATION), layout) or (1,))[0]
    return value if 1 <= value <= 8 else 1


def resolution(blob: bytes) -> tuple[float, float] | None:
    """Dots per inch from an EXIF block's fields, None when they are not there."""
    layout, first = layout_of(blob[:16])
    return ifd_resolution(read_ifd(blob_reader(blob), layout, first)[0], layout)


def ifd_resolution(fields: dict[int, Entry], layout: Layout) -> tuple[float, float] | None:
    """Dots per inch from the fields XResolution, YResolution and ResolutionUnit of an IFD."""
    across, down = rational(fields.get(282), layout), rational(fields.get(283), layout)
    unit = (integers(fields.get(296), layout) or (2,))[0]
    if not across or not down or unit not in (2, 3):
        return None
    scale = 2.54 if unit == 3 else 1.0
    return across * scale, down * scale


def made_upright(blob: bytes, width: int, height: int, turned: bool = False) -> bytes:
    """An EXIF block for the upright picture of width x height: orientation 1, its size, without the thumbnail.

    Where rows have become columns (turned), horizontal and vertical resolution change places. Everything else keeps
    its place and bytes. Raises ValueError for a corrupt block.
    """
    layout, first = layout_of(blob[:16])
    changed = bytearray(blob)
    at = blob_reader(blob)
    fields, following = read_ifd(at, layout, first)
    _put(changed, fields.get(ORIENTATION), layout, 1)
    across, down = fields.get(282), fields.get(283)
    if turned and across and down and across.type == down.type == 5 and across.count == down.count:
        changed[across.at : across.at + len(across.data)] = down.data
        changed[down.at : down.at + len(down.data)] = across.data
    _put(changed, fields.get(256), layout, width)
    _put(changed, fields.get(257), layout, height)
    if EXIF_POINTER in fields:
        try:
            inner, _ = read_ifd(at, layout, integers(fields[EXIF_POINTER], layout)[0])
        except (ValueError, IndexError):
            inner = {}
        _put(changed, inner.get(0xA002), layout, width)
        _put(changed, inner.get(0xA003), layout, height)
    if following and not layout.big:
        count = struct.unpack_from(layout.order + "H", blob, first)[0]
        struct.pack_into("<I", changed, first + 2 + 12 * count, 0)
        try:
            thumbnail, _ = read_ifd(at, layout, following)
        except ValueError:
            thumbnail = {}
        start = integers(thumbnail.get(0x201), layout)
        size = integers(thumbnail.get(0x202), layout)
        if start and size and 8 <= start[0] < len(changed):
            end = start[0] + size[0]
            if end == len(changed):
                del changed[start[0] :]
            elif end < len(changed):
                changed[start[0] : end] = bytes(size[0])
    return bytes(changed)


def _put(blob: bytearray, entry: Entry | None, layout: Layout, value: int) -> None:
    """Put a value in place of the first of an integer field, if there is one and it is large enough."""
    if entry is not None and entry.type in _INTEGERS and value < 256 ** TYPE_BYTES[entry.type]:
        struct.pack_into(layout.order + _INTEGERS[entry.type], blob, entry.at, value)


_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|>)\s*)[1-8]")


# What phones say of a video or a gain map behind the picture, as attributes or elements; and the list of such parts.
_XMP_PARTS = re.compile(
    rb"""\s(?:GCamera|Camera|hdrgm):(?:Motion|Micro|Version|Gain)\w*\s*=\s*(?:"[^"]*"|'[^']*')"""
    rb"""|<((?:GCamera|Camera|hdrgm):(?:Motion|Micro|Version|Gain)\w*)\s*>[^<]*</\1\s*>"""
)
_LIST, _LIST_END = b"<Container:Directory>", b"</Container:Directory>"


def xmp_upright(xmp: bytes, turned: bool) -> bytes:
    """An XMP packet (UTF-8) of this picture alone, with its orientation, if it gives one, set to 1 where it was turned.

    What XMP alone says turns no picture, here as in viewers, and stays.
    """
    upright = _XMP_ORIENTATION.sub(rb"\g<1>1", xmp) if turned else xmp
    return _without_lists(_XMP_PARTS.sub(b"", upright))


def _without_lists(xmp: bytes) -> bytes:
    kept, at = [], 0
    while (start := xmp.find(_LIST, at)) >= 0 and (end := xmp.find(_LIST_END, start)) >= 0:
        kept.append(xmp[at:start])
        at = end + len(_LIST_END)
    return b"".join([*kept, xmp[at:]])


def turn(array: np.ndarray, orientation: int) -> np.ndarray:
    """A picture (H, W, ...) stored with an EXIF orientation (1 to 8), upright and contiguous."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    # orientations as flips (vertical, horizontal) of the picture, transposed first from 5 on
    down, across = {
        1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1),
        5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1),
    }[orientation]  # fmt: skip
    return np.ascontiguousarray(array[::down, ::across])
