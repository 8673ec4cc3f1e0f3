"""The middle of Mamba's mixer: convolution, projections and scan; for inference in one walk over the image, or two."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xyscannet.ops.backends import active_backend
from xyscannet.ops.channels_last import infers_here
from xyscannet.ops.library import kernels, operator
from xyscannet.ops.mixer import reference
from xyscannet.ops.selective_scan import check_directions

__all__ = ["mamba_mixer"]

MOST_TAPS, MOST_RANK = 4, 8  # of the fused kernels: what a lane keeps in registers
_TYPES = (torch.float32, torch.bfloat16, torch.float16)


@operator(
    "mixer",
    schema="(Tensor xz, Tensor conv_weight, Tensor conv_bias, Tensor x_proj, Tensor dt_weight, Tensor dt_bias, "
    "Tensor A, Tensor D, str directions, str backend) -> Tensor",
)
def _mixer(xz, conv_weight, conv_bias, x_proj, dt_weight, dt_bias, A, D, directions, backend):
    """The fused forward; no gradient."""
    out = xz.new_empty((*xz.shape[:4], xz.shape[4] // 2))
    weights = (conv_weight, conv_bias, x_proj, dt_weight, dt_bias, A, D)
    kernels("mixer", backend).forward(xz, *weights, directions.split(","), out)
    return out


_mixer.register_fake(lambda xz, *rest: xz.new_empty((*xz.shape[:4], xz.shape[4] // 2)))


def mamba_mixer(
    xz: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_proj: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    directions: Sequence[str],
) -> Tensor:
    """u, z = halves of xz; u = silu(conv1d(u)); delta, B, C = projections of u; scan(u, delta, A, B, C, D) silu(z).

    xz: (B, H, W, K, 2E); conv_weight (E, taps), conv_bias (E,); x_proj (dt_rank + 2N, E); dt_weight (E, dt_rank),
    dt_bias (E,); A (E, N); D (E,). Branch k runs along directions[k] ("x", "-x", "y", "-y"). Returns (B, H, W, K, E)
    in xz's type. Differentiable in every input. Raises ValueError where the shapes or directions do not fit.

    Without gradients a CPU takes float32 in one walk, a tile of steps at a time: nothing but xz and the result goes
    through memory. A GPU takes two kernels: one convolves and projects to delta's rank, B and C; the other walks the
    rows, convolves again in registers, expands delta and scans. Neither the convolved u nor delta goes through memory,
    37 % less of it than operator by operator (C = 48). Few long rows, which are better cut in parts on a GPU, and
    everything else run operator by operator.
    """
    weights = (conv_weight, conv_bias, x_proj, dt_weight, dt_bias, A, D)
    ways = check_directions(directions, xz.shape[3])
    _check(xz, weights)
    backend = active_backend(xz.device.type)
    if _fused(backend, xz, weights, directions):
        return _mixer(xz, *weights, ways, backend)
    return reference.mixer(xz, *weights, directions)


def _check(xz: Tensor, weights: Sequence[Tensor]) -> None:
    """The kernels read plain addresses: what does not fit must not reach them."""
    channels, states, rank = xz.shape[4] // 2, weights[5].shape[1], weights[3].shape[1]
    expected = [(channels, weights[0].shape[1]), (channels,), (rank + 2 * states, channels), (channels, rank)]
    expected += [(channels,), (channels, states), (channels,)]
    if xz.shape[4:] != (2 * channels,) or [tuple(w.shape) for w in weights] != expected:
        found = ", ".join(str(tuple(x.shape)) for x in (xz, *weights))
        raise ValueError(f"shapes {found} do not fit each other")


def _fused(backend: str, xz: Tensor, weights: Sequence[Tensor], directions: Sequence[str]) -> bool:
    if backend == "cpu":
        return infers_here(xz, *weights) and weights[5].shape[1] % 4 == 0  # states that are scanned together
    if backend != "triton" or xz.dtype not in _TYPES:
        return False
    if torch.is_grad_enabled() and any(x.requires_grad for x in (xz, *weights)):
        return False
    if weights[0].shape[1] > MOST_TAPS or weights[3].shape[1] > MOST_RANK:
        return False
    from xyscannet.ops.selective_scan.triton import cut

    return cut((*xz.shape[:4], xz.shape[4] // 2), directions)[0] == 1
