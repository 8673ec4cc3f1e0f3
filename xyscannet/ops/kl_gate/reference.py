"""The definition of KLFF's gates and of their weighted sum, in plain torch; any device and type."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_nearest(x: Tensor, like: Tensor) -> Tensor:
    """x (B, C, h, w) at the height and width of `like`, by nearest neighbour."""
    if x.shape[2:] == like.shape[2:]:
        return x
    return F.interpolate(x, size=like.shape[2:], mode="nearest")


def kl_divergence(other: Tensor, current: Tensor) -> Tensor:
    """KL(other, current) of every element, see `kl_gate`."""
    return torch.sigmoid(current) * (F.logsigmoid(current) - F.logsigmoid(other))


def kl_gate(other: Tensor, current: Tensor, gate: str) -> Tensor:
    """sigmoid(KL(other, current)) with KL = p (log p - log q), p = sigmoid(current), q = sigmoid(other) (Eq. 6).

    Both (B, C, H, W). `gate="element"` gives an attention value for each element; `gate="mean"` averages the
    divergence over each image first and gives (B, 1, 1, 1).
    """
    divergence = kl_divergence(other, current)
    if gate == "mean":
        divergence = divergence.mean(dim=(1, 2, 3), keepdim=True)
    return torch.sigmoid(divergence)


def kl_gated_sum(current: Tensor, first: Tensor, second: Tensor, gate: str) -> Tensor:
    """`g1 * first + g2 * second`, both resized to `current` (B, C, H, W), with the gates of `kl_gate`."""
    first, second = resize_nearest(first, current), resize_nearest(second, current)
    return kl_gate(first, current, gate) * first + kl_gate(second, current, gate) * second
