"""Where the coded pictures lie in a HEIC file. Source: ISO/IEC 14496-12, item location and item information boxes."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_HOLE = bytes(
    8
)  # HEVC never has three zero bytes in a row but before a unit, whose length may begin with three more


def has_hole(data: bytes) -> bool:
    """Whether a coded picture has bytes that were never written, which decoders conceal; False where nobody knows."""
    try:
        return any(_HOLE in data[start:end] for start, end in _coded(data))
    except (struct.error, LookupError):
        return False


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the content of the boxes between two places."""
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            size, head = struct.unpack_from(">Q", data, at + 8)[0], 16
        size = size or end - at
        if size < head or at + size > end:
            return
        yield kind, at + head, at + size
        at += size


def _coded(data: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of each piece of the pictures that are coded as HEVC and lie in the file."""
    start, end = {kind: place for kind, *place in _boxes(data, 0, len(data))}[b"meta"]
    boxes = {kind: at for kind, at, _ in _boxes(data, start + 4, end)}
    kinds = _kinds(data, boxes[b"iinf"], end)
    for item, pieces in _places(data, boxes[b"iloc"]):
        if kinds.get(item) == b"hvc1":
            yield from pieces


def _kinds(data: bytes, at: int, end: int) -> dict[int, bytes]:
    """The kind of each item."""
    found = {}
    for kind, entry, _ in _boxes(data, at + (8 if data[at] else 6), end):
        if kind == b"infe":
            code = ">IH4s" if data[entry] == 3 else ">HH4s"
            item, _, found_kind = struct.unpack_from(code, data, entry + 4)
            found[item] = found_kind
    return found


def _places(data: bytes, at: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Each item that lies in the file itself, and start and end of its pieces."""
    version = data[at]
    at += 4

    def number(size: int) -> int:
        nonlocal at
        at += size
        piece = data[at - size : at]
        if len(piece) < size:
            raise struct.error("the item location box is cut off")
        return int.from_bytes(piece, "big")

    sizes = number(2)
    offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    for _ in range(number(2 if version < 2 else 4)):
        item = number(2 if version < 2 else 4)
        method = number(2) & 15 if version else 0
        number(2)  # another file
        start, pieces = number(base), []
        for _ in range(number(2)):
            number(index if version else 0)
            begin = start + number(offset)
            pieces.append((begin, begin + number(length)))
        if method == 0:
            yield item, pieces
