"""How compiled CPU kernels see a feature map: rows of pixels, each a run of channels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float64: 2}  # as in xyscannet.ops.simd, which needs numba


def kernels_read(*tensors: Tensor) -> bool:
    """Whether the compiled kernels can read all of these tensors: float64 with no other type."""
    double = [t.dtype == torch.float64 for t in tensors]
    return any(double) == all(double) and all(t.device.type == "cpu" and t.dtype in CODES for t in tensors)


def infers_here(x: Tensor, *weights: Tensor) -> bool:
    """Whether kernels that take several steps at once take these: float32 on a CPU, and nobody wants a gradient.

    Neither does who counts or watches the single steps, on tensors of a kind of its own.
    """
    if type(x) is not Tensor and not torch.compiler.is_compiling():
        return False
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *weights)):
        return False
    single = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (x, *weights))
    return single and not torch.is_autocast_enabled("cpu")


def backend_of(backend: str, *maps: Tensor) -> str:
    """The backend that computes on these maps: the definition where the CPU's kernels do not read one of them."""
    return "reference" if backend == "cpu" and not kernels_read(*maps) else backend


def empty(like: Tensor, channels: int) -> Tensor:
    """An uninitialised (B, channels, H, W) map in channels-last memory; batch, size and type of `like`."""
    batch, _, height, width = like.shape
    return like.new_empty((batch, height, width, channels)).permute(0, 3, 1, 2)


def together(x: Tensor) -> Tensor:
    """x (B, C, H, W) with its channels next to each other; copied only where they are not."""
    if x.stride(1) == 1 or x.shape[1] == 1:
        return x
    return x.contiguous(memory_format=torch.channels_last)


def rows(x: Tensor) -> Tensor:
    """x (B, C, H, W) as (B*H*W, C) rows of unit channel stride; copied only where memory is not channels-last."""
    x = x.permute(0, 2, 3, 1)
    if x.stride(3) != 1 and x.shape[3] > 1:
        x = x.contiguous()
    return x.flatten(0, 2)


def describe(pixels: Tensor) -> tuple[int, int, int]:
    """(address, element code, bytes from pixel to pixel) of what `rows` returns."""
    return pixels.data_ptr(), CODES[pixels.dtype], pixels.stride(0) * pixels.element_size()


def real_type(x: Tensor) -> np.dtype:
    """The type kernels compute in: float64 for float64, float32 for everything else."""
    return np.dtype(np.float64 if x.dtype == torch.float64 else np.float32)
