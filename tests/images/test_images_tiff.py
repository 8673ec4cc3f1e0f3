"""TIFF as many programs write it: layouts, compressions, tiles, palettes and rare kinds."""

from __future__ import annotations

import numpy as np
import PIL
import pytest
from PIL import Image

from tests.images.samples import photo, picture
from xyscannet.images import probe, read, write


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("compression", ["none", "lzw", "deflate"])
def test_tiff_keeps_its_lossless_compression(tmp_path, compression, dtype):
    path = tmp_path / "x.tif"
    given_photo = photo("tiff", dtype, alpha=True, tiff_compression=compression, size=(301, 203))
    write(given_photo, path)
    back = read(path)
    np.testing.assert_array_equal(back.rgb, given_photo.rgb)
    assert back.metadata.tiff_compression == compression
    write(back, tmp_path / "again.tif")
    with Image.open(tmp_path / "again.tif") as opened:
        assert (
            opened.info["compression"]
            == {"none": "raw", "lzw": "tiff_lzw", "deflate": "tiff_adobe_deflate"}[compression]
        )


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_tiff_layouts_of_other_programs(tmp_path, samples, order, big):
    tifffile = pytest.importorskip("tifffile")
    rng = np.random.default_rng(samples)
    for dtype in (np.uint8, np.uint16):
        for planar in ("contig", "separate")[: min(samples, 2)]:
            for packing in ({}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True}):
                for cutting in ({"rowsperstrip": 10}, {"tile": (16, 32)}):
                    pixels = rng.integers(
                        0, np.iinfo(dtype).max, (41, 57, samples), dtype=dtype, endpoint=True
                    )
                    data = pixels[..., 0] if samples == 1 else pixels
                    data = data.transpose(2, 0, 1) if planar == "separate" and samples > 1 else data
                    tifffile.imwrite(
                        tmp_path / "x.tif",
                        data,
                        byteorder=order,
                        bigtiff=big,
                        photometric="rgb" if samples > 2 else "minisblack",
                        planarconfig=planar if samples > 1 else None,
                        extrasamples=["unassalpha"] if samples in (2, 4) else None,
                        metadata=None,
                        **packing,
                        **cutting,
                    )
                    back = read(tmp_path / "x.tif")
                    colours = 1 if samples < 3 else 3
                    np.testing.assert_array_equal(back.rgb[..., :colours], pixels[..., :colours])
                    assert back.grey == (samples < 3) and (back.alpha is None) == (samples in (1, 3))
                    if back.alpha is not None:
                        np.testing.assert_array_equal(back.alpha, pixels[..., -1])


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_tiles_that_pillow_decompresses(tmp_path, order, big):
    tifffile = pytest.importorskip("tifffile")
    pixels = picture(41, 57, np.uint16)
    stored = np.pad(pixels, ((0, 7), (0, 7), (0, 0))).astype(f"{order}u2")
    tiles = [stored[top : top + 16, left : left + 32] for top in (0, 16, 32) for left in (0, 32)]
    raw = [tile.tobytes() for tile in tiles]
    packed = [b"".join(b"\x7f" + each[at : at + 128] for at in range(0, len(each), 128)) for each in raw]
    options = {"byteorder": order, "bigtiff": big, "photometric": "rgb", "metadata": None}
    options |= {"shape": pixels.shape, "dtype": np.uint16, "tile": (16, 32), "compression": "zlib"}
    tifffile.imwrite(tmp_path / "x.tif", iter(packed), **options)
    with tifffile.TiffFile(tmp_path / "x.tif", mode="r+") as file:
        file.pages[0].tags["Compression"].overwrite(32773)  # PackBits: runs of 128 bytes as they stand
    np.testing.assert_array_equal(read(tmp_path / "x.tif").rgb, pixels)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_palette_of_another_program(tmp_path, order, big):
    tifffile = pytest.importorskip("tifffile")
    indices, colours = picture()[..., 0], picture(3, 256, np.uint16, grey=True)[..., 0]
    options = {"byteorder": order, "bigtiff": big, "photometric": "palette", "colormap": colours}
    tifffile.imwrite(tmp_path / "x.tif", indices, rowsperstrip=10, metadata=None, **options)
    np.testing.assert_array_equal(read(tmp_path / "x.tif").rgb, (colours >> 8).T[indices])


def test_tiff_white_is_zero_and_premultiplied_alpha(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    grey = picture(dtype=np.uint16)[..., 0]
    tifffile.imwrite(tmp_path / "white.tif", grey, photometric="miniswhite", metadata=None)
    np.testing.assert_array_equal(read(tmp_path / "white.tif").rgb[..., 0], 65535 - grey)
    alpha = np.full((23, 31, 1), 32768, np.uint16)
    half = (picture(dtype=np.uint16) // 2).astype(np.uint16)
    layers = np.concatenate([half, alpha], axis=2)
    tifffile.imwrite(
        tmp_path / "pre.tif", layers, photometric="rgb", extrasamples=["assocalpha"], metadata=None
    )
    back = read(tmp_path / "pre.tif")
    assert np.abs(back.rgb.astype(int) - picture(dtype=np.uint16)).max() <= 2
    assert any("premultiplied" in note for note in back.notes)


def test_cmyk_and_lab_tiff(tmp_path):
    base = Image.fromarray(picture())
    base.convert("CMYK").save(tmp_path / "cmyk.tif", compression="tiff_lzw")
    back = read(tmp_path / "cmyk.tif")
    assert np.abs(back.rgb.astype(int) - picture()).max() <= 2 and any("CMYK" in note for note in back.notes)
    from PIL import ImageCms

    lab = ImageCms.profileToProfile(
        base, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    lab.save(tmp_path / "lab.tif")
    back = read(tmp_path / "lab.tif")
    assert np.abs(back.rgb.astype(int) - picture()).mean() < 3 and any("Lab" in note for note in back.notes)


@pytest.mark.parametrize(
    ("mode", "compression"),
    [
        *(("1", c) for c in ("raw", "group3", "group4", "packbits", "tiff_lzw")),
        *(("P", c) for c in ("raw", "tiff_lzw", "tiff_adobe_deflate")),
        *(("L", c) for c in ("jpeg", "packbits")),
        *(("RGB", c) for c in ("jpeg", "packbits", "tiff_deflate")),
        *(("CMYK", c) for c in ("raw", "tiff_lzw", "jpeg")),
        pytest.param(
            *("YCbCr", "raw"),
            marks=pytest.mark.skipif(
                int(PIL.__version__.split(".")[0]) < 13, reason="Pillow 12 does not read what it writes"
            ),
        ),
    ],
)
def test_tiff_kinds_that_pillow_writes(tmp_path, mode, compression):
    Image.fromarray(picture(48, 64)).convert(mode).save(tmp_path / "x.tif", compression=compression)
    with Image.open(tmp_path / "x.tif") as opened:
        expected = np.asarray(opened.convert("RGB"))
    back = read(tmp_path / "x.tif")
    np.testing.assert_array_equal(back.rgb, expected)
    assert back.metadata.tiff_compression == {"raw": "none", "tiff_lzw": "lzw"}.get(compression, "deflate")
    assert probe(tmp_path / "x.tif").channels == {
        "1": "grey",
        "L": "grey",
        "P": "palette",
        "CMYK": "cmyk",
    }.get(mode, "rgb")
