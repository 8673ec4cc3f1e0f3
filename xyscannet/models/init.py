"""Random weights other than those that the layers draw, for training in a short time."""

from __future__ import annotations

from torch import nn

BRANCH = 0.5
"""Size of what a residual branch adds to its block at the start, relative to its own scale."""
_IMAGE = 4.0  # undoes the picture's standard deviation of about a quarter
_KEPT = ("x_proj", "dt_proj", "output")
_ENDS = ("project_out", "proj_out")


def lecun_normal_(model: nn.Module) -> nn.Module:
    """Draw the maps of an XYScanNet anew so that signals keep their size through them; in place, returned.

    torch's start (He et al. 2015 with a = sqrt(5)) makes every map's output sqrt(3) times smaller than its input. An
    Intra-Scanner lies behind eight maps and three products: at the lowest level its branch starts at some thousandths
    of the residual stream, and hardly grows while the rest learns. Here weights are normal with a variance of
    1 / inputs (LeCun et al. 1998), those at the end of a branch `BRANCH` times as large. The projections of delta, B
    and C, the fusions, the norms and the last convolution, which is zero, stay as they are.
    """
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear) or name.startswith("fusion"):
            continue
        last = name.rpartition(".")[2]
        if last in _KEPT:
            continue
        gain = BRANCH if last in _ENDS else _IMAGE if last == "patch_embed" else 1.0
        nn.init.normal_(module.weight, std=gain / module.weight[0].numel() ** 0.5)
    return model
