"""The embedded weights on photographs they have not seen: shake is reduced, sharp pictures stay as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import xyscannet
from xyscannet.data.blur import BlurConfig, render, sample_blur
from xyscannet.inference import restore

data = pytest.importorskip("skimage.data")
CROP = 192
PHOTOS = ("astronaut", "coffee", "chelsea", "rocket")


def psnr(image: torch.Tensor, sharp: torch.Tensor) -> float:
    error = (image.mul(255).round() - sharp.mul(255).round()).square().mean() / 255**2
    return -10 * torch.log10(error).item()


def scenes(strength: str) -> list[torch.Tensor]:
    """(1, 3, 2m + CROP, 2m + CROP) in [0, 1], the middles of photographs, with that strength's margin m."""
    side, found = CROP + 2 * BlurConfig.preset(strength).margin, []
    for name in PHOTOS:
        photo = getattr(data, name)()[..., :3]
        top, left = (photo.shape[0] - side) // 2, (photo.shape[1] - side) // 2
        crop = np.ascontiguousarray(photo[top : top + side, left : left + side])
        found.append(torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255)
    return found


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return xyscannet.load("xyscannet-s")


@pytest.mark.parametrize(("strength", "gain"), [("small", 2.5), ("medium", 3.5), ("strong", 2.5)])
def test_shake_is_reduced(model, strength, gain):
    config, gains = BlurConfig.preset(strength, jpeg_share=0.0, dim_share=0.0), []
    for seed, scene in enumerate(scenes(strength)):
        parameters = sample_blur(config, 1, CROP, CROP, torch.Generator().manual_seed(seed))
        blur, sharp = render(scene, parameters)
        gains.append(psnr(restore(model, blur), sharp) - psnr(blur, sharp))
    assert np.mean(gains) > gain
    assert min(gains) > 0


def test_sharp_photographs_come_back_within_44_db(model):
    for scene in scenes("small"):
        assert psnr(restore(model, scene), scene) > 44
