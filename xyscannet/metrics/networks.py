"""From 8-bit images to a network's tensors and back to a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from xyscannet.errors import InputError
from xyscannet.metrics.pixels import size

if TYPE_CHECKING:
    import torch


def tensor(image: np.ndarray, device: str) -> torch.Tensor:
    """(1, 3, H, W) float32 in [0, 1] of (H, W, 3) uint8."""
    import torch

    return torch.tensor(image, device=device).permute(2, 0, 1)[None].to(torch.float32) / 255


def on_tensors(
    name: str, network: Callable[..., torch.Tensor], device: str
) -> Callable[[np.ndarray, np.ndarray | None], float]:
    """A function of uint8 images that calls `network(restored[, sharp])` with tensors and gives its one value.

    It raises InputError where the network refuses the image, as networks do that are deeper than the image is large.
    """

    def compute(restored: np.ndarray, sharp: np.ndarray | None) -> float:
        import torch

        images = [tensor(image, device) for image in (restored, sharp) if image is not None]
        try:
            with torch.inference_mode():
                return float(network(*images).item())
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            raise InputError(f"{name} fails on an image of {size(restored)} pixels: {error}") from error

    return compute
