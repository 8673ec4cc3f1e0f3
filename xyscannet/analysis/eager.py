"""The network as it is usually written down in PyTorch, for comparison: the baseline of the benchmarks.

Channels-first memory, a LayerNorm spelled out in elementary operations, a transposing copy before every scan, both
branches one after the other, and a scan of sequences (B, D, L) as mamba-ssm's: its CUDA kernel, or a loop that
materialises exp(delta A) and delta B u for all positions and then walks the sequence in Python. It computes what
`XYScanNet` computes, from the same parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xyscannet.errors import ConfigError
from xyscannet.models import XYScanNetConfig
from xyscannet.models.fusion import KLFF, kl_gate, resize_nearest
from xyscannet.models.layers import GDFN, LayerNorm2d
from xyscannet.models.mamba import Mamba
from xyscannet.models.scanners import IntraScanner
from xyscannet.models.ss2d import SS2D
from xyscannet.models.vssm import VSSM
from xyscannet.models.xyscannet import DecoderBlock, XYScanNet, pad_to_multiple

Scan = Callable[..., Tensor]


def loop_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    """The scan with mamba-ssm's signature, step by step in Python, in float32 (float64 for float64).

    u, delta, z (B, D, L); A (D, N); B, C (B, N, L) or grouped (B, G, N, L); D, delta_bias (D,). Returns (B, D, L).
    """
    with torch.autocast(u.device.type, enabled=False):
        dtype, groups = torch.promote_types(u.dtype, torch.float32), B.shape[1] if B.dim() == 4 else 1
        x, delta = u.to(dtype), delta.to(dtype)
        delta = delta if delta_bias is None else delta + delta_bias[:, None]
        delta = F.softplus(delta) if delta_softplus else delta
        B, C = (
            each.to(dtype)
            .view(len(u), groups, 1, A.shape[1], -1)
            .expand(-1, -1, u.shape[1] // groups, -1, -1)
            for each in (B, C)
        )
        B, C = B.flatten(1, 2), C.flatten(1, 2)  # (B, D, N, L)
        decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
        drive = torch.einsum("bdl,bdnl,bdl->bdln", delta, B, x)
        h, steps = x.new_zeros(*u.shape[:2], A.shape[1]), []
        for t in range(u.shape[2]):
            h = decay[:, :, t] * h + drive[:, :, t]
            steps.append(torch.einsum("bdn,bdn->bd", h, C[..., t]))
        y = torch.stack(steps, 2)
        y = y if D is None else y + x * D[:, None]
        return (y if z is None else y * F.silu(z.to(dtype))).to(u.dtype)


def check_eager(config: XYScanNetConfig) -> None:
    """Raises ConfigError where `eager_forward` does not know the network: bidirectional, or fused otherwise."""
    if config.bidirectional or config.fusion != "klff":
        raise ConfigError("the eager formulation covers uni-directional networks with KLFF")


def eager_forward(network: XYScanNet, x: Tensor, scan: Scan = loop_scan) -> Tensor:
    """What `network(x)` returns, (B, 3, H, W), computed the plain way. One direction, or SS2D, and KLFF only.

    Args:
        network: its weights should be in channels-first memory, as convolutions take their layout from them.
        x: (B, 3, H, W).
        scan: a function with the signature of mamba-ssm's `selective_scan_fn`.

    Raises:
        ConfigError: the network is bidirectional or fused otherwise.
    """
    check_eager(network.config)
    image = pad_to_multiple(x, network.config.size_multiple)
    e1 = _blocks(network.encoder_level1, _conv(network.patch_embed, image - 0.5), scan)
    e2 = _blocks(network.encoder_level2, _conv(network.down1_2.conv, _resize(e1, 0.5)), scan)
    e3 = _blocks(network.encoder_level3, _conv(network.down2_3.conv, _resize(e2, 0.5)), scan)
    skip1, skip2 = _klff(network.fusion_level1, e1, e2, e3), _klff(network.fusion_level2, e2, e1, e3)
    y = _conv(network.up3_2.conv, _resize(_blocks(network.decoder_level3, e3, scan), 2.0))
    y = _blocks(network.decoder_level2, _conv(network.reduce_level2, torch.cat([y, skip2], 1)), scan)
    y = _conv(network.up2_1.conv, _resize(y, 2.0))
    y = _blocks(network.decoder_level1, _conv(network.reduce_level1, torch.cat([y, skip1], 1)), scan)
    return (image + _conv(network.output, y))[:, :, : x.shape[2], : x.shape[3]]


def _conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """torch's convolution, whatever the module does."""
    return nn.Conv2d.forward(conv, x)


def _resize(x: Tensor, factor: float) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def _blocks(level: nn.Sequential, x: Tensor, scan: Scan) -> Tensor:
    x = x.contiguous()
    for block in level:
        if isinstance(block, DecoderBlock):
            x = x + _state_space(block.vssm1, _norm(block.norm1_ssm, x), scan)
            x = x + _gdfn(block.ffn1, _norm(block.norm1_ffn, x))
            x = x + _state_space(block.vssm2, _norm(block.norm2_ssm, x), scan)
        else:
            x = x + _gdfn(block.ffn1, _norm(block.norm1_ffn, x))
        x = x + _gdfn(block.ffn2, _norm(block.norm2_ffn, x))
    return x


def _norm(norm: LayerNorm2d, x: Tensor) -> Tensor:
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    x = (x - mean) / torch.sqrt(variance + norm.eps)
    return x * norm.weight[:, None, None] + norm.bias[:, None, None]


def _gdfn(ffn: GDFN, x: Tensor) -> Tensor:
    first, second = _conv(ffn.dwconv, _conv(ffn.project_in, x)).chunk(2, dim=1)
    return _conv(ffn.project_out, F.silu(first) * second)


def _klff(fuse: KLFF, current: Tensor, first: Tensor, second: Tensor) -> Tensor:
    x = _conv(fuse.conv, current)
    n1 = _conv(fuse.conv_n1, resize_nearest(first, current))
    n2 = _conv(fuse.conv_n2, resize_nearest(second, current))
    fused = kl_gate(n1, x, fuse.gate) * n1 + kl_gate(n2, x, fuse.gate) * n2
    return _conv(fuse.conv_out, torch.cat([x, fused], 1))


def _state_space(module: VSSM | SS2D, x: Tensor, scan: Scan) -> Tensor:
    return _ss2d(module, x, scan) if isinstance(module, SS2D) else _vssm(module, x, scan)


def _vssm(vssm: VSSM, x: Tensor, scan: Scan) -> Tensor:
    features, gate = _conv(vssm.dwconv, _conv(vssm.proj_in, x)).chunk(2, dim=1)
    scanner = vssm.scanner
    horizontal, vertical = _conv(scanner.conv_in, features).chunk(2, dim=1)  # (B, C/2, H, W) each
    batch, channels, height, width = horizontal.shape
    if isinstance(scanner, IntraScanner):
        rows = horizontal.permute(0, 2, 3, 1).reshape(batch * height, width, channels).contiguous()
        columns = vertical.permute(0, 3, 2, 1).reshape(batch * width, height, channels).contiguous()
        rows = _mixer(scanner.mamba, rows, scan).view(batch, height, width, channels)
        columns = _mixer(scanner.mamba, columns, scan).view(batch, width, height, channels)
        halves = [rows.permute(0, 3, 1, 2).contiguous(), columns.permute(0, 3, 2, 1).contiguous()]
    else:
        down = torch.sigmoid(_mixer(scanner.mamba, horizontal.mean(3).transpose(1, 2).contiguous(), scan))
        across = torch.sigmoid(_mixer(scanner.mamba, vertical.mean(2).transpose(1, 2).contiguous(), scan))
        halves = [horizontal * down.transpose(1, 2)[..., None], vertical * across.transpose(1, 2)[:, :, None]]
    return _conv(vssm.proj_out, _conv(scanner.conv_out, torch.cat(halves, 1)) * F.silu(gate))


def _mixer(mamba: Mamba, x: Tensor, scan: Scan) -> Tensor:
    """(rows, L, d_model) -> (rows, L, d_model)."""
    length, rank, states = x.shape[1], mamba.dt_rank, mamba.d_state
    u, z = (x @ mamba.in_proj.weight.T).transpose(1, 2).chunk(2, dim=1)  # (rows, D, L)
    u = F.silu(mamba.conv1d(u)[..., :length])
    dt, B, C = (u.transpose(1, 2) @ mamba.x_proj.weight.T).split([rank, states, states], dim=-1)
    delta = (dt @ mamba.dt_proj.weight.T).transpose(1, 2).contiguous()  # (rows, D, L)
    B, C = B.transpose(1, 2).contiguous(), C.transpose(1, 2).contiguous()  # (rows, N, L)
    A = -torch.exp(mamba.A_log)
    y = scan(u, delta, A, B, C, mamba.D, z=z, delta_bias=mamba.dt_proj.bias, delta_softplus=True)
    return y.transpose(1, 2) @ mamba.out_proj.weight.T


def _ss2d(module: SS2D, x: Tensor, scan: Scan) -> Tensor:
    features, gate = _conv(module.in_proj, x).chunk(2, dim=1)  # (B, E, H, W) each
    features = F.silu(module.conv2d(features))
    channels, height, width = features.shape[1:]
    ways = torch.stack([features.flatten(2), features.transpose(2, 3).flatten(2)], dim=1)
    u = torch.cat([ways, ways.flip(-1)], dim=1)  # (B, 4, E, L), L = H * W
    dbc = torch.einsum("bkel,kce->bkcl", u, module.x_proj_weight)
    dt, B, C = dbc.split([module.dt_rank, module.d_state, module.d_state], dim=2)
    delta = torch.einsum("bkrl,ker->bkel", dt, module.dt_projs_weight)
    u, delta = u.to(delta.dtype).flatten(1, 2), delta.flatten(1, 2).contiguous()  # (B, 4E, L)
    A, D, bias = -torch.exp(module.A_logs).flatten(0, 1), module.Ds.flatten(), module.dt_projs_bias.flatten()
    y = scan(u, delta, A, B.contiguous(), C.contiguous(), D, delta_bias=bias, delta_softplus=True)
    forwards, backwards = y.unflatten(1, (2, 2, channels)).unbind(1)  # (B, 2, E, L) each
    rows, columns = (forwards + backwards.flip(-1)).unbind(1)
    columns = columns.unflatten(2, (width, height)).transpose(2, 3).contiguous()
    y = _norm(module.out_norm, rows.unflatten(2, (height, width)) + columns)
    return _conv(module.out_proj, y * F.silu(gate))
