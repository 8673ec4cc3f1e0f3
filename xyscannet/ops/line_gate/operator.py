"""The gates of rows and columns as a torch.library operator, opaque to torch.compile."""

from __future__ import annotations

from torch import Tensor

from xyscannet.ops.channels_last import empty
from xyscannet.ops.library import kernels, operator


@operator("line_gate")
def line_gate(x: Tensor, down: Tensor, across: Tensor, backend: str) -> Tensor:
    """x (B, C, H, W), down (B, H, C/2), across (B, W, C/2) -> (B, C, H, W), channels-last."""
    out = empty(x, x.shape[1])
    kernels("line_gate", backend).forward(x, down, across, out)
    return out


@operator("line_gate_backward")
def line_gate_backward(
    grad: Tensor, x: Tensor, down: Tensor, across: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, down and across."""
    grads = _gradients(x, down, across)
    kernels("line_gate", backend).backward(grad, x, down, across, grads)
    return grads


def _gradients(x: Tensor, down: Tensor, across: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return empty(x, x.shape[1]), down.new_empty(down.shape), across.new_empty(across.shape)


line_gate.register_fake(lambda x, down, across, backend: empty(x, x.shape[1]))
line_gate_backward.register_fake(lambda grad, x, down, across, backend: _gradients(x, down, across))


def _save(ctx, inputs, output) -> None:
    *maps, ctx.backend = inputs
    ctx.save_for_backward(*maps)


def _gradient(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    return *line_gate_backward(grad, *ctx.saved_tensors, ctx.backend), None


line_gate.register_autograd(_gradient, setup_context=_save)
