"""Pictures, EXIF blocks and colour profiles that the tests of images share."""

from __future__ import annotations

import functools
import struct

import numpy as np
from PIL import ImageCms

from xyscannet.images import Metadata, Photo


def picture(height: int = 23, width: int = 31, dtype: type = np.uint8, *, grey: bool = False) -> np.ndarray:
    """(H, W, 3) with smooth ramps, different in each channel, over the whole range of the dtype."""
    down, across = np.mgrid[:height, :width]
    ramps = np.stack(
        [across / max(1, width - 1), down / max(1, height - 1), (across + down) % 17 / 16], axis=2
    )
    if grey:
        ramps = np.repeat(ramps[..., :1] * 0.7 + ramps[..., 1:2] * 0.3, 3, axis=2)
    return np.rint(ramps * np.iinfo(dtype).max).astype(dtype)


def matte(height: int = 23, width: int = 31, dtype: type = np.uint8) -> np.ndarray:
    """(H, W) alpha with every kind of value, zero included."""
    return np.random.default_rng(3).integers(
        0, np.iinfo(dtype).max, (height, width), dtype=dtype, endpoint=True
    )


def photo(
    format: str,
    dtype: type = np.uint8,
    grey: bool = False,
    alpha: bool = False,
    size: tuple[int, int] = (23, 31),
    **metadata: object,
) -> Photo:
    """`picture` as a photograph of a format, with `matte` where it has alpha; a WebP is lossless."""
    metadata.setdefault("webp_lossless", True)
    pixels = picture(*size, dtype, grey=grey)
    return Photo(pixels, matte(*size, dtype) if alpha else None, grey, format, Metadata(**metadata))


def exif(
    orientation: int = 1, *, order: str = "<", thumbnail: bytes = b"", width: int = 31, height: int = 23
) -> bytes:
    """An EXIF block with camera, resolution, GPS, an Exif directory with a maker note, and a thumbnail."""
    make, note = b"Cam\0era\0", b"MAKER" + bytes(range(40))

    def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
        return struct.pack(order + "HHI", tag, kind, count) + value.ljust(4, b"\0")

    def short(value: int) -> bytes:
        return struct.pack(order + "H", value)

    def long(value: int) -> bytes:
        return struct.pack(order + "I", value)

    main_at, entries = 8, 7
    values_at = main_at + 2 + 12 * entries + 4
    across_at = values_at + len(make)
    inner_at = across_at + 16
    note_at = inner_at + 2 + 12 * 3 + 4
    gps_at = note_at + len(note) + len(note) % 2
    second_at = gps_at + 2 + 12 + 4
    thumbnail_at = second_at + 2 + 24 + 4
    main = short(entries)
    main += entry(0x010F, 2, len(make), long(values_at))
    main += entry(0x0112, 3, 1, short(orientation))
    main += entry(0x011A, 5, 1, long(across_at)) + entry(0x011B, 5, 1, long(across_at + 8))
    main += entry(0x0128, 3, 1, short(2))
    main += entry(0x8769, 4, 1, long(inner_at)) + entry(0x8825, 4, 1, long(gps_at))
    main += long(second_at if thumbnail else 0)
    main += make + struct.pack(order + "4I", 240, 1, 480, 2)
    inner = short(3) + entry(0x927C, 7, len(note), long(note_at))
    inner += entry(0xA002, 4, 1, long(width)) + entry(0xA003, 4, 1, long(height)) + long(0) + note
    gps = short(1) + entry(1, 2, 2, b"N\0") + long(0)
    second = (
        short(2) + entry(0x201, 4, 1, long(thumbnail_at)) + entry(0x202, 4, 1, long(len(thumbnail))) + long(0)
    )
    mark = b"II" if order == "<" else b"MM"
    block = mark + short(42) + long(8) + main + inner.ljust(gps_at - inner_at, b"\0") + gps
    return block + (second + thumbnail if thumbnail else b"")


@functools.cache
def profile() -> bytes:
    """An RGB colour profile."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def grey_profile() -> bytes:
    """The head of a profile for grey pictures; enough to be carried, not to be applied."""
    content = bytearray(profile())
    content[16:20] = b"GRAY"
    return bytes(content)


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """How a camera stores an upright picture under an EXIF orientation (the table of the EXIF standard)."""
    flip, mirror = np.flipud, np.fliplr
    return np.ascontiguousarray(
        {
            1: lambda x: x,
            2: mirror,
            3: lambda x: np.rot90(x, 2),
            4: flip,
            5: lambda x: np.swapaxes(x, 0, 1),
            6: lambda x: np.rot90(x, 1),  # shown turned clockwise by 90 degrees
            7: lambda x: np.rot90(np.swapaxes(x, 0, 1), 2),
            8: lambda x: np.rot90(x, -1),
        }[orientation](upright)
    )


def cmyk_profile() -> bytes:
    """A made-up printing profile whose first ink is red instead of cyan: 16 points of a table from CMYK to Lab."""
    ramp = bytes(range(256))
    corners = b""
    for ink in range(16):  # the first ink is the slowest to change
        if ink & 1:
            corners += bytes([0, 128, 128])  # black
        elif ink & 8:
            corners += bytes([127, 192, 168])  # the red one
        else:
            corners += bytes([255 - 40 * (ink >> 1), 128, 128])
    identity = struct.pack(">9I", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + corners + ramp * 3
    white = b"XYZ " + bytes(4) + struct.pack(">3I", 63190, 65536, 54061)
    text = b"text" + bytes(4) + b"none\0\0\0\0"
    description = b"desc" + bytes(4) + struct.pack(">I", 5) + b"inks\0" + bytes(78 + 1)
    blocks = {b"A2B0": table, b"wtpt": white, b"cprt": text, b"desc": description}
    at = 128 + 4 + 12 * len(blocks)
    index, body = struct.pack(">I", len(blocks)), b""
    for name, block in blocks.items():
        block += bytes(-len(block) % 4)
        index += struct.pack(">4sII", name, at + len(body), len(block))
        body += block
    head = struct.pack(">I4sI4s4s4s", at + len(body), bytes(4), 0x02400000, b"prtr", b"CMYK", b"Lab ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3I", 63190, 65536, 54061) + bytes(48)
    return head + index + body
