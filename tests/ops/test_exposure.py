"""Exposures gathered in one kernel and sub-frame by sub-frame."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.ops.triton_compiling import compiled
from xyscannet.ops import use_backend
from xyscannet.ops.exposure import Exposure, gathered

LAUNCHES = """
from dataclasses import replace
from tests.ops.test_exposure import drawn
from xyscannet.ops.exposure import triton as exposure
watch(exposure.kernels, "gather")
for size, objects, lit in (((5, 7), 0, False), ((16, 64), 2, True), ((128, 128), 1, False)):
    exposure.gathered(drawn(0, batch=3, size=size, objects=objects, lit=lit))
"""


def drawn(
    seed: int,
    *,
    batch: int = 3,
    size: tuple[int, int] = (11, 37),
    margin: int = 3,
    objects: int = 1,
    lit: bool = True,
    shift: float = 5.0,
    turn: float = 0.05,
) -> Exposure:
    """An exposure whose scenes move up to `shift` pixels, and so beyond their margin, turn and tilt."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    scene = (height + 2 * margin, width + 2 * margin)
    counts = tuple(sorted((2 * ((seed + 2 * i) % 3) + 1 for i in range(batch)), reverse=True))

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    def homographies(number: int) -> torch.Tensor:
        found = torch.eye(3).repeat(number, counts[0], 1, 1)
        found += turn * (2 * uniform(number, counts[0], 3, 3) - 1)
        found[..., :2, 2] += shift * (2 * uniform(number, counts[0], 2) - 1)
        found[..., 2, :2] /= 10 * max(size)
        grid = torch.tensor([[2 / scene[1], 0, 0], [0, 2 / scene[0], 0], [0, 0, 1]])
        return grid @ found

    lights = tuple(bool(lit and row % 2 == 0) for row in range(batch))
    excess = (uniform(batch, 3, *scene) > 0.9) * uniform(batch, 3, *scene) * 4
    return Exposure(
        light=uniform(batch, 3, *scene),
        excess=excess * torch.tensor(lights).view(-1, 1, 1, 1) if lit else None,
        bright=lights,
        counts=counts,
        transforms=homographies(batch),
        weights=uniform(batch, counts[0]),
        behind=tuple(range(batch - objects, batch)),
        masks=uniform(objects, 1, *scene) if objects else None,
        object_transforms=homographies(objects) if objects else None,
        size=size,
        origin=(-(width - 1) / 2, -(height - 1) / 2),
    )


def on(exposure: Exposure, device: str) -> Exposure:
    moved = {
        name: value.to(device) for name, value in vars(exposure).items() if isinstance(value, torch.Tensor)
    }
    return replace(exposure, **moved)


def assert_matches_reference(exposure: Exposure, bound: float = 2e-4) -> None:
    """Positions have rounding errors of some 1e-5 pixels between neighbours that differ by up to 4."""
    found = gathered(exposure)
    with use_backend("reference"):
        expected = gathered(exposure)
    assert found.shape == expected.shape and not torch.equal(expected, torch.zeros_like(expected))
    assert float((found - expected).abs().max()) <= bound * max(exposure.counts)


def test_a_still_camera_gathers_the_scene() -> None:
    exposure = drawn(0, objects=0, lit=False, shift=0, turn=0)
    weights = exposure.weights / torch.stack(
        [w[:count].sum() for w, count in zip(exposure.weights, exposure.counts, strict=True)]
    ).view(-1, 1)
    found = gathered(replace(exposure, weights=weights))
    torch.testing.assert_close(found, exposure.light[..., 3:-3, 3:-3], rtol=0, atol=1e-4)


def test_an_object_hides_the_scene_where_its_mask_is() -> None:
    """The object is the scene's own left half, moved a pixel to the right; the camera keeps still."""
    exposure = drawn(1, batch=1, objects=1, lit=False, shift=0, turn=0)
    weights = torch.zeros_like(exposure.weights)
    weights[0, 0] = 1
    moved = exposure.object_transforms.clone()
    moved[..., 0, 2] -= 2 / exposure.light.shape[-1]  # from there the scene is read
    masks = torch.zeros_like(exposure.masks)
    masks[..., :20] = 1
    found = gathered(replace(exposure, weights=weights, object_transforms=moved, masks=masks))
    scene = exposure.light[..., 3:-3, :]
    torch.testing.assert_close(found[..., :17], scene[..., 2:19], rtol=0, atol=1e-4)
    torch.testing.assert_close(found[..., 19:], scene[..., 22:-3], rtol=0, atol=1e-4)


@pytest.mark.slow  # compiles
@pytest.mark.parametrize("capability", [80, 90])
def test_one_sound_binary_serves_every_size(capability: int, tmp_path) -> None:
    (binary,) = compiled(LAUNCHES, capability, tmp_path)["gather"]
    assert 16 < binary["REG"] <= 128 and not binary["STACK"] and not binary["LOCAL"], binary


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(1, 1), (63, 129), (128, 128)])
@pytest.mark.parametrize(("objects", "lit"), [(0, False), (2, True)])
def test_on_gpu(size: tuple[int, int], objects: int, lit: bool) -> None:
    exposure = drawn(2, batch=5, size=size, margin=9, objects=objects, lit=lit, shift=12)
    assert_matches_reference(on(exposure, "cuda"))
