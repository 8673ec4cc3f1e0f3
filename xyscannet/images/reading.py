"""Files into photographs."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np

from ..errors import InputError, XYScanError
from ..files import shown
from . import bmp, exif, heic, jpeg, png, tiff, webp
from .decoded import Decoded, Header
from .formats import HEAD_BYTES, NAMES, BadImage, recognise, suffix_format
from .photo import Metadata, Photo, PhotoInfo

_MOST_DPI = 100_000  # more than any device has, and what every format can hold

_CODECS: dict[str, ModuleType] = {
    "png": png,
    "jpeg": jpeg,
    "webp": webp,
    "tiff": tiff,
    "bmp": bmp,
    "heic": heic,
}


def probe(path: str | os.PathLike[str]) -> PhotoInfo:
    """What a file's header says; the pixels are not decoded and may still turn out damaged in `read`.

    Raises InputError for a file that is missing, unreadable, no picture, of an unsupported kind or too large.
    """
    path = Path(path)
    try:
        _check_file(path)
        with path.open("rb") as fp:
            format = recognise(fp.read(HEAD_BYTES))
            found: Header = _CODECS[format].header(fp)
    except Exception as error:
        raise _input_error(path, error) from error
    width, height = (found.width, found.height) if found.orientation < 5 else (found.height, found.width)
    return PhotoInfo(path, format, width, height, found.bit_depth, found.channels, found.has_alpha)


def read(path: str | os.PathLike[str]) -> Photo:
    """The photograph in a file, upright, as 8- or 16-bit RGB (grey replicated) with its alpha and metadata.

    The content decides the format, not the name. Palette, CMYK, Lab and 1-bit pictures are converted, which the
    notes of the photograph say. EXIF keeps all it holds but the thumbnail, with its orientation set to 1.

    Raises InputError, naming the file, for one that is missing, unreadable, empty, truncated, damaged, animated or
    many-paged, not of a supported kind, or larger than MAX_PIXELS.
    """
    path = Path(path)
    try:
        _check_file(path)
        data = path.read_bytes()
        format = recognise(data[:HEAD_BYTES])
        decoded: Decoded = _CODECS[format].decode(data)
        return _upright(decoded, format, path)
    except Exception as error:  # the decoders raise whatever damaged data leads them to
        raise _input_error(path, error) from error


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise BadImage("this is a folder, not an image file")
    if path.exists() and not path.is_file():
        raise BadImage("this is not a regular file")


def _input_error(path: Path, error: Exception) -> XYScanError:
    if isinstance(error, XYScanError):
        return error
    if isinstance(error, BadImage):
        reason = str(error)
    elif isinstance(error, FileNotFoundError):
        reason = "there is no such file"
    elif isinstance(error, PermissionError):
        reason = "no permission to read it: check the file's rights"
    elif isinstance(error, MemoryError):
        reason = "not enough memory to decode it"
    elif isinstance(error, OSError) and error.errno is not None:
        reason = f"it cannot be read ({error.strerror})"
    else:
        reason = f"the file is truncated or damaged ({str(error) or type(error).__name__})"
    return InputError(f"{shown(path)}: {reason}")


def _upright(decoded: Decoded, format: str, path: Path) -> Photo:
    notes = decoded.notes
    metadata: Metadata = decoded.metadata
    block, turned = decoded.exif, 1
    if block is not None:
        try:
            turned = exif.orientation(block)
            exif.made_upright(block, 1, 1)  # raises where the real one below would
        except (ValueError, struct.error):
            block = None
            notes.append("corrupt EXIF dropped")
    if decoded.orientation is not None:
        turned = decoded.orientation if 1 <= decoded.orientation <= 8 else 1
    pixels = exif.turn(decoded.pixels, turned)
    alpha = None if decoded.alpha is None else exif.turn(decoded.alpha, turned)
    height, width = pixels.shape[:2]
    dpi = metadata.dpi
    if block is not None:
        dpi = dpi or exif.resolution(block)
        block = exif.made_upright(block, width, height, turned >= 5)
    if dpi is not None and not all(0 < value <= _MOST_DPI for value in dpi):
        dpi = None
        notes.append("senseless resolution dropped")
    if dpi is not None and turned >= 5:
        dpi = dpi[::-1]
    promised = suffix_format(path)
    if promised is not None and promised != format:
        notes.append(f"the content is {NAMES[format]}, though the name says {NAMES[promised]}")
    metadata = replace(
        metadata,
        exif=block,
        xmp=None if metadata.xmp is None else exif.xmp_upright(metadata.xmp, turned != 1),
        dpi=dpi,
        suffix=path.suffix.lower(),
    )
    grey = pixels.ndim == 2
    rgb = np.repeat(pixels[..., None], 3, axis=2) if grey else pixels
    return Photo(rgb, alpha, grey, format, metadata, tuple(notes))
