"""What the machine's devices are good at."""

from __future__ import annotations

from pathlib import Path

import torch

_WITHOUT_FLOAT64 = {"mps"}


def bf16_is_fast(device: torch.device | str) -> bool:
    """Whether a device multiplies bfloat16 faster than float32.

    These are GPUs of compute capability 8.0 and above, and CPUs with AVX-512 BF16 or AMX: xyscannet-s at 256 x 256
    on one core with AVX-512 BF16 took 0.33 s in bf16 and 0.69 s in fp32. Other CPUs compute bfloat16 convolutions
    one number at a time: a training step of xyscannet-s took eleven times its time in fp32 on one with AVX2 alone.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and not _cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16"})


def widest(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has nothing wider, as Apple's GPUs."""
    return torch.float32 if device.type in _WITHOUT_FLOAT64 else torch.float64


def _cpu_flags() -> set[str]:
    """What Linux says the processor can do; nothing on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line.split(":")[1].split() for line in lines if line.startswith("flags")), ()))
