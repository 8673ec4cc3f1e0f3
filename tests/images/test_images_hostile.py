"""Damaged and hostile pictures: a photograph or one InputError that names the file, in bounded time and memory."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.damage import damaged, quick
from tests.images.samples import exif, matte, picture, profile
from tests.images.test_images_bad_input import VARIANTS
from tests.limits import bounded
from xyscannet.errors import InputError
from xyscannet.images import Metadata, Photo, probe, read, write
from xyscannet.images.exif import orientation
from xyscannet.images.png import SIGNATURE, chunk

XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'></x:xmpmeta>"


def ours(folder: Path, variant: str) -> bytes:
    """A picture of 12 x 14 with all that its format holds: alpha, EXIF, a colour profile, XMP, a resolution."""
    format, dtype, coding = VARIANTS[variant]
    metadata = {} if format == "bmp" else {"exif": exif(6, thumbnail=b"small"), "icc": profile(), "xmp": XMP}
    alpha = None if format == "jpeg" else matte(12, 14, dtype)
    metadata = Metadata(**metadata, **coding, dpi=(300.0, 150.0))
    write(Photo(picture(12, 14, dtype), alpha, False, format, metadata), folder / "whole")
    return (folder / "whole").read_bytes()


def pillows(mode: str, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(24, 20)).convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


OTHERS = {
    "palette png": ("P", "PNG"),
    "1-bit png": ("1", "PNG"),
    "palette bmp": ("P", "BMP"),
    "cmyk jpeg": ("CMYK", "JPEG"),
    "progressive jpeg": ("RGB", "JPEG", "progressive"),
    "fax tiff": ("1", "TIFF", "group4"),
    "jpeg tiff": ("RGB", "TIFF", "jpeg"),
    "packbits tiff": ("L", "TIFF", "packbits"),
    "lab tiff": ("LAB", "TIFF", "tiff_lzw"),
}


def sample(folder: Path, kind: str) -> bytes:
    if kind in VARIANTS:
        return ours(folder, kind)
    mode, format, *coding = OTHERS[kind]
    options = (
        {"progressive": True} if format == "JPEG" and coding else {"compression": coding[0]} if coding else {}
    )
    return pillows(mode, format, **options)


def mended(png: bytes) -> bytes:
    """The file with the checksum of every whole chunk made right, so that damage reaches what reads them."""
    out, at = png[:8], 8
    while at + 12 <= len(png):
        size, name = struct.unpack(">I4s", png[at : at + 8])
        if at + 12 + size > len(png):
            break
        out += chunk(name, png[at + 8 : at + 8 + size])
        at += 12 + size
    return out + png[at:]


@pytest.mark.parametrize("kind", [*VARIANTS, *OTHERS])
def test_damage_is_one_error_or_a_photograph(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XYSCAN_MAX_PIXELS", "1000000")
    data, path = sample(tmp_path, kind), tmp_path / "damaged"
    path.write_bytes(data)
    read(path)

    @quick
    @given(damaged(data), st.booleans())
    def attempt(content: bytes, mend: bool) -> None:
        path.write_bytes(mended(content) if mend and content.startswith(SIGNATURE) else content)
        with warnings.catch_warnings(), bounded(mebibytes=100):
            warnings.simplefilter("error")
            try:
                info = probe(path)
                photo = read(path)
            except InputError as error:
                assert str(path) in str(error) and "\n" not in str(error)
                return
            assert (photo.height, photo.width) == (info.height, info.width)
            for format in (photo.format, "png"):
                try:
                    write(photo, tmp_path / "again", format=format)
                except InputError as error:
                    assert "again" in str(error)
            assert {file.name for file in tmp_path.iterdir()} <= {"damaged", "whole", "again"}

    attempt()


def packed(size: int) -> bytes:
    """`size` zeros, packed to a hundredth or less."""
    pack = zlib.compressobj(1)
    block = bytes(1 << 20)
    return b"".join([*(pack.compress(block) for _ in range(size >> 20)), pack.flush()])


@pytest.fixture(scope="module")
def endless() -> bytes:
    return packed(96 << 20)


def png_with(*chunks: bytes) -> bytes:
    whole = pillows("RGB", "PNG")
    return whole[:33] + b"".join(chunks) + whole[33:]


@pytest.mark.parametrize("place", ["iCCP", "zTXt", "iTXt", "XMP", "exif as text"])
def test_what_a_png_says_beside_its_pixels_is_not_inflated_without_end(
    place: str, endless: bytes, tmp_path: Path
) -> None:
    content = {
        "iCCP": chunk(b"iCCP", b"sRGB\0\0" + endless),
        "zTXt": chunk(b"zTXt", b"Comment\0\0" + endless),
        "iTXt": chunk(b"iTXt", b"Comment\0\1\0\0\0" + endless),
        "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + endless),
        "exif as text": chunk(b"zTXt", b"Raw profile type exif\0\0" + endless),
    }[place]
    path = tmp_path / "bomb.png"
    path.write_bytes(png_with(content))
    with bounded(seconds=3, mebibytes=160):
        photo = read(path)
        write(photo, tmp_path / "out.png")
    assert (photo.height, photo.width) == (24, 20)
    assert photo.metadata.icc is photo.metadata.xmp is photo.metadata.exif is None


@pytest.mark.parametrize("depth", [8, 16])
def test_pixels_that_inflate_without_end_are_no_more_than_the_header_says(
    depth: int, endless: bytes, tmp_path: Path
) -> None:
    """A picture of 4 x 4 whose compressed pixels hold 96 MiB."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, depth, 2, 0, 0, 0))
    path = tmp_path / "bomb.png"
    path.write_bytes(SIGNATURE + head + chunk(b"IDAT", endless) + chunk(b"IEND", b""))
    with bounded(seconds=3, mebibytes=32):
        assert read(path).rgb.shape == (4, 4, 3)


@pytest.mark.parametrize("format", ["WebP", "TIFF", "TIFF in tiles", "PNG", "BMP", "JPEG"])
def test_a_size_without_the_pixels_for_it_takes_no_memory(format: str, tmp_path: Path) -> None:
    """Headers that claim 16000 x 16000, which the limit allows, before a handful of pixels."""
    side = 16000
    if format == "WebP":  # VP8X and VP8L say the size each for itself
        whole = bytearray(pillows("RGB", "WEBP", lossless=True))
        at = whole.index(b"VP8L") + 9
        bits = int.from_bytes(whole[at : at + 4], "little") & ~0xFFFFFFF | (side - 1) << 14 | (side - 1)
        whole[at : at + 4] = bits.to_bytes(4, "little")
    elif format.startswith("TIFF"):
        longs = {256: side, 257: side, 259: 8, 262: 2, 277: 3}
        longs |= (
            {322: side, 323: side, 324: 8, 325: 30} if "tiles" in format else {273: 8, 278: side, 279: 30}
        )
        fields = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in longs.items()}
        fields[258] = struct.pack("<HHIHH", 258, 3, 1, 8, 0)
        packed_zeros = zlib.compress(bytes(4000))
        whole = b"II*\0" + struct.pack("<I", 8 + len(packed_zeros) + len(packed_zeros) % 2)
        whole += packed_zeros + bytes(len(packed_zeros) % 2)
        whole += struct.pack("<H", len(fields)) + b"".join(fields[tag] for tag in sorted(fields)) + bytes(4)
    elif format == "PNG":
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 16, 2, 0, 0, 0))
        whole = SIGNATURE + head + chunk(b"IDAT", zlib.compress(bytes(4000))) + chunk(b"IEND", b"")
    elif format == "BMP":
        whole = (
            b"BM" + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, side, side, 1, 24, *[0] * 6) + bytes(99)
        )
    else:
        whole = pillows("RGB", "JPEG").replace(struct.pack(">HH", 24, 20), struct.pack(">HH", side, side))
    path = tmp_path / "claim"
    path.write_bytes(whole)
    assert probe(path).width == side
    with bounded(seconds=3, mebibytes=64), pytest.raises(InputError, match="claim: "):
        read(path)


def test_a_jpeg_of_endless_scans_is_refused(tmp_path: Path) -> None:
    """A megabyte of scans that each go over the whole picture would take hours."""
    whole = pillows("L", "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    path = tmp_path / "scans.jpg"
    path.write_bytes(whole[:last] + whole[last:-2] * 99 + b"\xff\xd9")
    with bounded(seconds=1), pytest.raises(InputError, match="more than 100 scans"):
        read(path)
    path.write_bytes(whole)
    assert read(path).width == 20


def test_exif_that_leads_in_circles(tmp_path: Path) -> None:
    """Directories that name themselves as the next, as the Exif directory and as the thumbnail's."""
    loop = b"II*\0\x08\0\0\0" + struct.pack("<H", 3)
    for tag in (0x8769, 0x8825, 0xA005):
        loop += struct.pack("<HHII", tag, 4, 1, 8)
    loop += struct.pack("<I", 8)
    path = tmp_path / "loop.png"
    path.write_bytes(png_with(chunk(b"eXIf", loop)))
    with bounded(seconds=2, mebibytes=32):
        photo = read(path)
        write(photo, tmp_path / "out.png")
    assert photo.metadata.exif is None or orientation(photo.metadata.exif) == 1


def test_a_senseless_resolution_is_dropped(tmp_path: Path) -> None:
    """2^32 pixels a metre, which a BMP can say and no format can write."""
    data = bytearray(pillows("RGB", "BMP"))
    data[38:46] = struct.pack("<II", 0xFFFFFFFF, 7)
    path = tmp_path / "x.bmp"
    path.write_bytes(data)
    photo = read(path)
    assert photo.metadata.dpi is None and photo.notes == ("senseless resolution dropped",)
    with pytest.raises(InputError, match="cannot be encoded"):
        unwritable = Metadata(dpi=(1e300, 1e300))
        write(Photo(np.zeros((2, 2, 3), np.uint8), metadata=unwritable, format="bmp"), tmp_path / "y.bmp")
    assert not (tmp_path / "y.bmp").exists()
