"""Folding neighbouring linear maps of a trained network into one, for inference.

Exact but for rounding; products are taken in float64 where the device has it. What is folded, and what is not:

- Intra-Scanner: the mixer's out_proj, on each half, into conv_out. As many multiply-accumulates, one pass less over
  the feature map. (conv_in into in_proj would cost a third more multiply-accumulates.)
- Skips: the two halves of the reducing 1x1 convolution into the convolution of the up-sampling and into the last
  convolution of the fusion. What remains is a sum; 4 C^2 multiply-accumulates a pixel are saved.

Modules with hooks or in the place of these, and mixers that two scanners share, stay as they are.
"""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, nn

from xyscannet.models.fusion import AFF, KLFF
from xyscannet.models.layers import Upsample, pointwise
from xyscannet.models.plain import is_as_made, is_plain, plain
from xyscannet.models.scanners import IntraScanner
from xyscannet.models.xyscannet import XYScanNet
from xyscannet.ops.hardware import widest

_LAST = {KLFF: "conv_out", AFF: "conv2"}


@plain
class Folded(nn.Module):
    """What is left of a map that is folded into the next."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@plain
class FusedIntraScanner(IntraScanner):
    """`IntraScanner` whose conv_out takes the mixer's inner channels, (B, 2E, H, W), at once."""

    def mixer(self, x: Tensor, directions: tuple[str, ...]) -> Tensor:
        return self.mamba.inner(x, directions)

    def projected_mixer(self, xz: Tensor, directions: tuple[str, ...]) -> Tensor:
        return self.mamba.scan(xz, directions)


class Sum(nn.Module):
    """What is left of `Reduce` once its halves are folded into what comes before."""

    def forward(self, decoder: Tensor, skip: Tensor) -> Tensor:
        return decoder + skip


@torch.no_grad()
def fuse(network: XYScanNet) -> XYScanNet:
    """A copy of the network with linear maps folded; same output, no gradients, cannot be saved as a checkpoint."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    owners = Counter(part for module in network.modules() for part in module.children())
    for module in network.modules():
        alone = type(module) is IntraScanner and owners[module.mamba] == 1
        if alone and is_plain(module.conv_out, module.mamba):
            _fold_out_proj(module)
    for level, up in ((1, network.up2_1), (2, network.up3_2)):
        fusion, reduce = getattr(network, f"fusion_level{level}"), getattr(network, f"reduce_level{level}")
        if not (type(fusion) in _LAST and is_as_made(fusion, type(fusion)) and is_as_made(up, Upsample)):
            continue
        last = getattr(fusion, _LAST[type(fusion)])
        if is_plain(reduce, up.conv, last):
            decoder, skip = reduce.weight.chunk(2, dim=1)  # (C, C, 1, 1) each
            _follow(up.conv, decoder)
            _follow(last, skip)
            setattr(network, f"reduce_level{level}", Sum())
    return network.requires_grad_(False)


def _follow(conv: nn.Conv2d, last: Tensor) -> None:
    """`conv` becomes itself followed by the 1x1 convolution `last` (O, C, 1, 1)."""
    last = _wide(last[:, :, 0, 0])
    weight = torch.einsum("oc,cikl->oikl", last, _wide(conv.weight))
    conv.weight.copy_(weight)
    if conv.bias is not None:
        conv.bias.copy_(last @ _wide(conv.bias))


def _wide(weight: Tensor) -> Tensor:
    return weight.to(widest(weight.device))


def _fold_out_proj(scanner: IntraScanner) -> None:
    out_proj = _wide(scanner.mamba.out_proj.weight)  # (C/2, E)
    halves = _wide(scanner.conv_out.weight[:, :, 0, 0]).chunk(2, dim=1)  # (C, C/2) each
    weight = torch.cat([half @ out_proj for half in halves], dim=1)  # (C, 2E)
    folded = pointwise(weight.shape[1], weight.shape[0]).to(scanner.conv_out.weight)
    folded.weight.copy_(weight[:, :, None, None])
    scanner.conv_out = folded.to(memory_format=torch.channels_last)
    scanner.mamba.out_proj = Folded()
    scanner.__class__ = FusedIntraScanner
