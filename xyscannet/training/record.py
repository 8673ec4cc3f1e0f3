"""The folder of a run: its configuration, what it ran on, and its log."""

from __future__ import annotations

import json
import logging
import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import xyscannet
from xyscannet.errors import ConfigError, InputError
from xyscannet.files import write_text
from xyscannet.training.board import Board
from xyscannet.training.config import TrainConfig

_logger = logging.getLogger("xyscannet.training")
Event = dict[str, Any]
CONFIG, STARTS = "config.yaml", "run.json"


class RunFolder:
    """Writes `config.yaml` (resolved), `run.json` (one entry for every start of the run) and `log.jsonl`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder / "log.jsonl"
        self._warned, self._cut_off = False, False

    def begin(
        self,
        config: TrainConfig,
        *,
        command: str,
        step: int,
        device: torch.device,
        processes: int = 1,
        facts: dict[str, Any],
    ) -> None:
        """Describe a run that starts (`step` 0) or goes on; log records after `step` are forgotten.

        Raises ConfigError where the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            starts = json.loads((self.folder / STARTS).read_text(encoding="utf-8")) if step else []
        except FileNotFoundError:
            starts = []
        except (OSError, ValueError) as error:
            raise ConfigError(f"the run's folder {self.folder} cannot be used: {error}") from error
        entry = {
            "command": command,
            "step": step,
            "seed": config.seed,
            "versions": {
                "xyscannet": xyscannet.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
            },
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "config": config.model_dump(mode="json"),
            "processes": processes,
            "threads": torch.get_num_threads(),
            **facts,
        }
        starts = [*(starts if isinstance(starts, list) else [starts]), entry]
        try:
            write_text(self.folder / STARTS, json.dumps(starts, indent=2, ensure_ascii=False) + "\n")
            write_text(self.folder / CONFIG, config.to_yaml())
            kept = self._log.read_text(encoding="utf-8").splitlines() if step and self._log.exists() else []
            write_text(self._log, "".join(line + "\n" for line in kept if _step_of(line) <= step))
        except (OSError, InputError) as error:
            raise ConfigError(f"the run's folder cannot be used: {error}") from error

    def log(self, record: Event) -> None:
        """Append a record to the log. Training goes on without it, after one warning, where the disk is full."""
        try:
            with self._log.open("a", encoding="utf-8") as file:
                file.write("\n" * self._cut_off + json.dumps(_portable(record), allow_nan=False) + "\n")
            self._cut_off = False
        except OSError as error:
            self._cut_off = True
            if not self._warned:
                _logger.warning("the log %s cannot be written: %s; training goes on", self._log, error)
            self._warned = True


class Report:
    """Tells what happens: to Python's log and `on_event`, and once it is open to the run's log and TensorBoard.

    Training goes on without TensorBoard, after one warning, where the disk is full; `board` is None then.
    """

    def __init__(self, folder: Path, on_event: Callable[[Event], None] | None = None) -> None:
        self._on_event = on_event
        self._folder, self._is_open = RunFolder(folder), False
        self.board: Board | None = None

    def open(self, config: TrainConfig, *, step: int, **start: Any) -> None:
        """Begin, or go on, in the folder. Raises as `RunFolder.begin` and `Board` do."""
        self._folder.begin(config, step=step, **start)
        self._is_open = True
        if config.tensorboard:
            self.board = Board(self._folder.folder, step)

    def tell(self, record: Event) -> None:
        if self._is_open:
            self._folder.log(record)
        self._write(lambda board: board.add(record))
        _logger.info(
            " ".join(f"{k}={v:.5g}" if isinstance(v, float) else f"{k}={v}" for k, v in record.items())
        )
        if self._on_event is not None:
            self._on_event(record)

    def show(self, examples: dict[str, Tensor], step: int) -> None:
        """Show restored images in TensorBoard."""
        self._write(lambda board: board.add_images(examples, step))

    def close(self) -> None:
        """Write what TensorBoard has still in memory."""
        self._write(Board.close)

    def _write(self, what: Callable[[Board], None]) -> None:
        try:
            if self.board is not None:
                what(self.board)
        except OSError as error:
            self.board = None
            _logger.warning("TensorBoard's files cannot be written: %s; training goes on without", error)


def _portable(record: Event) -> Event:
    """Numbers that JSON lacks, as text."""
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf
