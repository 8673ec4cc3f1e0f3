"""What is said and kept of a step whose loss or gradient is not finite."""

from __future__ import annotations

import math
from pathlib import Path

from xyscannet.errors import InputError, XYScanError
from xyscannet.training.feed import Ready
from xyscannet.training.state import save_state


class DivergedError(XYScanError):
    """The loss or the gradient is no longer finite."""


def has_diverged(found: dict[str, float]) -> bool:
    """Whether a step's figures tell so."""
    return not (math.isfinite(found["loss"]) and math.isfinite(found["grad_norm"]))


def diverged(folder: Path, rank: int, step: int, ready: Ready, found: dict[str, float]) -> DivergedError:
    """What to raise after `step` steps; the next one's batch and figures are in the folder by then, if they fit there.

    Each of several processes keeps its part of the batch in a file of its own.
    """
    file = folder / (f"diverged-{rank}.pt" if rank else "diverged.pt")
    origins = ready.batch.origins
    batch = {"blur": ready.blur.cpu(), "sharp": ready.sharp.cpu()}
    try:
        save_state(file, {"step": step, **found, "origin": origins, **batch})
        kept = f"Its batch and file names are in {file}"
    except InputError as error:
        kept = f"Its batch is of {', '.join(origins)}, and could not be saved ({error})"
    return DivergedError(
        f"step {step}: the loss ({found['loss']}) or the gradient's norm ({found['grad_norm']}) is not finite. {kept}; "
        "resume from the last saved state with a lower optimiser.lr"
    )
