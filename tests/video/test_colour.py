"""Planes to RGB and back: known colours, and nothing changed where the network changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xyscannet.video import pixels
from xyscannet.video.colour import Samples

FORMATS = [
    "yuv420p",
    "yuvj422p",
    "yuv444p10le",
    "yuv440p",
    "yuv411p",
    "yuv410p",
    "yuv420p12le",
    "gbrp",
    "gray10le",
]
FORMATS += ["yuva420p", "gbrap16le"]


def planes_of(layout: pixels.Layout, height: int = 9, width: int = 13, batch: int = 2) -> list[torch.Tensor]:
    """Random planes over all values that samples can have, odd in size."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(height, width)] * (1 if layout.kind == "grey" else 3)
    if layout.kind == "yuv":
        sizes[1:] = [(-(-height // layout.down), -(-width // layout.across))] * 2
    sizes += [(height, width)] * layout.alpha
    return [torch.randint(0, layout.white + 1, (batch, *size), generator=generator) for size in sizes]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_no_change_leaves_every_sample(name: str, full: bool) -> None:
    layout = pixels.layout(name)
    assert layout is not None
    planes = planes_of(layout)
    samples = Samples(layout, 1, full, 9)
    rgb = samples.to_rgb(planes)
    assert rgb.shape == (2, 3, 9, 13)
    for before, after in zip(planes, samples.changed(planes, torch.zeros_like(rgb))):
        assert torch.equal(before.int(), after.int())


@pytest.mark.parametrize(
    ("matrix", "full", "depth", "red"),
    [
        (1, False, 8, (63, 102, 240)),
        (6, False, 8, (81, 90, 240)),
        (6, True, 8, (76, 85, 255)),
        (9, False, 10, (294, 387, 960)),
    ],
)
def test_red_is_what_the_standards_say(matrix: int, full: bool, depth: int, red: tuple[int, ...]) -> None:
    layout = pixels.layout("yuv444p" if depth == 8 else f"yuv444p{depth}le")
    planes = [torch.full((1, 2, 2), value) for value in red]
    rgb = Samples(layout, matrix, full, 2).to_rgb(planes)[0, :, 0, 0]
    assert torch.allclose(rgb, torch.tensor([1.0, 0.0, 0.0]), atol=0.006)


def test_a_matrix_that_is_not_named_goes_by_the_height() -> None:
    layout = pixels.layout("yuv420p")
    assert Samples(layout, 2, False, 576).red == pytest.approx(0.299)
    assert Samples(layout, 2, False, 720).red == pytest.approx(0.2126)


@pytest.mark.parametrize("name", ["yuv420p", "yuv422p10le", "yuv444p12le", "gbrp10le", "yuv411p"])
def test_a_change_arrives_in_full(name: str) -> None:
    """A colour added everywhere is found again, as exactly as the depth has it."""
    layout = pixels.layout(name)
    height, width = 16, 24
    grey = [torch.full_like(plane, (layout.white + 1) // 2) for plane in planes_of(layout, height, width)]
    samples = Samples(layout, 1, False, height)
    change = torch.tensor([0.10, -0.05, 0.02]).view(1, 3, 1, 1).expand(2, 3, height, width)
    after = samples.to_rgb(samples.changed(grey, change))
    assert torch.allclose(after - samples.to_rgb(grey), change, atol=1.5 / layout.white * 255 / 219)


def test_chroma_moves_nowhere() -> None:
    """A red column is found at its place, and what is added to it comes back there: sited as `to_rgb` reads it."""
    layout = pixels.layout("yuv420p")
    samples = Samples(layout, 1, True, 8)
    grey = [torch.full((1, 8, 16), 128), torch.full((1, 4, 8), 128), torch.full((1, 4, 8), 128)]
    change = torch.zeros(1, 3, 8, 16)
    change[:, 0, :, 6:11] = 0.3  # around sample 8, on which chroma sample 4 lies
    changed = samples.changed(grey, change)
    row = (changed[2][0, 0].float() - 128).tolist()
    assert row[4] == max(row) and row[3] == row[5] > row[2] == row[6] == 0
    out = samples.to_rgb(changed)[0, 0, 0] - samples.to_rgb(grey)[0, 0, 0]
    assert torch.allclose(out[5:8], out[9:12].flip(0), atol=1e-6)


def test_fields_have_chroma_of_their_own() -> None:
    samples = Samples(pixels.layout("yuv420p"), 1, False, 16, fields=True)
    planes = [torch.zeros(1, *size, dtype=torch.uint8) for size in ((16, 8), (8, 4), (8, 4))]
    for plane, (top, bottom) in zip(planes, ((63, 180), (102, 140), (240, 110))):
        plane[:, ::2], plane[:, 1::2] = top, bottom
    rgb = samples.to_rgb(planes)
    assert rgb.shape == (1, 3, 16, 8) and rgb[..., ::2, :].std((2, 3)).max() < 1e-5
    assert torch.allclose(rgb[0, :, 0, 0], torch.tensor([1.0, 0.0, 0.0]), atol=0.006)
    change = torch.zeros_like(rgb)
    change[:, 0, 1::2] = 0.1
    after = samples.changed(planes, change)
    for one, other in zip(planes, after):
        assert torch.equal(one[:, ::2], other[:, ::2]) and (one[:, 1::2] != other[:, 1::2]).all()


def test_rgb_becomes_yuv_by_the_matrix_that_the_height_decides_and_back() -> None:
    pytest.importorskip("av")
    for height, yuv in ((96, (91, 104, 198)), (720, (80, 112, 198))):
        rgb, coded = (
            [np.full((height, 32), value, np.uint8) for value in values] for values in ((40, 40, 200), yuv)
        )
        frame = pixels.from_planes(rgb, pixels.layout("gbrp"))
        found = pixels.to_planes(frame, pixels.layout("yuv444p"))
        assert [int(plane[5, 5]) for plane in found] == pytest.approx(yuv, abs=1)
        frame = pixels.from_planes(coded, pixels.layout("yuv444p"))
        found = pixels.to_planes(frame, pixels.layout("gbrp"))
        assert [int(plane[5, 5]) for plane in found] == pytest.approx((40, 40, 200), abs=3)


def test_every_format_has_planes() -> None:
    av = pytest.importorskip("av")
    for name, planes in (
        ("nv12", "yuv420p"),
        ("p010le", "yuv420p10le"),
        ("yuyv422", "yuv422p"),
        ("rgb24", "gbrp"),
        ("bgra", "gbrap"),
        ("rgb48le", "gbrp16le"),
        ("yuvj444p", "yuv444p"),
        ("gray", "gray"),
        ("ya8", "gbrap"),
        ("gbrpf32le", "gbrp16le"),
        ("grayf32le", "gray16le"),
        ("pal8", "gbrp"),
    ):
        assert pixels.planar(av.VideoFormat(name)).name == planes


def test_frames_come_back_as_they_were() -> None:
    pytest.importorskip("av")
    for name in ("yuv420p", "yuv422p10le", "gbrp", "gray"):
        layout = pixels.layout(name)
        planes = [plane[0].numpy().astype(layout.dtype) for plane in planes_of(layout, 14, 22)]
        frame = pixels.from_planes(planes, layout)
        for before, after in zip(planes, pixels.to_planes(frame, layout)):
            assert np.array_equal(before, after)


def test_the_opacity_of_grey_is_kept() -> None:
    av = pytest.importorskip("av")
    frame = av.VideoFrame(32, 8, "ya8")
    pairs = np.frombuffer(frame.planes[0], np.uint8)
    pairs[:] = np.random.default_rng(0).integers(0, 256, len(pairs))
    layout = pixels.planar(frame.format)
    again = pixels.converted(pixels.from_planes(pixels.to_planes(frame, layout), layout), "ya8")
    assert np.array_equal(
        pairs.reshape(8, -1)[:, :64], np.frombuffer(again.planes[0], np.uint8).reshape(8, -1)[:, :64]
    )
