"""Read and write photographs: PNG, JPEG, WebP, TIFF, BMP and HEIC with 8 or 16 bits, nothing lost in silence.

``read`` gives a `Photo` whose pixels stand upright as RGB; ``write`` gives it back in the format, depth, compression
and with the metadata it came with, and ``refuse_unwritable`` tells before the work where it would not; ``probe`` looks
at the header alone. Every file that cannot be read or written raises one `xyscannet.errors.InputError` that names it.
"""

from __future__ import annotations

from .formats import FORMATS, MAX_PIXELS, SUFFIXES
from .photo import Metadata, Photo, PhotoInfo
from .reading import probe, read
from .writing import check_format, refuse_unwritable, write

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "SUFFIXES",
    "Metadata",
    "Photo",
    "PhotoInfo",
    "check_format",
    "probe",
    "read",
    "refuse_unwritable",
    "write",
]
