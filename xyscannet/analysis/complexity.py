"""Counting a network's work: multiply-accumulates of convolutions and matrix products, and scan state updates.

Nothing is computed: the network runs on tensors that have shapes only, and torch's dispatcher counts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from xyscannet.models import XYScanNetConfig, zoo
from xyscannet.models.fusion import AFF, KLFF
from xyscannet.models.mamba import Mamba
from xyscannet.models.ss2d import DIRECTIONS as FLAT
from xyscannet.models.ss2d import SS2D


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
            what papers print as GMACs (and often as "FLOPs").
        executed_macs: those that run. KLFF projects a smaller level before resizing it: the same result for less.
        scans: the scan's calls, and how often each occurs.
        by_module: `macs` of each top-level module.
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
    fusion_macs: int

    @property
    def scan_updates(self) -> int:
        """State updates of all scans; each is two multiply-adds, a product and an exponential."""
        return sum(shape.updates * calls for shape, calls in self.scans.items())


@cache
def count(config: XYScanNetConfig, height: int, width: int, batch: int = 1) -> Complexity:
    """The complexity of the network of `config` on `batch` images of height x width, padding included."""
    scans: Counter[ScanShape] = Counter()
    taps: Counter[str] = (
        Counter()
    )  # of the mixers' convolutions: their operator is not one the dispatcher knows
    fusions: dict[str, int] = {}
    printed: dict[str, int] = {}

    def note_mixer(name: str, mixer: Mamba, inputs: tuple[torch.Tensor, tuple[str, ...]]) -> None:
        x, directions = inputs  # x (B, H, W, K, d_model)
        channels, states = mixer.A_log.shape
        scans[ScanShape(*x.shape[:3], channels, states, tuple(directions))] += 1
        taps[name.partition(".")[0]] += x.shape[:4].numel() * mixer.conv1d.weight.numel()

    def note_flat(name: str, module: SS2D, inputs: tuple[torch.Tensor]) -> None:
        batch, _, height, width = inputs[0].shape
        _, channels, states = module.A_logs.shape
        scans[ScanShape(batch, 1, height * width, channels, states, FLAT)] += 1

    def note_fusion(name: str, fusion: KLFF, inputs: tuple[torch.Tensor, ...]) -> None:
        batch, _, height, width = inputs[0].shape
        fusions[name] = printed[name] = batch * height * width * _weights(fusion)

    def note_aff(name: str, fusion: AFF, inputs: tuple[torch.Tensor, ...]) -> None:
        batch, channels, height, width = inputs[0].shape
        printed[name] = (
            batch * height * width * (_weights(fusion) + channels)
        )  # biases are weights; and the GELU

    notes = {Mamba: note_mixer, SS2D: note_flat, KLFF: note_fusion, AFF: note_aff}
    with torch.device("meta"):
        model = zoo.build(config)
    for name, module in model.named_modules():
        note = notes.get(type(module))
        if note:
            module.register_forward_pre_hook(lambda m, inputs, note=note, name=name: note(name, m, inputs))
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    with torch.no_grad(), FakeTensorMode(), FlopCounterMode(display=False) as counter:
        weights = {name: torch.empty(shape) for name, shape in shapes.items()}
        torch.func.functional_call(model, weights, torch.empty(batch, 3, height, width))

    flops = counter.get_flop_counts()
    executed = {
        name: sum(flops.get(f"{type(model).__name__}.{name}", {}).values()) // 2 + taps[name]
        for name, _ in model.named_children()
    }
    defined = executed | fusions
    return Complexity(
        parameters=_weights(model),
        macs=sum(defined.values()),
        executed_macs=sum(executed.values()),
        scans=dict(scans),
        by_module=defined,
        fusion_macs=sum(printed.values()),
    )


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
