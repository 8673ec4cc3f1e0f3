"""The network as it is usually written down in PyTorch, for comparison: the baseline of the benchmarks.

Channels-first memory, a LayerNorm spelled out in elementary operations, a transposing copy before every scan, both
branches one after the other, and a scan that materialises exp(delta A) and delta B u for all positions and then walks
the sequence in a Python loop. It computes what `XYScanNet` computes, from the same parameters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xyscannet.models.fusion import KLFF, kl_gate, resize_nearest
from xyscannet.models.layers import GDFN, LayerNorm2d
from xyscannet.models.mamba import Mamba
from xyscannet.models.scanners import IntraScanner
from xyscannet.models.vssm import VSSM
from xyscannet.models.xyscannet import DecoderBlock, XYScanNet, pad_to_multiple


def eager_forward(network: XYScanNet, x: Tensor) -> Tensor:
    """What `network(x)` returns, (B, 3, H, W), computed the plain way. One direction and KLFF only.

    Raises:
        ValueError: the network is bidirectional or fused otherwise.
    """
    config = network.config
    if config.bidirectional or config.fusion != "klff":
        raise ValueError("the plain formulation covers uni-directional networks with KLFF")
    image = pad_to_multiple(x, config.size_multiple)
    e1 = _blocks(network.encoder_level1, network.patch_embed(image - 0.5))
    e2 = _blocks(network.encoder_level2, network.down1_2.conv(_resize(e1, 0.5)))
    e3 = _blocks(network.encoder_level3, network.down2_3.conv(_resize(e2, 0.5)))
    skip1, skip2 = _klff(network.fusion_level1, e1, e2, e3), _klff(network.fusion_level2, e2, e1, e3)
    y = network.up3_2.conv(_resize(_blocks(network.decoder_level3, e3), 2.0))
    y = _blocks(network.decoder_level2, network.reduce_level2(y, skip2))
    y = network.up2_1.conv(_resize(y, 2.0))
    y = _blocks(network.decoder_level1, network.reduce_level1(y, skip1))
    return (image + network.output(y))[:, :, : x.shape[2], : x.shape[3]]


def _resize(x: Tensor, factor: float) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def _blocks(level: nn.Sequential, x: Tensor) -> Tensor:
    x = x.contiguous()
    for block in level:
        if isinstance(block, DecoderBlock):
            x = x + _vssm(block.vssm1, _norm(block.norm1_ssm, x))
            x = x + _gdfn(block.ffn1, _norm(block.norm1_ffn, x))
            x = x + _vssm(block.vssm2, _norm(block.norm2_ssm, x))
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
    first, second = ffn.dwconv(ffn.project_in(x)).chunk(2, dim=1)
    return ffn.project_out(F.silu(first) * second)


def _klff(fuse: KLFF, current: Tensor, first: Tensor, second: Tensor) -> Tensor:
    x = fuse.conv(current)
    n1 = fuse.conv_n1(resize_nearest(first, current))
    n2 = fuse.conv_n2(resize_nearest(second, current))
    fused = kl_gate(n1, x, fuse.gate) * n1 + kl_gate(n2, x, fuse.gate) * n2
    return fuse.conv_out(torch.cat([x, fused], 1))


def _vssm(vssm: VSSM, x: Tensor) -> Tensor:
    features, gate = vssm.dwconv(vssm.proj_in(x)).chunk(2, dim=1)
    scanner = vssm.scanner
    horizontal, vertical = scanner.conv_in(features).chunk(2, dim=1)  # (B, C/2, H, W) each
    batch, channels, height, width = horizontal.shape
    if isinstance(scanner, IntraScanner):
        rows = horizontal.permute(0, 2, 3, 1).reshape(batch * height, width, channels).contiguous()
        columns = vertical.permute(0, 3, 2, 1).reshape(batch * width, height, channels).contiguous()
        rows = _mixer(scanner.mamba, rows).view(batch, height, width, channels)
        columns = _mixer(scanner.mamba, columns).view(batch, width, height, channels)
        halves = [rows.permute(0, 3, 1, 2).contiguous(), columns.permute(0, 3, 2, 1).contiguous()]
    else:
        down = torch.sigmoid(_mixer(scanner.mamba, horizontal.mean(3).transpose(1, 2).contiguous()))
        across = torch.sigmoid(_mixer(scanner.mamba, vertical.mean(2).transpose(1, 2).contiguous()))
        halves = [horizontal * down.transpose(1, 2)[..., None], vertical * across.transpose(1, 2)[:, :, None]]
    return vssm.proj_out(scanner.conv_out(torch.cat(halves, 1)) * F.silu(gate))


def _mixer(mamba: Mamba, x: Tensor) -> Tensor:
    """(rows, L, d_model) -> (rows, L, d_model)."""
    length = x.shape[1]
    u, z = (x @ mamba.in_proj.weight.T).transpose(1, 2).chunk(2, dim=1)  # (rows, D, L)
    u = F.silu(mamba.conv1d(u)[..., :length])
    rank, states = mamba.dt_rank, mamba.d_state
    dt, B, C = (u.transpose(1, 2) @ mamba.x_proj.weight.T).split([rank, states, states], dim=-1)
    delta = F.softplus(mamba.dt_proj(dt)).transpose(1, 2).contiguous()  # (rows, D, L)
    A = -torch.exp(mamba.A_log)
    decay = torch.exp(torch.einsum("rdl,dn->rdln", delta, A))
    drive = torch.einsum("rdl,rln,rdl->rdln", delta, B, u)
    h, steps = u.new_zeros(u.shape[0], u.shape[1], states), []
    for t in range(length):
        h = decay[:, :, t] * h + drive[:, :, t]
        steps.append(torch.einsum("rdn,rn->rd", h, C[:, t]))
    y = torch.stack(steps, 2) + u * mamba.D[:, None]
    return (y * F.silu(z)).transpose(1, 2) @ mamba.out_proj.weight.T
