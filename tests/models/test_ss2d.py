"""MambaIR's SS2D against a plain four-way scan written out here, and the variant built of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from xyscannet.analysis.complexity import count
from xyscannet.errors import ConfigError
from xyscannet.models import XYScanNetConfig, zoo
from xyscannet.models.ss2d import SS2D
from xyscannet.models.vssm import VSSM


def plain_ss2d(module: SS2D, get: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Channels first, one flattened sequence after another, every pixel a step of a loop; float64."""
    batch, _, height, width = x.shape
    features, gate = F.conv2d(x, get["in_proj.weight"]).chunk(2, dim=1)
    inner = features.shape[1]
    features = F.silu(F.conv2d(features, get["conv2d.weight"], get["conv2d.bias"], padding=1, groups=inner))
    order = torch.arange(height * width)
    by_column = order.view(height, width).T.flatten()
    total = torch.zeros(batch, inner, height * width).double()
    for k, path in enumerate((order, by_column, order.flip(0), by_column.flip(0))):
        sequence = features.flatten(2)[:, :, path]  # (B, E, L)
        dt, B, C = torch.einsum("bel,re->brl", sequence, get["x_proj_weight"][k]).split(
            [module.dt_rank, module.d_state, module.d_state], dim=1
        )
        delta = torch.einsum("brl,er->bel", dt, get["dt_projs_weight"][k])
        delta = F.softplus(delta + get["dt_projs_bias"][k][:, None])
        A, h = -get["A_logs"][k].exp(), torch.zeros(batch, inner, module.d_state).double()
        for t, pixel in enumerate(path):
            step, u = delta[:, :, t, None], sequence[:, :, t, None]
            h = (step * A).exp() * h + step * u * B[:, None, :, t]
            here = (h * C[:, None, :, t]).sum(-1) + get["Ds"][k] * sequence[:, :, t]
            total = total.index_add(2, pixel[None], here[..., None])
    y = total.unflatten(2, (height, width)).permute(0, 2, 3, 1)
    y = F.layer_norm(y, (inner,), get["out_norm.weight"], get["out_norm.bias"]).permute(0, 3, 1, 2)
    return F.conv2d(y * F.silu(gate), get["out_proj.weight"])


@pytest.mark.parametrize(("size", "batch"), [((5, 7), 2), ((1, 6), 1), ((4, 1), 3)])
def test_output_and_every_gradient_equal_the_plain_four_way_scan(size, batch):
    torch.manual_seed(0)
    module = SS2D(8)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = torch.randn(batch, 8, *size).to(memory_format=torch.channels_last).requires_grad_()
    out = module(x)
    weight = torch.randn_like(out)
    found = torch.autograd.grad(out, [x, *module.parameters()], weight)

    get = {name: p.detach().double().requires_grad_() for name, p in module.named_parameters()}
    exact = x.detach().double().requires_grad_()
    expected_out = plain_ss2d(module, get, exact)
    expected = torch.autograd.grad(expected_out, [exact, *get.values()], weight.double())
    assert (out - expected_out).norm() < 1e-5 * expected_out.norm()
    for name, mine, plain in zip(["x", *get], found, expected, strict=True):
        assert (mine - plain).norm() < 2e-5 * plain.norm(), name


@pytest.mark.parametrize(
    ("module", "name"), [(SS2D(8), "A_logs"), (VSSM(8, "intra"), "scanner.mamba.A_log")], ids=["ss2d", "vssm"]
)
def test_in_double_precision_so_is_a(module, name):
    torch.manual_seed(0)
    module, x = module.double(), torch.randn(1, 8, 4, 5).double()
    A_log = module.get_parameter(name)
    with torch.no_grad():
        before = module(x)
        A_log += 1e-8  # which float32 does not see
        assert not torch.equal(module(x), before)
    at = module if name == "A_logs" else module.scanner.mamba
    taken = x if name == "A_logs" else x[:, :4].permute(0, 2, 3, 1).unsqueeze(3)
    delta, A = at.steps(taken, *([] if name == "A_logs" else [("x",)]))
    assert delta.dtype == A.dtype == torch.float64


def test_its_scans_are_counted():
    work = count(zoo.info("mambair-variant").config, 64, 48)
    blocks = ((3, 48, 64 * 48), (3, 96, 32 * 24), (6, 192, 16 * 12))  # blocks, width, pixels of a level
    assert work.scan_updates == sum(2 * n * 4 * pixels * width * 3 // 2 * 16 for n, width, pixels in blocks)


def test_the_variant_trains_all_of_its_parameters():
    torch.manual_seed(1)
    network = zoo.build(
        XYScanNetConfig(
            width=8, encoder_blocks=(1, 0, 0), decoder_blocks=(1, 0, 1), scanners=("ss2d", "intra")
        )
    )
    torch.nn.init.normal_(network.output.weight, std=0.2)
    network(torch.rand(2, 3, 18, 21)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_two_directions_more_than_four_are_refused():
    with pytest.raises(ConfigError, match="four ways"):
        XYScanNetConfig(scanners=("ss2d", "ss2d"), bidirectional=True)
