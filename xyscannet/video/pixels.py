"""Pixel formats: which planes a frame has, and frames from and to arrays."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

_PLANAR = re.compile(r"(yuva?)(420|422|444|440|411|410)p(\d*)(le)?|(gbra?p)(\d*)(le)?|(gray)(\d*)(le)?")
_SUBSAMPLING = {
    "420": (2, 2),
    "422": (2, 1),
    "444": (1, 1),
    "440": (1, 2),
    "411": (4, 1),
    "410": (4, 4),
}
LUMA = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.601, 625 lines
    6: (0.299, 0.114),  # BT.601, 525 lines
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020
    10: (0.2627, 0.0593),  # BT.2020, constant luminance, taken for the other
}
"""Kr, Kb of ITU-T H.273, table 4, by the number of the matrix."""

_HD = 720  # rows from which a clip without a matrix is BT.709, as players have it
LIMITED_RANGE, FULL_RANGE = 1, 2  # numbers of the ranges of samples
JPEG_MATRIX = 5


def matrix_of(number: int, height: int) -> int:
    """The number of a matrix in ITU-T H.273; where it is none of YUV that is known, the picture's height decides."""
    return number if number in LUMA else 1 if height >= _HD else 6


@dataclass(frozen=True)
class Layout:
    """The planes of a planar pixel format.

    Attributes:
        name: FFmpeg's name, without the "j" that marks full range.
        kind: "yuv", "rgb" (planes in the order G, B, R) or "grey".
        bits: bits per sample; more than 8 are held in 16.
        across, down: luma samples per chroma sample.
        alpha: a last plane holds the opacity.
        full: YUV has full range by its name.
        matrix: number of the matrix that YUV is made with, whatever the source's; 0 keeps that.
    """

    name: str
    kind: str
    bits: int
    across: int = 1
    down: int = 1
    alpha: bool = False
    full: bool = False
    matrix: int = 0

    @property
    def dtype(self) -> type:
        return np.uint8 if self.bits <= 8 else np.uint16

    @property
    def white(self) -> int:
        """The largest value of a sample."""
        return 2**self.bits - 1


def layout(name: str) -> Layout | None:
    """The planes of a pixel format; None for one that is not planar little-endian YUV, RGB or grey."""
    full, name = name.startswith("yuvj"), name.replace("yuvj", "yuv")
    match = _PLANAR.fullmatch(name)
    if match is None:
        return None
    yuv, subsampling, yuv_bits, _, rgb, rgb_bits, _, _, grey_bits, _ = match.groups()
    bits = int(yuv_bits or rgb_bits or grey_bits or 8)
    if bits > 8 and not name.endswith("le"):
        return None
    if yuv:
        return Layout(name, "yuv", bits, *_SUBSAMPLING[subsampling], yuv == "yuva", full)
    return Layout(name, "rgb" if rgb else "grey", bits, alpha=rgb == "gbrap")


def planar(format: Any) -> Layout:
    """The planar layout that holds all that a frame of `format` (an `av.VideoFormat`) does."""
    found = layout(format.name)
    if found is not None:
        return found
    bits = max(component.bits for component in format.components)
    depth = "" if bits <= 8 else f"{next((depth for depth in (10, 12) if bits <= depth), 16)}le"
    alpha = "a" if any(component.is_alpha for component in format.components) else ""
    grey = all(component.is_luma or component.is_alpha for component in format.components)
    if format.is_rgb or format.has_palette or (grey and alpha):  # no planar format is grey with opacity
        name = f"gbr{alpha}p{depth}"
    elif grey:
        name = f"gray{depth}"
    else:
        across, down = format.chroma_width(64), format.chroma_height(64)
        sides = next(name for name, sides in _SUBSAMPLING.items() if sides == (64 // across, 64 // down))
        name = f"yuv{alpha}{sides}p{depth}"
    return layout(name) or Layout(name, "yuv", bits)


def to_planes(frame: Any, wanted: Layout) -> list[np.ndarray]:
    """The planes of a frame in the wanted layout: (h, w) arrays that share the frame's memory where they can.

    Colours stay as they are coded, matrix and range do not change, unless one of the two is RGB or the layout says so;
    see `colour_in`.
    """
    recoded = wanted.full and (_range(frame) != FULL_RANGE or wanted.matrix)
    if recoded or frame.format.name.replace("yuvj", "yuv") != wanted.name:
        frame = converted(frame, wanted.name, wanted.full, wanted.matrix)
    return [_array(plane, wanted.dtype) for plane in frame.planes]


def converted(frame: Any, name: str, full: bool = False, matrix: int = 0) -> Any:
    """A frame in another pixel format; range and matrix of YUV stay, unless they are to become full, and `matrix`."""
    kept, made_with = _range(frame), matrix_of(frame.colorspace, frame.height)
    becomes = FULL_RANGE if full else LIMITED_RANGE if is_rgb(frame.format.name) else kept
    return frame.reformat(
        format=name,
        src_colorspace=made_with,
        dst_colorspace=matrix or made_with,
        src_color_range=kept,
        dst_color_range=becomes,
    )


def _range(frame: Any) -> int:
    return FULL_RANGE if frame.format.name.startswith("yuvj") else frame.color_range


def is_rgb(name: str) -> bool:
    """Whether a pixel format's samples are red, green and blue."""
    from .pyav import load

    format = load().VideoFormat(name)
    return format.is_rgb or format.has_palette


def colour_in(name: str, source: str, colour: tuple[int, ...], height: int) -> tuple[int, ...]:
    """What samples of the pixel format `name` mean that are made of `source`: numbers as in `ClipInfo.colour`."""
    if is_rgb(name) == is_rgb(source):
        return FULL_RANGE if name.startswith("yuvj") else colour[0], *colour[1:]
    if is_rgb(name):
        return FULL_RANGE, *colour[1:3], 0
    full = name.startswith(("yuvj", "gray", "ya"))
    return FULL_RANGE if full else LIMITED_RANGE, *colour[1:3], matrix_of(colour[3], height)


def from_planes(planes: list[np.ndarray], wanted: Layout) -> Any:
    """A new frame of the layout with these planes."""
    from .pyav import load

    height, width = planes[0].shape
    frame = load().VideoFrame(width, height, wanted.name)
    for plane, pixels in zip(frame.planes, planes):
        _array(plane, wanted.dtype)[:] = pixels
    return frame


def _array(plane: Any, dtype: type) -> np.ndarray:
    itemsize = np.dtype(dtype).itemsize
    rows = np.frombuffer(plane, dtype).reshape(-1, plane.line_size // itemsize)
    return rows[: plane.height, : plane.width]
