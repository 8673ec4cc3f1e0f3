"""What has to hold for a run to begin in a folder, or to go on from a state."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

from torch import nn

from xyscannet import checkpoint
from xyscannet.errors import ConfigError, XYScanError
from xyscannet.training.config import TrainConfig, network_config
from xyscannet.training.processes import Processes
from xyscannet.training.recipes import parse_config
from xyscannet.training.record import CONFIG, STARTS
from xyscannet.training.state import is_of, states

BEST, LAST = "best.safetensors", "last.safetensors"


def check_output(folder: Path, resume: str | Path | None) -> None:
    """Raises ConfigError where a run would write over another's files, or over a configuration that is no run's."""
    if resume is None or not is_of(resume, folder):
        if states(folder):
            raise ConfigError(
                f"{folder} holds a run already: --resume auto goes on with it, --output elsewhere"
            )
        for weights in (folder / BEST, folder / LAST):
            if weights.exists():
                raise ConfigError(
                    f"{weights} would be written over, and no state to go on from is there: --output elsewhere, or "
                    "move it away"
                )
    if (folder / CONFIG).exists() and not (folder / STARTS).exists():
        raise ConfigError(
            f"{folder / CONFIG} would be written over, and is no run's: --output elsewhere, or another name"
        )


def begun_with(state: dict[str, Any], config: TrainConfig) -> TrainConfig:
    """The configuration of the run that a state is of. Raises ConfigError where `config` cannot go on with it."""
    then = parse_config(state["config"], where="the state to resume")
    if network_config(then.model) != network_config(config.model):
        raise ConfigError("the state to resume is of another network than the configuration's")
    if then.seed != config.seed:
        raise ConfigError(f"the state to resume has seed {then.seed}, not {config.seed}")
    kinds = then.optimiser.kind, config.optimiser.kind
    if "muon" in kinds and kinds[0] != kinds[1]:
        raise ConfigError(f"the state to resume is of {kinds[0]}, whose momenta {kinds[1]} cannot take over")
    return then


def step_of_best(folder: Path) -> int | None:
    """The step of the best weights in a run's folder; None where there are none, or none that can be read."""
    try:
        return int(checkpoint.read(folder / BEST).metadata["step"])
    except (XYScanError, KeyError, ValueError):
        return None


def check_alike(processes: Processes, step: int, model: nn.Module) -> None:
    """Raises ConfigError, in every process, where they have not found the same state."""
    if processes.count == 1:
        return
    begun = processes.gather([(step, _checksum(model))])
    if len(set(begun)) > 1:
        steps = ", ".join(str(step) for step, _ in begun)
        raise ConfigError(
            f"the processes do not begin from one state (steps {steps}): put the run's folder where all of them read "
            "the same files"
        )


def _checksum(model: nn.Module) -> int:
    checksum = 0
    for value in model.state_dict().values():
        checksum = zlib.crc32(value.cpu().contiguous().numpy(), checksum)
    return checksum
