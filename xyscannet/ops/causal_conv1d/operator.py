"""The causal depth-wise convolution as a torch.library operator, opaque to torch.compile."""

from __future__ import annotations

from xyscannet.ops.library import kernels, operator
from xyscannet.ops.selective_scan.operator import empty_image


@operator(
    "conv1d",
    schema="(Tensor x, Tensor weight, Tensor? bias, bool silu, str directions, str backend, bool channels_first)"
    " -> Tensor",
)
def conv1d(x, weight, bias, silu, directions, backend, channels_first):
    """Causal convolution of K branches. x (B, H, W, K, E), weight (E, width), bias (E,)."""
    out = empty_image(x, channels_first)
    kernels("causal_conv1d", backend).forward(x, weight, bias, silu, directions.split(","), out)
    return out


@conv1d.register_fake
def _(x, weight, bias, silu, directions, backend, channels_first):
    return empty_image(x, channels_first)


def _gradients(x, weight, bias, channels_first):
    d_bias = x.new_empty(0) if bias is None else bias.new_empty(bias.shape)
    return empty_image(x, channels_first), weight.new_empty(weight.shape), d_bias


@operator(
    "conv1d_backward",
    schema="(Tensor grad_out, Tensor x, Tensor weight, Tensor? bias, bool silu, str directions, str backend, "
    "bool channels_first) -> (Tensor, Tensor, Tensor)",
)
def conv1d_backward(grad_out, x, weight, bias, silu, directions, backend, channels_first):
    """The gradients of x, weight and bias of `conv1d`."""
    dx, d_weight, d_bias = _gradients(x, weight, bias, channels_first)
    grads = (dx, d_weight, None if bias is None else d_bias)
    kernels("causal_conv1d", backend).backward(grad_out, x, weight, bias, silu, directions.split(","), grads)
    return dx, d_weight, d_bias


@conv1d_backward.register_fake
def _(grad_out, x, weight, bias, silu, directions, backend, channels_first):
    return _gradients(x, weight, bias, channels_first)


def _setup(ctx, inputs, output):
    x, weight, bias, *settings = inputs
    ctx.save_for_backward(x, weight, bias)
    ctx.settings = settings


def _backward(ctx, grad_out):
    x, weight, bias = ctx.saved_tensors
    dx, d_weight, d_bias = conv1d_backward(grad_out, x, weight, bias, *ctx.settings)
    return (dx, d_weight, None if bias is None else d_bias, *[None] * 4)


conv1d.register_autograd(_backward, setup_context=_setup)
