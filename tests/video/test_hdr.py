"""HDR10's metadata of a clip are those of its source."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from tests.video import clips
from xyscannet.video import coding, decode, encode, hdr, pixels
from xyscannet.video.clip import probe
from xyscannet.video.segments import ClipOptions, plan_clip

av = pytest.importorskip("av")

DISPLAY = (
    "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,500)"  # P3 of D65, 0.05 to 1000 cd/m2
)
EXPECTED = hdr.HDR10(
    hdr.Display(
        tuple(
            (Fraction(x, 50000), Fraction(y, 50000))
            for x, y in ((34000, 16000), (13250, 34500), (7500, 3000), (15635, 16450))
        ),
        Fraction(5, 100),
        Fraction(1000),
    ),
    (1000, 400),
)


def source(path: Path, parameters: str, transfer: int = hdr.PQ) -> Path:
    return clips.write(
        path,
        clips.pan(3, 64, 64),
        codec="libx265",
        pixel_format="yuv420p10le",
        colour=(1, 9, transfer, 9),
        sound=False,
        options={"x265-params": f"log-level=none:{parameters}"},
    )


def recoded(path: Path, output: Path, codec: str | None) -> tuple[hdr.HDR10 | None, tuple[str, ...]]:
    """What a segment of the clip says of itself, and the notes."""
    clip = plan_clip(path, ClipOptions(codec=codec))
    how = coding.choose_coding(clip, output)
    writer = encode.SegmentWriter(output, clip, clip.segments[0], how)
    for frame in decode.frames(clip.info, clip.index, 0, clip.frames):
        writer.write(list(pixels.to_planes(frame, how.layout)))
    writer.close()
    return hdr.of_frame(decode.first_frame(probe(output))), how.notes


@pytest.mark.parametrize("codec", [None, "av1"])
def test_kept(tmp_path: Path, codec: str | None) -> None:
    path = source(tmp_path / "a.mkv", f"hdr10=1:master-display={DISPLAY}:max-cll=1000,400")
    assert hdr.of_frame(decode.first_frame(probe(path))) == EXPECTED
    found, notes = recoded(path, tmp_path / "b.mkv", codec)
    assert not notes and found is not None and found.light == EXPECTED.light
    for mine, theirs in zip(found.display.primaries, EXPECTED.display.primaries, strict=True):
        assert mine == pytest.approx(theirs, abs=2e-5)
    assert found.display.least == pytest.approx(Fraction(5, 100), abs=1e-4)
    assert found.display.most == pytest.approx(1000, abs=0.01)


def test_brightness_alone(tmp_path: Path) -> None:
    path = source(tmp_path / "a.mkv", "max-cll=1000,400")
    assert recoded(path, tmp_path / "b.mkv", None) == (hdr.HDR10(None, (1000, 400)), ())


def test_an_encoder_that_writes_none_is_told(tmp_path: Path) -> None:
    path = source(tmp_path / "a.mkv", f"hdr10=1:master-display={DISPLAY}")
    found, notes = recoded(path, tmp_path / "b.mkv", "ffv1")
    assert found is None and any("HDR10's metadata" in note and "ffv1" in note for note in notes)


def test_none(tmp_path: Path) -> None:
    assert recoded(source(tmp_path / "a.mkv", "repeat-headers=1"), tmp_path / "b.mkv", None) == (None, ())
