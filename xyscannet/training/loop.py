"""The training loop: blur made on the fly, one optimiser step at a time, a state that resumes exactly."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xyscannet import checkpoint
from xyscannet.data.photos import prefetch
from xyscannet.errors import ConfigError, XYScanError
from xyscannet.losses import DeblurLoss
from xyscannet.models import zoo
from xyscannet.training.config import TrainConfig, network_config
from xyscannet.training.deterministic import deterministic
from xyscannet.training.record import Event, RunFolder
from xyscannet.training.samples import Batch, SampleSource, SynthesisedPairs
from xyscannet.training.state import (
    STATE_VERSION,
    Ema,
    atomic_save,
    learning_rate,
    load_state,
    rng_state,
    set_rng_state,
)
from xyscannet.training.validate import ValidationSet, evaluate

logger = logging.getLogger("xyscannet.training")
STATE_NAME = "state.pt"


class DivergedError(XYScanError):
    """The loss or the gradient is no longer finite."""


class Interrupted(XYScanError):
    """The caller asked the run to stop; its state is saved."""


class Trainer:
    """One run: its network, average, optimiser, samples and folder.

    `on_event` hears of everything as plain dictionaries: {"event": "start" | "step" | "validation" | "saved"
    | "done", ...}; the same records go to `log.jsonl` in the run's folder. `should_stop` is asked after every
    step. `samples` replaces the pairs made from `config.data`.
    """

    def __init__(
        self,
        config: TrainConfig,
        output: str | Path,
        *,
        device: str | torch.device = "cpu",
        resume: bool = False,
        samples: SampleSource | None = None,
        validation: ValidationSet | None = None,
        on_event: Callable[[Event], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        command: str = "",
    ) -> None:
        self.config, self.output, self.device = config, Path(output), torch.device(device)
        self._on_event, self._should_stop = on_event, should_stop
        state = load_state(self.output / STATE_NAME) if resume else None
        if state is None and (self.output / STATE_NAME).exists():
            raise ConfigError(
                f"{self.output} holds a run already: --resume goes on with it, --output elsewhere"
            )
        torch.manual_seed(config.seed)
        self.network_config = network_config(config.model)
        if config.start_from and state is None:
            self.model = checkpoint.load_model(config.start_from).train().requires_grad_(True)
            if self.model.config != self.network_config:
                raise ConfigError(f"start_from: {config.start_from} holds a network of another configuration")
        else:
            self.model = zoo.build(self.network_config)
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.model = self.model.to(self.device, torch.float32, memory_format=layout).train()
        self.ema = Ema(self.model, config.ema_decay)
        self.optimiser = self._make_optimiser()
        self.loss = DeblurLoss(config.loss).to(self.device)
        self.step, self.elapsed, self.best = 0, 0.0, -math.inf
        if state is not None:
            self._restore(state)
        self.samples = samples if samples is not None else SynthesisedPairs(config, self.device)
        if validation is None and config.data.validation:
            validation = ValidationSet.from_folder(config.data.validation, config.validation)
        self.validation = validation
        facts = {"network": self.network_config.to_dict(), "data": self.samples.manifest()}
        self._folder = RunFolder(self.output)
        self._folder.begin(config, command=command, step=self.step, device=self.device, facts=facts)
        self._forward: Callable[[torch.Tensor], torch.Tensor] = self.model
        if config.compile:
            self._forward = torch.compile(self.model)
        self._clock_zero = time.perf_counter() - self.elapsed

    def progress(self) -> float:
        """Fraction of the run that is done: of the steps, or of the time budget where one is given."""
        if self.config.iterations is not None:
            return self.step / self.config.iterations
        assert self.config.time_budget_minutes is not None
        return self._elapsed_now() / (60 * self.config.time_budget_minutes)

    def run(self) -> dict[str, float]:
        """Train to the end; return the last validation's figures (empty without a validation set).

        Raises Interrupted once the state is saved when `should_stop` says so, DivergedError when the loss or
        the gradient is not finite (the batch is saved in `diverged.pt`, the last saved state stays).
        """
        with deterministic(self.config.deterministic):
            return self._run()

    def _run(self) -> dict[str, float]:
        config, figures = self.config, {}
        self._clock_zero = time.perf_counter() - self.elapsed
        total, done = config.iterations, self.step
        self._emit("start", parameters=sum(p.numel() for p in self.model.parameters()), total=total)
        validated = saved = None
        batches = prefetch(self._make_batch, itertools.count(self.step), depth=config.data.prefetch)
        with contextlib.closing(batches):
            while self.progress() < 1:
                begin = time.perf_counter()
                batch = next(batches)
                waited = time.perf_counter() - begin
                record = self._train_step(batch)
                seconds = time.perf_counter() - begin
                if self.step % config.log_every == 0 or self.step == done + 1:
                    crops = batch.blur.shape[0] / seconds
                    self._emit(
                        "step", **record, seconds=seconds, crops_per_s=crops, data_wait=waited / seconds
                    )
                if self.step % config.validation.every == 0:
                    figures, validated = self._validate(), self.step
                if self.step % config.save_every == 0:
                    self.save()
                    saved = self.step
                if self._should_stop():
                    self.save()
                    raise Interrupted(f"stopped at step {self.step}; --resume goes on from there")
        if self.step and validated != self.step:
            figures = self._validate()
        if saved != self.step:
            self.save()
        self._emit("done", **figures)
        return figures

    def save(self) -> None:
        """Write the state and the averaged weights."""
        self.elapsed = self._elapsed_now()
        atomic_save(
            self.output / STATE_NAME,
            {
                "version": STATE_VERSION,
                "config": self.config.model_dump(mode="json"),
                "step": self.step,
                "elapsed": self.elapsed,
                "best": self.best,
                "model": self.model.state_dict(),
                "ema": self.ema.module.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "rng": rng_state(),
            },
        )
        self._save_weights("last.safetensors")
        if self.config.keep_last:
            self._save_weights(f"step-{self.step:07d}.safetensors")
            for old in sorted(self.output.glob("step-*.safetensors"))[: -self.config.keep_last]:
                old.unlink()
        self._emit("saved", path=str(self.output / STATE_NAME))

    def _train_step(self, batch: Batch) -> dict[str, Any]:
        config = self.config
        rate = learning_rate(config.optimiser, self.step, self.progress())
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        blur, sharp = self.samples.to_device(batch, self.device)
        if config.channels_last:
            blur = blur.contiguous(memory_format=torch.channels_last)
        with self._autocast():
            restored = self._forward(blur)
        with torch.autocast(self.device.type, enabled=False):
            loss, parts = self.loss(restored.float(), sharp)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.optimiser.clip_norm or math.inf)
        loss_value, norm_value = loss.item(), norm.item()
        if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
            self._report_divergence(batch, loss_value, norm_value)
        self.optimiser.step()
        self.step += 1
        self.ema.update(self.step)
        values = {name: float(part) for name, part in parts.items()}
        return {"loss": loss_value, **values, "lr": rate, "grad_norm": norm_value}

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def _validate(self) -> dict[str, float]:
        if self.validation is None:
            return {}
        begin = time.perf_counter()
        figures = evaluate(
            self.ema.module, self.validation, device=self.device, precision=self.config.precision
        )
        is_best = figures["psnr"] > self.best
        if is_best:
            self.best = figures["psnr"]
            self._save_weights("best.safetensors", psnr=f"{self.best:.4f}")
        self._emit("validation", **figures, best=is_best, seconds=time.perf_counter() - begin)
        return figures

    def _make_optimiser(self) -> torch.optim.Optimizer:
        options = self.config.optimiser
        kind = torch.optim.AdamW if options.kind == "adamw" else torch.optim.Adam
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": options.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return kind(groups, lr=options.lr, betas=options.betas, eps=options.eps, foreach=True)

    def _restore(self, state: dict[str, Any]) -> None:
        then = TrainConfig.model_validate(state["config"])
        if network_config(then.model) != self.network_config:
            raise ConfigError(f"{self.output} was trained with another network than the configuration's")
        if then.seed != self.config.seed:
            raise ConfigError(f"{self.output} was trained with seed {then.seed}, not {self.config.seed}")
        self.model.load_state_dict(state["model"])
        self.ema.module.load_state_dict(state["ema"])
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self.optimiser.param_groups]
        self.optimiser.load_state_dict(state["optimiser"])
        for group, configured in zip(self.optimiser.param_groups, groups, strict=True):
            group.update(configured)
        self.step, self.elapsed, self.best = state["step"], state["elapsed"], state["best"]
        set_rng_state(state["rng"])

    def _report_divergence(self, batch: Batch, loss: float, norm: float) -> None:
        path = self.output / "diverged.pt"
        report = {"step": self.step, "loss": loss, "grad_norm": norm, "origin": list(batch.origin)}
        atomic_save(path, {**report, "blur": batch.blur, "sharp": batch.sharp})
        raise DivergedError(
            f"step {self.step}: the loss ({loss}) or the gradient's norm ({norm}) is not finite. Its batch is in "
            f"{path}; resume from the last saved state with a lower optimiser.lr"
        )

    def _save_weights(self, name: str, **metadata: str) -> None:
        metadata = {"step": str(self.step), "recipe": self.config.name, **metadata}
        checkpoint.save(self.output / name, self.ema.module, self.network_config, metadata=metadata)

    def _make_batch(self, step: int) -> Batch:
        torch.set_num_threads(
            1
        )  # of this background thread alone: more would fight with the training thread's
        total = self.config.iterations
        progress = self.progress() if total is None else step / total
        return self.samples.make(step, *self.config.shape_at(progress))

    def _elapsed_now(self) -> float:
        return time.perf_counter() - self._clock_zero

    def _emit(self, event: str, **values: Any) -> None:
        record = {"event": event, "step": self.step, "progress": min(self.progress(), 1.0), **values}
        self._folder.log(record)
        shown = " ".join(f"{k}={v:.5g}" if isinstance(v, float) else f"{k}={v}" for k, v in record.items())
        logger.info(shown)
        if self._on_event is not None:
            self._on_event(record)
