"""The steps of a block as torch.library operators, opaque to torch.compile; CPUs only, no gradients."""

from __future__ import annotations

from torch import Tensor

from xyscannet.ops.channels_last import empty
from xyscannet.ops.library import kernels, operator


@operator("feed_forward")
def feed_forward(
    x: Tensor, norm: Tensor, bias: Tensor, eps: float, project_in: Tensor, taps: Tensor, project_out: Tensor,
    residual: bool,
) -> Tensor:  # fmt: skip
    """See `xyscannet.ops.blocks.feed_forward`."""
    out = empty(x, x.shape[1])
    kernels("blocks", "cpu").feed_forward(x, norm, bias, eps, project_in, taps, project_out, residual, out)
    return out


@operator("scan_inputs")
def scan_inputs(
    x: Tensor, norm: Tensor, bias: Tensor, eps: float, proj_in: Tensor, taps: Tensor, conv_in: Tensor,
    in_proj: Tensor | None, half: int, features: bool, gate: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See `xyscannet.ops.blocks.scan_inputs`."""
    out, opened = _scan_inputs_like(x, norm, bias, eps, proj_in, taps, conv_in, in_proj, half, features, gate)
    kernels("blocks", "cpu").scan_inputs(
        x, norm, bias, eps, proj_in, taps, conv_in, in_proj, half, out, opened
    )
    return out, opened


def _scan_inputs_like(x, norm, bias, eps, proj_in, taps, conv_in, in_proj, half, features, gate):
    batch, channels, height, width = x.shape
    opened = empty(x, channels if gate else 0)
    if in_proj is None:
        return empty(x, channels if features else 0), opened
    branches = (2 if half < 0 else 1) if features else 0
    return x.new_empty((batch, height, width, branches, in_proj.shape[0])), opened


@operator("scan_outputs")
def scan_outputs(
    first: Tensor, second: Tensor | None, down: Tensor | None, across: Tensor | None, gate: Tensor,
    conv_out: Tensor, proj_out: Tensor, x: Tensor | None,
) -> Tensor:  # fmt: skip
    """See `xyscannet.ops.blocks.scan_outputs`."""
    out = empty(gate, gate.shape[1])
    kernels("blocks", "cpu").scan_outputs(first, second, down, across, gate, conv_out, proj_out, x, out)
    return out


feed_forward.register_fake(lambda x, *rest: empty(x, x.shape[1]))
scan_inputs.register_fake(_scan_inputs_like)
scan_outputs.register_fake(lambda first, second, down, across, gate, *rest: empty(gate, gate.shape[1]))
