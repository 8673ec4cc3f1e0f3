from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from xyscannet.data import motion
from xyscannet.data.blur import STRENGTHS, BlurConfig, BlurParameters, render, sample_blur

STILL = {
    "sharp_share": 0.0,
    "object_share": 0.0,
    "jitter_share": 0.0,
    "noise_share": 0.0,
    "jpeg_share": 0.0,
    "highlight_share": 0.0,
}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shifted(height: int, width: int, path: Tensor, **changes: object) -> BlurParameters:
    """A blur whose only motion is the given path (B, T, 2) in pixels, averaged as encoded."""
    drawn = sample_blur(BlurConfig(**STILL), len(path), height, width, generator(0))
    settings = {
        "angles": torch.zeros_like(drawn.angles),
        "shift": path,
        "exponent": torch.ones(len(path)),
        **changes,
    }
    return dataclasses.replace(drawn, **settings)


def straight(length: float, angle: float = 0.0, batch: int = 1) -> Tensor:
    along = torch.linspace(-length / 2, length / 2, motion.STEPS, dtype=torch.float64)
    return torch.stack((along * math.cos(angle), along * math.sin(angle)), -1).repeat(batch, 1, 1)


def texture(height: int, width: int, batch: int = 1, seed: int = 0, sigma: float = 1.5) -> Tensor:
    """Smooth random colour images in [0.1, 0.9], rounded to 8 bits."""
    random = np.random.default_rng(seed)
    images = []
    for _ in range(batch):
        image = cv2.GaussianBlur(random.random((height, width, 3)), (0, 0), sigma)
        low, high = image.min(), image.max()
        images.append(0.1 + 0.8 * (image - low) / (high - low))
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    return torch.round(stacked * 255) / 255


@pytest.mark.parametrize("length", [1, 3, 9, 21])
def test_uniform_horizontal_path_makes_a_box_about_the_impulse(length: int) -> None:
    scene = torch.zeros(1, 3, 41, 51)
    scene[..., 20, 25] = 1.0
    blur, sharp = render(scene, shifted(41, 51, straight(length)))
    want = torch.zeros(41, 51)
    want[20, 25 - length // 2 : 25 + length // 2 + 1] = 1 / length
    assert (blur - want).abs().max() <= 0.5 / 255 + 2e-3
    assert torch.equal(sharp, scene)


def test_box_of_an_even_length_keeps_its_energy_and_place() -> None:
    scene = torch.zeros(1, 3, 41, 51)
    scene[..., 20, 25] = 1.0
    blur, _ = render(scene, shifted(41, 51, straight(8)))
    row = blur[0, 0, 20].double()
    assert row.sum().item() == pytest.approx(1, abs=0.06)  # each of ten levels may round by 1/510
    assert (row * torch.arange(51)).sum() / row.sum() == pytest.approx(25, abs=0.05)


def test_target_is_the_input_and_margins_are_cut() -> None:
    config = BlurConfig()
    m = config.margin
    scene = texture(33 + 2 * m, 47 + 2 * m, batch=3)
    blur, sharp = render(scene, sample_blur(config, 3, 33, 47, generator(3)))
    assert blur.shape == sharp.shape == (3, 3, 33, 47)
    assert torch.equal(sharp, scene[..., m:-m, m:-m])
    assert torch.equal(torch.round(blur * 255) / 255, blur) and blur.min() >= 0 and blur.max() <= 1


def test_sharp_share_returns_the_input() -> None:
    config = BlurConfig(sharp_share=1.0)
    m = config.margin
    scene = texture(31 + 2 * m, 40 + 2 * m, batch=4)
    scene[:, :, m : m + 5] = 1.0
    blur, sharp = render(scene, sample_blur(config, 4, 31, 40, generator(0)))
    assert torch.equal(blur, sharp)


def test_light_is_kept_in_linear_mode() -> None:
    scene = torch.full((1, 3, 64, 64), 13 / 255)
    scene[..., 28:36, 28:36] = 0.8
    parameters = shifted(64, 64, straight(11, 0.7), exponent=torch.full((1,), 2.4))
    blur, sharp = render(scene, parameters)

    def light(image: Tensor) -> float:
        image = image.double()
        return torch.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4).sum().item()

    assert light(blur) == pytest.approx(light(sharp), rel=0.02)
    encoded, _ = render(scene, shifted(64, 64, straight(11, 0.7)))
    assert light(encoded) < 0.75 * light(sharp)  # averaging as encoded loses it
    assert encoded.double().sum().item() == pytest.approx(sharp.double().sum().item(), rel=0.005)


def test_bright_light_saturates_along_its_path() -> None:
    scene = torch.full((1, 3, 40, 60), 0.1)
    scene[..., 20, 30] = 1.0
    linear = {"exponent": torch.full((1,), 2.4)}
    plain, _ = render(scene, shifted(40, 60, straight(7), **linear))
    bright, _ = render(scene, shifted(40, 60, straight(7), gain=torch.full((1,), 8.0), **linear))
    assert (bright[0, 0, 20, 27:34] == 1).all() and (plain[0, 0, 20, 27:34] < 0.5).all()
    assert (bright[0, 0, 20, :26] < 0.11).all() and (bright[0, 0, 17] < 0.11).all()
    scene[:, 1:, 20, 30] = 0.1  # one channel at white is a colour, not a lamp
    red, _ = render(scene, shifted(40, 60, straight(7), gain=torch.full((1,), 8.0), **linear))
    assert (red[0, 0, 20, 27:34] < 0.5).all()


@pytest.mark.parametrize("size", [(1, 1), (2, 63), (65, 7)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    config = BlurConfig(jpeg_share=1.0, object_share=0.5)
    m = config.margin
    scene = texture(size[0] + 2 * m, size[1] + 2 * m, batch=4)
    blur, sharp = render(scene, sample_blur(config, 4, *size, generator(1)))
    assert blur.shape == sharp.shape == (4, 3, *size) and torch.isfinite(blur).all()


def test_same_seed_same_blur() -> None:
    config = BlurConfig()
    scene = texture(48 + 2 * config.margin, 48 + 2 * config.margin, batch=6)
    results = [render(scene, sample_blur(config, 6, 48, 48, generator(seed)))[0] for seed in (5, 5, 6)]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_an_item_does_not_depend_on_its_batch() -> None:
    config = BlurConfig(object_share=0.5, jpeg_share=0.7)
    scene = texture(40 + 2 * config.margin, 56 + 2 * config.margin, batch=8)
    scene[::2, :, :, :30] = 1.0
    parameters = sample_blur(config, 8, 40, 56, generator(2))
    together, _ = render(scene, parameters)
    for i in range(8):
        alone, _ = render(scene[i : i + 1], parameters.select(slice(i, i + 1)))
        assert (alone - together[i : i + 1]).abs().max() <= 1 / 255 + 1e-6
        assert (alone != together[i : i + 1]).float().mean() < 1e-3


def test_bands_of_large_images_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    config = BlurConfig(object_share=1.0, noise_share=0.0, jpeg_share=1.0, sharp_share=0.0)
    scene = texture(90 + 2 * config.margin, 70 + 2 * config.margin, batch=2)
    parameters = sample_blur(config, 2, 90, 70, generator(4))
    whole, _ = render(scene, parameters)
    monkeypatch.setattr("xyscannet.data.exposure._BAND_PIXELS", 70 * 32)
    bands, _ = render(scene, parameters)
    assert (whole - bands).abs().max() <= 0.02  # a coefficient may round the other way
    assert (whole != bands).float().mean() < 0.01


@pytest.mark.parametrize("length", [5.0, 12.0, 24.0])
def test_symmetric_paths_do_not_displace(length: float) -> None:
    angles = (0.0, 0.6, 1.9)
    scene = texture(352, 352, batch=len(angles), sigma=8)
    path = torch.cat([straight(length, angle) for angle in angles])
    blur, sharp = render(scene, shifted(320, 320, path))
    for i in range(len(angles)):
        blurred, target = (np.ascontiguousarray(x[i].mean(0).numpy()) for x in (blur, sharp))
        match = cv2.matchTemplate(blurred, target[24:-24, 24:-24], cv2.TM_CCOEFF_NORMED)
        y, x = np.unravel_index(match.argmax(), match.shape)
        near = match[y - 1 : y + 2, x - 1 : x + 2]
        places = [axis[0] - axis[2] for axis in (near[:, 1], near[1])]
        bends = [2 * (axis[0] - 2 * axis[1] + axis[2]) for axis in (near[:, 1], near[1])]
        dy, dx = y - 24 + places[0] / bends[0], x - 24 + places[1] / bends[1]
        assert math.hypot(dx, dy) < 0.25


def test_moving_object_blurs_only_where_it_is() -> None:
    config = BlurConfig.preset("medium", **{**STILL, "object_share": 1.0, "object_size": (0.2, 0.2)})
    m = config.margin
    scene = texture(96 + 2 * m, 96 + 2 * m)
    parameters = sample_blur(config, 1, 96, 96, generator(0))
    still = torch.zeros_like(parameters.angles)
    shape = parameters.object_shape.clone()
    shape[:, :2] = 0
    parameters = dataclasses.replace(
        parameters, angles=still, shift=still[..., :2], object_shape=shape, exponent=torch.ones(1)
    )
    blur, sharp = render(scene, parameters)
    change = (blur - sharp).abs().mean(1)[0]
    assert change[40:56, 40:56].mean() > 0.02
    assert change[:12].max() <= 1 / 255 and change[:, -12:].max() <= 1 / 255


def test_paths_have_the_length_asked_for_and_stay_within_the_margin() -> None:
    for strength, (low, high) in STRENGTHS.items():
        config = BlurConfig.preset(strength)
        parameters = sample_blur(config, 200, 128, 160, generator(1))
        tracks = motion.tracks(parameters.transforms(), 128, 160)
        length = motion.lengths(tracks).mean(1)
        assert length.max() <= high * 1.001 and (length < low).double().mean() < 0.02
        away = tracks - tracks[:, motion.MIDDLE, None]
        assert away.norm(dim=-1).max() <= config.margin - 2.9
        assert tracks[:, motion.MIDDLE, 0].abs().max() < 1e-9  # identity in the middle of the exposure


def test_frames_are_dense_and_weigh_one() -> None:
    parameters = sample_blur(BlurConfig(jitter_share=0.5), 64, 128, 128, generator(7))
    tracks = motion.tracks(parameters.transforms(), 128, 128)
    counts, times, weights = motion.place_frames(tracks, 1.0)
    assert all(count % 2 for count in counts)
    assert torch.allclose(weights.sum(1), torch.ones(64, dtype=torch.float64))
    places = motion.at_times(tracks, times)
    for i, count in enumerate(counts):
        steps = (places[i, 1:count] - places[i, : count - 1]).norm(dim=-1)
        assert steps.numel() == 0 or steps.max() <= 1.05


def test_shares_and_ranges_of_the_draws() -> None:
    drawn = sample_blur(BlurConfig(), 1500, 64, 64, generator(0))
    sharp = (drawn.angles == 0).all(-1).all(-1)
    assert sharp.double().mean() == pytest.approx(0.08, abs=0.025)
    assert (drawn.exponent == 1).double().mean() == pytest.approx(0.3, abs=0.04)
    assert (drawn.exponent == 2.4).double().mean() == pytest.approx(0.35, abs=0.04)
    assert (drawn.gain[drawn.exponent == 1] == 1).all()
    assert (drawn.quality[~sharp] > 0).double().mean() == pytest.approx(0.4, abs=0.04)
    assert drawn.quality[drawn.quality > 0].min() >= 70 and drawn.quality.max() <= 98
    assert (drawn.full_well[sharp] == 0).all() and (drawn.quality[sharp] == 0).all()


def test_wrong_settings_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="path_px"):
        BlurConfig(path_px=(9, 3))
    with pytest.raises(ValueError, match="together"):
        BlurConfig(gamma_share=0.7, linear_share=0.7)
    with pytest.raises(ValueError):
        BlurConfig(path=(1, 2))
    with pytest.raises(ValueError, match="known: small"):
        BlurConfig.preset("weak")
    with pytest.raises(ValueError, match="sharp has shape"):
        render(torch.zeros(1, 3, 40, 40), shifted(41, 41, straight(3)))


def test_joined_blurs_are_rendered_as_each_alone_and_need_one_size() -> None:
    parts = [
        sample_blur(BlurConfig(path_px=(2, 5), object_px=(2, 4)), 2, 24, 32, generator(seed))
        for seed in (1, 2)
    ]
    margin = BlurConfig(path_px=(2, 5), object_px=(2, 4)).margin
    scene = texture(24 + 2 * margin, 32 + 2 * margin, batch=4)
    together, _ = render(scene, BlurParameters.joined(parts))
    for number, part in enumerate(parts):
        alone, _ = render(scene[2 * number : 2 * number + 2], part)
        assert (together[2 * number : 2 * number + 2] - alone).abs().max() < 1e-6
    with pytest.raises(ValueError, match="different image sizes"):
        BlurParameters.joined([parts[0], sample_blur(BlurConfig(), 1, 24, 24, generator(3))])
