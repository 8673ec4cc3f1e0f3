"""The scan by the optional package mamba-ssm: an adapter to its CUDA kernel, for comparison and for those who trust it.

Its kernel wants one direction, rows and channels of contiguous steps, and sequences of one type, so that every branch
is copied. It is never chosen by itself. Importing the package may fail in any way; the reason is kept. Before its
first use on a device and in a type it is checked on a small problem against the definition.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from xyscannet.errors import UnavailableError
from xyscannet.ops.selective_scan.reference import from_rows, selective_scan_rows, to_rows

MODULE, INSTALL = (
    "mamba_ssm.ops.selective_scan_interface",
    'pip install --no-build-isolation "xyscannet[cuda]"',
)
TYPES = (torch.float32, torch.bfloat16, torch.float16)
_BOUND = {
    torch.float32: 1e-3,
    torch.bfloat16: 5e-2,
    torch.float16: 1e-2,
}  # RMS error over RMS, outputs and gradients


@cache
def kernel() -> Callable[..., Tensor]:
    """mamba-ssm's `selective_scan_fn`. Raises UnavailableError with the reason where it cannot be imported."""
    try:
        return importlib.import_module(MODULE).selective_scan_fn
    except KeyboardInterrupt:
        raise
    except BaseException as failure:  # a package built for another torch may raise anything, and exit too
        reason = f"{type(failure).__name__}: {failure}".split("\n")[0]
        raise UnavailableError(f"mamba-ssm cannot be imported ({reason}); {INSTALL}") from None


@cache
def check(device: torch.device, dtype: torch.dtype) -> None:
    """Compare output and gradients with the definition, once. Raises UnavailableError where they differ."""
    generator = torch.Generator().manual_seed(0)
    rows, length, channels, states = 2, 37, 16, 8
    with torch.device("cpu"):  # the generator's, whatever the default
        u, delta, z = torch.randn(3, rows, length, channels, generator=generator)
        B, C = torch.randn(2, rows, length, states, generator=generator)
        A = -torch.rand(channels, states, generator=generator) * 4
        D, bias = torch.randn(2, channels, generator=generator)
    given = {"u": u, "delta": delta - 2, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": bias}
    found = _answers(
        _call, {n: x.to(device, torch.float32 if n in _REAL else dtype) for n, x in given.items()}
    )
    exact = {n: x.to(dtype).double() if n not in _REAL else x.double() for n, x in given.items()}
    expected = _answers(selective_scan_rows, exact)
    for name, x in expected.items():
        error = (found[name].cpu().double() - x).square().mean().sqrt() / x.square().mean().sqrt()
        if not float(error) <= _BOUND[dtype]:
            raise UnavailableError(
                f"mamba-ssm gives wrong results on {device} in {str(dtype).removeprefix('torch.')}: {name} is off by "
                f"{float(error):.2g} of its size"
            )


_REAL = ("A", "D", "delta_bias")  # float32 whatever the sequences are


def _answers(function: Callable, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The output and the gradient of every input."""
    with torch.enable_grad():
        leaves = {name: x.detach().requires_grad_() for name, x in given.items()}
        out, _ = function(**leaves, delta_softplus=True)
        grads = torch.autograd.grad(out.double().square().sum(), list(leaves.values()))
    return {"the output": out.detach()} | {
        f"the gradient of {name}": grad for name, grad in zip(leaves, grads, strict=True)
    }


def _call(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """`selective_scan_rows` by the package."""

    def line(x: Tensor | None) -> Tensor | None:  # (rows, L, channels) -> (rows, channels, L)
        if x is None:
            return None
        x = x.to(u.dtype).transpose(1, 2)
        return (x.flip(-1) if reverse else x).contiguous()

    def real(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.float().contiguous()

    out, last = kernel()(
        *(line(u), line(delta), real(A), line(B), line(C), real(D), line(z), real(delta_bias)),
        delta_softplus=delta_softplus,
        return_last_state=True,
    )
    return (out.flip(-1) if reverse else out).transpose(1, 2), last


class _LastState(torch.autograd.Function):
    """The last states. The package's backward takes no notice of their gradient, which would be missing."""

    @staticmethod
    def forward(ctx, last: Tensor, out: Tensor) -> Tensor:
        return last.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, None]:
        raise UnavailableError(
            "mamba-ssm has no gradient through the last state: use the backend cpu, triton or reference"
        )


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    directions: Sequence[str],
) -> tuple[Tensor, Tensor]:
    """As `reference.scan`, by the package's kernel, differentiable by its own backward: through the output alone.

    Raises:
        UnavailableError: the package cannot be imported, gives wrong results, or does not take float64; in the
            backward, where a gradient comes through the last states.
    """
    if u.dtype not in TYPES:
        raise UnavailableError(f"mamba-ssm takes float32, bfloat16 and float16, not {u.dtype}")
    check(u.device, u.dtype)
    outputs, lasts = [], []
    for branch, direction in enumerate(directions):
        sequences = [to_rows(x, branch, direction) for x in (u, delta, B, C, z)]
        u_k, delta_k, B_k, C_k, z_k = sequences
        A_k, D_k, bias_k = (None if x is None else x[branch] for x in (A, D, delta_bias))
        out, last = _call(
            *(u_k, delta_k, A_k, B_k, C_k, D_k, z_k, bias_k, delta_softplus, direction.startswith("-"))
        )
        outputs.append(from_rows(out, u.shape, direction))
        lasts.append(last)
    out = torch.stack(outputs, dim=3)
    return out, _LastState.apply(torch.cat(lasts), out)
