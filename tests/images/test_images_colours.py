"""Colour profiles survive where they are true of what is written, and what has none of the kind is converted."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from tests.images.samples import cmyk_profile, grey_profile, picture, profile
from xyscannet.images import Metadata, Photo, read, write


def test_large_profile_is_carried(tmp_path):
    large = profile()[:128] + np.random.default_rng(0).bytes(3_000_000)
    for name in ("x.png", "x.jpg", "x.tif", "x.webp"):
        write(Photo(picture(), metadata=Metadata(icc=large)), tmp_path / name)
        assert read(tmp_path / name).metadata.icc == large


def test_png_refuses_a_profile_of_other_channels_aloud(tmp_path):
    grey = Photo(picture(grey=True), grey=True, metadata=Metadata(icc=profile()))
    assert any("profile dropped" in note for note in write(grey, tmp_path / "x.png"))
    fitting = Photo(picture(grey=True), grey=True, metadata=Metadata(icc=grey_profile()))
    assert write(fitting, tmp_path / "x.png") == ()
    assert read(tmp_path / "x.png").metadata.icc == grey_profile()


def test_webp_refuses_a_profile_for_grey_aloud(tmp_path):
    grey = Photo(picture(grey=True), grey=True, metadata=Metadata(icc=grey_profile()))
    assert any("profile dropped" in note for note in write(grey, tmp_path / "x.webp"))
    assert read(tmp_path / "x.webp").metadata.icc is None


def test_the_profile_of_a_bmp_is_read(tmp_path):
    pixels, held = picture(), profile()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "BMP")
    plain = buffer.getvalue()
    rows = plain[54:]
    info = struct.pack("<I", 124) + plain[18:54] + bytes(124 - 40)
    info = info[:56] + b"DEBM" + info[60:112] + struct.pack("<II", 124 + len(rows), len(held)) + bytes(4)
    start = struct.pack("<2sIHHI", b"BM", 14 + 124 + len(rows) + len(held), 0, 0, 14 + 124)
    (tmp_path / "x.bmp").write_bytes(start + info + rows + held)
    photo = read(tmp_path / "x.bmp")
    assert np.array_equal(photo.rgb, pixels) and photo.metadata.icc == held
    assert any("colour profile" in note for note in write(photo, tmp_path / "y.bmp"))
    (tmp_path / "x.bmp").write_bytes(start + info + rows)
    assert read(tmp_path / "x.bmp").metadata.icc is None


@pytest.mark.parametrize("name", ["x.jpg", "x.tif"])
def test_cmyk_is_converted_by_its_profile(tmp_path, name):
    inks = np.zeros((16, 48, 4), np.uint8)
    inks[:, 16:32, 0] = 255  # the first ink, which this profile makes red
    inks[:, 32:, 3] = 255
    options = {"quality": 100} if name == "x.jpg" else {}
    Image.frombytes("CMYK", (48, 16), inks.tobytes()).save(
        tmp_path / name, icc_profile=cmyk_profile(), **options
    )
    photo = read(tmp_path / name)
    white, red, black = (photo.rgb[8, column].astype(int) for column in (8, 24, 40))
    assert white.min() > 250 and black.max() < 10
    assert red[0] > 180 and red[0] > red[1] + 60
    assert photo.metadata.icc is None and photo.notes == ("CMYK converted to sRGB by its colour profile",)


def test_colours_that_fields_of_a_tiff_describe_are_mentioned(tmp_path):
    fields = {318: (0.3127, 0.329), 319: (0.64, 0.33, 0.21, 0.71, 0.15, 0.06)}
    Image.fromarray(picture()).save(tmp_path / "x.tif", tiffinfo=fields)
    assert any("white point" in note for note in read(tmp_path / "x.tif").notes)


def test_cmyk_with_a_profile_that_does_not_fit(tmp_path):
    Image.fromarray(picture()).convert("CMYK").save(tmp_path / "x.jpg", icc_profile=profile())
    photo = read(tmp_path / "x.jpg")
    assert photo.metadata.icc is None and any("approximate" in note for note in photo.notes)
