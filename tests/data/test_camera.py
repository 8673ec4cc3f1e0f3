from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from xyscannet.data import camera


def test_curve_is_inverted_and_close_to_srgb() -> None:
    x = torch.linspace(0, 1, 256, dtype=torch.float32).view(1, 1, 16, 16)
    for exponent in (1.0, 1.7, 2.4):
        e = torch.tensor([exponent])
        assert torch.allclose(camera.to_encoded(camera.to_light(x, e), e), x, atol=1e-5)
    assert torch.allclose(camera.to_light(x, torch.ones(1)), x, atol=1e-6)
    srgb = torch.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    assert (camera.to_light(x, torch.tensor([2.4])) - srgb).abs().max() < 0.006


@pytest.mark.parametrize("quality", [70, 85, 98])
@pytest.mark.parametrize("size", [(64, 80), (37, 51)])
def test_jpeg_is_what_a_codec_gives(quality: int, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).random((*size, 3))
    image = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1.2), None, 0, 255, cv2.NORM_MINMAX).astype(
        np.uint8
    )
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "jpeg", quality=quality, subsampling="4:2:0")
    want = np.asarray(Image.open(buffer)).astype(float)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    got = camera.jpeg(tensor, torch.tensor([float(quality)]))[0].permute(1, 2, 0).numpy() * 255
    luma = np.array([0.299, 0.587, 0.114])
    assert np.square((got - want) @ luma).mean() < 1
    assert (
        np.square(got - want).mean() < 0.06 * np.square(want - image).mean()
    )  # chroma is enlarged alike, not equally


def test_jpeg_leaves_quality_zero_untouched() -> None:
    images = torch.rand(2, 3, 17, 9)
    out = camera.jpeg(images, torch.tensor([0.0, 75.0]))
    assert torch.equal(out[0], images[0]) and not torch.allclose(out[1], images[1], atol=1e-3)


def test_noise_has_the_variance_of_its_electrons() -> None:
    images = torch.full((2, 3, 200, 200), 0.5)
    well, read = torch.tensor([2000.0, 0.0]), torch.tensor([5.0, 5.0])
    out = camera.add_noise(images, well, read, torch.tensor([1, 2]))
    assert torch.equal(out[1], images[1])
    light = camera.to_light(images[:1], torch.tensor([2.4])).mean().item()
    noisy = camera.to_light(out[:1], torch.tensor([2.4]))
    want = (light * 2000 + 25) ** 0.5 / 2000
    assert noisy.std().item() == pytest.approx(want, rel=0.03)
    assert noisy.mean().item() == pytest.approx(light, rel=0.01)


def test_noise_follows_its_seed_only() -> None:
    images = torch.full((3, 3, 20, 20), 0.4)
    well, read = torch.full((3,), 1000.0), torch.ones(3)
    out = camera.add_noise(images, well, read, torch.tensor([7, 8, 7]))
    assert torch.equal(out[0], out[2]) and not torch.equal(out[0], out[1])
    alone = camera.add_noise(images[:1], well[:1], read[:1], torch.tensor([7]))
    assert torch.equal(alone[0], out[0])
