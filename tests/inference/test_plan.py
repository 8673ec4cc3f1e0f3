"""Plans: whole where memory allows, else in strips, else uniform tiles."""

from __future__ import annotations

import itertools

import pytest
import torch

from xyscannet.errors import ConfigError, InputError, UnavailableError
from xyscannet.inference import pick_device, pick_dtype, plan_image
from xyscannet.inference.memory import peak_bytes
from xyscannet.inference.plan import CPU_SHARE, IMAGE_BYTES, OVERLAP, spans
from xyscannet.models import XYScanNetConfig, zoo
from xyscannet.models.strips import ELEMENTS, FEW_ELEMENTS

CONFIG = XYScanNetConfig(width=24)
GIB = 2**30


def plan(height: int, width: int, **options):
    return plan_image(height, width, CONFIG, device="cpu", dtype=torch.float32, **options)


def test_whole_where_memory_allows() -> None:
    planned = plan(300, 400, memory=100 * GIB)
    assert planned.whole and planned.tile == (300, 400) and "may take" in planned.reason
    assert planned.mode == planned.describe() == "whole"


def test_strips_where_the_whole_does_not_fit() -> None:
    on_gpu = {"device": "cuda", "dtype": torch.float32}
    whole = plan_image(1000, 1500, CONFIG, memory=100 * GIB, **on_gpu)
    planned = plan_image(1000, 1500, CONFIG, memory=whole.memory_bytes - 1, **on_gpu)
    assert (
        whole.whole and planned.mode == "strips" and planned.tile == (1000, 1500) and planned.grid == (1, 1)
    )
    assert planned.memory_bytes < whole.memory_bytes / 3 and "as a whole it needs" in planned.reason
    assert plan_image(1000, 1500, CONFIG, tile="none", memory=1, **on_gpu).mode == "strips"


def test_strips_for_larger_images_on_cpus() -> None:
    planned = plan(1000, 1500, memory=100 * GIB)
    assert planned.mode == "strips" and planned.strips == ELEMENTS and "as fast" in planned.reason
    scarce = plan(1000, 1500, memory=planned.memory_bytes - 1)
    assert scarce.mode == "strips" and scarce.strips == FEW_ELEMENTS
    assert scarce.memory_bytes < planned.memory_bytes and "as a whole it needs" in scarce.reason


@pytest.mark.parametrize(
    ("name", "dtype", "size"),
    [
        ("xyscannet-s", torch.float32, (4320, 7680)),
        ("xyscannet-s", torch.float32, (8192, 8192)),
        ("xyscannet-b", torch.float32, (4320, 7680)),
        ("xyscannet", torch.bfloat16, (4320, 7680)),
    ],
    ids=str,
)
def test_8k_needs_no_tiles_in_24_gib(name: str, dtype: torch.dtype, size: tuple[int, int]) -> None:
    """With 22 of 24 GiB free, and the image's own copies beside."""
    allowed = int((22 * GIB - size[0] * size[1] * IMAGE_BYTES) * CPU_SHARE)
    for device in ("cpu", "cuda"):
        planned = plan_image(*size, zoo.info(name).config, device=device, dtype=dtype, memory=allowed)
        assert planned.mode == "strips"


def test_a_scan_of_the_whole_map_takes_tiles_and_says_why() -> None:
    config = XYScanNetConfig(width=24, scanners=("ss2d", "ss2d"))
    planned = plan_image(2000, 3000, config, device="cpu", dtype=torch.float32, memory=GIB)
    assert planned.mode == "tiles" and not planned.strips and "ss2d" in planned.reason


@pytest.mark.parametrize(("height", "width"), [(3000, 4000), (700, 9000), (6000, 333), (8000, 8000)])
def test_tiles_fit_memory_cover_the_image_and_are_uniform(height: int, width: int) -> None:
    memory = peak_bytes(height, width, CONFIG, dtype=torch.float32, device="cpu", strips=FEW_ELEMENTS) // 3
    planned = plan(height, width, memory=memory)
    assert planned.mode == "tiles" and planned.memory_bytes <= memory and "may take" in planned.reason
    for length, size, count in zip((height, width), planned.tile, planned.grid):
        got, starts = spans(length, count, planned.overlap)
        assert got == size and starts[0] == 0 and starts[-1] + size == length
        assert all(a + size - b >= OVERLAP - 1 for a, b in itertools.pairwise(starts))
    # not more tiles than needed: the work is at most half as much again as the image
    assert planned.grid[0] * planned.grid[1] * planned.tile[0] * planned.tile[1] < 1.5 * height * width


def test_a_number_bounds_the_tile() -> None:
    planned = plan(1000, 1500, tile=512)
    assert planned.mode == "tiles" and max(planned.tile) <= 512
    assert plan(1000, 1500, tile=512, memory=GIB // 4).strips
    assert plan(300, 500, tile=512).whole
    assert max(plan(2001, 2003, tile=64).tile) <= 64
    assert max(plan(20_000, 3000, tile=66).tile) <= 66
    assert plan(66, 65, tile=66).whole


@pytest.mark.parametrize("tile", [0, 63, "some"])
def test_bad_tiles_are_refused(tile: object) -> None:
    with pytest.raises(ConfigError):
        plan(100, 100, tile=tile)


def test_too_little_memory_is_said() -> None:
    with pytest.raises(InputError, match="free some memory"):
        plan(1000, 1000, memory=1000)


def test_devices() -> None:
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match="no such device"):
        pick_device("gpu")
    with pytest.raises(ConfigError):
        pick_device("meta")
    if not torch.cuda.is_available():
        assert pick_device().type == "cpu"
        with pytest.raises(UnavailableError, match="no CUDA device"):
            pick_device("cuda:1")


@pytest.mark.parametrize(
    ("flags", "dtype"), [({"avx2"}, torch.float32), ({"avx512f", "avx512_bf16"}, torch.bfloat16)]
)
def test_the_cpu_decides_the_number_format(monkeypatch, flags: set[str], dtype: torch.dtype) -> None:
    monkeypatch.setattr("xyscannet.ops.hardware._cpu_flags", lambda: flags)
    assert pick_dtype(torch.device("cpu")) == dtype
    assert pick_dtype(torch.device("mps")) == torch.float32
