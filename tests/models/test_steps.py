"""The state's steps that are shown are those that the definition scans with."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from xyscannet.models.mamba import Mamba
from xyscannet.models.ss2d import SS2D
from xyscannet.ops import use_backend
from xyscannet.ops.selective_scan import reference


@pytest.fixture
def scanned(monkeypatch):
    """What the definition's scans were given: delta after bias and softplus (B, H, W, K, E), and A (K, E, N)."""
    calls, scan = [], reference.scan

    def spy(u, delta, A, B, C, D, z, bias, softplus, directions):
        assert softplus
        calls.append((F.softplus(delta + bias), A))
        return scan(u, delta, A, B, C, D, z, bias, softplus, directions)

    monkeypatch.setattr(reference, "scan", spy)
    with use_backend("reference"):
        yield calls


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    for parameter in module.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("directions", [("x",), ("x", "y"), ("x", "y", "-x", "-y")])
def test_mamba(scanned, directions, dtype):
    torch.manual_seed(0)
    mixer = shaken(Mamba(6, d_state=3)).to(dtype)
    x = torch.randn(2, 5, 7, len(directions), 6, dtype=dtype)
    mixer(x, directions)
    delta, A = mixer.steps(x, directions)
    torch.testing.assert_close(delta, scanned[0][0])
    torch.testing.assert_close(A.expand_as(scanned[0][1]), scanned[0][1])
    assert delta.min() > 0 and delta.std() > 0.01 and (A < 0).all()


def test_ss2d(scanned):
    torch.manual_seed(0)
    module = shaken(SS2D(6, d_state=3))
    x = torch.randn(2, 6, 5, 7)
    module(x)
    delta, A = module.steps(x)
    flat = scanned[0][0][:, 0]  # (B, L, 4, E)
    for way in range(4):
        shape = (5, 7) if way % 2 == 0 else (7, 5)
        image = flat[:, :, way].unflatten(1, shape)
        torch.testing.assert_close(delta[:, :, :, way], image if way % 2 == 0 else image.transpose(1, 2))
    torch.testing.assert_close(A, scanned[0][1])
