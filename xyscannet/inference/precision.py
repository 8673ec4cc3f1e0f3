"""The arithmetic of a forward: the type it runs in, and no less."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.backends import cuda, cudnn


@contextmanager
def arithmetic(device_type: str, dtype: torch.dtype, tf32: bool = False) -> Iterator[None]:
    """While entered, networks in float32 run in `dtype`: by autocast, or in float32 as it is.

    On Ampere and later GPUs torch lets convolutions round float32 to TF32, whose 10 bits of mantissa cost about
    what they cost fp16; this happens here only where `tf32` asks for it (for matrix products too). That is a setting
    of the process: where several threads have entered, the last to leave puts back what the first has found.
    """
    with (
        _rounding(tf32) if device_type == "cuda" else nullcontext(),
        torch.autocast(device_type, dtype=dtype, enabled=dtype != torch.float32),
    ):
        yield


class _Entered:
    """How many have entered, and torch's settings before the first."""

    lock, count = threading.Lock(), 0
    before: tuple[tuple[object, str, object], ...] = ()


@contextmanager
def _rounding(tf32: bool) -> Iterator[None]:
    with _Entered.lock:
        if not _Entered.count:
            _Entered.before = float32_settings()
        _Entered.count += 1
        for place, name, value in _Entered.before:
            setattr(place, name, tf32 if isinstance(value, bool) else "tf32" if tf32 else "ieee")
    try:
        yield
    finally:
        with _Entered.lock:
            _Entered.count -= 1
            if not _Entered.count:
                for place, name, value in _Entered.before:
                    setattr(place, name, value)


def float32_settings() -> tuple[tuple[object, str, object], ...]:
    """Torch's settings for float32 in convolutions and in products: where, by which name, what.

    Since torch 2.9 each operation has a text, too; who has set one of these can no longer read the old settings.
    """
    try:
        return (cudnn, "allow_tf32", cudnn.allow_tf32), (cuda.matmul, "allow_tf32", cuda.matmul.allow_tf32)
    except RuntimeError:
        name = "fp32_precision"
        return tuple((place, name, getattr(place, name)) for place in (cudnn.conv, cuda.matmul))
