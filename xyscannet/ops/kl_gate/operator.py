"""The gated sum as a torch.library operator, opaque to torch.compile."""

from __future__ import annotations

import torch

from xyscannet.ops.arguments import real_type
from xyscannet.ops.channels_last import empty
from xyscannet.ops.library import kernels, operator


def _outputs(current, mean):
    gates = current.new_empty((current.shape[0] if mean else 0, 2), dtype=real_type(current))
    return empty(current, current.shape[1]), gates


@operator(
    "kl_gated_sum",
    schema="(Tensor current, Tensor first, Tensor second, bool mean, str backend) -> (Tensor, Tensor)",
)
def kl_gated_sum(current, first, second, mean, backend):
    """The weighted sum (B, C, H, W), and with `mean` the gates of every image (B, 2), which the gradient needs.

    first and second (B, C, h, w) with h and w divisors of H and W.
    """
    out, gates = _outputs(current, mean)
    kernels("kl_gate", backend).forward(current, first, second, out, gates if mean else None)
    return out, gates


@kl_gated_sum.register_fake
def _(current, first, second, mean, backend):
    return _outputs(current, mean)


def _gradients(current):
    return tuple(empty(current, current.shape[1]) for _ in range(3))


@operator(
    "kl_gated_sum_backward",
    schema="(Tensor grad, Tensor gates, Tensor current, Tensor first, Tensor second, bool mean, str backend)"
    " -> (Tensor, Tensor, Tensor)",
)
def kl_gated_sum_backward(grad, gates, current, first, second, mean, backend):
    """The gradients of current, and of first and second as they are after resizing: (B, C, H, W) each."""
    grads = _gradients(current)
    kernels("kl_gate", backend).backward(grad, current, first, second, gates if mean else None, grads)
    return grads


@kl_gated_sum_backward.register_fake
def _(grad, gates, current, first, second, mean, backend):
    return _gradients(current)


def _setup(ctx, inputs, output):
    *maps, ctx.mean, ctx.backend = inputs
    ctx.save_for_backward(output[1], *maps)


def _gather(grad, small):
    """The gradient of a map before its resizing: the sum over the pixels that read the same one."""
    if grad.shape == small.shape:
        return grad
    size = grad.shape[2:], small.shape
    return torch.ops.aten.upsample_nearest2d_backward(grad, *size)


def _backward(ctx, grad, _):
    gates, current, first, second = ctx.saved_tensors
    grads = kl_gated_sum_backward(grad, gates, current, first, second, ctx.mean, ctx.backend)
    return grads[0], _gather(grads[1], first), _gather(grads[2], second), None, None


kl_gated_sum.register_autograd(_backward, setup_context=_setup)
