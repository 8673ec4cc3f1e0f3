"""HEIC through pillow-heif: pixels, metadata and colours stay, and what cannot be read is said."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

from tests.images.samples import exif, matte, picture, profile
from xyscannet.errors import InputError
from xyscannet.images import Metadata, Photo, probe, read, write
from xyscannet.images.exif import orientation
from xyscannet.images.formats import BadImage, recognise
from xyscannet.images.heic_items import has_hole
from xyscannet.images.photo import HeicCoding

pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")


def smooth(height=96, width=128, dtype=np.uint8):
    """A picture without edges, of which a lossy file keeps nearly everything."""
    ramp = picture(height, width, dtype)
    ramp[..., 2] = ramp[..., 0]
    return ramp


def encoded(pixels, mode="RGB", **options):
    buffer = io.BytesIO()
    size = pixels.shape[1], pixels.shape[0]
    pillow_heif.encode(mode, size, np.ascontiguousarray(pixels).tobytes(), buffer, quality=95, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize(
    ("bits", "channels"), [(8, "rgb"), (10, "rgb"), (12, "rgb"), (8, "grey"), (10, "grey")]
)
def test_pixels_depth_and_channels_are_kept(tmp_path, bits, channels, alpha):
    dtype, grey = (np.uint8 if bits == 8 else np.uint16), channels == "grey"
    pixels = picture(96, 128, dtype, grey=True) if grey else smooth(dtype=dtype)
    cover = matte(96, 128, dtype) if alpha else None
    given = Photo(pixels, cover, grey, "heic", Metadata(heic=HeicCoding(444, bits)))
    assert write(given, tmp_path / "x.heic", quality=95) == ()
    back, info = read(tmp_path / "x.heic"), probe(tmp_path / "x.heic")
    assert (info.format, info.width, info.height, info.bit_depth) == ("heic", 128, 96, 8 if bits == 8 else 16)
    assert info.has_alpha == alpha and (alpha or (info.channels == channels and back.grey == grey))
    assert back.notes == () and back.rgb.dtype == dtype and back.metadata.heic.bits == bits
    error = np.abs(back.rgb.astype(float) - pixels) / given.white
    assert error.mean() < 0.005 and back.rgb.max() == given.white
    if alpha:
        assert np.abs(back.alpha.astype(float) - cover).mean() / given.white < 0.02


@pytest.mark.parametrize("chroma", [420, 422, 444])
def test_subsampling_is_kept(tmp_path, chroma):
    (tmp_path / "x.heic").write_bytes(encoded(smooth(), chroma=chroma))
    write(read(tmp_path / "x.heic"), tmp_path / "again.heic")
    assert read(tmp_path / "again.heic").metadata.heic.chroma == chroma


@pytest.mark.parametrize("turned", [1, 3, 6, 8])
def test_it_stands_upright_and_keeps_its_metadata(tmp_path, turned):
    block = exif(turned, width=128, height=96)
    data = encoded(smooth(), exif=b"Exif\0\0" + block, xmp=b"<x:xmpmeta/>", icc_profile=profile())
    (tmp_path / "x.heic").write_bytes(data)
    photo = read(tmp_path / "x.heic")
    assert (photo.width, photo.height) == ((128, 96) if turned < 5 else (96, 128))
    assert (probe(tmp_path / "x.heic").width, photo.notes) == (photo.width, ())
    expected = np.rot90(smooth(), {1: 0, 3: 2, 6: 3, 8: 1}[turned])
    assert np.abs(photo.rgb.astype(int) - expected).mean() < 3
    assert write(photo, tmp_path / "again.heic") == ()
    again = read(tmp_path / "again.heic")
    assert (again.width, orientation(again.metadata.exif)) == (photo.width, 1)
    assert b"MAKER" in again.metadata.exif and again.metadata.dpi == photo.metadata.dpi == (240.0, 240.0)
    assert (again.metadata.icc, again.metadata.xmp) == (profile(), b"<x:xmpmeta/>")


def test_other_formats_and_back(tmp_path):
    deep = Photo(smooth(dtype=np.uint16), format="png")
    assert write(deep, tmp_path / "x.heic") == ("16 bit reduced to 10 bit: HEIC holds no more",)
    photo = read(tmp_path / "x.heic")
    assert photo.bit_depth == 16 and photo.metadata.heic.chroma == 444
    assert write(photo, tmp_path / "x.jpg") == ("16 bit reduced to 8 bit: JPEG holds no more",)
    assert write(photo, tmp_path / "x.png") == ()
    np.testing.assert_array_equal(read(tmp_path / "x.png").rgb, photo.rgb)


def test_colours_of_high_dynamic_range_are_kept_or_told(tmp_path):
    said = {
        "color_primaries": 9,
        "transfer_characteristics": 16,
        "matrix_coefficients": 9,
        "full_range_flag": 1,
    }
    light = {"max_content_light_level": 1000, "max_pic_average_light_level": 400}
    pixels = smooth(dtype=np.uint16) >> 6
    data = encoded(pixels, "RGB;10", nclx_profile=said, content_light_level=light)
    (tmp_path / "x.hif").write_bytes(data)
    photo = read(tmp_path / "x.hif")
    assert write(photo, tmp_path / "again.hif") == ()
    again = read(tmp_path / "again.hif").metadata.heic
    assert again == photo.metadata.heic and again.cicp == (9, 16)
    assert (
        dict(again.colours).get("content_light_level", light) == light
    )  # which older pillow-heif do not read
    assert write(photo, tmp_path / "x.png") == ()
    assert read(tmp_path / "x.png").metadata.png_chunks == ((b"cICP", bytes([9, 16, 0, 1])),)
    assert any("primaries 9, curve 16" in note for note in write(photo, tmp_path / "x.jpg"))


@pytest.mark.parametrize("bits", [8, 10])
def test_premultiplied_alpha_becomes_straight(tmp_path, bits):
    straight, half = np.full((64, 64, 3), 200, np.uint8), np.full((64, 64, 1), 128, np.uint8)
    pixels = np.concatenate([straight // 2, half], axis=2).astype(np.uint16 if bits > 8 else np.uint8)
    data = encoded(pixels << bits - 8, "RGBa" if bits == 8 else f"RGBa;{bits}", chroma=444)
    (tmp_path / "x.heic").write_bytes(data)
    if bits > 8:
        with pytest.raises(InputError, match="premultiplied alpha of 10 bits is not supported"):
            read(tmp_path / "x.heic")
        return
    photo = read(tmp_path / "x.heic")
    assert photo.notes == ("premultiplied alpha converted to straight alpha",)
    assert np.abs(photo.rgb.astype(int) - 199).max() <= 4 and np.abs(photo.alpha.astype(int) - 128).max() <= 2


def test_pictures_beside_the_main_one_are_told(tmp_path):
    first, second = (pillow_heif.from_bytes("RGB", (128, 96), smooth().tobytes()) for _ in range(2))
    first.save(tmp_path / "x.heic", append_images=list(second), primary_index=0)
    photo = read(tmp_path / "x.heic")
    assert (photo.width, photo.height) == (128, 96)
    assert photo.notes == ("pictures beside the main one (HDR gain map, depth or others) are not kept",)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (7, 13), (65, 65)])
def test_small_and_odd_sizes(tmp_path, size):
    write(Photo(picture(*size)), tmp_path / "x.heic")
    assert read(tmp_path / "x.heic").rgb.shape == (*size, 3)


def test_a_shape_that_the_encoder_does_not_take(tmp_path):
    (tmp_path / "x.heic").write_bytes(b"before")
    with pytest.raises(InputError, match="16x9000 cannot be encoded as HEIC"):
        write(Photo(picture(9000, 16)), tmp_path / "x.heic")
    assert (tmp_path / "x.heic").read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


def test_damaged_files(tmp_path):
    data, path = encoded(smooth()), tmp_path / "x.heic"
    for cut in (40, 200, len(data) // 2, len(data) - 10):
        path.write_bytes(data[:cut])
        with pytest.raises(InputError, match="x.heic: the HEIC file is truncated or damaged .*[^\n]$"):
            read(path)
    size = data.index(b"ispe") + 8
    path.write_bytes(data[:size] + (30_000).to_bytes(4, "big") * 2 + data[size + 8 :])
    for look in (probe, read):
        with pytest.raises(InputError, match="30000x30000 is 900 megapixels, more than the limit"):
            look(path)


@pytest.mark.parametrize("tile", [0, 64])
def test_what_was_never_written_is_missed(tmp_path, tile):
    """Copies that were cut off may have the right length; the decoder conceals what it lacks."""
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    data, path = encoded(noise, exif=b"Exif\0\0" + exif(1), tile_size=tile), tmp_path / "x.heic"
    path.write_bytes(data)
    assert read(path).rgb.shape == noise.shape
    for keep in range(len(data) // 8, len(data) * 15 // 16, len(data) // 8):
        path.write_bytes(data[:keep] + bytes(len(data) - keep))
        with pytest.raises(InputError, match="some of its pixels are missing"):
            read(path)


def test_where_pictures_lie_otherwise_nothing_is_said_of_holes():
    data = encoded(smooth())
    for lost in (b"meta", b"iloc", b"iinf"):
        assert not has_hole(data.replace(lost, b"free").ljust(9000, b"\0"))
    assert has_hole(data[: len(data) * 3 // 4] + bytes(len(data) - len(data) * 3 // 4))


def test_without_the_package(tmp_path, monkeypatch):
    (tmp_path / "x.heic").write_bytes(encoded(smooth()))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InputError, match=r"x.heic: HEIC needs the package pillow-heif .*xyscannet\[heif\]"):
        probe(tmp_path / "x.heic")


def test_kinds_in_the_same_container():
    def head(major, *compatible):
        return b"\0\0\0\x20ftyp" + major + bytes(4) + b"".join(compatible)

    assert recognise(head(b"heic", b"mif1")) == recognise(head(b"mif1", b"miaf", b"heic")) == "heic"
    for content, name in (
        (head(b"avif", b"mif1"), "AVIF is"),
        (head(b"mif1", b"miaf", b"avif"), "AVIF is"),
        (head(b"hevc", b"msf1"), "A sequence of HEIC pictures"),
        (head(b"isom", b"mp42"), "video"),
    ):
        with pytest.raises(BadImage, match=name):
            recognise(content)
