"""The processes of a run: one, or those that `accelerate launch` or torchrun started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from xyscannet.errors import ConfigError, UnavailableError, XYScanError
from xyscannet.training.config import TrainConfig

T = TypeVar("T")


class Processes:
    """This process among those that train together, by Hugging Face accelerate.

    Args:
        device: where to train; of several processes on GPUs, each takes the one of its local rank.

    Raises UnavailableError where the package accelerate is not installed, ConfigError where its launcher was asked
    for several processes and started one.
    """

    def __init__(self, device: str | torch.device) -> None:
        if _launched_alone():
            raise ConfigError(
                "accelerate launch --cpu starts several processes through mpirun alone (--mpirun_hostfile) and has "
                "started one here; start them with torchrun --nproc_per_node N -m xyscan_cli train ... --device cpu"
            )
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise UnavailableError(
                "training needs accelerate: pip install 'xyscannet[train]' (or pip install accelerate)"
            ) from error
        device = torch.device(device)
        # Accelerate keeps one device for the whole program: alone, which it is does not matter here.
        cpu = device.type == "cpu" and _launched()
        self._accelerator = Accelerator(cpu=cpu, mixed_precision="no", device_placement=False)
        self.count, self.rank = self._accelerator.num_processes, self._accelerator.process_index
        self.device = self._accelerator.device if self.count > 1 else device
        self.main = self._accelerator.is_main_process

    def check(self, config: TrainConfig) -> None:
        """Raises ConfigError where steps do not divide among the processes and their parts, or clocks would have to."""
        parts = self.count * config.accumulate
        for _, batch in config.shapes:
            if batch % parts:
                raise ConfigError(
                    f"a batch of {batch} does not divide into {self.count} processes with accumulate="
                    f"{config.accumulate}; change data.batch, the stages or accumulate"
                )
        if self.count > 1 and config.iterations is None:
            raise ConfigError(
                "a time budget is for one process, since clocks differ: give iterations and time_budget_minutes=null"
            )

    def part(self, batch: int) -> range:
        """The items of a batch that this process works on."""
        size = batch // self.count
        return range(self.rank * size, (self.rank + 1) * size)

    def prepare(self, model: nn.Module) -> nn.Module:
        """The network whose gradients are averaged over the processes; itself where there is one."""
        return self._accelerator.prepare_model(model, device_placement=False) if self.count > 1 else model

    def no_sync(self, model: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """While entered, gradients are added up without being averaged."""
        return self._accelerator.no_sync(model) if self.count > 1 else contextlib.nullcontext()

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean of values (K,) over the processes."""
        return self._accelerator.reduce(values, "mean") if self.count > 1 else values

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        if self.count == 1:
            return flag
        return bool(self._accelerator.reduce(torch.tensor(float(flag), device=self.device), "sum") > 0)

    def gather(self, items: list[Any]) -> list[Any]:
        """The lists of all processes, one after the other."""
        if self.count == 1:
            return items
        from accelerate.utils import gather_object

        return gather_object(items)

    def agree(self, work: Callable[[], T]) -> T:
        """What `work` gives; where it raises an XYScanError in any process, all raise that, and none waits for it."""
        try:
            result, failure = work(), None
        except XYScanError as error:
            result, failure = None, error
        if self.any(failure is not None):
            first, *_ = self.gather([failure] if failure else [])
            raise failure or first
        return result

    def end(self) -> None:
        """Leave the other processes; nothing can be trained here afterwards."""
        if self.count > 1:
            self._accelerator.end_training()


def _launched() -> bool:
    """Whether a launcher started this process as one of several, or of one."""
    return any(
        name in os.environ
        for name in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    )


def _launched_alone() -> bool:
    """Whether accelerate's launcher gave an address to meet other processes at, and started none."""
    environment = os.environ
    met = "MASTER_ADDR" in environment and environment.get("ACCELERATE_USE_CPU", "").lower() == "true"
    return met and not _launched()
