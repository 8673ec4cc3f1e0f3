"""Photographs into files, whole or not at all."""

from __future__ import annotations

import math
import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import ConfigError, InputError, UnavailableError
from ..files import replacing, shown
from . import bmp, heic, jpeg_write, png_write, tiff_write, webp
from .formats import FORMATS, LOSSY, NAMES, BadImage, suffix_format
from .photo import Metadata, Photo
from .png import COLOUR_CHUNKS

LARGEST = {"jpeg": 65500, "webp": 16383}  # pixels a side, of libjpeg and of the format


def write(
    photo: Photo,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    quality: int | None = None,
    strip_metadata: bool = False,
) -> tuple[str, ...]:
    """Write a photograph and return notes on what the file could not hold as it was.

    Args:
        path: the file; missing folders are made. An earlier file is replaced only once the new one is complete.
        format: one of FORMATS. Without it the path's suffix decides, but a photograph keeps its own format under the
            suffix it was read with, and where the suffix is not a known one.
        quality: 1 to 100, for JPEG, lossy WebP and HEIC. Without it a JPEG is written with its own quantisation tables
            and chroma subsampling, another photograph as JPEG with 95 and full chroma; a lossless WebP stays lossless,
            any other is written with 90, HEIC with 80. Where nothing is lossy it is ignored with a note.
        strip_metadata: leave out EXIF, XMP, IPTC, text and resolution. The colour profile stays: without it the
            colours would change.

    A 16-bit photograph becomes 8 bit where the format holds no more, with a note. JPEG has no alpha: a photograph
    that is transparent anywhere is refused.

    Raises InputError when this photograph cannot be written there, ConfigError for options that contradict each
    other. In both cases no file is left and an earlier one is untouched.
    """
    path = Path(path)
    notes: list[str] = []
    refuse_unwritable(photo, path, format=format)
    chosen = _format(photo, path, format)
    quality = _quality(photo, chosen, quality, asked=format is not None, notes=notes)
    try:
        prepared = _fitted(photo, chosen, strip_metadata, notes)
        if chosen in LOSSY:
            data, lost = {"jpeg": jpeg_write, "webp": webp, "heic": heic}[chosen].encode(prepared, quality)
        else:
            data, lost = {"png": png_write, "tiff": tiff_write, "bmp": bmp}[chosen].encode(prepared)
    except BadImage as error:
        raise InputError(f"{shown(path)}: {error}") from error
    except MemoryError as error:
        raise InputError(f"{shown(path)}: not enough memory to encode it") from error
    except (OSError, ValueError, OverflowError, struct.error) as error:
        raise InputError(
            f"{shown(path)}: the picture cannot be encoded as {NAMES[chosen]} ({error})"
        ) from error
    with replacing(path, parents=True) as temporary:
        temporary.write_bytes(data)
    return tuple(notes + lost)


def check_format(format: str) -> None:
    """Raise UnavailableError where the package that writes a format is missing."""
    try:
        if format == "heic":
            heic.library()
    except BadImage as error:
        raise UnavailableError(str(error)) from error


def refuse_unwritable(photo: Photo, path: str | os.PathLike[str], *, format: str | None = None) -> None:
    """Raise the InputError of `write` for a photograph that the format cannot hold, whatever its pixels become."""
    chosen, reason = _format(photo, Path(path), format), None
    if max(photo.width, photo.height) > (side := LARGEST.get(chosen, math.inf)):
        reason = (
            f"{photo.width}x{photo.height} is larger than {NAMES[chosen]} allows ({side} a side): use PNG"
        )
    elif chosen == "jpeg" and photo.alpha is not None and int(photo.alpha.min()) < photo.white:
        reason = "it is transparent in places, which JPEG cannot hold: write PNG, WebP or TIFF instead"
    if reason:
        raise InputError(f"{shown(path)}: {reason}")


def _format(photo: Photo, path: Path, format: str | None) -> str:
    if format is None:
        promised = suffix_format(path)
        return photo.format if promised is None or path.suffix.lower() == photo.metadata.suffix else promised
    if format not in FORMATS:
        raise ConfigError(f"format {format!r} is not known: use one of {', '.join(FORMATS)}")
    return format


def _quality(photo: Photo, chosen: str, quality: int | None, *, asked: bool, notes: list[str]) -> int | None:
    if quality is None:
        return None
    if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
        raise ConfigError(f"quality {quality!r} is not a whole number from 1 to 100")
    if chosen not in LOSSY:
        if asked:
            raise ConfigError(
                f"quality {quality} does not apply to {NAMES[chosen]}, which is lossless: leave it out"
            )
        notes.append(f"quality ignored: {NAMES[chosen]} is lossless")
        return None
    if chosen == "webp" and photo.format == "webp" and photo.metadata.webp_lossless and not asked:
        notes.append("quality ignored: this WebP is lossless")
        return None
    return quality


def _fitted(photo: Photo, chosen: str, strip_metadata: bool, notes: list[str]) -> Photo:
    """The photograph with the depth, channels and metadata that the chosen format can hold."""
    metadata = photo.metadata
    if strip_metadata:
        chunks = tuple(chunk for chunk in metadata.png_chunks if chunk[0] in COLOUR_CHUNKS)
        metadata = replace(
            metadata, exif=None, xmp=None, photoshop=None, dpi=None, comments=(), png_chunks=chunks
        )
    if chosen != photo.format:
        metadata = _carried(metadata, chosen, notes)
    rgb, alpha = photo.rgb, photo.alpha
    if chosen == "jpeg" and alpha is not None:
        alpha = None
        notes.append("alpha left out: it is opaque everywhere")
    if chosen in ("jpeg", "webp", "bmp") and photo.bit_depth == 16:
        notes.append(f"16 bit reduced to 8 bit: {NAMES[chosen]} holds no more")
        rgb, alpha = _to_8(rgb), None if alpha is None else _to_8(alpha)
    return replace(photo, rgb=rgb, alpha=alpha, metadata=metadata)


def _to_8(array: np.ndarray) -> np.ndarray:
    return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _carried(metadata: Metadata, chosen: str, notes: list[str]) -> Metadata:
    """Metadata for another format than the one it was read from."""
    lost = []
    if metadata.png_chunks and chosen != "png":
        lost.append("PNG text and colour chunks")
    if metadata.photoshop is not None and chosen in ("png", "webp", "heic"):
        lost.append("IPTC and Photoshop block")
    if metadata.comments and chosen != "jpeg":
        lost.append("JPEG comments")
    if lost and chosen != "bmp":
        notes.append(f"{NAMES[chosen]} cannot hold {', '.join(lost)}: dropped")
    if metadata.heic and metadata.heic.cicp and metadata.icc is None:
        primaries, curve = metadata.heic.cicp
        if chosen == "png":
            cicp = (b"cICP", bytes([primaries, curve, 0, 1]))
            metadata = replace(metadata, png_chunks=(*metadata.png_chunks, cicp))
        else:
            notes.append(
                f"{NAMES[chosen]} cannot say its colours (primaries {primaries}, curve {curve} of H.273): they will "
                "look different"
            )
    return replace(metadata, jpeg=None, webp_lossless=False, tiff_compression=None, heic=None)
