"""One step of training: gradients of the loss, clipping, the optimiser and the average, on the training device."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from xyscannet.ops.hardware import bf16_is_fast
from xyscannet.training import parts
from xyscannet.training.config import TrainConfig
from xyscannet.training.graphs import GraphedStep
from xyscannet.training.processes import Processes
from xyscannet.training.state import Ema

logger = logging.getLogger("xyscannet.training")


class Update:
    """Steps of a network on pairs (B, 3, H, W), one after the other.

    Args:
        model: in float32 on the training device; trained in place.
        undisturbed: held while a CUDA graph is captured, so that no other thread launches anything.

    Attributes:
        ema: the averaged network.
        precision: "fp32" or "bf16".

    Raises what making the loss raises.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        processes: Processes,
        undisturbed: contextlib.AbstractContextManager[Any],
    ) -> None:
        self._config, self._model, self._processes = config, model, processes
        self._device = processes.device
        self.precision = _precision(config.precision, self._device)
        captures = self._captures()
        self.ema = Ema(model, config.ema_decay)
        self.optimiser = parts.make_optimiser(config.optimiser, model, captured=captures)
        self._loss = parts.make_loss(config.loss, self._device)
        self._distributed = processes.prepare(model)
        self._forward: Callable[[Tensor], Tensor] = (
            torch.compile(self._distributed) if config.compile else self._distributed
        )
        self._graphed = GraphedStep(
            self._compute,
            lambda: self.optimiser.zero_grad(set_to_none=True),
            capture=captures,
            undisturbed=undisturbed,
        )

    def __call__(self, blur: Tensor, sharp: Tensor, rate: float, number: int) -> dict[str, float]:
        """Step `number` (from 1): the loss, its terms and the gradient's norm, means over all processes.

        Where they are not finite, network and average are lost.
        """
        parts.set_rate(self.optimiser, rate)
        values = self._graphed(blur, sharp)
        means = self._processes.mean(torch.stack(list(values.values())))
        self.ema.update(number)
        return dict(zip(values, means.tolist()))  # waits for the device, to which the whole step has gone

    @property
    def is_captured(self) -> bool:
        """Whether steps come from a CUDA graph."""
        return bool(self._graphed.captured)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """What the network's forward runs under."""
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def _captures(self) -> bool:
        """Whether steps may come from a CUDA graph: of one process on a GPU, in one part."""
        config = self._config
        suits = config.accumulate == 1 and not config.compile and self._processes.count == 1
        return config.cuda_graphs and suits and self._device.type == "cuda"

    def _compute(self, blur: Tensor, sharp: Tensor) -> dict[str, Tensor]:
        """The gradients and the optimiser's step; figures, which nothing has waited for."""
        values = self._gradients(blur, sharp)
        norm = nn.utils.clip_grad_norm_(
            self._model.parameters(), self._config.optimiser.clip_norm or math.inf
        )
        self.optimiser.step()
        return {**values, "grad_norm": norm.detach()}

    def _gradients(self, blur: Tensor, sharp: Tensor) -> dict[str, Tensor]:
        """Gradients of the mean loss over the crops, part by part; the loss and its terms."""
        values: dict[str, Tensor] = {}
        size = sharp.shape[0] // self._config.accumulate
        pieces = list(zip(blur.split(size), sharp.split(size)))
        for number, (blurred, target) in enumerate(pieces, start=1):
            waiting = (
                contextlib.nullcontext()
                if number == len(pieces)
                else self._processes.no_sync(self._distributed)
            )
            with waiting:
                blurred = blurred.contiguous(memory_format=torch.channels_last)
                with self.autocast():
                    restored = self._forward(blurred)
                with torch.autocast(self._device.type, enabled=False):
                    loss, terms = self._loss(restored.float(), target, blurred)
                (loss / len(pieces)).backward()
            for name, value in {"loss": loss.detach(), **terms}.items():
                values[name] = values.get(name, 0) + value / len(pieces)
        return values


def _precision(asked: str, device: torch.device) -> str:
    """ "fp32" or "bf16": what was asked for, or for "auto" the faster one."""
    fast = bf16_is_fast(device)
    if asked == "bf16" and not fast:
        logger.warning("bf16 is asked for, which the %s here computes much slower than fp32", device.type)
    return asked if asked != "auto" else "bf16" if fast else "fp32"
