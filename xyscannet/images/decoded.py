"""What a format's reader hands on, and the conversion of Pillow's picture modes to grey or RGB with alpha."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms

from .formats import BadImage
from .photo import Metadata


@dataclass
class Header:
    """What a format's header says, before orientation is applied."""

    width: int
    height: int
    bit_depth: int
    channels: str  # "grey" "rgb" "palette" "cmyk" "lab"
    has_alpha: bool
    orientation: int = 1


@dataclass
class Decoded:
    """A decoded picture as stored in the file, not yet upright."""

    pixels: np.ndarray  # (H, W) grey or (H, W, 3) RGB; uint8 or uint16
    alpha: np.ndarray | None = None  # (H, W)
    metadata: Metadata = field(default_factory=Metadata)
    exif: bytes | None = None  # as in the file
    orientation: int | None = None  # where the format itself gives it; otherwise it is read from exif
    notes: list[str] = field(default_factory=list)


def profile_space(icc: bytes | None) -> str | None:
    """The colour space an ICC profile is for ("RGB", "GRAY", "CMYK", "Lab"), None without a usable profile."""
    if icc is None or len(icc) < 128 or icc[36:40] != b"acsp":
        return None
    return icc[16:20].decode("latin-1").strip()


def from_pillow(image: Image.Image, decoded: Decoded) -> Decoded:
    """Fill a Decoded from a loaded Pillow picture of 8 bits or less per channel, saying what was converted.

    A CMYK or LAB picture becomes sRGB, after which its ICC profile is no longer true and is dropped.
    """
    mode = image.mode
    if mode in ("P", "PA"):
        transparent = mode == "PA" or "transparency" in image.info
        decoded.notes.append(f"palette converted to {'RGB with alpha' if transparent else 'RGB'}")
        image = image.convert("RGBA" if transparent else "RGB")
    elif mode == "1":
        decoded.notes.append("1-bit picture converted to 8-bit grey")
        image = image.convert("L")
    elif mode == "CMYK":
        image = _cmyk_to_rgb(image, decoded)
    elif mode == "LAB":
        image = _convert(image, ImageCms.createProfile("LAB"))
        decoded.notes.append("CIE Lab converted to sRGB")
        _drop_profile(decoded)
    elif mode == "YCbCr":
        image = image.convert("RGB")
    elif mode in ("RGBa", "La"):
        decoded.notes.append("premultiplied alpha converted to straight alpha")
        image = image.convert("RGBA" if mode == "RGBa" else "LA")
    elif mode not in ("L", "LA", "RGB", "RGBA", "RGBX"):
        raise BadImage(
            f"pixels of the kind {mode!r} are not supported: convert to 8- or 16-bit grey or RGB first"
        )
    pixels = np.array(image)
    if image.mode in ("LA", "RGBA"):
        decoded.alpha = np.ascontiguousarray(pixels[..., -1])
        pixels = pixels[..., 0] if image.mode == "LA" else pixels[..., :3]
    elif image.mode == "RGBX":
        pixels = pixels[..., :3]
    decoded.pixels = np.ascontiguousarray(pixels)
    return decoded


def _cmyk_to_rgb(image: Image.Image, decoded: Decoded) -> Image.Image:
    icc = decoded.metadata.icc
    if icc is not None and profile_space(icc) == "CMYK":
        try:
            converted = _convert(image, ImageCms.ImageCmsProfile(io.BytesIO(icc)))
            decoded.notes.append("CMYK converted to sRGB by its colour profile")
            _drop_profile(decoded)
            return converted
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
    decoded.notes.append("CMYK without a usable colour profile converted to RGB: colours are approximate")
    _drop_profile(decoded)
    return image.convert("RGB")


def _convert(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    converted = ImageCms.profileToProfile(
        image,
        profile,
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert converted is not None  # None only when converting in place
    return converted


def _drop_profile(decoded: Decoded) -> None:
    decoded.metadata = replace(decoded.metadata, icc=None)


def exactly(fp: BinaryIO, size: int) -> bytes:
    """The next size bytes of a file. Raises BadImage when it ends before."""
    data = fp.read(size)
    if len(data) < size:
        raise BadImage("the file is truncated: its header is cut off")
    return data
