"""Layer normalisation of pixels as a torch.library operator, opaque to torch.compile."""

from __future__ import annotations

from torch import Tensor

from xyscannet.ops.channels_last import backend_of, empty
from xyscannet.ops.library import kernels, operator


@operator("layer_norm")
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, backend: str) -> Tensor:
    """x (B, C, H, W), weight and bias (C,) -> (B, C, H, W), channels-last."""
    out = empty(x, x.shape[1])
    kernels("norm", backend_of(backend, x)).forward(x, weight, bias, eps, out)
    return out


def _gradients(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return empty(x, x.shape[1]), weight.new_empty(weight.shape), weight.new_empty(weight.shape)


@operator("layer_norm_backward")
def layer_norm_backward(
    x: Tensor, weight: Tensor, grad: Tensor, eps: float, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias of `layer_norm`."""
    grads = _gradients(x, weight)
    kernels("norm", backend_of(backend, x, grad)).backward(x, weight, grad, eps, grads)
    return grads


layer_norm.register_fake(lambda x, weight, bias, eps, backend: empty(x, x.shape[1]))
layer_norm_backward.register_fake(lambda x, weight, grad, eps, backend: _gradients(x, weight))


def _save(ctx, inputs, output) -> None:
    x, weight, _, ctx.eps, ctx.backend = inputs
    ctx.save_for_backward(x, weight)


def _gradient(ctx, grad: Tensor) -> tuple:
    x, weight = ctx.saved_tensors
    return *layer_norm_backward(x, weight, grad, ctx.eps, ctx.backend), None, None


layer_norm.register_autograd(_gradient, setup_context=_save)
