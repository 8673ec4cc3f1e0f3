"""Pixels survive reading and writing in every format, depth and mode."""

from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests.images.samples import exif, matte, photo, picture, stored
from xyscannet.errors import ConfigError, InputError
from xyscannet.images import Metadata, Photo, probe, read, write
from xyscannet.images.png import SIGNATURE, chunk

SUFFIX = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif", "bmp": ".bmp"}
EXACT = [
    *(("png", d, g, a) for d in (np.uint8, np.uint16) for g in (False, True) for a in (False, True)),
    *(("tiff", d, g, a) for d in (np.uint8, np.uint16) for g in (False, True) for a in (False, True)),
    ("webp", np.uint8, False, False),
    ("webp", np.uint8, False, True),
    ("bmp", np.uint8, False, False),
    ("bmp", np.uint8, False, True),
    ("bmp", np.uint8, True, False),
]


@pytest.mark.parametrize(("format", "dtype", "grey", "alpha"), EXACT)
def test_lossless_formats_give_the_same_pixels_back(tmp_path, format, dtype, grey, alpha):
    path = tmp_path / f"x{SUFFIX[format]}"
    given_photo = photo(format, dtype, grey, alpha)
    assert write(given_photo, path) == ()
    back = read(path)
    assert back.rgb.dtype == dtype and (back.format, back.grey, back.notes) == (format, grey, ())
    np.testing.assert_array_equal(back.rgb, given_photo.rgb)
    assert (back.alpha is None) == (not alpha)
    if alpha:
        np.testing.assert_array_equal(back.alpha, given_photo.alpha)
    info = probe(path)
    assert (info.format, info.width, info.height) == (format, 31, 23)
    assert (info.bit_depth, info.channels, info.has_alpha) == (
        back.bit_depth,
        "grey" if grey else "rgb",
        alpha,
    )


@pytest.mark.parametrize(("format", "dtype", "grey", "alpha"), EXACT)
def test_pixels_that_lie_plane_by_plane_are_written_alike(tmp_path, format, dtype, grey, alpha):
    """A restored photograph is a (3, H, W) array in memory, seen as (H, W, 3)."""
    path, given_photo = tmp_path / f"x{SUFFIX[format]}", photo(format, dtype, grey, alpha)
    planes = np.ascontiguousarray(given_photo.to_float().transpose(2, 0, 1)).transpose(1, 2, 0)
    write(given_photo.with_float(planes), path)
    np.testing.assert_array_equal(read(path).rgb, given_photo.rgb)


@pytest.mark.parametrize(("dtype", "grey", "alpha"), [e[1:] for e in EXACT if e[0] == "png"])
@pytest.mark.parametrize("format", ["png", "tiff"])
def test_other_programs_read_what_is_written(tmp_path, format, dtype, grey, alpha):
    """OpenCV (and tifffile where OpenCV cannot) as independent readers."""
    path = tmp_path / f"x{SUFFIX[format]}"
    given_photo = photo(format, dtype, grey, alpha)
    write(given_photo, path)
    if format == "tiff":
        seen = pytest.importorskip("tifffile").imread(path)
    else:
        seen = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        seen = seen if seen.ndim == 2 else seen[..., [2, 1, 0, 3][: seen.shape[2]]]
    assert seen.dtype == dtype
    np.testing.assert_array_equal(seen if seen.ndim == 2 else seen[..., 0], given_photo.rgb[..., 0])
    if not grey:
        np.testing.assert_array_equal(seen[..., :3], given_photo.rgb)
    if alpha:
        np.testing.assert_array_equal(seen[..., -1], given_photo.alpha)


@pytest.mark.parametrize("grey", [False, True])
def test_jpeg_and_lossy_webp_stay_close(tmp_path, grey):
    for format in ("jpeg", "webp"):
        given_photo = photo(format, grey=grey, webp_lossless=False, size=(64, 96))
        given_photo = replace(given_photo, rgb=cv2.GaussianBlur(given_photo.rgb, (0, 0), 5))
        write(given_photo, tmp_path / "x", format=format)
        back = read(tmp_path / "x")
        assert back.format == format and back.grey == (grey and format == "jpeg")
        assert np.abs(back.rgb.astype(int) - given_photo.rgb).mean() < 3


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize(("subsampling", "progressive"), [(0, False), (1, True), (2, False)])
def test_jpeg_keeps_tables_subsampling_and_scan_order(tmp_path, subsampling, progressive, grey):
    image = Image.fromarray(picture(200, 300)[..., 0] if grey else picture(200, 300))
    image.save(tmp_path / "in.jpg", quality=83, subsampling=subsampling, progressive=progressive)
    write(read(tmp_path / "in.jpg"), tmp_path / "out.jpg")
    with Image.open(tmp_path / "in.jpg") as before, Image.open(tmp_path / "out.jpg") as after:
        assert after.mode == before.mode and after.quantization == before.quantization
        assert grey or [layer[1:] for layer in after.layer] == [layer[1:] for layer in before.layer]
        assert bool(after.info.get("progressive")) == progressive
    write(read(tmp_path / "in.jpg"), tmp_path / "small.jpg", quality=20)
    assert (tmp_path / "small.jpg").stat().st_size < (tmp_path / "out.jpg").stat().st_size


def test_jpeg_with_finest_tables_of_a_noisy_picture(tmp_path, capfd):
    """Such a progressive file is larger than the buffer that Pillow gives the encoder."""
    noise = np.random.default_rng(0).integers(0, 256, (257, 311), dtype=np.uint8)
    cv2.imwrite(
        str(tmp_path / "in.jpg"), noise, [cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    )
    before = read(tmp_path / "in.jpg")
    notes = write(before, tmp_path / "out.jpg")
    assert any("baseline" in note for note in notes) and capfd.readouterr().err == ""
    assert np.abs(read(tmp_path / "out.jpg").rgb.astype(int) - before.rgb).max() <= 4


def test_webp_lossless_stays_lossless_and_lossy_stays_lossy(tmp_path):
    for lossless in (True, False):
        Image.fromarray(picture()).save(tmp_path / "in.webp", lossless=lossless)
        back = read(tmp_path / "in.webp")
        assert back.metadata.webp_lossless is lossless
        write(back, tmp_path / "out.webp")
        assert (b"VP8L" in (tmp_path / "out.webp").read_bytes()) is lossless
    write(read(tmp_path / "in.webp"), tmp_path / "q.webp", quality=10)
    assert (tmp_path / "q.webp").stat().st_size < (tmp_path / "out.webp").stat().st_size


@pytest.mark.parametrize("mode", ["1", "P", "P+alpha", "P+key", "CMYK", "L+key", "RGB+key"])
def test_converted_modes_look_as_pillow_shows_them(tmp_path, mode):
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    base = Image.fromarray(picture())
    kind, _, extra = mode.partition("+")
    image = (
        base.convert(kind, palette=Image.Palette.ADAPTIVE, colors=16) if kind == "P" else base.convert(kind)
    )
    options = {}
    if mode == "P+alpha":
        options["transparency"] = bytes(range(0, 256, 16))
    elif extra == "key":
        options["transparency"] = {"P": 3, "L": image.getpixel((5, 5)), "RGB": image.getpixel((5, 5))}[kind]
    image.save(path, **options)
    with Image.open(path) as opened:
        expected = np.asarray(opened.convert("RGBA" if extra else "RGB"))
    back = read(path)
    np.testing.assert_array_equal(back.rgb, expected[..., :3])
    assert back.grey == (kind in ("1", "L"))
    if extra:
        np.testing.assert_array_equal(back.alpha, expected[..., 3])
        assert back.alpha.min() == 0
    assert bool(back.notes) == (kind in ("1", "P", "CMYK"))
    assert probe(path).has_alpha == bool(extra)


@pytest.mark.parametrize(("dtype", "grey"), [(np.uint8, True), (np.uint16, True), (np.uint16, False)])
def test_png_transparent_colour(tmp_path, dtype, grey):
    write(photo("png", dtype, grey), tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    pixels = picture(dtype=dtype, grey=grey)
    key = pixels[4, 7, : 1 if grey else 3].astype(">u2").tobytes()
    (tmp_path / "x.png").write_bytes(data[:33] + chunk(b"tRNS", key) + data[33:])
    back = read(tmp_path / "x.png")
    np.testing.assert_array_equal(back.alpha == 0, (pixels == pixels[4, 7]).all(axis=2))
    assert back.alpha.dtype == dtype and back.alpha.max() == np.iinfo(dtype).max
    np.testing.assert_array_equal(back.rgb, pixels)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 9), (19, 17)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_interlaced_png(tmp_path, dtype, size):
    pixels = picture(*size, dtype)
    raw = b""
    for x, y, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        part = pixels[y::dy, x::dx]
        if part.size:
            raw += b"".join(b"\0" + row.astype(pixels.dtype.newbyteorder(">")).tobytes() for row in part)
    head = struct.pack(">IIBBBBB", size[1], size[0], pixels.itemsize * 8, 2, 0, 0, 1)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(SIGNATURE + chunks)
    np.testing.assert_array_equal(read(tmp_path / "x.png").rgb, pixels)


def test_bmp_of_other_depths(tmp_path):
    for mode in ("1", "P", "L"):
        image = Image.fromarray(picture()).convert(mode)
        image.save(tmp_path / "x.bmp")
        np.testing.assert_array_equal(read(tmp_path / "x.bmp").rgb, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "tiff"])
def test_orientation_is_applied(tmp_path, format, orientation):
    path = tmp_path / f"x{SUFFIX[format]}"
    upright = picture(24, 40)
    image = Image.fromarray(np.dstack([stored(upright, orientation), stored(matte(24, 40), orientation)]))
    block = Image.Exif()
    block[0x0112] = orientation
    if format == "jpeg":
        image.convert("RGB").save(path, exif=block, quality=100, subsampling=0)
    elif format == "tiff":
        image.save(path, tiffinfo={0x0112: orientation})
    else:
        image.save(path, exif=block, lossless=True, exact=True)
    back, info = read(path), probe(path)
    if format != "tiff":  # Pillow turns some kinds of TIFF by itself and others not
        with Image.open(path) as opened:
            np.testing.assert_array_equal(back.rgb, np.asarray(ImageOps.exif_transpose(opened))[..., :3])
    assert back.rgb.shape == (24, 40, 3) and (info.width, info.height) == (40, 24)
    if format == "jpeg":
        assert np.abs(back.rgb.astype(int) - upright).max() < 12
    else:
        np.testing.assert_array_equal(back.rgb, upright)
        np.testing.assert_array_equal(back.alpha, matte(24, 40))
    write(back, path)
    np.testing.assert_array_equal(read(path).rgb.shape, (24, 40, 3))
    with Image.open(path) as opened:
        assert opened.getexif().get(0x0112, 1) == 1
        assert ImageOps.exif_transpose(opened).size == (40, 24)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(EXACT),
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(0, 2**31),
)
def test_any_size_and_noise(tmp_path, case, height, width, seed):
    format, dtype, grey, alpha = case
    rng = np.random.default_rng(seed)
    top = np.iinfo(dtype).max
    pixels = rng.integers(0, top, (height, width, 1 if grey else 3), dtype=dtype, endpoint=True)
    layer = rng.integers(0, top, (height, width), dtype=dtype, endpoint=True) if alpha else None
    given_photo = Photo(
        np.repeat(pixels, 3 // pixels.shape[2], axis=2), layer, grey, format, Metadata(webp_lossless=True)
    )
    back_float = given_photo.with_float(given_photo.to_float())
    np.testing.assert_array_equal(back_float.rgb, given_photo.rgb)
    write(given_photo, tmp_path / "x", format=format) if format != "webp" else write(
        given_photo, tmp_path / "x"
    )
    back = read(tmp_path / "x")
    np.testing.assert_array_equal(back.rgb, given_photo.rgb)
    if alpha:
        np.testing.assert_array_equal(back.alpha, layer)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("grey", [False, True])
def test_floats_of_every_level_come_back(dtype, grey):
    levels = np.arange(np.iinfo(dtype).max + 1).astype(dtype)
    every = Photo(np.repeat(levels.reshape(-1, 256, 1), 3, axis=2), grey=grey)
    pixels = every.to_float()
    assert pixels.dtype == np.float32 and pixels.min() == 0 and pixels.max() == 1
    np.testing.assert_array_equal(every.with_float(pixels).rgb, every.rgb)
    clipped = every.with_float(pixels * 3 - 1).rgb
    assert (clipped[pixels < 1 / 3] == 0).all() and (clipped[pixels > 2 / 3] == every.white).all()


def test_with_float_of_grey_stays_grey_and_refuses_what_does_not_fit():
    given_photo = photo("png", grey=True)
    restored = given_photo.with_float(given_photo.to_float() + np.array([0.0, 0.02, 0.1], np.float32))
    assert (restored.rgb == restored.rgb[..., :1]).all() and restored.grey
    with pytest.raises(ValueError, match="not fit"):
        given_photo.with_float(np.zeros((2, 2, 3), np.float32))
    with pytest.raises(ValueError, match="finite"):
        given_photo.with_float(np.full(given_photo.rgb.shape, np.nan, np.float32))


def test_quality_and_format_options(tmp_path):
    given_photo = photo("png", np.uint16)
    notes = write(given_photo, tmp_path / "a.jpg", quality=90)
    assert read(tmp_path / "a.jpg").format == "jpeg" and any("16 bit" in note for note in notes)
    assert any("quality ignored" in note for note in write(given_photo, tmp_path / "a.png", quality=90))
    with pytest.raises(ConfigError, match="lossless"):
        write(given_photo, tmp_path / "b.png", format="png", quality=90)
    with pytest.raises(ConfigError, match="1 to 100"):
        write(given_photo, tmp_path / "b.jpg", quality=0)
    with pytest.raises(ConfigError, match="gif"):
        write(given_photo, tmp_path / "b.gif", format="gif")
    assert not list(tmp_path.glob("b.*"))
    eight = read(tmp_path / "a.jpg")
    assert np.abs(eight.rgb / 255 - given_photo.rgb / 65535).mean() < 0.03


def test_alpha_is_never_lost_in_silence(tmp_path):
    with pytest.raises(InputError, match="transparent"):
        write(photo("png", alpha=True), tmp_path / "x.jpg")
    assert list(tmp_path.iterdir()) == []
    opaque = replace(photo("png"), alpha=np.full((23, 31), 255, np.uint8))
    assert any("opaque" in note for note in write(opaque, tmp_path / "x.jpg"))


@pytest.mark.parametrize(("name", "side"), [("x.jpg", 65500), ("x.webp", 16383)])
def test_what_is_larger_than_a_format_allows_is_refused(tmp_path, name, side):
    write(Photo(np.zeros((1, side, 3), np.uint8)), tmp_path / name)
    with pytest.raises(InputError, match=f"{name}: {side + 1}x1 is larger than"):
        write(Photo(np.zeros((1, side + 1, 3), np.uint8)), tmp_path / name)


def test_the_content_decides_and_the_name_stays(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, "JPEG")
    (tmp_path / "x.png").write_bytes(buffer.getvalue())
    back = read(tmp_path / "x.png")
    assert back.format == "jpeg" and any("content is JPEG" in note for note in back.notes)
    write(back, tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\xff\xd8")
    write(back, tmp_path / "out.tif")
    assert read(tmp_path / "out.tif").format == "tiff"


@pytest.mark.parametrize(
    "name", ["naïve ü 照片.png", "with space.png", "new\nline.png", "-dash.png", "a" * 240 + ".png"]
)
def test_names_of_any_kind(tmp_path, name):
    write(photo("png", np.uint16), tmp_path / name)
    np.testing.assert_array_equal(read(tmp_path / name).rgb, picture(dtype=np.uint16))
    assert probe(tmp_path / name).width == 31


def test_several_readers_at_once(tmp_path):
    paths = []
    for format, dtype, grey, alpha in EXACT:
        paths.append(tmp_path / f"{len(paths)}{SUFFIX[format]}")
        write(photo(format, dtype, grey, alpha), paths[-1])
    with ThreadPoolExecutor(8) as pool:
        for (_, dtype, grey, _), back in zip(EXACT * 4, pool.map(read, paths * 4)):
            np.testing.assert_array_equal(back.rgb, picture(dtype=dtype, grey=grey))


def test_exif_helper_is_what_pillow_reads():
    block = Image.Exif()
    block.load(exif(6, thumbnail=b"\xff\xd8thumb"))
    assert block[0x0112] == 6 and block.get_ifd(0x8825)[1] == "N" and block.get_ifd(0x8769)[0xA002] == 31
