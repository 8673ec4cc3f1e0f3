"""Every bad input gives one InputError that names the file; nothing damaged is read in silence."""

from __future__ import annotations

import base64
import importlib.util
import io
import os
import struct
import warnings

import numpy as np
import pytest
from PIL import Image

from tests.images.samples import exif, picture
from xyscannet.errors import ConfigError, InputError
from xyscannet.images import Metadata, Photo, probe, read, write
from xyscannet.images.png import SIGNATURE, chunk

VARIANTS = {
    "png8": ("png", np.uint8, {}),
    "png16": ("png", np.uint16, {}),
    "jpeg": ("jpeg", np.uint8, {}),
    "webp": ("webp", np.uint8, {"webp_lossless": False}),
    "webp-lossless": ("webp", np.uint8, {"webp_lossless": True}),
    "tiff-none": ("tiff", np.uint8, {"tiff_compression": "none"}),
    "tiff-lzw": ("tiff", np.uint16, {"tiff_compression": "lzw"}),
    "tiff-deflate": ("tiff", np.uint16, {"tiff_compression": "deflate"}),
    "bmp": ("bmp", np.uint8, {}),
}
if importlib.util.find_spec("pillow_heif"):
    VARIANTS |= {"heic": ("heic", np.uint8, {})}


def encoded(tmp_path, variant, size=(90, 120)):
    format, dtype, metadata = VARIANTS[variant]
    noise = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (*size, 3), dtype=dtype)
    pixels = (picture(*size, dtype) // 2 + noise // 2).astype(dtype)
    metadata = {**metadata, "exif": exif(1)} if format != "bmp" else metadata
    write(Photo(pixels, format=format, metadata=Metadata(**metadata)), tmp_path / "whole")
    return (tmp_path / "whole").read_bytes()


def refused(path, *words):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError) as caught:
            read(path)
    message = str(caught.value)
    assert path.name in message and "\n" not in message
    assert not words or any(word in message for word in words), message
    return message


@pytest.mark.parametrize("variant", VARIANTS)
def test_truncation_is_found_wherever_it_is(tmp_path, variant, capfd):
    data = encoded(tmp_path, variant)
    path = tmp_path / "cut.bin"
    step = max(1, len(data) // 30)
    for keep in sorted(
        {*range(0, len(data), step), *range(1, 40, 3), len(data) - 5, len(data) - 2, len(data) - 1}
    ):
        path.write_bytes(data[:keep])
        refused(path)
        path.write_bytes(data[:keep] + bytes(len(data) - keep))
        if keep < len(data) - step and variant not in ("bmp", "tiff-none", "tiff-lzw", "webp"):
            refused(path)  # the rest is there, but zero
    for keep in (len(data) // 3, 2 * len(data) // 3):
        path.write_bytes(data[:keep])
        refused(path, "truncated")
    assert capfd.readouterr().err == "" or variant == "tiff-lzw"


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_cut_off_but_closed_with_an_end_marker(tmp_path, progressive):
    """A decoder fills up such a picture with grey and says nothing."""
    for mode in ("RGB", "L", "CMYK"):
        buffer = io.BytesIO()
        noise = np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8)
        Image.fromarray(noise).convert(mode).save(buffer, "JPEG", progressive=progressive)
        data = buffer.getvalue()
        path = tmp_path / "x.jpg"
        path.write_bytes(data)
        read(path)
        for part in (0.97, 0.99) if progressive else (0.3, 0.6, 0.9, 0.99):
            path.write_bytes(data[: int(len(data) * part)].rstrip(b"\xff") + b"\xff\xd9")
            refused(path, "truncated")


ARITHMETIC = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABoSExcTEBoXFRcdGxofJ0AqJyMjJ084PC9AXVJiYVxSWllndJR+Z22Mb1laga+CjJmepqemZHy2w7Sh"
    "wZSjpp//2wBDARsdHSciJ0wqKkyfalpqn5+fn5+fn5+fn5+fn5+fn5+fn5+fn5+fn5+fn5+fn5+fn5+fn5+fn5+fn5+fn5+fn5//yQARCAAPABIDASIA"
    "AhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD/AGOqul5tbn6A93fLbHgeow8HOf/Z"
)


def test_a_complete_arithmetic_jpeg_is_not_taken_for_truncated(tmp_path):
    """Of this one the decoder's last pixels depend on what follows the scan."""
    data = base64.b64decode(ARITHMETIC)
    (tmp_path / "a.jpg").write_bytes(data)
    assert read(tmp_path / "a.jpg").rgb.shape == (15, 18, 3)


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("empty.png", b"", "0 bytes"),
        ("text.png", b"this is no picture, it is a text file\n" * 9, "not an image"),
        ("short.png", b"hi", "not an image"),
        ("x.gif", b"GIF89a" + bytes(60), "GIF"),
        ("x.avif", b"\0\0\0\x18ftypavif" + bytes(60), "AVIF"),
        ("x.mp4", b"\0\0\0\x18ftypisom" + bytes(60), "video"),
        ("x.psd", b"8BPS" + bytes(60), "Photoshop"),
        ("x.jxl", b"\xff\x0a" + bytes(60), "JPEG XL"),
        ("start.png", b"\x89PNG\r\n", "truncated"),
        ("start.jpg", b"\xff\xd8", "truncated"),
        ("start.webp", b"RIFF\x10\0", "truncated"),
        ("start.tif", b"II*\0", "truncated"),
        ("start.bmp", b"BM\0\0", "truncated"),
        ("zeros.jpg", bytes(1000), "not an image"),
    ],
)
def test_what_is_no_picture(tmp_path, name, content, word):
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path / name, word)
    with pytest.raises(InputError, match=word):
        probe(tmp_path / name)
    if word in ("GIF", "AVIF", "not an image"):
        assert "PNG, JPEG, WebP, TIFF, BMP and HEIC are supported" in message


def test_missing_folder_and_unreadable(tmp_path, monkeypatch):
    assert "no such file" in refused(tmp_path / "missing.png")
    (tmp_path / "folder.png").mkdir()
    assert "folder" in refused(tmp_path / "folder.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert "regular" in refused(tmp_path / "pipe.png")
    (tmp_path / "secret.png").write_bytes(b"x")

    def denied(self, *_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", denied)
    assert "permission" in refused(tmp_path / "secret.png")


def test_names_in_messages_are_one_line(tmp_path):
    with pytest.raises(InputError) as caught:
        read(tmp_path / "new\nline.png")
    assert "new\\nline.png" in str(caught.value)
    with pytest.raises(InputError) as caught:
        read(os.fsdecode(os.fsencode(tmp_path) + b"/broken\xff.png"))
    str(caught.value).encode("utf-8")


def bomb_files(tmp_path, width, height):
    yield (
        "bomb.png",
        SIGNATURE
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", b"x" * 50),
    )
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, "JPEG")
    yield "bomb.jpg", buffer.getvalue().replace(struct.pack(">HH", 23, 31), struct.pack(">HH", height, width))
    for order in "<>":
        fields = struct.pack(order + "HHHII", 2, 256, 4, 1, width) + struct.pack(
            order + "HHII", 257, 4, 1, height
        )
        mark = b"II" if order == "<" else b"MM"
        yield "bomb.tif", mark + struct.pack(order + "HI", 42, 8) + fields + bytes(40)
    yield (
        "bomb.bmp",
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, width, height, 1, 24, *[0] * 6),
    )


def test_bombs_are_refused_from_the_header(tmp_path, monkeypatch):
    for name, content in bomb_files(tmp_path, 30000, 30000):
        (tmp_path / name).write_bytes(content)
        assert "900 megapixels" in refused(tmp_path / name)
        with pytest.raises(InputError, match="XYSCAN_MAX_PIXELS"):
            probe(tmp_path / name)
    Image.fromarray(picture()).save(tmp_path / "x.webp")
    monkeypatch.setenv("XYSCAN_MAX_PIXELS", "700")
    assert "713" in refused(tmp_path / "x.webp")
    monkeypatch.setenv("XYSCAN_MAX_PIXELS", "713")
    assert read(tmp_path / "x.webp").width == 31
    monkeypatch.setenv("XYSCAN_MAX_PIXELS", "many")
    with pytest.raises(ConfigError, match="many"):
        read(tmp_path / "x.webp")


def test_pictures_above_pillows_own_limit_are_read_without_a_warning(tmp_path, monkeypatch):
    for number, suffix in enumerate((".png", ".jpg", ".webp", ".tif", ".bmp")):
        path = tmp_path / f"{number}{suffix}"
        Image.fromarray(picture()).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in tmp_path.iterdir():
            assert read(path).width == 31


@pytest.mark.parametrize("name", ["x.webp", "x.png", "x.tif"])
def test_several_frames_are_refused(tmp_path, name):
    """By what looks at the header alone, too."""
    frames = [Image.fromarray(picture()), Image.fromarray(255 - picture())]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    refused(tmp_path / name, "frames", "pages")
    with pytest.raises(InputError):
        probe(tmp_path / name)


def test_reduced_versions_in_a_tiff_are_no_pages(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(picture(), photometric="rgb", metadata=None)
        file.write(picture()[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
    photo = read(tmp_path / "x.tif")
    assert photo.width == 31 and any("reduced" in note for note in photo.notes)


def test_the_preview_of_a_camera_raw_is_not_taken_for_the_picture(tmp_path):
    """As in NEF and ARW: first a reduced version, the picture below it."""
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffWriter(tmp_path / "x.nef") as file:
        file.write(picture()[::2, ::2], photometric="rgb", subfiletype=1, subifds=1, metadata=None)
        file.write(picture(dtype=np.uint16)[..., 0], photometric="cfa", metadata=None)
    assert "camera raw" in refused(tmp_path / "x.nef")


@pytest.mark.parametrize(
    ("dtype", "samples", "word"),
    [
        (np.float32, 3, "floating"),
        (np.float32, 1, "floating"),
        (np.int16, 1, "signed"),
        (np.uint32, 1, "32 bits"),
    ],
)
def test_tiff_kinds_that_are_not_supported(tmp_path, dtype, samples, word):
    tifffile = pytest.importorskip("tifffile")
    shape = (9, 8, 3) if samples == 3 else (9, 8)
    tifffile.imwrite(
        tmp_path / "x.tif", np.zeros(shape, dtype), photometric="rgb" if samples == 3 else "minisblack"
    )
    assert word in refused(tmp_path / "x.tif")
    with pytest.raises(InputError, match=word):
        probe(tmp_path / "x.tif")


def test_damaged_png_chunks(tmp_path):
    data = encoded(tmp_path, "png8")
    at = data.index(b"IDAT") + 200
    (tmp_path / "x.png").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert "checksum" in refused(tmp_path / "x.png")
    at = data.index(b"eXIf") + 20
    (tmp_path / "x.png").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert read(tmp_path / "x.png").notes == ("damaged eXIf chunk dropped",)


@pytest.mark.parametrize("variant", ["png8", "png16"])
def test_png_with_too_few_pixels_in_a_sound_stream(tmp_path, variant):
    import zlib

    data = encoded(tmp_path, variant, (8, 9))
    start = data.index(b"IDAT") - 4
    size = struct.unpack(">I", data[start : start + 4])[0]
    raw = zlib.decompress(data[start + 8 : start + 8 + size])
    short = chunk(b"IDAT", zlib.compress(raw[:-40]))
    (tmp_path / "x.png").write_bytes(data[:start] + short + chunk(b"IEND", b""))
    refused(tmp_path / "x.png", "truncated")
