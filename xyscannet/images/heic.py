"""HEIC, which phones take photographs in, through pillow-heif (libheif), the extra `heif`.

A file does not tell the quality it was written with: 80 is taken where none is given. Chroma subsampling, 10 or 12 bits
and the colour space stay. Source: ISO/IEC 23008-12.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from . import exif as exif_block
from .decoded import Decoded, Header, from_pillow, profile_space
from .formats import BadImage, check_size
from .heic_items import has_hole
from .photo import HeicCoding, Photo

DEFAULT_QUALITY = 80  # as near the pixels as a JPEG of 95
PRESET = "fast"  # of x265: half the time of its own choice, files of the same size and quality
DEFAULT_BITS = 10  # of a picture with 16
_COLOURS = (
    "nclx_profile",
    "content_light_level",
    "mastering_display_colour_volume",
    "ambient_viewing_environment",
    "nominal_diffuse_white_luminance",
)


def library() -> ModuleType:
    """The package pillow_heif. Raises BadImage naming the extra where it is missing."""
    try:
        import pillow_heif
    except ImportError as error:
        raise BadImage(
            f"HEIC needs the package pillow-heif ({error}): pip install 'xyscannet[heif]', or take another format"
        ) from error
    return pillow_heif


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    """Turn what libheif raises into BadImage."""
    try:
        yield
    except (ValueError, RuntimeError, EOFError, OSError) as error:
        raise BadImage(f"the HEIC file is truncated or damaged ({_line(error)})") from error


def _opened(data: bytes) -> Any:
    """The file, its size checked; nothing is decoded yet."""
    with _telling():
        opened = library().open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
    check_size(*opened.size)
    return opened


def header(fp: BinaryIO) -> Header:
    """Size, depth, channels and alpha. Raises BadImage."""
    fp.seek(0)
    opened = _opened(fp.read())
    depth = 8 if opened.info["bit_depth"] == 8 else 16
    return Header(*opened.size, depth, "grey" if opened.mode[0] in "LI" else "rgb", opened.has_alpha)


def decode(data: bytes) -> Decoded:
    """The main picture, which libheif turns upright. Raises BadImage."""
    opened = _opened(data)
    if has_hole(data):
        raise BadImage("the HEIC file is truncated or damaged: some of its pixels are missing")
    info, bits = opened.info, opened.info["bit_depth"]
    decoded = Decoded(np.empty(0), orientation=1)
    if len(opened) > 1 or info["aux"] or info["depth_images"]:
        decoded.notes.append("pictures beside the main one (HDR gain map, depth or others) are not kept")
    if info["exif"]:
        decoded.exif = exif_block.bare(info["exif"])
    colours = tuple((name, info[name]) for name in _COLOURS if name in info)
    icc, xmp = info.get("icc_profile") or None, info.get("xmp")
    coding = HeicCoding(info.get("chroma", 420), bits, colours)
    decoded.metadata = replace(decoded.metadata, icc=icc, xmp=xmp, heic=coding)
    if opened.premultiplied_alpha:
        if bits > 8:
            raise BadImage(f"premultiplied alpha of {bits} bits is not supported: convert it first")
        with _telling():
            return from_pillow(opened.to_pillow(), decoded)
    with _telling():
        pixels = np.array(opened)  # copied: the memory is the library's
    if bits > 8:  # they are the highest of 16
        pixels = pixels | pixels >> bits
    if opened.has_alpha:
        decoded.alpha = np.ascontiguousarray(pixels[..., -1])
        pixels = pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :3]
    decoded.pixels = np.ascontiguousarray(pixels)
    return decoded


def encode(photo: Photo, quality: int | None) -> tuple[bytes, list[str]]:
    """The file's bytes and what could not be kept. Raises BadImage where the encoder takes no such picture."""
    metadata, notes = photo.metadata, []
    coding = metadata.heic or HeicCoding(444, 8 if photo.bit_depth == 8 else DEFAULT_BITS)
    if metadata.heic is None and photo.bit_depth == 16:
        notes.append(f"16 bit reduced to {DEFAULT_BITS} bit: HEIC holds no more")
    icc = metadata.icc
    if icc is not None and profile_space(icc) != ("GRAY" if photo.grey else "RGB"):
        icc = None
        notes.append("colour profile dropped: it does not fit the picture's channels")
    pixels = photo.rgb[..., :1] if photo.grey else photo.rgb
    if photo.alpha is not None:
        pixels = np.dstack([pixels, photo.alpha])
    mode = ("L" if photo.grey else "RGB") + ("" if photo.alpha is None else "A")
    if photo.bit_depth == 16:
        bits = max(coding.bits, DEFAULT_BITS)
        most = (1 << bits) - 1
        pixels = ((pixels.astype(np.uint32) * most + 32767) // 65535).astype(np.uint16)
        mode += f";{bits}"
    options: dict[str, Any] = {"exif": metadata.exif, "xmp": metadata.xmp, "icc_profile": icc}
    options |= dict(coding.colours)
    options = {name: value for name, value in options.items() if value is not None}
    options |= {"chroma": coding.chroma, "enc_params": {"preset": PRESET}}
    options["quality"] = DEFAULT_QUALITY if quality is None else quality
    buffer = io.BytesIO()
    try:
        library().encode(
            mode, (photo.width, photo.height), np.ascontiguousarray(pixels).tobytes(), buffer, **options
        )
    except RuntimeError as error:
        raise BadImage(
            f"{photo.width}x{photo.height} cannot be encoded as HEIC ({_line(error)}): use PNG"
        ) from error
    return buffer.getvalue(), notes
