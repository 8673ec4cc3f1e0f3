"""The depth-wise convolution, plain or gated, as a torch.library operator, opaque to torch.compile."""

from __future__ import annotations

from xyscannet.ops.channels_last import empty
from xyscannet.ops.library import kernels, operator


def _output(x, gated):
    return empty(x, x.shape[1] // 2 if gated else x.shape[1])


@operator("depthwise", schema="(Tensor x, Tensor weight, bool gated, str backend) -> Tensor")
def depthwise(x, weight, gated, backend):
    """The convolution of x (B, C, H, W) with weight (C, 1, 3, 3), or `silu(first half) * second half` of it."""
    out = _output(x, gated)
    kernels("depthwise", backend).forward(x, weight, gated, out)
    return out


@depthwise.register_fake
def _(x, weight, gated, backend):
    return _output(x, gated)


def _gradients(x, weight):
    return empty(x, x.shape[1]), weight.new_empty(weight.shape)


@operator(
    "depthwise_backward",
    schema="(Tensor grad, Tensor x, Tensor weight, bool gated, str backend) -> (Tensor, Tensor)",
)
def depthwise_backward(grad, x, weight, gated, backend):
    """The gradients of x and weight of `depthwise`."""
    grads = _gradients(x, weight)
    kernels("depthwise", backend).backward(grad, x, weight, gated, grads)
    return grads


@depthwise_backward.register_fake
def _(grad, x, weight, gated, backend):
    return _gradients(x, weight)


def _setup(ctx, inputs, output):
    x, weight, ctx.gated, ctx.backend = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx, grad):
    return *depthwise_backward(grad, *ctx.saved_tensors, ctx.gated, ctx.backend), None, None


depthwise.register_autograd(_backward, setup_context=_setup)
