"""The course of a training run: its loss and its validation PSNR."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xyscannet.errors import ConfigError
from xyscannet.reports.figures import canvas


def curves(
    path: Path | str | Sequence[Path | str], records: Sequence[Mapping[str, Any]], *, name: str = "run"
) -> str:
    """Draw loss and validation PSNR over the steps, to one file or several, and return the caption.

    Args:
        records: those of a run's `log.jsonl`; "step" records hold step and loss, "validation" records step, psnr
            and psnr_blur.

    Raises:
        ConfigError: no step among the records; another suffix.
        UnavailableError: matplotlib is not installed.
        InputError: the file cannot be written.
    """
    paths = canvas.check_paths(path)
    steps = [each for each in records if each["event"] == "step" and math.isfinite(each["loss"])]
    validations = [each for each in records if each["event"] == "validation"]
    if not steps:
        raise ConfigError("no training step is on record")
    at, losses = np.array([(each["step"], each["loss"]) for each in steps], float).T
    with canvas.page(6.9, 2.5) as figure:
        left, right = figure.subplots(1, 2)
        figure.subplots_adjust(0.09, 0.18, 0.98, 0.92, wspace=0.28)
        left.plot(at, losses, color="0.75", linewidth=0.6, label="each logged step")
        left.plot(at, _smoothed(losses), color="black", linewidth=1.2, label="running mean")
        left.set_yscale("log")
        canvas.logarithmic(left.yaxis)
        left.set_xlabel("step")
        left.set_ylabel("loss")
        left.legend(frameon=False, fontsize=7)
        right.set_xlabel("step")
        right.locator_params(axis="x", nbins=6)
        right.set_ylabel("PSNR (dB)")
        if validations:
            where = [each["step"] for each in validations]
            blurred, restored = ([each[key] for each in validations] for key in ("psnr_blur", "psnr"))
            right.plot(where, restored, "o-", color="black", markersize=3, linewidth=1.2, label="restored")
            right.plot(where, blurred, "--", color="0.5", linewidth=1, label="blurred")
            right.legend(frameon=False, fontsize=7)
        else:
            right.text(0.5, 0.5, "not validated", transform=right.transAxes, ha="center", color="0.5")
        canvas.save(figure, paths)
    told = f"{name}: loss over {int(at[-1])} steps, of each logged step and its running mean"
    if validations:
        best = max(validations, key=lambda each: each["psnr"])
        told += f"; validation PSNR, best {best['psnr']:.2f} dB at step {best['step']}"
    return told + "."


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Mean over a tenth of the values up to each."""
    window = max(1, len(values) // 10)
    sums = np.cumsum(np.concatenate(([0.0], values)))
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(ends - window, 0)
    return (sums[ends] - sums[begins]) / (ends - begins)
