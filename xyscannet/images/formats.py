"""Which formats are read and written, how they are recognised, and how large a picture may be."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ConfigError

SUFFIXES: dict[str, str] = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".jpe": "jpeg",
    ".jfif": "jpeg",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".bmp": "bmp",
    ".dib": "bmp",
    ".heic": "heic",
    ".heif": "heic",
    ".hif": "heic",
}
FORMATS: tuple[str, ...] = ("png", "jpeg", "webp", "tiff", "bmp", "heic")
LOSSY = ("jpeg", "webp", "heic")
NAMES: dict[str, str] = {
    "png": "PNG",
    "jpeg": "JPEG",
    "webp": "WebP",
    "tiff": "TIFF",
    "bmp": "BMP",
    "heic": "HEIC",
}
SUPPORTED = "PNG, JPEG, WebP, TIFF, BMP and HEIC are supported"

MAX_PIXELS = 400_000_000
"""Largest picture read, in pixels; the environment variable XYSCAN_MAX_PIXELS overrides it."""

HEAD_BYTES = 32
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis"}
_OTHER_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"hevc": "A sequence of HEIC pictures"}


class BadImage(Exception):
    """A file's content is refused; the message is the reason, without the file's name."""


def max_pixels() -> int:
    """The largest number of pixels a picture may have. Raises ConfigError for an unusable XYSCAN_MAX_PIXELS."""
    text = os.environ.get("XYSCAN_MAX_PIXELS")
    if not text:
        return MAX_PIXELS
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise ConfigError(
            f"XYSCAN_MAX_PIXELS={text!r} is not a number of pixels: give a whole number above 0"
        )
    return value


def check_size(width: int, height: int) -> None:
    """Refuse an empty picture and a decompression bomb, from the header's numbers."""
    if width < 1 or height < 1:
        raise BadImage(f"the header gives a size of {width}x{height}: the file is damaged")
    if width * height > max_pixels():
        raise BadImage(
            f"{width}x{height} is {width * height / 1e6:.0f} megapixels, more than the limit of "
            f"{max_pixels() / 1e6:g}: set XYSCAN_MAX_PIXELS={width * height} if the picture is meant to be this large"
        )


def suffix_format(path: str | os.PathLike[str]) -> str | None:
    """The format a file's name promises, None when its suffix is not a known one."""
    return SUFFIXES.get(Path(path).suffix.lower())


def recognise(head: bytes) -> str:
    """The format of a file from its first HEAD_BYTES bytes. Raises BadImage for anything not supported."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "webp"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if head.startswith(b"BM") and len(head) >= 26:
        return "bmp"
    if _brands(head) & _HEIC_BRANDS:
        return "heic"
    if not head:
        raise BadImage("the file is empty (0 bytes)")
    other = _foreign(head)
    if other:
        raise BadImage(f"{other} is not supported: convert it first ({SUPPORTED})")
    for magic, name in ((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"BM", "BMP")):
        if magic.startswith(head) or (head.startswith(magic[:2]) and len(head) < HEAD_BYTES):
            raise BadImage(f"the {name} file is truncated: only {len(head)} bytes are there")
    if head.startswith(b"RIFF") and len(head) < 12:
        raise BadImage(f"the WebP file is truncated: only {len(head)} bytes are there")
    raise BadImage(f"this is not an image ({SUPPORTED})")


def _brands(head: bytes) -> set[bytes]:
    """What a file in an ISO base media container says that it is compatible with, as far as `head` holds it."""
    return {head[at : at + 4] for at in (8, *range(16, len(head), 4))} if head[4:8] == b"ftyp" else set()


def _foreign(head: bytes) -> str | None:
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head[4:8] == b"ftyp":
        known = _brands(head) & set(_OTHER_BRANDS)
        video = "This kind of file (video, or a photograph in a video container)"
        return _OTHER_BRANDS[known.pop()] if known else video
    for magic, name in (
        (b"\0\0\0\x0cjP  ", "JPEG 2000"),
        (b"\0\0\0\x0cJXL ", "JPEG XL"),
        (b"\xff\x0a", "JPEG XL"),
        (b"v/1\x01", "OpenEXR"),
        (b"#?RADIANCE", "Radiance HDR"),
        (b"8BPS", "A Photoshop document"),
        (b"%PDF", "PDF"),
        (b"IIU\0", "Camera raw"),
        (b"FUJIFILMCCD-RAW", "Camera raw"),
    ):
        if head.startswith(magic):
            return name
    return None
