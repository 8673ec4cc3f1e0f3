"""The silu gate as torch.library operators, opaque to torch.compile."""

from __future__ import annotations

from torch import Tensor

from xyscannet.ops.channels_last import backend_of, empty
from xyscannet.ops.library import kernels, operator


def _forward(out: Tensor, gate: Tensor, value: Tensor, backend: str) -> Tensor:
    kernels("gate", backend_of(backend, gate, value, out)).forward(gate, value, out)
    return out


def _backward(both: Tensor, gate: Tensor, value: Tensor, grad: Tensor, backend: str) -> Tensor:
    """Fills `both` (B, 2C, H, W) with the gradients of gate and of value."""
    kernels("gate", backend_of(backend, gate, value, grad, both)).backward(
        gate, value, grad, both.chunk(2, dim=1)
    )
    return both


@operator("silu_gate")
def silu_gate(x: Tensor, backend: str) -> Tensor:
    """x (B, 2C, H, W), gate and value one after the other -> (B, C, H, W), channels-last."""
    return _forward(empty(x, x.shape[1] // 2), *x.chunk(2, dim=1), backend)


@operator("silu_gate_backward")
def silu_gate_backward(x: Tensor, grad: Tensor, backend: str) -> Tensor:
    """The gradient of x of `silu_gate`."""
    return _backward(empty(x, x.shape[1]), *x.chunk(2, dim=1), grad, backend)


@operator("silu_mul")
def silu_mul(gate: Tensor, value: Tensor, backend: str) -> Tensor:
    """gate and value (B, C, H, W) -> (B, C, H, W), channels-last."""
    return _forward(empty(value, value.shape[1]), gate, value, backend)


@operator("silu_mul_backward")
def silu_mul_backward(gate: Tensor, value: Tensor, grad: Tensor, backend: str) -> Tensor:
    """The gradients of gate and value of `silu_mul`, in the type of value: (B, 2C, H, W)."""
    return _backward(empty(value, 2 * value.shape[1]), gate, value, grad, backend)


silu_gate.register_fake(lambda x, backend: empty(x, x.shape[1] // 2))
silu_gate_backward.register_fake(lambda x, grad, backend: empty(x, x.shape[1]))
silu_mul.register_fake(lambda gate, value, backend: empty(value, value.shape[1]))
silu_mul_backward.register_fake(lambda gate, value, grad, backend: empty(value, 2 * value.shape[1]))


def _save(ctx, inputs, output) -> None:
    *maps, ctx.backend = inputs
    ctx.save_for_backward(*maps)


def _gate_gradient(ctx, grad: Tensor) -> tuple[Tensor, None]:
    return silu_gate_backward(*ctx.saved_tensors, grad, ctx.backend), None


def _mul_gradient(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    gate, value = ctx.saved_tensors
    dgate, dvalue = silu_mul_backward(gate, value, grad, ctx.backend).chunk(2, dim=1)
    return dgate.to(gate.dtype), dvalue, None


silu_gate.register_autograd(_gate_gradient, setup_context=_save)
silu_mul.register_autograd(_mul_gradient, setup_context=_save)
