"""Muon: steps along the nearest orthogonal matrix of the momentum, for networks made of matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_STEPS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_RMS = 0.2  # of an Adam step of the same rate
_COLOURS = 3
_TOGETHER = 32  # rows: Gram matrices are filled up with zeros to a multiple


def orthogonalise(stacks: Sequence[Tensor]) -> list[Tensor]:
    """Matrices with all their singular values brought near 1; zeros stay zeros.

    Five Newton-Schulz steps of the quintic of Jordan et al. (2024), which bring singular values above a hundredth of
    the largest into 0.6 to 1.3. The steps' polynomials commute with the Gram matrix of the shorter side: they are taken
    of it alone, and all matrices of about its size take them together.

    Args:
        stacks: of matrices of one shape each, (N, rows, columns), float32.

    Returns:
        stacks of the same shapes.
    """
    wide = [stack.mT if stack.shape[-2] > stack.shape[-1] else stack for stack in stacks]
    wide = [x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny) for x in wide]
    together: dict[int, list[int]] = {}
    for index, x in enumerate(wide):
        together.setdefault(-(-x.shape[-2] // _TOGETHER), []).append(index)
    found = list(wide)
    for blocks, indices in together.items():
        size = blocks * _TOGETHER
        grams = [wide[index] @ wide[index].mT for index in indices]
        grams = torch.cat([functional.pad(g, (0, size - g.shape[-1]) * 2) for g in grams])
        counts = [len(wide[index]) for index in indices]
        for index, factor in zip(indices, _polynomials(grams).split(counts), strict=True):
            rows = wide[index].shape[-2]
            found[index] = factor[:, :rows, :rows] @ wide[index]
    return [x.mT if stack.shape[-2] > stack.shape[-1] else x for stack, x in zip(stacks, found, strict=True)]


def _polynomials(grams: Tensor) -> Tensor:
    """What all the steps together multiply matrices by that have these Gram matrices (N, size, size)."""
    a, b, c = _COEFFICIENTS
    product = torch.eye(grams.shape[-1], device=grams.device, dtype=grams.dtype).expand_as(grams)
    for step in range(_STEPS):
        polynomial = torch.baddbmm(grams, grams, grams, beta=b, alpha=c)
        product = torch.baddbmm(product, polynomial, product, beta=a)
        if step < _STEPS - 1:
            half = torch.baddbmm(grams, polynomial, grams, beta=a)
            grams = torch.baddbmm(half, half, polynomial, beta=a)
    return product


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
        alike = [
            (group, parameters)
            for group in self.param_groups
            if group["orthogonal"]
            for parameters in _by_shape(p for p in group["params"] if p.grad is not None)
        ]
        ahead = orthogonalise([self._look_ahead(parameters, group) for group, parameters in alike])
        for (group, parameters), directions in zip(alike, ahead, strict=True):
            _move(parameters, directions, group)
        gradients = {p: p.grad for _, parameters in alike for p in parameters}
        for parameter in gradients:
            parameter.grad = None  # which AdamW passes over
        super().step()
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        return loss

    def _look_ahead(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> Tensor:
        """Nesterov's momentum of matrices of one shape (N, rows, columns), which it brings up to date."""
        momentum = group["momentum"]
        for p in parameters:
            if not self.state[p]:
                # AdamW's loading of a state wants a number of steps of every parameter
                device = p.device if group["capturable"] else None
                self.state[p].update(step=torch.zeros((), device=device), momentum_buffer=torch.zeros_like(p))
        gradients = [p.grad for p in parameters]
        buffers = [self.state[p]["momentum_buffer"] for p in parameters]
        torch._foreach_add_([self.state[p]["step"] for p in parameters], 1)
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        return torch.stack([x.flatten(1) for x in torch._foreach_lerp(gradients, buffers, momentum)])


def _move(parameters: list[nn.Parameter], directions: Tensor, group: dict[str, Any]) -> None:
    """Step along `directions` (N, rows, columns), after the group's decay."""
    rate = group["lr"]
    steps = directions * (rate * (_RMS * math.sqrt(max(directions.shape[-2:]))))
    if group["weight_decay"]:
        torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
    torch._foreach_sub_(parameters, [step.reshape(p.shape) for p, step in zip(parameters, steps)])


def _by_shape(parameters: Iterable[nn.Parameter]) -> Iterable[list[nn.Parameter]]:
    alike: dict[torch.Size, list[nn.Parameter]] = {}
    for parameter in parameters:
        alike.setdefault(parameter.shape, []).append(parameter)
    return alike.values()
