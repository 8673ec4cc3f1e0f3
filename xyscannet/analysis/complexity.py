"""Counting a network's work: multiply-accumulates of convolutions and matrix products, and scan state updates.

Nothing is computed: the network runs on tensors that have shapes only, and torch's dispatcher counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain
from math import prod
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from xyscannet.models import XYScanNet, XYScanNetConfig, zoo
from xyscannet.models.fusion import AFF, KLFF
from xyscannet.ops import use_backend


@dataclass(frozen=True)
class ScanShape:
    """A call of the scan: u is (batch, height, width, len(directions), channels), with `states` a channel."""

    batch: int
    height: int
    width: int
    channels: int
    states: int
    directions: tuple[str, ...]

    @property
    def updates(self) -> int:
        """State updates: one for each element of u and state."""
        return self.batch * self.height * self.width * len(self.directions) * self.channels * self.states


@dataclass(frozen=True)
class Complexity:
    """The work of one forward.

    Attributes:
        parameters: number of weights.
        macs: multiply-accumulates of all convolutions and matrix products as the network is defined, which is
            what papers print as GMACs (and often as "FLOPs"; some leave attention's products out).
        executed_macs: those that run. KLFF projects a smaller level before resizing it: the same result for less.
        scans: the scan's calls, and how often each occurs.
        by_module: `macs` of each top-level module.
        by_operator: `executed_macs` of each of torch's operators, e.g. "convolution", "bmm".
        fusion_macs: work of the fusion modules as the paper's Table 8 prints it. The sums come out where a
            convolution counts its products and its biases and an activation module one an element, as counters do
            that watch modules: AFF's convolutions take 4.30 G of its 4.32, biases and GELU the rest. KLFF has no
            biases, and its gate is no activation module.
    """

    parameters: int
    macs: int
    executed_macs: int
    scans: dict[ScanShape, int]
    by_module: dict[str, int]
    by_operator: dict[str, int]
    fusion_macs: int

    @property
    def scan_updates(self) -> int:
        """State updates of all scans; each is two multiply-adds, a product and an exponential."""
        return sum(shape.updates * calls for shape, calls in self.scans.items())


def count(network: nn.Module | XYScanNetConfig, height: int, width: int, batch: int = 1) -> Complexity:
    """The complexity of a network on `batch` RGB images of height x width, padding included.

    Args:
        network: any that takes images (B, 3, H, W), or the configuration of one of this project's.
    """
    if isinstance(network, XYScanNet):
        network = network.config
    counted = _count_configured if isinstance(network, XYScanNetConfig) else _count
    return counted(network, height, width, batch)


@cache
def _count_configured(config: XYScanNetConfig, height: int, width: int, batch: int) -> Complexity:
    with torch.device("meta"):
        network = zoo.build(config)
    return _count(network, height, width, batch)


def _count(network: nn.Module, height: int, width: int, batch: int) -> Complexity:
    scans: Counter[ScanShape] = Counter()

    def scan(u, delta, A, B, C, D, z, bias, softplus, directions, *_: Any, **__: Any) -> int:
        """Notes the call, by the shapes of the operator's arguments; it is no product."""
        scans[ScanShape(*u[:3], u[4], A[2], tuple(directions.split(",")))] += 1
        return 0

    operators = {torch.ops.xyscannet.scan: scan, **operations()}
    tensors = {
        name: (x.shape, x.dtype) for name, x in chain(network.named_parameters(), network.named_buffers())
    }
    counter = FlopCounterMode(display=False, custom_mapping=operators)
    with (
        _fusions(network) as fusions,
        torch.no_grad(),
        use_backend("cpu", shapes_alone=True),
        FakeTensorMode(),
        counter,
    ):
        fake = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in tensors.items()}
        torch.func.functional_call(network, fake, torch.empty(batch, 3, height, width))

    flops = counter.get_flop_counts()
    root = type(network).__name__
    executed = {
        name: sum(flops.get(f"{root}.{name}", {}).values()) // 2 for name, _ in network.named_children()
    }
    defined = executed | {
        name: macs for name, macs in fusions.items() if isinstance(network.get_submodule(name), KLFF)
    }
    by_operator = {str(name).rpartition(".")[2]: each // 2 for name, each in flops["Global"].items() if each}
    executed_macs = sum(by_operator.values())
    return Complexity(
        parameters=_weights(network),
        macs=executed_macs + sum(defined.values()) - sum(executed.values()),
        executed_macs=executed_macs,
        scans=dict(scans),
        by_module=defined,
        by_operator=by_operator,
        fusion_macs=sum(fusions.values()),
    )


def operations() -> dict[Any, Callable[..., int]]:
    """Operations of this package's convolutions by the shapes of their arguments, for torch's `FlopCounterMode`."""

    def conv1d(x, weight, *_: Any, **__: Any) -> int:  # x (B, H, W, K, E), weight (E, taps)
        return 2 * prod(x) * weight[1]

    def depthwise(x, weight, *_: Any, **__: Any) -> int:  # x (B, C, H, W), weight (C, 1, 3, 3)
        return 2 * prod(x) * prod(weight[1:])

    return {torch.ops.xyscannet.conv1d: conv1d, torch.ops.xyscannet.depthwise: depthwise}


@contextmanager
def _fusions(network: nn.Module) -> Iterator[dict[str, int]]:
    """While entered, a forward notes the work of its fusion modules as `fusion_macs` counts it, by name."""
    noted: dict[str, int] = {}

    def note(name: str, fusion: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        batch, channels, height, width = inputs[0].shape
        activations = channels if isinstance(fusion, AFF) else 0  # its GELU
        noted[name] = batch * height * width * (_weights(fusion) + activations)

    hooks = [
        module.register_forward_pre_hook(lambda module, inputs, name=name: note(name, module, inputs))
        for name, module in network.named_modules()
        if isinstance(module, KLFF | AFF)
    ]
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
