"""Muon: steps along the nearest orthogonal matrix of the momentum, for networks made of matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_STEPS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_RMS = 0.2  # of an Adam step of the same rate
_COLOURS = 3


def orthogonalise(matrices: Tensor) -> Tensor:
    """The matrices (N, rows, columns) with all their singular values brought near 1; zeros stay zeros.

    Five Newton-Schulz steps of the quintic of Jordan et al. (2024), which bring singular values above a hundredth of
    the largest into 0.6 to 1.3. float32 in and out.
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    for _ in range(_STEPS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon takes a parameter: a map from many inputs to many outputs inside the network.

    Left to Adam are vectors, depth-wise kernels, the convolutions from and to the picture's colours, A's logarithms
    (a table, no map), the projection of delta, whose scale is set at the start, and SS2D's stacks.
    """
    maps = parameter.ndim in (2, 4) and min(parameter.shape[:2]) > _COLOURS
    return maps and not name.endswith(("A_log", "dt_proj.weight"))


class Muon(torch.optim.AdamW):
    """Muon (Jordan et al. 2024) for the groups marked `orthogonal`, AdamW for the others, at one learning rate.

    A step on a matrix is lr x 0.2 x sqrt(max(rows, columns)) x the orthogonalised momentum, of about the size of an
    Adam step in the middle of training (Liu et al. 2025). Convolutions are matrices (outputs, inputs x height x
    width).

    Args:
        groups: as of `torch.optim.AdamW`; `orthogonal` True for matrices, False where absent.
        momentum: of the matrices, with Nesterov's look ahead.
        weight_decay: of all groups that name none, decoupled.
        others: of AdamW, and the learning rate; with `capturable` a CUDA graph can hold the step, as with AdamW's.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        **others: Any,
    ) -> None:
        groups = [{"orthogonal": False, "momentum": momentum, **group} for group in groups]
        super().__init__(groups, weight_decay=weight_decay, **others)

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
            parameter.grad = None  # which AdamW passes over
        super().step()
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        return loss

    def _step_matrices(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        rows, columns = parameters[0].shape[0], parameters[0][0].numel()
        momentum, rate = group["momentum"], group["lr"]
        for p in parameters:
            if not self.state[p]:
                # AdamW's loading of a state wants a number of steps of every parameter
                device = p.device if group["capturable"] else None
                self.state[p].update(step=torch.zeros((), device=device), momentum_buffer=torch.zeros_like(p))
        gradients = [p.grad for p in parameters]
        buffers = [self.state[p]["momentum_buffer"] for p in parameters]
        torch._foreach_add_([self.state[p]["step"] for p in parameters], 1)
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        ahead = torch.stack(
            [x.reshape(rows, columns) for x in torch._foreach_lerp(gradients, buffers, momentum)]
        )
        factor = rate * (_RMS * math.sqrt(max(rows, columns)))
        updates = [each.reshape(p.shape) for p, each in zip(parameters, orthogonalise(ahead) * factor)]
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
        torch._foreach_sub_(parameters, updates)


def _by_shape(parameters: Iterable[nn.Parameter]) -> Iterable[list[nn.Parameter]]:
    alike: dict[torch.Size, list[nn.Parameter]] = {}
    for parameter in parameters:
        alike.setdefault(parameter.shape, []).append(parameter)
    return alike.values()
