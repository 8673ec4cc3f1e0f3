"""KLFF's two gates and the weighted sum of what they gate, in one pass over channels-last memory."""

from __future__ import annotations

from torch import Tensor

from xyscannet.ops.backends import own_backend
from xyscannet.ops.channels_last import kernels_read
from xyscannet.ops.kl_gate import reference
from xyscannet.ops.kl_gate.operator import kl_gated_sum as _kl_gated_sum

__all__ = ["kl_gated_sum"]


def kl_gated_sum(current: Tensor, first: Tensor, second: Tensor, gate: str = "element") -> Tensor:
    """`g1 * first + g2 * second` with the gates of `reference.kl_gate`: (B, C, H, W), channels-last.

    Args:
        current: (B, C, H, W), any strides.
        first: (B, C, h, w), resized to H x W by nearest neighbour as it is read.
        second: the same with a size of its own.
        gate: "element", a gate for every element, or "mean", one for every image.

    The kernels compute in float32 (float64 for float64) whatever the type of `current`, which the result has too.

    Raises:
        ValueError: batch or channels differ, or the gate is unknown.
    """
    if gate not in ("element", "mean"):
        raise ValueError(f"gate '{gate}' is unknown; known are 'element' and 'mean'")
    for other in (first, second):
        if current.dim() != 4 or other.dim() != 4 or other.shape[:2] != current.shape[:2]:
            raise ValueError(f"{tuple(other.shape)} cannot be gated by {tuple(current.shape)}")
    backend = own_backend(current.device.type)
    first, second = first.to(current.dtype), second.to(current.dtype)
    if backend == "reference" or (backend == "cpu" and not kernels_read(current)):
        return reference.kl_gated_sum(current, first, second, gate)
    first, second = _divisor(first, current), _divisor(second, current)
    return _kl_gated_sum(current, first, second, gate == "mean", backend)[0]


def _divisor(x: Tensor, like: Tensor) -> Tensor:
    """x, resized here unless its height and width divide those of `like`."""
    fits = all(size and whole % size == 0 for size, whole in zip(x.shape[2:], like.shape[2:], strict=True))
    return x if fits else reference.resize_nearest(x, like)
