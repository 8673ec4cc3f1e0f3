"""Scanners, fusion and resampling against plain formulations written out here."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from xyscannet.models import scanners
from xyscannet.models.fusion import KLFF, kl_gate
from xyscannet.models.layers import Downsample, Upsample
from xyscannet.models.mamba import Mamba
from xyscannet.models.scanners import InterScanner, IntraScanner


def plain_mamba(mixer: Mamba, sequence: torch.Tensor) -> torch.Tensor:
    """The S6 block step by step; sequence (L, d_model) in float64."""
    get = {name: value.double() for name, value in mixer.state_dict().items()}
    u, z = (sequence @ get["in_proj.weight"].T).chunk(2, dim=-1)
    taps = get["conv1d.weight"][:, 0]
    padded = F.pad(u, (0, 0, taps.shape[1] - 1, 0))
    u = sum(padded[k : k + len(u)] * taps[:, k] for k in range(taps.shape[1])) + get["conv1d.bias"]
    u = F.silu(u)
    rank, states = mixer.dt_rank, mixer.d_state
    dt, B, C = (u @ get["x_proj.weight"].T).split([rank, states, states], dim=-1)
    delta = F.softplus(dt @ get["dt_proj.weight"].T + get["dt_proj.bias"])
    A, h, out = -get["A_log"].exp(), torch.zeros(u.shape[1], states).double(), []
    for t in range(len(u)):
        h = (delta[t, :, None] * A).exp() * h + delta[t, :, None] * B[t] * u[t, :, None]
        out.append(h @ C[t] + get["D"] * u[t])
    return (torch.stack(out) * F.silu(z)) @ get["out_proj.weight"].T


def test_intra_scanner_scans_rows_of_the_first_half_and_columns_of_the_second():
    torch.manual_seed(0)
    scanner = IntraScanner(8)
    x = torch.randn(2, 8, 5, 7)
    f = torch.einsum("oc,bchw->bhwo", scanner.conv_in.weight[:, :, 0, 0].double(), x.double())
    expected = torch.empty_like(f)
    for b in range(2):
        for i in range(5):
            expected[b, i, :, :4] = plain_mamba(scanner.mamba, f[b, i, :, :4])
        for j in range(7):
            expected[b, :, j, 4:] = plain_mamba(scanner.mamba, f[b, :, j, 4:])
    expected = torch.einsum("oc,bhwc->bohw", scanner.conv_out.weight[:, :, 0, 0].double(), expected)
    assert (scanner(x) - expected).norm() < 1e-5 * expected.norm()


def test_inter_scanner_gates_rows_by_a_scan_down_and_columns_by_a_scan_across():
    torch.manual_seed(1)
    scanner = InterScanner(8)
    x = torch.randn(1, 8, 6, 5)
    f = torch.einsum("oc,bchw->bhwo", scanner.conv_in.weight[:, :, 0, 0].double(), x.double())[0]
    down = torch.sigmoid(plain_mamba(scanner.mamba, f[:, :, :4].mean(1)))  # (H, C/2)
    across = torch.sigmoid(plain_mamba(scanner.mamba, f[:, :, 4:].mean(0)))  # (W, C/2)
    gated = torch.cat([f[:, :, :4] * down[:, None], f[:, :, 4:] * across[None]], dim=-1)
    expected = torch.einsum("oc,hwc->ohw", scanner.conv_out.weight[:, :, 0, 0].double(), gated)
    assert (scanner(x)[0] - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("bidirectional", [False, True])
def test_rows_and_columns_of_a_square_crop_are_learnt_from_in_one_batch(bidirectional, monkeypatch):
    torch.manual_seed(1)
    scanner = InterScanner(8, bidirectional=bidirectional).double()
    square, oblong = torch.randn(3, 8, 6, 6).double(), torch.randn(3, 8, 6, 5).double()
    batches: list[torch.Size] = []
    scanner.mamba.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0].shape[:3]))

    def learn(x: torch.Tensor) -> list[torch.Tensor]:
        scanner.zero_grad()
        x = x.clone().requires_grad_()
        out = scanner(x)
        (out * torch.arange(out.numel()).view_as(out).cos()).sum().backward()
        return [out.detach(), x.grad, *(p.grad for p in scanner.parameters())]

    together = learn(square)
    assert batches == [(3, 2, 6)]
    for given in (lambda: learn(oblong), torch.no_grad()(lambda: scanner(square))):
        batches.clear()
        given()
        assert len(batches) == 2 and all(rows == 1 for _, rows, _ in batches)
    monkeypatch.setattr(scanners, "_learnt_together", lambda *lines: False)
    for one, other in zip(together, learn(square), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_a_bidirectional_scan_is_the_sum_of_both_directions_and_mirrors_with_its_input():
    torch.manual_seed(2)
    scanner = IntraScanner(8, bidirectional=True)
    x = torch.randn(1, 8, 6, 7)
    torch.testing.assert_close(scanner(x.flip(2, 3)).flip(2, 3), scanner(x), rtol=1e-4, atol=1e-5)
    one_way = IntraScanner(8)
    one_way.load_state_dict(scanner.state_dict())
    assert (one_way(x.flip(2, 3)).flip(2, 3) - one_way(x)).abs().max() > 1e-3


def test_mixer_initialisation():
    torch.manual_seed(3)
    mixer = Mamba(48)
    assert mixer.dt_rank == 3
    delta = F.softplus(mixer.dt_proj.bias)
    assert delta.min() >= 1e-3 * 0.99 and delta.max() <= 0.1 * 1.01
    torch.testing.assert_close(mixer.A_log.exp(), torch.arange(1.0, 17).expand(96, 16))


def test_kl_gate_is_the_papers_formula():
    other, current = torch.randn(2, 4, 5, 6).double(), torch.randn(2, 4, 5, 6).double()
    p, q = torch.sigmoid(current), torch.sigmoid(other)
    divergence = p * (p.log() - q.log())
    torch.testing.assert_close(kl_gate(other, current, "element"), torch.sigmoid(divergence))
    mean = torch.sigmoid(divergence.mean(dim=(1, 2, 3), keepdim=True))
    torch.testing.assert_close(kl_gate(other, current, "mean"), mean)
    assert torch.isfinite(kl_gate(other * 1e4, current * -1e4, "element")).all()


def test_klff_equals_resizing_before_projecting():
    torch.manual_seed(4)
    levels = [torch.randn(1, 4, 16, 24), torch.randn(1, 8, 8, 12), torch.randn(1, 16, 4, 6)]
    for own, first, second in ((0, 1, 2), (1, 0, 2)):
        x, n1, n2 = levels[own], levels[first], levels[second]
        fuse = KLFF((x.shape[1], n1.shape[1], n2.shape[1]))
        y = fuse.conv(x)
        n1, n2 = (
            conv(F.interpolate(n, size=x.shape[2:], mode="nearest"))
            for conv, n in ((fuse.conv_n1, n1), (fuse.conv_n2, n2))
        )
        fused = kl_gate(n1, y, "element") * n1 + kl_gate(n2, y, "element") * n2
        expected = fuse.conv_out(torch.cat([y, fused], dim=1))
        torch.testing.assert_close(fuse(x, levels[first], levels[second]), expected, rtol=1e-5, atol=1e-5)


def test_resampling_is_bilinear():
    torch.manual_seed(5)
    x = torch.randn(1, 4, 6, 10)
    down, up = Downsample(4), Upsample(4)
    half = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)
    torch.testing.assert_close(down(x), down.conv(half), rtol=1e-5, atol=1e-5)
    assert down(x).shape == (1, 8, 3, 5) and up(x).shape == (1, 2, 12, 20)
