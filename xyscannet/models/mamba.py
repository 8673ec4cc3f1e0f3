"""The S6 mixer of Mamba (Gu and Dao, 2023) over the rows and columns of feature maps."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xyscannet.models.plain import does_what_its_weights_say, plain
from xyscannet.ops.arguments import real_type
from xyscannet.ops.convolution import linear_channels_last
from xyscannet.ops.mixer import mamba_mixer
from xyscannet.ops.mixer.reference import scan_inputs

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 0.1, 1e-4
SCAN_PARAMETERS = ("A_log", "D", "dt_proj.bias", "A_logs", "Ds", "dt_projs_bias")
"""How the names end of what a scan has in float32 at least, here and in `ss2d`: A, D and delta's bias."""


@torch.no_grad()
def init_scan(A_log: Tensor, dt_weight: Tensor, dt_bias: Tensor) -> None:
    """Initial values of a selective scan's parameters, in place.

    A is -1, -2, ... in every channel; softplus(dt_bias) is log-uniform in [DT_MIN, DT_MAX]; dt_weight (..., dt_rank),
    the map from rank to channels, keeps the variance.
    """
    A_log.copy_(torch.arange(1.0, A_log.shape[-1] + 1).log())
    bound = dt_weight.shape[-1] ** -0.5
    nn.init.uniform_(dt_weight, -bound, bound)
    low, high = math.log(DT_MIN), math.log(DT_MAX)
    delta = torch.exp(torch.rand_like(dt_bias) * (high - low) + low).clamp_(min=DT_FLOOR)
    dt_bias.copy_(delta + torch.log(-torch.expm1(-delta)))  # inverse of softplus


def real(x: Tensor) -> Tensor:
    """In the type that the scan computes in: float32, or float64 where it is that."""
    return x.to(real_type(x))


@plain
class Projection(nn.Linear):
    """A linear map without bias over the last dimension: (..., C) -> (..., O)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear_channels_last(x, self.weight)


@plain
class Mamba(nn.Module):
    """Selective state space mixer; parameter names and shapes as in the package mamba-ssm.

    Input and output (B, H, W, K, d_model): K branches of one feature map. Branch k is a set of independent
    sequences along `directions[k]`: "x" takes every row from left to right, "y" every column from the top,
    "-x" and "-y" the other way round. One set of weights serves all branches.

    conv1d, x_proj and dt_proj are computed together with the scan, from their weights alone. Parametrised ones
    (`torch.nn.utils.parametrize`) are fine; with hooks, or replaced by other modules, they raise TypeError.

    Args:
        d_model: channels of a branch.
        d_state, d_conv, expand: states a channel, taps of the causal convolution, inner over outer width.
    """

    def __init__(self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        d_inner = expand * d_model
        self.dt_rank = math.ceil(d_model / 16)
        self.d_state = d_state
        self.in_proj = Projection(d_model, 2 * d_inner)
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.ones(d_inner, d_state))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.out_proj = Projection(d_inner, d_model)
        if not self.A_log.is_meta:  # where only shapes are asked for, this would import torch._dynamo (2 s)
            init_scan(self.A_log, self.dt_proj.weight, self.dt_proj.bias)

    def forward(self, x: Tensor, directions: tuple[str, ...]) -> Tensor:
        return self.project_out(self.inner(x, directions))

    def project_out(self, y: Tensor) -> Tensor:
        """(B, H, W, K, E) -> (B, H, W, K, d_model)."""
        return self.out_proj(y)

    def inner(self, x: Tensor, directions: tuple[str, ...]) -> Tensor:
        """Everything before out_proj: (B, H, W, K, d_model) -> (B, H, W, K, E)."""
        return self.scan(self.in_proj(x), directions)

    def scan(self, xz: Tensor, directions: tuple[str, ...]) -> Tensor:
        """What lies between in_proj and out_proj: (B, H, W, K, 2E) -> (B, H, W, K, E)."""
        if not all(map(does_what_its_weights_say, (self.conv1d, self.x_proj, self.dt_proj))):
            raise TypeError(
                "a Mamba mixer's conv1d, x_proj and dt_proj are computed in one kernel, from their weights: hooks and "
                "modules that replace them would take no part. Use torch.nn.utils.parametrize, or merge them into the "
                "weights"
            )
        taps, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        A = -torch.exp(real(self.A_log))  # (E, N)
        projections = self.x_proj.weight, self.dt_proj.weight, self.dt_proj.bias
        return mamba_mixer(xz, taps, bias, *projections, A, self.D, directions)

    def steps(self, x: Tensor, directions: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """How the state moves at each step of a forward with these arguments, to be looked at.

        Returns delta (B, H, W, K, E), after bias and softplus, and A (E, N), float32 (float64 for float64).
        exp(delta A) is the part of the state that outlives a step, delta B u what the step adds to it.
        """
        u = self.in_proj(x).chunk(2, dim=-1)[0]  # (B, H, W, K, E)
        taps, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        projections = self.x_proj.weight, self.dt_proj.weight
        delta = scan_inputs(u, taps, bias, *projections, self.d_state, directions)[1]
        return F.softplus(real(delta) + self.dt_proj.bias), -torch.exp(real(self.A_log))
