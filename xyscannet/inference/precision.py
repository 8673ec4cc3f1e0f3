"""The arithmetic of a forward: the type it runs in, and no less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.backends import cuda, cudnn


@contextmanager
def arithmetic(device_type: str, dtype: torch.dtype, tf32: bool = False) -> Iterator[None]:
    """While entered, networks in float32 run in `dtype`: by autocast, or in float32 as it is.

    On Ampere and later GPUs torch lets convolutions round float32 to TF32, whose 10 bits of mantissa cost about
    what they cost fp16; this happens here only where `tf32` asks for it (for matrix products too).
    """
    before = cudnn.allow_tf32, cuda.matmul.allow_tf32
    cudnn.allow_tf32 = cuda.matmul.allow_tf32 = tf32
    try:
        with torch.autocast(device_type, dtype=dtype, enabled=dtype != torch.float32):
            yield
    finally:
        cudnn.allow_tf32, cuda.matmul.allow_tf32 = before
