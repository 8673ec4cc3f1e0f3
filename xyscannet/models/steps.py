"""The steps of the network's blocks: a map in, what a step makes of it out.

For inference on CPUs everything around a scan stays in the cache (`xyscannet.ops.blocks`); elsewhere, where gradients
are asked for, and where a module does more than its weights say (`xyscannet.models.plain`), the modules run one after
another. Results differ by rounding alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xyscannet.models.layers import GDFN, LayerNorm2d
from xyscannet.models.plain import is_plain
from xyscannet.models.scanners import IntraScanner
from xyscannet.models.vssm import VSSM
from xyscannet.ops import blocks

DIRECTIONS = ("x", "y")  # of the Intra-Scanner's halves


def _in_cache(x: Tensor, *modules: nn.Module) -> bool:
    """Whether a step of these modules is taken in the cache."""
    weights = [weight for module in modules for weight in module.parameters()]
    return blocks.runs_here(x, *weights) and is_plain(*modules)


def _norm(norm: LayerNorm2d) -> tuple[Tensor, Tensor, float]:
    return norm.weight, norm.bias, norm.eps


def _projections(vssm: VSSM) -> tuple[Tensor, Tensor, Tensor]:
    return vssm.proj_in.weight, vssm.dwconv.weight, vssm.scanner.conv_in.weight


def feed_forward(norm: LayerNorm2d, ffn: GDFN, x: Tensor, residual: bool = True) -> Tensor:
    """`ffn(norm(x))`, (B, C, H, W), added to x where `residual`."""
    if _in_cache(x, norm, ffn):
        weights = ffn.project_in.weight, ffn.dwconv.weight, ffn.project_out.weight
        return blocks.feed_forward(x, _norm(norm), *weights, residual)
    made = ffn(norm(x))
    return x + made if residual else made


def state_space(norm: LayerNorm2d, module: nn.Module, x: Tensor) -> Tensor:
    """`x + module(norm(x))`, module a `VSSM` or `SS2D`."""
    if not isinstance(module, VSSM) or not _in_cache(x, norm, module):
        return x + module(norm(x))
    scanner = module.scanner
    if isinstance(scanner, IntraScanner):
        in_proj = scanner.mamba.in_proj.weight
        xz, gate = blocks.scan_inputs(x, _norm(norm), *_projections(module), in_proj)
        scanned = scanner.mix_projected(xz, DIRECTIONS).flatten(-2).permute(0, 3, 1, 2)
        del xz  # as large as four maps
        return merge(module, gate, scanned, residual=x)
    features, gate = blocks.scan_inputs(x, _norm(norm), *_projections(module))
    return merge(module, gate, features, gates=scanner.gates(features), residual=x)


def half(norm: LayerNorm2d, vssm: VSSM, x: Tensor, which: int, gate: bool) -> tuple[Tensor, Tensor | None]:
    """A half of what the Intra-Scanner makes of `norm(x)`, before conv_out, and the gate Y where asked for.

    Which = 0 is scanned along the rows, 1 along the columns.
    """
    scanner = vssm.scanner
    if _in_cache(x, norm, vssm):
        in_proj = scanner.mamba.in_proj.weight
        xz, opened = blocks.scan_inputs(x, _norm(norm), *_projections(vssm), in_proj, half=which, gate=gate)
        scanned = scanner.mix_projected(xz, (DIRECTIONS[which],))
        return scanned.squeeze(3).permute(0, 3, 1, 2), opened if gate else None
    if gate:
        features, opened = vssm.split(norm(x))
    else:
        features, opened = vssm.features(norm(x)), None
    return (scanner.columns if which else scanner.rows)(features), opened


def features(norm: LayerNorm2d, vssm: VSSM, x: Tensor) -> Tensor:
    """What the Inter-Scanner reads of `norm(x)`, (B, C, H, W)."""
    if _in_cache(x, norm, vssm):
        return blocks.scan_inputs(x, _norm(norm), *_projections(vssm), gate=False)[0]
    return vssm.scanner.conv_in(vssm.features(norm(x)))


def gate(norm: LayerNorm2d, vssm: VSSM, x: Tensor) -> Tensor:
    """The gate Y of `norm(x)`, (B, C, H, W)."""
    if _in_cache(x, norm, vssm):
        return blocks.scan_inputs(x, _norm(norm), *_projections(vssm), features=False)[1]
    return vssm.gate(norm(x))


def merge(
    vssm: VSSM,
    gate: Tensor,
    *scanned: Tensor,
    gates: tuple[Tensor, Tensor] | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """What a `VSSM` makes of the gate Y and of what its scanner has scanned, (B, C, H, W).

    Args:
        scanned: the Intra-Scanner's map before conv_out, or its two halves; what the Inter-Scanner reads.
        gates: the Inter-Scanner's, down (B, H, C/2) and across (B, W, C/2).
        residual: added to the result.
    """
    scanner = vssm.scanner
    if _in_cache(gate, vssm):
        first, second = (*scanned, None)[:2]
        weights = scanner.conv_out.weight, vssm.proj_out.weight
        return blocks.scan_outputs(first, second, gate, *weights, gates=gates, residual=residual)
    both = torch.cat(scanned, dim=1) if len(scanned) > 1 else scanned[0]
    mixed = scanner.conv_out(both) if gates is None else scanner.gated(both, *gates)
    made = vssm.merge(mixed, gate)
    return made if residual is None else residual + made
