"""The causal depth-wise convolution on the CPU: describes torch tensors to the compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from xyscannet.ops.arguments import real_type
from xyscannet.ops.causal_conv1d import cpu_kernels as kernels
from xyscannet.ops.layout import Layout, readable


def _layout(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, directions: Sequence[str]) -> Layout:
    branches = len(directions)
    layout = Layout(x.shape, directions, kernels.TENSORS, weight.shape[1], silu)
    layout.image(kernels.X, x)
    layout.parameter(kernels.WEIGHT, weight.expand(branches, -1, -1))
    layout.parameter(kernels.BIAS, None if bias is None else bias.expand(branches, -1))
    return layout


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, directions: Sequence[str], out: Tensor
) -> None:
    """Fill `out` (B, H, W, K, E)."""
    if not x.numel():
        return
    x, weight, bias, target = readable(real_type(x), x, weight, bias, out)
    layout = _layout(x, weight, bias, silu, directions)
    layout.image(kernels.OUT, target)
    layout.run(kernels.conv_forward, real_type(x))
    if target is not out:
        out.copy_(target)


def backward(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    directions: Sequence[str],
    grads: tuple[Tensor, Tensor, Tensor | None],
) -> None:
    """Fill `grads`, the gradients of x, weight and bias."""
    dx, d_weight, d_bias = grads
    if not x.numel():
        d_weight.zero_()
        if d_bias is not None:
            d_bias.zero_()
        return
    grad_out, x, weight, bias, target = readable(real_type(x), grad_out, x, weight, bias, dx)
    layout = _layout(x, weight, bias, silu, directions)
    layout.image(kernels.DOUT, grad_out)
    layout.image(kernels.DX, target)
    partial = layout.sums(kernels.PARTIAL, layout.inner + 1, real_type(x))
    layout.run(kernels.conv_backward, real_type(x))
    if target is not dx:
        dx.copy_(target)
    sums = layout.add_up(partial, x.shape[4]).sum(0)  # (taps + 1, E)
    d_weight.copy_(sums[:-1].t())
    if d_bias is not None:
        d_bias.copy_(sums[-1])
