"""Modules that were replaced, hooked or changed take part in every forward, with gradients and without."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from xyscannet.models import XYScanNet, XYScanNetConfig
from xyscannet.models.layers import GDFN
from xyscannet.models.mamba import Mamba
from xyscannet.models.strips import Strips
from xyscannet.models.vssm import VSSM


class Adapter(nn.Module):
    """A low-rank addition to a map, which has a weight, as such modules do."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    def forward(self, x: Tensor, *rest: object, **options: object) -> Tensor:
        made = self.base(x, *rest, **options)
        return tuple(2 * each for each in made) if isinstance(made, tuple) else 2 * made


class Louder(GDFN):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def replaced(kind: type[nn.Module], name: str) -> Callable[[XYScanNet], None]:
    def change(network: XYScanNet) -> None:
        for module in _of(network, kind):
            setattr(module, name, Adapter(getattr(module, name)))

    return change


def _of(network: XYScanNet, kind: type[nn.Module]) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, kind)]


def given_a_bias(network: XYScanNet) -> None:
    for module in _of(network, GDFN):
        module.project_in.bias = nn.Parameter(torch.ones(module.project_in.out_channels))


def subclassed(network: XYScanNet) -> None:
    for module in _of(network, GDFN):
        module.__class__ = Louder


def without_a_norm(network: XYScanNet) -> None:
    for block in network.encoder_level1:
        block.norm1_ffn = nn.Identity()


def hooked(network: XYScanNet) -> None:
    for module in _of(network, GDFN):
        module.dwconv.register_forward_hook(lambda module, inputs, output: 2 * output)


def parametrised(network: XYScanNet) -> None:
    for module in _of(network, Mamba):
        parametrize.register_parametrization(module.x_proj, "weight", Doubled())
        parametrize.register_parametrization(module.in_proj, "weight", Doubled())


def pruned(network: XYScanNet) -> None:
    for module in _of(network, VSSM):
        prune.l1_unstructured(module.dwconv, "weight", 0.5)
        prune.l1_unstructured(module.scanner.mamba.out_proj, "weight", 0.5)


CHANGES = {
    "GDFN.project_out": replaced(GDFN, "project_out"),
    "GDFN.dwconv": replaced(GDFN, "dwconv"),
    "VSSM.proj_in": replaced(VSSM, "proj_in"),
    "VSSM.dwconv": replaced(VSSM, "dwconv"),
    "VSSM.proj_out": replaced(VSSM, "proj_out"),
    "Mamba.in_proj": replaced(Mamba, "in_proj"),
    "Mamba.out_proj": replaced(Mamba, "out_proj"),
    "bias": given_a_bias,
    "subclass": subclassed,
    "no norm": without_a_norm,
    "hook": hooked,
    "parametrised": parametrised,
    "pruned": pruned,
}


@pytest.fixture
def network() -> XYScanNet:
    made = XYScanNet(XYScanNetConfig(width=8, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1), d_state=4))
    nn.init.normal_(made.output.weight, std=0.05)
    return made.eval()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_was_changed_takes_part_without_gradients_too(change, network):
    image = torch.rand(1, 3, 12, 20)
    before = network(image).detach()
    change(network)
    changed = network(image).detach()
    assert not torch.allclose(changed, before, atol=1e-5)
    with torch.no_grad():
        close = {"rtol": 0, "atol": 2e-5}
        torch.testing.assert_close(network(image), changed, **close)
        torch.testing.assert_close(network.fuse()(image), changed, **close)
        torch.testing.assert_close(Strips(network, 4)(image), changed, **close)


def test_pruned_parts_are_trained_on(network):
    pruned(network)
    for _ in range(2):
        network(torch.rand(1, 3, 8, 8)).square().mean().backward()


@pytest.mark.parametrize("name", ["conv1d", "x_proj", "dt_proj"])
def test_what_the_mixers_kernel_would_leave_out_is_refused(name, network):
    replaced(Mamba, name)(network)
    with pytest.raises(TypeError, match="parametrize"):
        network(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
@pytest.mark.parametrize("name", ["conv1d", "x_proj", "dt_proj"])
def test_so_is_what_watches_gradients_there(name, register, network):
    for module in _of(network, Mamba):
        getattr(getattr(module, name), register)(lambda *_: None)
    with pytest.raises(TypeError, match="hooks"):
        network(torch.rand(1, 3, 8, 8))


def test_a_hook_is_honoured_when_compiled(network):
    hooked(network)
    image = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        compiled = torch.compile(network, backend="eager")(image)
        torch.testing.assert_close(compiled, network(image), rtol=0, atol=2e-5)


def test_hooks_of_all_modules_are_honoured(network):
    seen: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: seen.append(module)
    )
    try:
        with torch.no_grad():
            network(torch.rand(1, 3, 8, 8))
    finally:
        handle.remove()
    assert {GDFN, VSSM} <= {type(module) for module in seen}
