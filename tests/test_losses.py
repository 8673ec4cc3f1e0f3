from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from xyscannet.losses import DeblurLoss, LossConfig, charbonnier, edge, laplacian


def test_charbonnier_of_a_constant_difference() -> None:
    x = torch.zeros(2, 3, 5, 7)
    assert charbonnier(x, x).item() == pytest.approx(1e-3)
    assert charbonnier(x + 0.3, x).item() == pytest.approx(math.hypot(0.3, 1e-3), rel=1e-6)


def test_laplacian_is_the_formula_in_numpy() -> None:
    image = torch.rand(1, 1, 9, 12, generator=torch.Generator().manual_seed(0)).double()
    taps = np.array([0.05, 0.25, 0.4, 0.25, 0.05])

    def smooth(array: np.ndarray) -> np.ndarray:
        padded = np.pad(array, 2, mode="edge")
        rows = sum(taps[k] * padded[:, k : k + array.shape[1]] for k in range(5))
        return sum(taps[k] * rows[k : k + array.shape[0]] for k in range(5))

    array = image[0, 0].numpy()
    coarse = np.zeros_like(array)
    coarse[::2, ::2] = smooth(array)[::2, ::2] * 4
    np.testing.assert_allclose(laplacian(image)[0, 0].numpy(), array - smooth(coarse), atol=1e-12)


def test_edge_ignores_a_constant_offset_away_from_borders_and_sees_edges() -> None:
    flat = torch.full((1, 3, 32, 32), 0.4)
    assert laplacian(flat)[..., 4:-4, 4:-4].abs().max() < 1e-6
    step = flat.clone()
    step[..., 16:] = 0.9
    assert edge(step, flat).item() > 5 * edge(flat, flat).item()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (63, 65)])
def test_loss_is_finite_with_gradients_at_odd_sizes(size: tuple[int, int]) -> None:
    restored = torch.rand(2, 3, *size, requires_grad=True)
    total, terms = DeblurLoss()(restored, torch.rand(2, 3, *size))
    total.backward()
    assert torch.isfinite(restored.grad).all()
    assert total.item() == pytest.approx((terms["charbonnier"] + 0.05 * terms["edge"]).item(), rel=1e-6)
    assert not terms["edge"].requires_grad


def test_loss_is_float32_under_autocast_and_for_half_inputs() -> None:
    restored = torch.rand(1, 3, 16, 16)
    sharp = torch.rand(1, 3, 16, 16)
    want, _ = DeblurLoss()(restored, sharp)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, _ = DeblurLoss()(restored, sharp)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(want.item(), rel=1e-6)
    got, _ = DeblurLoss()(restored.bfloat16(), sharp)
    assert got.dtype == torch.float32


def test_weights_of_the_configuration() -> None:
    restored, sharp = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    total, terms = DeblurLoss(LossConfig(edge=0))(restored, sharp)
    assert list(terms) == ["charbonnier"] and total.item() == pytest.approx(terms["charbonnier"].item())
    with pytest.raises(ValueError, match="every weight"):
        DeblurLoss(LossConfig(charbonnier=0, edge=0))
    with pytest.raises(ValueError, match="shape"):
        DeblurLoss()(restored, sharp[..., :4])
    with pytest.raises(ValueError):
        LossConfig(egde=0.1)
