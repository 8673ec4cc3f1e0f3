"""A photograph in memory: upright RGB pixels beside what is needed to write it back as it came."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PhotoInfo:
    """What a file's header says. Width and height are those of the upright picture, in pixels."""

    path: Path
    format: str  # "png" "jpeg" "webp" "tiff" "bmp" "heic"
    width: int
    height: int
    bit_depth: int  # 8 or 16: bits per channel of the Photo that read() gives
    channels: str  # "grey" "rgb" "palette" "cmyk" "lab"
    has_alpha: bool


@dataclass(frozen=True)
class JpegCoding:
    """How a JPEG file was compressed: 64-entry quantisation tables of luma and chroma, chroma subsampling."""

    tables: tuple[tuple[int, ...], ...]
    subsampling: int  # Pillow's numbers: 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0
    progressive: bool


@dataclass(frozen=True)
class HeicCoding:
    """How a HEIC file was compressed, and what it says of its colours beside an ICC profile, by pillow-heif's names."""

    chroma: int  # 420, 422 or 444
    bits: int  # 8, 10 or 12
    colours: tuple[tuple[str, Any], ...] = ()

    @property
    def cicp(self) -> tuple[int, int] | None:
        """Primaries and transfer curve by H.273's numbers, None where they are sRGB's, near them, or not said."""
        named = dict(self.colours).get("nclx_profile")
        code = (named["color_primaries"], named["transfer_characteristics"]) if named else (2, 2)
        return None if code[0] in (1, 2) and code[1] in (1, 2, 6, 13, 14, 15) else code


@dataclass(frozen=True)
class Metadata:
    """What a file carries beside its pixels, already adjusted to the upright picture."""

    exif: bytes | None = None  # a TIFF structure; orientation 1, no thumbnail
    xmp: bytes | None = None
    icc: bytes | None = None
    photoshop: bytes | None = None  # image resource blocks (IPTC and others), no thumbnail
    dpi: tuple[float, float] | None = None  # horizontal, vertical
    comments: tuple[bytes, ...] = ()  # JPEG comments
    png_chunks: tuple[tuple[bytes, bytes], ...] = ()  # (type, data) of text, time and colour chunks
    jpeg: JpegCoding | None = None
    webp_lossless: bool = False
    heic: HeicCoding | None = None
    tiff_compression: str | None = None  # "none" "lzw" "deflate"
    suffix: str = ""  # suffix of the file the photograph came from, lower case


@dataclass(frozen=True, eq=False)
class Photo:
    """A photograph with H rows and W columns."""

    rgb: np.ndarray = field(repr=False)  # (H, W, 3) uint8 or uint16
    alpha: np.ndarray | None = field(default=None, repr=False)  # (H, W), the dtype of rgb
    grey: bool = False  # written back as one channel; rgb holds it three times
    format: str = "png"
    metadata: Metadata = field(default_factory=Metadata)
    notes: tuple[str, ...] = ()  # conversions the user should hear of

    def __post_init__(self) -> None:
        if self.rgb.ndim != 3 or self.rgb.shape[2] != 3 or self.rgb.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"rgb must be (H, W, 3) uint8 or uint16, not {self.rgb.shape} {self.rgb.dtype}")
        if self.rgb.size == 0:
            raise ValueError(f"rgb must have at least one pixel, not shape {self.rgb.shape}")
        alpha = self.alpha
        if alpha is not None and (alpha.shape != self.rgb.shape[:2] or alpha.dtype != self.rgb.dtype):
            raise ValueError(
                f"alpha {alpha.shape} {alpha.dtype} does not fit rgb {self.rgb.shape} {self.rgb.dtype}"
            )

    @property
    def height(self) -> int:
        return self.rgb.shape[0]

    @property
    def width(self) -> int:
        return self.rgb.shape[1]

    @property
    def bit_depth(self) -> int:
        return self.rgb.dtype.itemsize * 8

    @property
    def white(self) -> int:
        """The value of full intensity: 255 or 65535."""
        return int(np.iinfo(self.rgb.dtype).max)

    def to_float(self) -> np.ndarray:
        """The pixels as (H, W, 3) float32 in [0, 1]; `with_float` of it gives the same photograph back exactly."""
        return self.rgb.astype(np.float32) / np.float32(self.white)

    def with_float(self, array: np.ndarray) -> Photo:
        """This photograph with other pixels: (H, W, 3) float in [0, 1], clipped and rounded to the same dtype.

        The channels of a grey photograph are averaged. Raises ValueError for another shape or a value that is
        not finite.
        """
        array = np.asarray(array, dtype=np.float32)
        if array.shape != self.rgb.shape:
            raise ValueError(f"pixels of shape {array.shape} do not fit a photograph of {self.rgb.shape}")
        if not np.isfinite(array).all():
            raise ValueError("pixels hold values that are not finite")
        if self.grey:
            array = np.broadcast_to(array.mean(axis=2, keepdims=True, dtype=np.float32), array.shape)
        levels = np.rint(np.clip(array, 0.0, 1.0) * np.float32(self.white))
        return replace(self, rgb=levels.astype(self.rgb.dtype))
