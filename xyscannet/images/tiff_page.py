"""The directory of a TIFF file: which picture it holds and how. Source: TIFF 6.0 with Technical Note 2, BigTIFF."""

from __future__ import annotations

from dataclasses import dataclass

from .exif import LAYERS, Entry, Layout, Reader, integers, layout_of, read_ifd
from .formats import BadImage, check_size

XMP, PHOTOSHOP, ICC = 700, 34377, 34675
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR = 256, 257, 258, 259, 262, 277, 284
FILL_ORDER, ROWS_PER_STRIP, PREDICTOR, TILE_WIDTH, TILE_HEIGHT = 266, 278, 317, 322, 323
EXTRA, SAMPLE_FORMAT = 338, 339
RESOLUTION = (282, 283, 296)
STRUCTURE = frozenset(
    [
        256,
        257,
        258,
        259,
        262,
        266,
        273,
        277,
        278,
        279,
        284,
        292,
        293,
        317,
        320,
        322,
        323,
        324,
        325,
        332,
        333,
        334,
    ]
) | frozenset([338, 339, 347, 512, 513, 514, 519, 520, 521, 529, 530, 531, 532])
COLOURS_AS_FIELDS = frozenset([301, 318, 319])  # transfer function, white point, primaries
_OTHER_DROPPED = frozenset([254, 255, 263, 280, 281, 288, 289, 290, 291, 297, 330, 336, 340, 341])
DROPPED = STRUCTURE | COLOURS_AS_FIELDS | _OTHER_DROPPED | {XMP, PHOTOSHOP, ICC, LAYERS}
_PHOTOMETRIC = {0: "grey", 1: "grey", 2: "rgb", 3: "palette", 5: "cmyk", 6: "rgb", 8: "lab"}
COLOURS = {"grey": 1, "rgb": 3, "palette": 1, "cmyk": 4, "lab": 3}
PIECES = (273, 279, 324, 325)  # offsets and sizes of strips, of tiles


@dataclass
class Page:
    """The one picture of a TIFF file."""

    layout: Layout
    fields: dict[int, Entry]
    width: int
    height: int
    bits: int
    samples: int
    channels: str
    alpha: str | None  # "straight" "premultiplied"
    unspecified: bool  # the file does not say that the extra channel is alpha
    has_reduced: bool  # it also holds reduced versions of the picture

    def value(self, tag: int, default: int) -> int:
        """The first value of an integer field."""
        return (integers(self.fields.get(tag), self.layout) or (default,))[0]


def read_page(at: Reader) -> Page:
    try:
        layout, offset = layout_of(at(0, 16))
        fields, following = read_ifd(at, layout, offset)
        reduced, seen = False, {offset}
        while following and following not in seen and len(seen) < 64:
            seen.add(following)
            further, following = read_ifd(at, layout, following)
            if not (integers(further.get(254), layout) or (0,))[0] & 5:
                raise BadImage("it holds several pages: split them into single pictures first")
            reduced = True
    except ValueError as error:
        raise BadImage(f"the TIFF file is truncated or damaged: {error}") from error

    def value(tag: int, default: int) -> int:
        return (integers(fields.get(tag), layout) or (default,))[0]

    if 50706 in fields or (330 in fields and value(254, 0) & 1):  # DNG; a preview above the picture
        raise BadImage("camera raw is not supported: develop it to TIFF or JPEG first")
    width, height, samples = value(WIDTH, 0), value(HEIGHT, 0), value(SAMPLES, 1)
    check_size(width, height)
    bits = set(integers(fields.get(BITS), layout) or (1,))
    kinds = set(integers(fields.get(SAMPLE_FORMAT), layout) or (1,))
    channels = _PHOTOMETRIC.get(value(PHOTOMETRIC, 1))
    if channels is None:
        raise BadImage(
            f"TIFF pictures of the photometric kind {value(PHOTOMETRIC, 1)} are not supported: convert to RGB first"
        )
    if not kinds <= {1, 4}:
        kind = "floating-point" if 3 in kinds else "signed or complex"
        raise BadImage(f"{kind} TIFF pictures are not supported: convert to 8- or 16-bit first")
    allowed = {1, 2, 4, 8, 16} if samples == 1 else {8, 16}
    if len(bits) != 1 or not bits <= allowed:
        shown = "/".join(str(b) for b in sorted(bits))
        raise BadImage(
            f"TIFF pictures with {shown} bits per channel are not supported: convert to 8 or 16 bit first"
        )
    depth = bits.pop()
    if depth == 16 and (channels in ("palette", "cmyk", "lab") or value(PHOTOMETRIC, 1) == 6):
        raise BadImage(
            f"16-bit TIFF pictures of this kind ({channels}) are not supported: convert to RGB first"
        )
    extra = samples - COLOURS[channels]
    if extra not in (0, 1) or (extra and channels not in ("grey", "rgb")):
        raise BadImage(f"TIFF pictures with {samples} channels of the kind {channels} are not supported")
    meaning = value(EXTRA, 0) if extra else 0
    alpha = None if not extra else "premultiplied" if meaning == 1 else "straight"
    unspecified = bool(extra) and meaning not in (1, 2)
    return Page(layout, fields, width, height, depth, samples, channels, alpha, unspecified, reduced)


def check_extent(page: Page, size: int) -> None:
    """Raise BadImage unless every strip or tile of the picture is there and lies within the file's size."""
    tiled = TILE_WIDTH in page.fields
    begins, counts = (
        integers(page.fields.get(tag), page.layout) for tag in (PIECES[2:] if tiled else PIECES[:2])
    )
    if tiled:
        across, down = (
            -(-page.width // max(1, page.value(TILE_WIDTH, 0))),
            -(-page.height // max(1, page.value(TILE_HEIGHT, 0))),
        )
    else:
        across, down = 1, -(-page.height // max(1, min(page.value(ROWS_PER_STRIP, page.height), page.height)))
    pieces = across * down * (page.samples if page.value(PLANAR, 1) == 2 else 1)
    cut_off = (
        any(begin + count > size for begin, count in zip(begins, counts)) or max(begins, default=0) >= size
    )
    if len(begins) < pieces or cut_off or 0 in begins or 0 in counts:
        raise BadImage("the TIFF file is truncated or damaged: some of its pixels are missing")
