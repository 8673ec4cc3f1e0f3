from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from xyscannet import losses
from xyscannet.errors import InputError, UnavailableError
from xyscannet.losses import (
    DeblurLoss,
    LossConfig,
    VGG19Features,
    charbonnier,
    contrastive,
    edge,
    laplacian,
)


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


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory: pytest.TempPathFactory):
    """A file with torchvision's names and random values."""
    torch.manual_seed(0)
    state = {f"features.{k}": v for k, v in VGG19Features().features.state_dict().items()}
    path = tmp_path_factory.mktemp("vgg") / "vgg19-random.pth"
    torch.save({**state, "classifier.0.bias": torch.zeros(3)}, path)
    return path


def test_vgg_is_the_first_twelve_layers(vgg_file) -> None:
    network = VGG19Features.from_file(vgg_file)
    assert len(network.features) == 12
    assert network(torch.rand(2, 3, 33, 46)).shape == (2, 256, 8, 11)
    widths = [layer.out_channels for layer in network.features if isinstance(layer, torch.nn.Conv2d)]
    assert widths == [64, 64, 128, 128, 256]
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_contrastive_is_its_formula_position_by_position() -> None:
    def features(image: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(image, 4) * torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)

    generator = torch.Generator().manual_seed(1)
    restored, sharp, blur = (torch.rand(2, 3, 8, 12, generator=generator) for _ in range(3))
    blur[0, :, :, :8] = sharp[0, :, :, :8]  # the first image is blurred in its last column of positions only
    found = contrastive(restored, sharp, blur, features)
    per_image = []
    for i in range(2):
        values = []
        for row in range(2):
            for column in range(3):
                y, x = 4 * row, 4 * column
                if (sharp[i, :, y, x] - blur[i, :, y, x]).abs().mean() <= 0.01:
                    continue
                r, s, b = (features(t[i : i + 1])[0, :, row, column] for t in (restored, sharp, blur))
                values.append(((r - s).abs() / ((r - b).abs() + 1e-7)).mean())
        per_image.append(torch.stack(values).mean())
    assert found.item() == pytest.approx(torch.stack(per_image).mean().item(), rel=1e-5)


def test_contrastive_of_a_crop_without_blur_is_zero_with_finite_gradients(vgg_file) -> None:
    sharp = torch.rand(2, 3, 32, 32)
    restored = sharp.clone().requires_grad_()
    loss = DeblurLoss(LossConfig(contrastive=0.0005, perceptual_weights=str(vgg_file)))
    total, terms = loss(restored, sharp, sharp)
    total.backward()
    assert terms["contrastive"].item() == 0
    assert torch.isfinite(restored.grad).all()
    blur = sharp.clone()
    blur[1] = (blur[1] + 0.2).clamp(max=1)
    total, terms = loss(restored + 0.05, sharp, blur)
    assert terms["contrastive"].item() > 0
    plain = DeblurLoss()(restored + 0.05, sharp)[0]
    assert total.item() == pytest.approx((plain + 0.0005 * terms["contrastive"]).item(), rel=1e-6)


def test_absent_and_wrong_vgg_weights_are_clear_errors(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UnavailableError, match="vgg19-dcbb9e9d.pth.*--perceptual-weights"):
        DeblurLoss(LossConfig(contrastive=0.1))
    wrong = tmp_path / "wrong.pth"
    torch.save({"features.0.weight": torch.zeros(1)}, wrong)
    with pytest.raises(InputError, match="VGG-19"):
        DeblurLoss(LossConfig(contrastive=0.1, perceptual_weights=str(wrong)))


def test_lpips_term_takes_images_in_minus_one_to_one() -> None:
    class Distance(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return (x - y).square().mean((1, 2, 3), keepdim=True)

    restored, sharp = torch.rand(2, 3, 8, 8, requires_grad=True), torch.rand(2, 3, 8, 8)
    total, terms = DeblurLoss(LossConfig(lpips=0.5), Distance())(restored, sharp)
    assert terms["lpips"].item() == pytest.approx(4 * (restored - sharp).square().mean().item(), rel=1e-5)
    total.backward()
    with pytest.raises(ValueError, match="LPIPS"):
        DeblurLoss(LossConfig(lpips=0.5))


def test_the_edge_loss_has_gradients_after_a_first_use_without() -> None:
    """Its taps are kept from the first use, whatever mode that was in."""
    losses._taps.cache_clear()
    image = torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        expected = losses.edge(image, torch.zeros_like(image))
    image.requires_grad_()
    found = losses.edge(image, torch.zeros_like(image))
    found.backward()
    assert found.item() == expected.item() and image.grad.abs().sum() > 0
