"""The embedded weights on photographs they have not seen: shake is reduced, sharp pictures stay as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import xyscannet
from xyscan_cli.networks import default_weights
from xyscannet.data.blur import BlurConfig, render, sample_blur
from xyscannet.inference import restore

data = pytest.importorskip("skimage.data")
CROP = 192
PHOTOS = ("astronaut", "coffee", "chelsea", "rocket")
HOW_MANY = {"xyscannet-s": 4, "xyscannet-b": 2}  # photographs: the larger network takes five times as long


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
def models() -> dict[str, torch.nn.Module]:
    return {name: xyscannet.load(name) for name in ("xyscannet-s", "xyscannet-b")}


@pytest.mark.parametrize(
    ("name", "strength", "gain"),
    [
        ("xyscannet-s", "small", 2.5),
        ("xyscannet-s", "medium", 3.5),
        ("xyscannet-s", "strong", 2.5),
        ("xyscannet-b", "medium", 4.0),
    ],
)
def test_shake_is_reduced(models, name, strength, gain):
    model = models[name]
    config, gains = BlurConfig.preset(strength, jpeg_share=0.0, dim_share=0.0), []
    for seed, scene in enumerate(scenes(strength)[: HOW_MANY[name]]):
        parameters = sample_blur(config, 1, CROP, CROP, torch.Generator().manual_seed(seed))
        blur, sharp = render(scene, parameters)
        gains.append(psnr(restore(model, blur), sharp) - psnr(blur, sharp))
    assert np.mean(gains) > gain
    assert min(gains) > 0


@pytest.mark.parametrize("name", ["xyscannet-s", "xyscannet-b"])
def test_sharp_photographs_come_back_within_44_db(models, name):
    for scene in scenes("small")[: HOW_MANY[name]]:
        assert psnr(restore(models[name], scene), scene) > 44


@pytest.mark.parametrize(("device", "name"), [("cpu", "xyscannet-s"), ("cuda", "xyscannet-b")])
def test_a_gpu_takes_the_larger_network_by_default(device, name):
    assert default_weights(device) == name
