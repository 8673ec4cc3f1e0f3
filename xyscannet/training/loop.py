"""The training loop: one optimiser step at a time on any number of processes, with a state that resumes exactly."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from xyscannet import checkpoint
from xyscannet.errors import ConfigError, InputError, XYScanError
from xyscannet.files import held
from xyscannet.metrics.distortion import scikit_image
from xyscannet.training import parts
from xyscannet.training.board import centre, summary_writer
from xyscannet.training.config import TrainConfig, changes, network_config, validates_alike
from xyscannet.training.deterministic import deterministic
from xyscannet.training.diverging import DivergedError, diverged, has_diverged
from xyscannet.training.feed import Feed, Ready, rates, rendered_together
from xyscannet.training.processes import Processes
from xyscannet.training.record import Event, Report
from xyscannet.training.resuming import BEST, LAST, begun_with, check_alike, check_output, step_of_best
from xyscannet.training.samples import Batch, SampleSource, source_of
from xyscannet.training.state import (
    STATE_VERSION,
    Kept,
    find_state,
    learning_rate,
    rng_state,
    save_state,
    set_rng_state,
    state_path,
    states,
)
from xyscannet.training.update import Update
from xyscannet.training.validate import Validation, evaluate_together, validation_of

SHOWN = 4
"""Validation images that TensorBoard shows."""


class Interrupted(XYScanError):
    """The caller asked the run to stop; its state is saved."""


class Trainer:
    """One run: its network, average, optimiser, samples and folder.

    `on_event` hears of everything as plain dictionaries: {"event": "start" | "step" | "validation" | "saved" |
    "not saved" | "done", ...}; the same records go to `log.jsonl` in the run's folder. `should_stop` is asked after
    every step. `samples` replaces the pairs made from `config.data`. Where accelerate or torchrun started several
    processes, each takes its part of every step; the main one writes and speaks.

    Args:
        resume: "auto" goes on with the run in `output` if there is one; a folder or a state's file, with that.

    Raises ConfigError for a configuration that cannot run here, and what the data and weights raise.
    """

    def __init__(
        self,
        config: TrainConfig,
        output: str | Path,
        *,
        device: str | torch.device = "cpu",
        resume: str | Path | None = None,
        samples: SampleSource | None = None,
        validation: Validation | None = None,
        on_event: Callable[[Event], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        command: str = "",
    ) -> None:
        self.config, self.output, self._command = config, Path(output), command
        self.processes = Processes(device)
        self.device = self.processes.device
        self.processes.check(config)
        self._should_stop = should_stop
        self._states = states(self.output)  # before one of them is read: what comes later is another run's
        state = None if resume is None else find_state(resume, self.output)
        check_output(self.output, resume)
        if config.tensorboard and self.processes.main:
            summary_writer()  # not to miss it when all is loaded
        torch.manual_seed(config.seed)
        self.network_config = network_config(config.model)
        model, weights = parts.make_model(config, self.network_config, start=state is None)
        self._weights = weights if state is None else None
        self._saved: int | None = None  # the step of the last state
        self.model = model.to(self.device, torch.float32, memory_format=torch.channels_last).train()
        device_use = threading.Lock()
        self.update = Update(config, self.model, self.processes, device_use)
        self.ema, self.optimiser = self.update.ema, self.update.optimiser
        self.step, self.elapsed, self.best = 0, 0.0, -math.inf
        self._best_step: int | None = None
        self._changed: list[str] = []  # settings that differ from those of the run that is resumed
        if state is not None:
            self._restore(state)
        self._tried = self.step  # the step at which a state was there, or was to be saved, last
        check_alike(self.processes, self.step, self.model)
        self.samples = samples if samples is not None else source_of(config, self.device)
        self.validation = validation if validation is not None else validation_of(config)
        if self.validation is not None:
            scikit_image()  # which measures SSIM: not to miss it at the first validation
        renders = self.device.type == "cuda" and bool(config.data.photos)
        self.feed = Feed(
            self.make_batch,
            self.samples,
            self.device,
            depth=max(config.data.prefetch, config.data.workers),
            threads=config.data.workers,
            together=rendered_together(config.shapes, self.processes.count) if renders else 1,
            device_use=device_use,
        )
        self._report = Report(self.output, on_event)
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
        with deterministic(self.config.deterministic), contextlib.ExitStack() as stack:
            stack.callback(self.processes.end)
            if self.processes.main:
                self._open(stack)
            try:
                return self._run()
            except (DivergedError, Interrupted):
                raise
            except XYScanError:  # a file that is damaged, say: the steps before it are not lost
                if self._tried != self.step:
                    self.save()
                raise

    def _open(self, stack: contextlib.ExitStack) -> None:
        """Prepare the run's folder, which no other run may write to meanwhile."""
        stack.enter_context(held(self.output))
        if states(self.output) != self._states:
            raise ConfigError(f"the run in {self.output} has gone on meanwhile: give the same command again")
        facts = {
            "network": self.network_config.to_dict(),
            "precision": self.update.precision,
            "data": self.samples.manifest(),
        }
        self._report.open(
            self.config,
            command=self._command,
            step=self.step,
            device=self.device,
            processes=self.processes.count,
            facts=facts,
        )
        stack.callback(self._report.close)
        self._kept = Kept(self.output, self.step)

    def _run(self) -> dict[str, float]:
        config, figures = self.config, {}
        self._clock_zero = time.perf_counter() - self.elapsed
        total, done = config.iterations, self.step
        parameters = sum(p.numel() for p in self.model.parameters())
        self._emit("start", parameters=parameters, total=total, weights=self._weights, changed=self._changed)
        validated, stage = None, config.stage_at(self.progress())
        with contextlib.closing(self.feed.from_step(self.step)) as batches:
            while self.progress() < 1:
                begin = time.perf_counter()
                batch = self.processes.agree(lambda: next(batches))
                waited = time.perf_counter() - begin
                record = self.train_step(batch)
                seconds = time.perf_counter() - begin
                if self.step % config.log_every == 0 or self.step == done + 1:
                    speed = rates(record["crops"], seconds, waited, batch.seconds, config.data.workers)
                    self._emit("step", **record, **speed)
                ended, stage = stage, config.stage_at(self.progress())
                if stage != ended:  # before any state, from which these weights cannot be made
                    self._keep_weights(f"stage-{ended + 1}.safetensors")
                if self.step % config.validation.every == 0:
                    figures, validated = self._validate(), self.step
                if self.step % config.save_every == 0:
                    self.save()
                if self.processes.any(self._should_stop()):
                    self.save(required=True)
                    raise Interrupted(f"stopped at step {self.step}; --resume auto goes on from there")
        if self.step and validated != self.step:
            figures = self._validate()
        if self._saved != self.step:
            self.save(required=True)
        if config.stages:
            self._keep_weights(f"stage-{len(config.stages)}.safetensors")
        self._emit("done", **figures)
        return figures

    def save(self, *, required: bool = False) -> None:
        """Write the state and the averaged weights.

        Where the disk is full, the last saved state stays and training goes on, told by the event "not saved";
        with `required` it is an InputError.
        """
        self.elapsed, self._tried = self._elapsed_now(), self.step
        if not self.processes.main:
            return
        path = state_path(self.output, self.step)
        try:
            self._save_weights(LAST)  # first, as it is the smaller
            save_state(path, self._state())
            if self.config.keep_last:
                self._save_weights(f"step-{self.step:07d}.safetensors")
        except InputError as error:
            if required:
                raise
            self._emit("not saved", reason=str(error))
            return
        self._saved = self.step
        self._kept.prune(self.step, self.config.keep_states, self.config.keep_last)
        self._emit("saved", path=str(path))

    def train_step(self, ready: Ready) -> dict[str, Any]:
        """One optimiser step on this process's part of a batch; the figures are means over all processes.

        Raises DivergedError where loss or gradient are not finite; the network and its average are lost then.
        Raises ConfigError where memory runs out.
        """
        rate = learning_rate(self.config.optimiser, self.step, self.progress())
        ready.arrive()
        try:
            found = self.update(ready.blur, ready.sharp, rate, self.step + 1)
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"memory ran out in a step of {len(ready.sharp)} crops of {ready.sharp.shape[-1]} pixels: raise "
                "accumulate, or take fewer or smaller ones (data.batch, data.patch, stages)"
            ) from error
        if has_diverged(found):
            error = diverged(self.output, self.processes.rank, self.step, ready, found)
            self._emit("diverged", **found, origin=ready.batch.origins)
            raise error
        self.step += 1
        return {**found, "lr": rate, "crops": ready.sharp.shape[0] * self.processes.count}

    def make_batch(self, step: int) -> Batch:
        """This process's part of a step's batch."""
        total = self.config.iterations
        patch, batch = self.config.shape_at(self.progress() if total is None else step / total)
        return self.samples.make(step, patch, batch, self.processes.part(batch))

    def _validate(self) -> dict[str, float]:
        if self.validation is None:
            return {}
        begin, examples = time.perf_counter(), {}

        def keep(name: str, *images: torch.Tensor) -> None:
            if len(examples) < SHOWN:
                examples[name] = torch.cat([centre(image) for image in images], 2)

        figures = evaluate_together(
            self.ema.module,
            self.validation,
            self.processes,
            precision=self.update.precision,
            keep=keep if self._report.board else None,
        ).figures()
        is_best = figures["psnr"] > self.best and self._keep_weights(BEST, psnr=f"{figures['psnr']:.4f}")
        if is_best:
            self.best, self._best_step = figures["psnr"], self.step
        self._emit("validation", **figures, best=is_best, seconds=time.perf_counter() - begin)
        self._report.show(examples, self.step)
        return figures

    def _state(self) -> dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "config": self.config.model_dump(mode="json"),
            "step": self.step,
            "elapsed": self.elapsed,
            "best": self.best,
            "best_step": self._best_step,
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": rng_state(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        then = begun_with(state, self.config)
        self._changed = changes(then, self.config)
        self.model.load_state_dict(state["model"])
        self.ema.module.load_state_dict(state["ema"])
        held, own = state["optimiser"], self.optimiser.state_dict()
        self.optimiser.load_state_dict({**held, "param_groups": own["param_groups"]})
        self.step, self.elapsed = state["step"], state["elapsed"]
        kept = step_of_best(self.output)
        # figures of other images do not compare
        if validates_alike(then, self.config) and state.get("best_step", kept) == kept:
            self.best, self._best_step = state["best"], kept
        set_rng_state(state["rng"])

    def _keep_weights(self, name: str, **metadata: str) -> bool:
        """`_save_weights`; where that is impossible, training goes on, told by the event "not saved"."""
        try:
            self._save_weights(name, **metadata)
        except InputError as error:
            self._emit("not saved", reason=str(error))
            return False
        return True

    def _save_weights(self, name: str, **metadata: str) -> None:
        if self.processes.main:
            metadata = {"step": str(self.step), "recipe": self.config.name, **metadata}
            checkpoint.save(self.output / name, self.ema.module, self.network_config, metadata=metadata)

    def _elapsed_now(self) -> float:
        return time.perf_counter() - self._clock_zero

    def _emit(self, event: str, **values: Any) -> None:
        if not self.processes.main:
            return
        record = {"event": event, "step": self.step, "progress": min(self.progress(), 1.0), **values}
        self._report.tell(record)
