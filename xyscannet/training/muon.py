"""Muon: steps along the nearest orthogonal matrix of the momentum, for networks made of matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

STEPS, COLOURS = 5, 3
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_RMS = 0.2  # of an Adam step of the same rate


def orthogonalise(matrices: Tensor) -> Tensor:
    """The matrices (N, rows, columns) with all their singular values brought near 1; zeros stay zeros.

    Five Newton-Schulz steps of the quintic of Jordan et al. (2024), which brings singular values above some
    thousandth of the largest into 0.7 to 1.2. float32 in and out.
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon takes a parameter: a map from many inputs to many outputs inside the network.

    Left to Adam are vectors, depth-wise kernels, the convolutions from and to the picture's colours, A's logarithms
    (a table, no map), the projection of delta, whose scale is set at the start, and SS2D's stacks.
    """
    maps = parameter.ndim in (2, 4) and min(parameter.shape[:2]) > COLOURS
    return maps and not name.endswith(("A_log", "dt_proj.weight"))


class Muon(torch.optim.Adam):
    """Muon (Jordan et al. 2024) for the groups marked `orthogonal`, Adam for the others, at one learning rate.

    A step on a matrix is lr x 0.2 x sqrt(max(rows, columns)) x the orthogonalised momentum, whose size is that of an
    Adam step (Liu et al. 2025). Convolutions count as matrices (outputs, inputs x height x width).

    Args:
        groups: as of `torch.optim.Adam`; `orthogonal` True for matrices, False where absent.
        momentum: of the matrices, with Nesterov's look ahead.
        others: of Adam, and the learning rate.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, momentum: float = 0.95, **others: Any) -> None:
        groups = [{"orthogonal": False, "momentum": momentum, **group} for group in groups]
        super().__init__(groups, **others)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step; what `closure` returns, where one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = {}
        for group in self.param_groups:
            if group["orthogonal"]:
                for alike in _by_shape(p for p in group["params"] if p.grad is not None):
                    self._step_matrices(alike, group)
                    gradients.update({p: p.grad for p in alike})
        for parameter in gradients:
            parameter.grad = None  # which Adam passes over
        super().step()
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        return loss

    def _step_matrices(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        rows, columns = parameters[0].shape[0], parameters[0][0].numel()
        momentum, rate = group["momentum"], group["lr"]
        ahead = []
        for p in parameters:
            state = self.state[p]
            if not state:
                # Adam's loading of a state wants a number of steps of every parameter
                state["step"], state["momentum_buffer"] = torch.zeros(()), torch.zeros_like(p)
            state["step"] += 1
            buffer = state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
            ahead.append(p.grad.lerp(buffer, momentum).reshape(rows, columns))
        size = rate * _RMS * math.sqrt(max(rows, columns))
        for p, update in zip(parameters, orthogonalise(torch.stack(ahead))):
            p.mul_(1 - rate * group["weight_decay"]).sub_(update.reshape(p.shape), alpha=size)


def _by_shape(parameters: Iterable[nn.Parameter]) -> Iterable[list[nn.Parameter]]:
    alike: dict[torch.Size, list[nn.Parameter]] = {}
    for parameter in parameters:
        alike.setdefault(parameter.shape, []).append(parameter)
    return alike.values()
