from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from xyscannet.data.blur import BlurConfig, render, sample_blur
from xyscannet.data.kernels import centre_kernels

SIDE = 48
# straight averages of what is encoded, nothing else
PLAIN = {"object_share": 0.0, "noise_share": 0.0, "jpeg_share": 0.0, "gamma_share": 1.0, "linear_share": 0.0}


def convolved(scene: torch.Tensor, kernel: np.ndarray) -> torch.Tensor:
    """The middle SIDE x SIDE pixels of scene (1, 3, H, W) under a convolution."""
    taps = torch.from_numpy(kernel[::-1, ::-1].copy()).float()[None, None].repeat(3, 1, 1, 1)
    whole = F.conv2d(scene, taps, padding="same", groups=3)
    margin = (scene.shape[-1] - SIDE) // 2
    return whole[..., margin:-margin, margin:-margin]


@pytest.fixture(scope="module")
def scene() -> torch.Tensor:
    """(1, 3, H, W), smooth, so that how sub-frames are interpolated matters little."""
    side = SIDE + 2 * BlurConfig.preset("medium").margin
    coarse = torch.rand(1, 3, side // 6, side // 6, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)


def error(scene: torch.Tensor, blurred: torch.Tensor, kernel: np.ndarray) -> float:
    middle = slice(SIDE // 2 - 6, SIDE // 2 + 6)
    return (convolved(scene, kernel) - blurred)[..., middle, middle].abs().max().item()


@pytest.mark.parametrize("seed", range(3))
def test_convolution_with_the_kernel_is_the_rendered_blur_at_the_centre(
    scene: torch.Tensor, seed: int
) -> None:
    config = BlurConfig.preset("medium", roll_ratio=(0.01, 0.01), **PLAIN)
    parameters = sample_blur(config, 1, SIDE, SIDE, torch.Generator().manual_seed(seed))
    blurred, _ = render(scene, parameters)
    assert error(scene, blurred, centre_kernels(parameters)[0]) < 0.015
    assert error(scene, blurred, np.ones((1, 1))) > 0.05


def test_kernel_is_neither_turned_nor_mirrored(scene: torch.Tensor) -> None:
    config = BlurConfig.preset("medium", **PLAIN)
    parameters = sample_blur(config, 1, SIDE, SIDE, torch.Generator().manual_seed(0))
    time = torch.linspace(-1, 1, parameters.shift.shape[1], dtype=torch.float64)
    corner = torch.stack((5 * time.clamp(max=0), 7 * time.clamp(min=0)), -1)[None]  # along x, then along y
    parameters = dataclasses.replace(parameters, angles=parameters.angles * 0, shift=corner)
    blurred, _ = render(scene, parameters)
    (kernel,) = centre_kernels(parameters)
    own = error(scene, blurred, kernel)
    assert own < 0.015
    for other in (kernel[::-1, ::-1], kernel.T, kernel[:, ::-1], kernel[::-1]):
        assert error(scene, blurred, other) > 4 * own


def test_no_motion_is_one_tap_and_every_kernel_sums_to_one() -> None:
    config = BlurConfig.preset("strong", **PLAIN)
    parameters = sample_blur(config, 4, SIDE, SIDE, torch.Generator().manual_seed(0))
    still = dataclasses.replace(parameters, angles=parameters.angles * 0, shift=parameters.shift * 0)
    assert [kernel.tolist() for kernel in centre_kernels(still)] == [[[1.0]]] * 4
    for kernel in centre_kernels(parameters):
        assert kernel.sum() == pytest.approx(1)
        assert kernel.min() >= 0
        assert kernel.shape[0] == kernel.shape[1] > 9
