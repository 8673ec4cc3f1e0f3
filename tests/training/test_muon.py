"""Muon against its definition, torch's own and Adam; runs that train with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from xyscannet.errors import ConfigError
from xyscannet.models import XYScanNet, XYScanNetConfig, zoo
from xyscannet.training import parts
from xyscannet.training.config import OptimiserConfig, network_config
from xyscannet.training.loop import Interrupted, Trainer
from xyscannet.training.muon import Muon, is_matrix, orthogonalise
from xyscannet.training.recipes import parse_config

from .conftest import DrawnPairs


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 48, 12), (2, 12, 96)])
def test_orthogonalised_matrices_keep_their_directions_and_lose_their_sizes(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-9
    left, sizes, right = torch.linalg.svd(matrices.double(), full_matrices=False)
    # singular values of the result along the singular vectors of what was given
    found = (left.mT @ orthogonalise([matrices])[0].double() @ right.mT).float()
    values = found.diagonal(dim1=-2, dim2=-1)
    resolved = sizes > 0.01 * sizes[:, :1]
    assert resolved.float().mean() > 0.9
    assert ((values > 0.6) & (values < 1.3))[resolved].all()
    assert (found - torch.diag_embed(values)).abs().max() < 1e-3


def test_orthogonalised_zeros_are_zeros() -> None:
    assert torch.equal(orthogonalise([torch.zeros(2, 4, 6)])[0], torch.zeros(2, 4, 6))


def test_stacks_orthogonalised_together_are_those_of_the_steps_on_the_matrices_themselves() -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = [(3, 24, 63), (2, 90, 33), (4, 7, 7), (1, 1, 5), (2, 33, 90), (2, 12, 200)]
    stacks = [torch.randn(shape, generator=generator) for shape in shapes]
    stacks[0][1] = 0
    stacks[1][0, :, 5:] *= 1e-4  # far below what the steps bring to 1
    for stack, found in zip(stacks, orthogonalise(stacks), strict=True):
        x = stack.double() / stack.double().norm(dim=(1, 2), keepdim=True).clamp_min(1e-300)
        for _ in range(5):
            gram = x @ x.mT
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        assert found.shape == stack.shape
        torch.testing.assert_close(found.double(), x, rtol=0, atol=2e-5)


def _network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(12, 20, bias=False), nn.Linear(20, 8, bias=False), nn.Linear(8, 12))


def _train(network: nn.Module, optimiser: torch.optim.Optimizer, steps: int = 4) -> list[torch.Tensor]:
    for step in range(steps):
        x = torch.randn(30, 12, generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        (network(x) - x).square().mean().backward()
        optimiser.step()
    return [parameter.detach() for parameter in network.parameters()]


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has no Muon before 2.9")
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_matrices_step_as_with_the_muon_of_torch(decay: float) -> None:
    torch.manual_seed(0)
    start = [torch.randn(20, 12), torch.randn(8, 20), torch.randn(16, 16)]
    ours, theirs = ([nn.Parameter(value.clone()) for value in start] for _ in range(2))
    muon = Muon([{"params": ours, "orthogonal": True, "weight_decay": decay}], lr=0.01)
    other = torch.optim.Muon(
        theirs, lr=0.01, weight_decay=decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(3):
        for one, two in zip(ours, theirs):
            one.grad = torch.randn(one.shape)
            two.grad = one.grad.clone()
        muon.step()
        other.step()
    for value, one, two in zip(start, ours, theirs):
        # torch's works in bfloat16
        assert (one - two).norm() < 0.03 * (two - value).norm()


def test_what_is_no_matrix_steps_as_with_adamw() -> None:
    options = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-12, "weight_decay": 0.1}
    plain, mixed = _network(), _network()
    expected = _train(plain, torch.optim.AdamW(plain.parameters(), **options))
    found = _train(mixed, Muon([{"params": list(mixed.parameters())}], **options))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_gradients_are_there_after_a_step() -> None:
    network = _network()
    _train(network, Muon([{"params": list(network.parameters())[:2], "orthogonal": True}], lr=0.01))
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_convolution_steps_as_its_matrix_in_any_memory_layout() -> None:
    gradient = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(1))
    found = []
    for shape, layout in (
        ((6, 45), torch.contiguous_format),
        ((6, 5, 3, 3), torch.contiguous_format),
        ((6, 5, 3, 3), torch.channels_last),
    ):
        parameter = nn.Parameter(torch.zeros(shape).contiguous(memory_format=layout))
        parameter.grad = gradient.reshape(shape).contiguous(memory_format=layout)
        Muon([{"params": [parameter], "orthogonal": True}], lr=0.1).step()
        found.append(parameter.detach().reshape(6, 45))
    assert found[0].abs().min() > 0
    assert torch.allclose(found[1], found[0], atol=1e-7) and torch.allclose(found[2], found[0], atol=1e-7)


def test_matrices_are_most_of_a_network_and_never_its_tables_or_depthwise_kernels() -> None:
    model = zoo.build(network_config("xyscannet-s"))
    taken = {name: p for name, p in model.named_parameters() if is_matrix(name, p)}
    assert sum(p.numel() for p in taken.values()) > 0.9 * sum(p.numel() for p in model.parameters())
    tails = {name.split(".")[-2] for name in taken}
    assert {"project_in", "in_proj", "out_proj", "x_proj", "conv_in", "proj_out"} <= tails
    assert not {"dwconv", "conv1d", "dt_proj", "mamba", "patch_embed", "output"} & tails


@pytest.mark.parametrize(
    ("scanner", "scans"), [("intra", {"A_log", "D"}), ("ss2d", {"A_logs", "Ds", "dt_projs_bias"})]
)
def test_every_parameter_is_in_one_group(scanner: str, scans: set[str]) -> None:
    config = XYScanNetConfig(
        width=8, encoder_blocks=(1, 0, 0), decoder_blocks=(1, 0, 0), scanners=(scanner,) * 2
    )
    model = XYScanNet(config)
    optimiser = parts.make_optimiser(OptimiserConfig(kind="muon", weight_decay=0.1), model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = [[names[p] for p in group["params"]] for group in optimiser.param_groups]
    assert sorted(name for group in groups for name in group) == sorted(names.values())
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.1, 0.1, 0.0]
    assert {name.rpartition(".")[2] for name in groups[2]} == {"weight", "bias", *scans}


def _muon(tiny: dict, **changes: object) -> dict:
    return {**tiny, "optimiser": {"kind": "muon", "lr": 2e-3, "warmup": 2}, **changes}


def test_a_run_with_muon_resumes_bit_for_bit(tiny: dict, tmp_path: Path) -> None:
    config = parse_config(_muon(tiny))
    whole = Trainer(config, tmp_path / "whole", samples=DrawnPairs())
    whole.run()
    first = Trainer(config, tmp_path / "parts", samples=DrawnPairs())
    first._should_stop = lambda: first.step == 3
    with pytest.raises(Interrupted):
        first.run()
    second = Trainer(config, tmp_path / "parts", samples=DrawnPairs(), resume="auto")
    assert second.step == 3
    second.run()
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("before", "after"), [("adam", "muon"), ("muon", "adamw")])
def test_another_optimisers_state_is_refused(tiny: dict, run_folder: Path, before: str, after: str) -> None:
    Trainer(parse_config(_muon(tiny, optimiser={"kind": before})), run_folder, samples=DrawnPairs()).run()
    with pytest.raises(ConfigError, match=f"is of {before}, whose momenta {after} cannot"):
        Trainer(
            parse_config(_muon(tiny, optimiser={"kind": after})),
            run_folder,
            samples=DrawnPairs(),
            resume="auto",
        )
