"""EXIF, XMP, colour profile, resolution, IPTC and text survive, adjusted where the picture was turned."""

from __future__ import annotations

import io
import struct
import time
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.images.samples import exif, matte, picture, profile, stored
from xyscannet.images import Metadata, Photo, probe, read, write
from xyscannet.images import exif as exif_block
from xyscannet.images.jpeg import segment, without_thumbnails
from xyscannet.images.png import chunk

SUFFIX = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif"}
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:title="t"/></x:xmpmeta>'
THUMBNAIL = b"\xff\xd8 a thumbnail of the blurred picture \xff\xd9"
_BUFFER = io.BytesIO()
Image.fromarray(picture(4, 5)).save(_BUFFER, "JPEG")
JPEG = _BUFFER.getvalue()
MAKER_NOTE = b"MAKER" + bytes(range(40))


def sample(format, path, orientation=1, order="<", thumbnail=b""):
    """A file of the format as Pillow writes it, with an EXIF block, a profile, XMP and 240 x 240 dpi."""
    image = Image.fromarray(stored(picture(), orientation))
    block = exif(orientation, order=order, thumbnail=thumbnail)
    if format == "png":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", XMP.decode())
        text.add_text("Title", "kept")
        image.save(path, format, exif=block, icc_profile=profile(), dpi=(240, 240), pnginfo=text)
    elif format == "tiff":
        loaded = Image.Exif()
        loaded.load(block)
        loaded[700] = XMP
        image.save(path, format, exif=loaded, icc_profile=profile(), dpi=(240, 240))
    elif format == "jpeg":
        image.save(
            path,
            format,
            exif=b"Exif\0\0" + block,
            icc_profile=profile(),
            dpi=(240, 240),
            xmp=XMP,
            comment=b"hi",
        )
    else:
        image.save(path, format, exif=block, icc_profile=profile(), xmp=XMP, lossless=True)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("target", SUFFIX)
@pytest.mark.parametrize("source", SUFFIX)
def test_metadata_survive_between_all_formats(tmp_path, source, target, orientation, order):
    sample(source, tmp_path / "in", orientation, order)
    photo = read(tmp_path / "in")
    assert photo.metadata.icc == profile() and photo.rgb.shape == picture().shape
    write(photo, tmp_path / "out", format=target)
    with Image.open(tmp_path / "out") as opened:
        assert opened.info["icc_profile"] == profile()
        fields = opened.getexif()
        assert fields[0x010F] == "Cam" or fields[0x010F] == "Cam\0era"
        assert fields.get(0x0112, 1) == 1
        assert fields.get_ifd(0x8825)[1] == "N"
        assert fields.get_ifd(0x8769)[0x927C] == MAKER_NOTE
        if source != "tiff":  # Pillow wrote the sizes
            assert (fields.get_ifd(0x8769)[0xA002], fields.get_ifd(0x8769)[0xA003]) == (31, 23)
        if target != "webp":
            assert opened.info["dpi"] == pytest.approx((240, 240), abs=0.01)
        assert float(fields[0x011A]) == 240
    again = read(tmp_path / "out")
    assert again.metadata.xmp == (XMP if orientation == 1 else XMP.replace(b'"6"', b'"1"'))
    assert again.notes == ()
    assert again.metadata.dpi == pytest.approx((240, 240), abs=0.01)


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_exif_is_kept_byte_for_byte_but_for_orientation(tmp_path, format):
    sample(format, tmp_path / "in", 3)
    write(read(tmp_path / "in"), tmp_path / "out", format=format)
    assert read(tmp_path / "out").metadata.exif == exif(1)


@pytest.mark.parametrize("format", SUFFIX)
def test_strip_metadata_keeps_the_colour_profile_alone(tmp_path, format):
    sample(format, tmp_path / "in", 6)
    photo = read(tmp_path / "in")
    write(photo, tmp_path / "out", format=format, strip_metadata=True)
    stripped = read(tmp_path / "out")
    data = (tmp_path / "out").read_bytes()
    assert stripped.metadata.icc == profile() and stripped.rgb.shape == (23, 31, 3)
    assert stripped.metadata.exif is stripped.metadata.xmp is stripped.metadata.dpi is None
    assert not stripped.metadata.comments and not stripped.metadata.png_chunks
    assert b"Cam" not in data and b"xmpmeta" not in data and b"kept" not in data
    assert stripped.metadata.jpeg == photo.metadata.jpeg


@pytest.mark.parametrize(
    "field",
    [struct.pack("<HIBxH", 1, 1, 6, 0), struct.pack("<HIHH", 3, 2, 6, 1), struct.pack("<HII", 4, 1, 6)],
    ids=["byte", "two shorts", "long"],
)
def test_an_orientation_of_any_type_is_applied_once(tmp_path, field):
    block = b"II*\0" + struct.pack("<IHH", 8, 1, 0x0112) + field + bytes(4)
    Image.fromarray(stored(picture(), 6)).save(tmp_path / "x.webp", exif=block, lossless=True)
    for _ in range(2):
        assert np.array_equal(read(tmp_path / "x.webp").rgb, picture())
        write(read(tmp_path / "x.webp"), tmp_path / "x.webp")


@pytest.mark.parametrize("order", ["<", ">"])
def test_thumbnail_of_the_blurred_picture_is_dropped(order):
    block = exif(1, order=order, thumbnail=THUMBNAIL)
    upright = exif_block.made_upright(block, 31, 23)
    assert b"thumbnail" in block and b"thumbnail" not in upright
    pillow = Image.Exif()
    pillow.load(upright)
    assert pillow.get_ifd(0x927C) == {} and 0x0201 not in pillow.get_ifd(1)
    behind = exif_block.made_upright(block + b"more", 31, 23)
    assert b"thumbnail" not in behind and behind.endswith(b"more") and len(behind) == len(block) + 4


def test_turned_pictures_swap_size_and_resolution(tmp_path):
    block = bytearray(exif(6, width=40, height=24))
    at = block.index(struct.pack("<4I", 240, 1, 480, 2))
    block[at : at + 16] = struct.pack("<4I", 300, 1, 100, 1)
    Image.fromarray(stored(picture(40, 24), 6)).save(tmp_path / "x.webp", exif=bytes(block), lossless=True)
    photo = read(tmp_path / "x.webp")
    assert photo.metadata.dpi == (100, 300)
    assert exif_block.resolution(photo.metadata.exif) == (100, 300)
    fields = Image.Exif()
    fields.load(photo.metadata.exif)
    assert (fields.get_ifd(0x8769)[0xA002], fields.get_ifd(0x8769)[0xA003]) == (24, 40)


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize(
    "block", [b"", b"II*\0", b"nonsense at all", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"]
)
def test_corrupt_exif_does_not_prevent_reading(tmp_path, recwarn, format, block):
    path = tmp_path / f"x{SUFFIX[format]}"
    write(Photo(picture(), format=format, metadata=Metadata(exif=b"x", webp_lossless=True)), path)
    data = path.read_bytes()
    if format == "png":
        data = data[:33] + chunk(b"eXIf", block) + data[33 + 13 :]
    elif format == "jpeg":
        data = data.replace(segment(0xE1, b"Exif\0\0x"), segment(0xE1, b"Exif\0\0" + block))
    else:
        at = data.index(b"EXIF")
        tail = b"EXIF" + struct.pack("<I", len(block)) + block + b"\0" * (len(block) % 2)
        data = data[:4] + struct.pack("<I", at + len(tail) - 8) + data[8:at] + tail
    path.write_bytes(data)
    photo = read(path)
    assert photo.metadata.exif is None and photo.rgb.shape == picture().shape
    assert (photo.notes == ("corrupt EXIF dropped",)) or (block == b"" and photo.notes == ())
    assert not recwarn.list


def test_fields_that_point_outside_are_survived():
    block = bytearray(exif(6))
    inner = struct.unpack_from("<I", block, block.index(struct.pack("<HHI", 0x8769, 4, 1)) + 8)[0]
    for offset in (inner, 0xFFFFFF00):
        struct.pack_into("<I", block, block.index(struct.pack("<HHI", 0x8769, 4, 1)) + 8, offset)
        assert exif_block.orientation(exif_block.made_upright(bytes(block), 1, 1)) == 1


def test_mutated_exif_is_read_or_dropped(tmp_path):
    rng = np.random.default_rng(2)
    block = exif(6, thumbnail=THUMBNAIL)
    for _ in range(200):
        mutated = bytearray(block)
        for _ in range(int(rng.integers(1, 5))):
            mutated[int(rng.integers(0, len(block)))] = int(rng.integers(0, 256))
        data = segment(0xE1, b"Exif\0\0" + bytes(mutated))
        (tmp_path / "x.jpg").write_bytes(b"\xff\xd8" + data + JPEG[2:])
        photo = read(tmp_path / "x.jpg")
        assert sorted(photo.rgb.shape) == [3, 4, 5]
        assert (photo.metadata.exif is None) == ("corrupt EXIF dropped" in photo.notes)
        write(photo, tmp_path / "y.tif")


def test_directories_of_a_bigtiff_are_kept(tmp_path):
    loaded = Image.Exif()
    loaded.load(exif())
    Image.fromarray(picture()).save(tmp_path / "x.tif", exif=loaded, big_tiff=True)
    data = bytearray((tmp_path / "x.tif").read_bytes())
    for pointer in (0x8769, 0x8825):
        data[data.index(struct.pack("<HHQ", pointer, 4, 1)) + 2] = 18  # 64 bit, as libtiff writes it
    (tmp_path / "x.tif").write_bytes(data)
    kept = Image.Exif()
    kept.load(read(tmp_path / "x.tif").metadata.exif)
    assert kept.get_ifd(0x8769)[0x927C] == MAKER_NOTE and kept.get_ifd(0x8825) == {1: "N"}


def test_directories_that_point_at_each_other(tmp_path):
    """EXIF that contains itself must not be followed for ever."""
    entries = struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + bytes(4)
    interop = struct.pack("<HHHII", 1, 0xA005, 4, 1, 8) + bytes(4)
    for body in (entries, interop):
        photo = Photo(picture(), metadata=Metadata(exif=b"II*\0\x08\0\0\0" + body))
        write(photo, tmp_path / "x.tif")
        assert read(tmp_path / "x.tif").width == 31


def test_png_keeps_text_time_and_colour_chunks(tmp_path):
    for dtype in (np.uint8, np.uint16):
        write(Photo(picture(dtype=dtype), matte(dtype=dtype)), tmp_path / "x.png")
        data = (tmp_path / "x.png").read_bytes()
        kept = [
            (b"gAMA", struct.pack(">I", 45455)),
            (b"tEXt", b"Author\0someone"),
            (b"zTXt", b"Comment\0\0" + zlib.compress(b"squeezed")),
            (b"tIME", bytes([7, 230, 1, 2, 3, 4, 5])),
        ]
        dropped = chunk(b"sBIT", b"\5\5\5\5") + chunk(b"prVt", b"private")
        (tmp_path / "x.png").write_bytes(data[:33] + b"".join(chunk(*c) for c in kept) + dropped + data[33:])
        write(read(tmp_path / "x.png"), tmp_path / "y.png")
        assert list(read(tmp_path / "y.png").metadata.png_chunks) == kept
        notes = write(read(tmp_path / "x.png"), tmp_path / "y.tif")
        assert any("text" in note for note in notes)


def test_png_whose_pixels_are_not_square_has_one_resolution(tmp_path):
    ratio = chunk(b"pHYs", struct.pack(">IIB", 1, 2, 0))
    Image.fromarray(picture()).save(tmp_path / "x.png", exif=exif(1))
    data = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").write_bytes(data[:33] + ratio + data[33:])
    write(read(tmp_path / "x.png"), tmp_path / "y.png")
    data = (tmp_path / "y.png").read_bytes()
    assert data.count(b"pHYs") == 1 and ratio in data and b"eXIf" in data


def test_png_with_exif_as_text(tmp_path):
    text = PngImagePlugin.PngInfo()
    block = b"Exif\0\0" + exif(3)
    text.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=True)
    Image.fromarray(stored(picture(), 3)).save(tmp_path / "x.png", pnginfo=text)
    photo = read(tmp_path / "x.png")
    np.testing.assert_array_equal(photo.rgb, picture())
    assert photo.metadata.exif == exif(1) and not photo.metadata.png_chunks


def test_png_turned_by_exif_as_text_is_probed_upright(tmp_path):
    for squeezed in (False, True):
        text = PngImagePlugin.PngInfo()
        block = b"Exif\0\0" + exif(6)
        text.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=squeezed)
        Image.fromarray(stored(picture(), 6)).save(tmp_path / "x.png", pnginfo=text)
        found, photo = probe(tmp_path / "x.png"), read(tmp_path / "x.png")
        assert (found.width, found.height) == (photo.width, photo.height) == (31, 23)


def test_png_whose_exif_has_the_mark_of_jpeg_files(tmp_path):
    Image.fromarray(stored(picture(), 6)).save(tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").write_bytes(data[:33] + chunk(b"eXIf", b"Exif\0\0" + exif(6)) + data[33:])
    found, photo = probe(tmp_path / "x.png"), read(tmp_path / "x.png")
    np.testing.assert_array_equal(photo.rgb, picture())
    assert (found.width, found.height) == (31, 23) and exif_block.orientation(photo.metadata.exif) == 1


def test_oversized_blocks_leave_a_jpeg_with_a_note(tmp_path):
    photo = Photo(
        picture(), format="jpeg", metadata=Metadata(exif=exif(1) + bytes(70_000), xmp=b"x" * 70_000)
    )
    notes = write(photo, tmp_path / "x.jpg")
    assert len(notes) == 2 and all("larger than a JPEG" in note for note in notes)
    assert read(tmp_path / "x.jpg").metadata.exif is None
    photo = Photo(picture(), metadata=Metadata(icc=profile().ljust(255 * 65519 + 1, b"\0")))
    assert write(photo, tmp_path / "x.jpg") == (
        "colour profile dropped: it is larger than a JPEG file can hold",
    )
    assert read(tmp_path / "x.jpg").metadata.icc is None
    iptc = b"8BIM" + struct.pack(">HHI", 1028, 0, 150_000) + bytes(150_000)
    assert write(Photo(picture(), metadata=Metadata(photoshop=iptc)), tmp_path / "y.jpg") == ()
    assert read(tmp_path / "y.jpg").metadata.photoshop == iptc  # in several segments, as Photoshop writes it


def test_iptc_and_comments_of_a_jpeg(tmp_path):
    iptc = b"8BIM" + struct.pack(">HHI", 1028, 0, 5) + b"iptc!\0"
    thumbnail = b"8BIM" + struct.pack(">HHI", 1036, 0, 4) + b"JFIF"
    write(Photo(picture(), format="jpeg"), tmp_path / "x.jpg")
    data = (tmp_path / "x.jpg").read_bytes()
    extra = (
        segment(0xED, b"Photoshop 3.0\0" + iptc + thumbnail)
        + segment(0xFE, b"remark")
        + segment(0xEB, b"other")
    )
    (tmp_path / "x.jpg").write_bytes(data[:20] + extra + data[20:])
    photo = read(tmp_path / "x.jpg")
    assert photo.metadata.photoshop == iptc and photo.metadata.comments == (b"remark",)
    assert any("APP11" in note for note in photo.notes)
    write(photo, tmp_path / "y.jpg")
    assert read(tmp_path / "y.jpg").metadata.photoshop == iptc
    assert read(tmp_path / "y.jpg").metadata.comments == (b"remark",)
    write(photo, tmp_path / "y.tif")
    assert read(tmp_path / "y.tif").metadata.photoshop == iptc
    write(replace(photo, metadata=Metadata(photoshop=iptc + thumbnail)), tmp_path / "z.tif")
    assert read(tmp_path / "z.tif").metadata.photoshop == iptc
    notes = write(photo, tmp_path / "y.png")
    assert any("IPTC" in note and "comments" in note for note in notes)
    for cut in range(len(iptc)):
        without_thumbnails(iptc[:cut])


PHONE = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description xmlns:GCamera="http://ns.google.com/photos/1.0/camera/"
  GCamera:MotionPhoto="1" GCamera:MicroVideoOffset='5000' hdrgm:Version="1.0" dc:title="t" tiff:Orientation="6">
  <GCamera:MicroVideo>1</GCamera:MicroVideo><Container:Directory><rdf:Seq><rdf:li>GainMap</rdf:li></rdf:Seq>
  </Container:Directory><dc:subject>kept</dc:subject></rdf:Description></x:xmpmeta>"""


def test_xmp_does_not_speak_of_parts_that_are_gone(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, "JPEG", xmp=PHONE)
    (tmp_path / "x.jpg").write_bytes(buffer.getvalue() + b"\0\0\0\x18ftypmp42" + bytes(4988))
    photo = read(tmp_path / "x.jpg")
    assert any("video" in note for note in photo.notes)
    for gone in (b"MotionPhoto", b"MicroVideo", b"hdrgm:Version", b"GainMap", b"Container"):
        assert gone not in photo.metadata.xmp
    for held in (b'dc:title="t"', b"<dc:subject>kept</dc:subject>", b'tiff:Orientation="6"'):
        assert held in photo.metadata.xmp


@pytest.mark.parametrize(
    "part",
    [b"<Container:Directory>", b' GCamera:Motion="', b"<GCamera:Motion>", b" hdrgm:Gain='", b"<hdrgm:Gain"],
)
def test_xmp_that_is_never_closed_takes_no_time(part):
    begun = time.process_time()
    exif_block.xmp_upright(part * 40_000, True)
    assert time.process_time() - begun < 2


def test_a_jpegs_coding_that_cannot_be_kept_is_told(tmp_path):
    cv2.imwrite(
        str(tmp_path / "a.jpg"),
        picture(),
        [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440],
    )
    photo = read(tmp_path / "a.jpg")
    assert [
        note for note in photo.notes if "chroma subsampling" in note
    ] and photo.metadata.jpeg.subsampling == 0


def test_further_pictures_in_a_jpeg_are_mentioned(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, "JPEG")
    (tmp_path / "x.jpg").write_bytes(buffer.getvalue() * 2)
    assert any("embedded" in note for note in read(tmp_path / "x.jpg").notes)


def test_segments_of_a_jpeg_are_known_by_their_names(tmp_path):
    parts = (
        segment(0xE0, b"JFXX\0 a thumbnail"),
        b"\xff\xff" + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP),
        segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0 more"),
        segment(0xE1, b"QVCI\0 of a camera"),
        segment(0xE2, b"MPF\0 where the other pictures are"),
        segment(0xE2, b"ICC_PROFILE\0\1\2" + profile()),
    )
    (tmp_path / "x.jpg").write_bytes(JPEG[:20] + b"".join(parts) + JPEG[20:])
    photo = read(tmp_path / "x.jpg")
    assert photo.metadata.xmp == XMP and photo.metadata.icc is None
    told = (
        "pictures or video embedded",
        "extension of the XMP",
        "(APP1 segments)",
        "incomplete colour profile",
    )
    assert [words in note for words, note in zip(told, photo.notes, strict=True)] == [True] * 4


@pytest.mark.parametrize(("width", "told"), [(65535, 65535), (65536, 5)])
def test_a_width_that_its_field_cannot_hold_is_left(width, told):
    layout = exif_block.Layout("<")
    block = b"II*\0\x08\0\0\0" + exif_block.pack_ifd({256: (3, 1, b"\5\0")}, layout, 8)
    upright = exif_block.made_upright(block, width, 1)
    fields, _ = exif_block.read_ifd(exif_block.blob_reader(upright), layout, 8)
    assert exif_block.integers(fields[256], layout) == (told,)


@pytest.mark.parametrize(("unit", "dpi"), [(0, None), (1, (300, 200)), (2, (762, 508))])
def test_the_unit_of_a_jpegs_resolution(tmp_path, unit, dpi):
    (tmp_path / "x.jpg").write_bytes(JPEG[:13] + struct.pack(">BHH", unit, 300, 200) + JPEG[18:])
    assert read(tmp_path / "x.jpg").metadata.dpi == (dpi and pytest.approx(dpi))


def test_bmp_says_what_it_cannot_hold(tmp_path):
    sample("jpeg", tmp_path / "in")
    (note,) = write(read(tmp_path / "in"), tmp_path / "x.bmp")
    assert "EXIF" in note and "colour profile" in note
    assert read(tmp_path / "x.bmp").metadata.dpi == pytest.approx((240, 240), abs=0.01)
