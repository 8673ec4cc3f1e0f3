"""Restoring from coarse to fine: the formula, what is computed, and what it does to strong shake."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from skimage import data
from torch import Tensor, nn

import xyscannet
from xyscannet.data.blur import BlurConfig, render, sample_blur
from xyscannet.errors import ConfigError, InputError
from xyscannet.inference import plan_image
from xyscannet.inference.graphs import CudaGraphs
from xyscannet.inference.restore import restore
from xyscannet.inference.scales import SCALES, restore_at_scales, smaller
from xyscannet.models import XYScanNetConfig


class Brighter(nn.Module):
    """Adds to a picture of each height its own share of the picture's mean."""

    def __init__(self, shares: dict[int, float]) -> None:
        super().__init__()
        self.config = XYScanNetConfig(width=8, scanners=("ss2d", "ss2d"))  # runs in no strips
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.shares = shares
        self.seen: list[tuple[int, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape[2:]))
        return x + self.shares[x.shape[2]] * x.mean((1, 2, 3), keepdim=True)


def grey(*values: float, height: int = 512, width: int = 512) -> Tensor:
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, height, width).contiguous()


def step(value: float, low: float, high: float) -> float:
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3 - 2 * t)


def test_result_is_the_formula() -> None:
    own = [0.2, 0.216, 0.23, 0.22]  # share of its mean that is added to a picture of each size
    model = Brighter({512 // 2**k: share for k, share in enumerate(own)})
    restored, shares = restore_at_scales(model, grey(0.4))
    s = [step(math.log(below / here), 0.0, 0.15) for here, below in itertools.pairwise(own)]
    assert all(0 < share < 1 for share in s[:2]) and s[2] == 0
    expected = [1 - s[0], s[0] * (1 - s[1]), s[0] * s[1], 0]
    assert shares[0].tolist() == pytest.approx(expected, abs=1e-5)
    value = 0.4 * (1 + own[2])
    for k in (1, 0):  # alone, or going over what the smaller one became
        value = (1 - s[k]) * 0.4 * (1 + own[k]) + s[k] * value * (1 + own[k])
    assert torch.allclose(restored, torch.full_like(restored, value), atol=1e-5)
    sizes = [(512, 512), (256, 256), (128, 128), (64, 64)]
    assert model.seen == [*sizes, sizes[1], sizes[0]]


def test_smaller_pictures_are_seen_only_while_they_show_more() -> None:
    model = Brighter({512: 0.2, 256: 0.1})
    restored, shares = restore_at_scales(model, grey(0.5))
    assert model.seen == [(512, 512), (256, 256)] and shares.tolist() == [[1, 0, 0, 0]]
    assert torch.equal(restored, restore(model, grey(0.5)))


def test_what_is_done_stays_where_a_smaller_scale_fails() -> None:
    """At a half of the size, and at the quarter below a half that takes it all."""
    for shares, full in (({512: 0.2, 256: math.nan}, 1), ({512: 0.2, 256: 0.4, 128: math.nan}, 0)):
        model, said = Brighter(shares), []
        restored, found = restore_at_scales(model, grey(0.4), tell=said.append)
        assert len(said) == 1 and said[0].startswith(
            "not restored from smaller scales up: the network's output"
        )
        assert found[0].tolist() == [full, 1 - full, 0, 0]
        assert restored.max().item() == pytest.approx(0.4 * 1.2 * (1 if full else 1.4), abs=1e-6)


def test_what_is_done_stays_where_the_windows_fail() -> None:
    large, said = grey(0.5, height=1500, width=1420), []
    restored, shares = restore_at_scales(Brighter({1500: 0.2, 256: math.nan}), large, tell=said.append)
    assert len(said) == 1 and said[0].startswith("not restored from smaller scales up: the network's output")
    assert shares.tolist() == [[1, 0, 0, 0]] and restored.max().item() == pytest.approx(0.6)


def test_what_is_done_stays_where_going_over_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a half of the size, above which the full size still goes over the half; and at the full size."""
    for failing, result, expected in ((4, 1.4 * 1.2, [0, 1, 0, 0]), (5, 1.2, [1, 0, 0, 0])):
        model, said, passes = Brighter({512: 0.2, 256: 0.4, 128: 0.8, 64: 0.1}), [], []

        def failing_restore(
            *args: object, number: int = failing, seen: list = passes, **how: object
        ) -> Tensor:
            seen.append(args[1].shape[2])
            if len(seen) == number + 1:
                raise InputError("memory ran out")
            return restore(*args, **how)

        monkeypatch.setattr("xyscannet.inference.scales.restore", failing_restore)
        restored, shares = restore_at_scales(model, grey(0.4), tell=said.append)
        assert passes == [512, 256, 128, 64, 256, 512]
        assert said == ["restored without what smaller scales found: memory ran out"]
        assert shares[0].tolist() == expected
        assert restored.max().item() == pytest.approx(0.4 * result, abs=1e-6)


@pytest.mark.parametrize("height, width, side", [(1500, 1420, 256), (720, 1280, 128)])
def test_large_pictures_are_seen_smaller_where_two_windows_show_something(height, width, side) -> None:
    large, half = grey(0.5, height=height, width=width), height // 2
    model = Brighter({height: 0.2, side: 0.1})  # and at half the size it would raise
    restored, shares = restore_at_scales(model, large)
    assert model.seen == [(height, width), (side, side)] and shares.tolist() == [[1, 0, 0, 0]]
    assert torch.equal(restored, restore(model, large))
    for share, full in ((0.16, 1), (0.22, 0)):  # of the whole, in spite of what the windows show
        of_half = 0.24 if full == 0 else share
        model = Brighter({height: 0.2, 256: 0.16, 128: 0.16, half: of_half, half // 2: 0.1})
        shares = restore_at_scales(model, large)[1]
        assert model.seen[:3] == [(height, width), (side, side), (half, width // 2)]
        assert shares[0, 0] == full


class Spots(Brighter):
    """Changes a square at full size; keeps what it is given at others."""

    def __init__(self, squares: list[tuple[int, int]]) -> None:
        super().__init__({})
        self.squares = squares
        self.given: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.given.append(x)
        x = x.clone()
        if x.shape[2] == 1600:
            for n, (top, left) in enumerate(self.squares):
                x[:, :, top : top + 100, left : left + 100] += 0.2 + 0.01 * n
        return x


def test_windows_are_where_the_most_is_changed() -> None:
    at = torch.linspace(0, 0.25, 1600)
    ramp = (at[:, None] + at[None] * 2).expand(1, 3, -1, -1).contiguous()
    model = Spots([(1400, 100), (40, 1400)])
    restore_at_scales(model, ramp)
    whole, windows = model.given
    assert windows.shape == (2, 3, 256, 256)
    for window, (top, left) in zip(windows, reversed(model.squares)):
        square = smaller(whole)[0, :, top // 2 : top // 2 + 50, left // 2 : left // 2 + 50]
        low, high = window[0].min(), window[0].max()
        assert low <= square[0].min() and square[0].max() <= high


def test_windows_of_a_batch_are_of_each_image() -> None:
    class OfTwo(Brighter):
        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(tuple(x.shape[2:]))
            mean = x.mean((1, 2, 3), keepdim=True)
            dark = 0.2 if x.shape[2] == 1500 else 0.1 if x.shape[2] == 256 else 0.4
            return x + torch.where(mean < 0.2, dark, 0.2 if x.shape[2] == 1500 else 0.3) * mean

    model = OfTwo({})
    batch = grey(0.1, 0.4, height=1500, width=1420)  # the windows of the first show nothing, the whole would
    restored, shares = restore_at_scales(model, batch)
    assert shares[0].tolist() == [1, 0, 0, 0] and shares[1, 0] == 0
    for i in range(2):
        model.seen.clear()
        alone, share = restore_at_scales(model, batch[i : i + 1])
        assert torch.equal(alone[0], restored[i]) and torch.equal(share[0], shares[i])
        assert (model.seen == [(1500, 1420), (256, 256)]) == (i == 0)


def test_what_is_hardly_changed_stays_at_its_size() -> None:
    model = Brighter({512: 0.001, 256: 0.005})
    _, shares = restore_at_scales(model, grey(0.5))
    assert shares.tolist() == [[1, 0, 0, 0]] and len(model.seen) == 2


@pytest.mark.parametrize("height", [64, 100, 126])  # 127 gives 64
def test_small_pictures_are_not_made_smaller(height: int) -> None:
    model = Brighter({height: 0.1})
    restore_at_scales(model, grey(0.5, height=height, width=256))
    assert model.seen == [(height, 256)]


def test_images_of_a_batch_are_restored_each_by_itself() -> None:
    model = Brighter({512: 0.1, 256: 0.2, 128: 0.2, 64: 0.2})
    batch = grey(0.5, 0.01, 0.3)  # the second is too dark to show any change
    restored, shares = restore_at_scales(model, batch)
    assert shares[1].tolist() == [1, 0, 0, 0] and shares[0, 0] == 0
    for i in range(3):
        alone, share = restore_at_scales(model, batch[i : i + 1])
        assert torch.equal(alone[0], restored[i]) and torch.equal(share[0], shares[i])


@pytest.mark.parametrize(("height", "width"), [(601, 519), (64, 1000), (7, 13), (1, 1)])
@pytest.mark.parametrize("scales", range(1, SCALES + 1))
def test_a_number_that_is_asked_for(height: int, width: int, scales: int) -> None:
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)) * 0.5
    pictures = [image]
    while len(pictures) < scales:
        pictures.append(smaller(pictures[-1]))
    sizes = [tuple(picture.shape[2:]) for picture in reversed(pictures)]
    assert sizes[0] == (math.ceil(height / 2 ** (scales - 1)), math.ceil(width / 2 ** (scales - 1)))
    model = Brighter({size[0]: 0.1 for size in sizes})
    restored, shares = restore_at_scales(model, image, scales=scales)
    assert model.seen == sizes and shares[0, scales - 1] == 1
    added = 0.0  # a change that is the same everywhere is enlarged to itself
    for picture in reversed(pictures):
        added += 0.1 * float((picture + added).mean())
    assert torch.allclose(restored, image + added, atol=1e-5)


@pytest.mark.parametrize("scales", ["half", "2", 0.5, 0, 5, True, None])
def test_no_such_number(scales: object) -> None:
    with pytest.raises(ConfigError, match="scales must be auto or a number from 1 to 4"):
        restore_at_scales(Brighter({}), grey(0.5), scales=scales)


def test_progress_rises_to_the_end_once() -> None:
    heard: list[float] = []
    model = xyscannet.load("xyscannet-s")
    windows = shaken((6.0, 8.0), 0)[0].repeat(1, 1, 3, 2)
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[2]))
    for image in (grey(0.5, height=140, width=128), windows, shaken((34.0, 36.0), 0)[0]):
        heard.clear()
        _, shares = restore_at_scales(model, image, progress=heard.append)
        assert heard == sorted(heard) and heard[-1] == 1.0 and len(heard) > 20
        assert heard.count(1.0) <= 3
        assert (128 in seen) == (image is windows) or image.shape[2] == 256, seen
        seen.clear()
    assert shares[0, 0] < 1


def test_tiles_are_those_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Brighter(dict.fromkeys(range(281), 0.1))
    plan = plan_image(512, 512, model.config, device="cpu", dtype=torch.float32, tile=280)
    restore_at_scales(model, grey(0.5), plan, tile=280)
    assert len(model.seen) > 4 and all(max(size) <= 280 for size in model.seen)


def shaken(path: tuple[float, float], seed: int) -> tuple[Tensor, Tensor]:
    """A photograph of 256 x 256 pixels, shaken and sharp, in [0, 1]."""
    config = BlurConfig(path_px=path, object_share=0.0, sharp_share=0.0)
    side = 256 + 2 * config.margin
    scene = (
        torch.from_numpy(np.ascontiguousarray(data.astronaut()[:side, :side])).permute(2, 0, 1)[None] / 255
    )
    generator = torch.Generator().manual_seed(seed)
    return render(scene, sample_blur(config, 1, 256, 256, generator))


def psnr(image: Tensor, sharp: Tensor) -> float:
    return -10 * math.log10(float((image - sharp).square().mean()))


def test_strong_shake_is_restored_better_from_coarse_to_fine() -> None:
    model = xyscannet.load("xyscannet-s")
    gains = []
    for seed in range(2):
        blurred, sharp = shaken((34.0, 36.0), seed)
        restored, shares = restore_at_scales(model, blurred)
        assert shares[0, 1:].sum() > 0.5
        assert torch.equal(restored, model.restore(blurred))
        gains.append(psnr(restored, sharp) - psnr(model.restore(blurred, scales=1), sharp))
    assert min(gains) > 0.5, gains


def test_slight_shake_and_none_are_restored_at_the_full_size() -> None:
    model = xyscannet.load("xyscannet-s")
    blurred, sharp = shaken((3.0, 4.0), 0)
    for image in (blurred, sharp):
        assert torch.equal(model.restore(image), model.restore(image, scales=1))


@pytest.mark.gpu
def test_scales_on_a_gpu_are_those_of_a_cpu() -> None:
    model, blurred = xyscannet.load("xyscannet-s"), shaken((34.0, 36.0), 0)[0]
    expected, shares = restore_at_scales(model, blurred)
    graphed = CudaGraphs(xyscannet.load("xyscannet-s", device="cuda"))
    for _ in range(4):  # the third time from CUDA graphs, of both scales
        restored, found = restore_at_scales(graphed, blurred)
        assert restored.device == blurred.device and torch.allclose(found, shares, atol=1e-3)
        assert (restored - expected).abs().max() < 2e-3
    assert len(graphed._captured) >= 2
