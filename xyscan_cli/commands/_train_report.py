"""What `xyscan train` shows: the recipes, a run's events, its rates and its plot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from xyscan_cli import console
from xyscan_cli.progress import Progress, duration


@contextmanager
def shown(config: Any) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that shows the loop's events: a live bar on a terminal from the first on, plain lines elsewhere.

    Of several processes one alone hears of any, and so shows a bar.
    """
    if not console.terminal().is_terminal:
        yield lambda event: console.say(line(event))
        return
    total, unit = config.iterations or config.time_budget_minutes, "steps" if config.iterations else "minutes"
    progress, begin, best = None, 0.0, ""
    with ExitStack() as stack:

        def show(event: dict[str, Any]) -> None:
            nonlocal progress, begin, best
            if progress is None:
                begin = event["progress"]
                progress = stack.enter_context(Progress((1 - begin) * total, unit))
            if event["event"] == "validation" and event["best"]:
                best = f", best {event['psnr']:.2f} dB"
            name = f"loss {event['loss']:.4f}{best}" if event["event"] == "step" else None
            progress.update((event["progress"] - begin) * total, name=name)
            if event["event"] != "step":
                console.say(line(event))

        yield show


def line(event: dict[str, Any]) -> str:
    """An event as one line."""
    step, kind = event["step"], event["event"]
    if kind == "step":
        return (
            f"step {step} loss {event['loss']:.4f} lr {event['lr']:.2e} grad {event['grad_norm']:.3f} "
            f"{event['seconds']:.2f} s/step {event['crops_per_s']:.1f} crops/s (loader alone "
            f"{event['loader_crops_per_s']:.1f}, device alone {event['device_crops_per_s']:.1f}, waiting "
            f"{event['data_wait']:.0%})"
        )
    if kind == "validation":
        sharp = f", sharp input {event['psnr_sharp_input']:.1f} dB" if "psnr_sharp_input" in event else ""
        return (
            f"step {step} validation: {event['psnr']:.2f} dB (blurred {event['psnr_blur']:.2f}), "
            f"SSIM {event['ssim']:.4f} (blurred {event['ssim_blur']:.4f}), {event['worse']} of {event['images']} "
            f"worse{sharp}{', best' if event['best'] else ''}"
        )
    if kind == "start":
        length = f"{event['total']} steps" if event["total"] else "a time budget"
        weights = f", {event['weights']}" if event["weights"] else ""
        changed = "".join(f"\nchanged {each}" for each in event["changed"])
        return f"from step {step}: {event['parameters'] / 1e6:.2f} M parameters{weights}, {length}{changed}"
    if kind == "saved":
        return f"step {step} saved {event['path']}"
    if kind == "not saved":
        return f"step {step} NOT SAVED, going on from memory: {event['reason']}"
    if kind == "diverged":
        return f"step {step} diverged on {'; '.join(event['origin'])}"
    return f"done after {step} steps"


def plan(trainer: Any, rates: Any) -> list[str]:
    """What a run would do, and how long it would take at the measured rates."""
    config = trainer.config
    parameters = sum(p.numel() for p in trainer.model.parameters()) / 1e6
    stages = ", then ".join(f"{patch} px x {batch}" for patch, batch in config.shapes)
    lines = [
        f"network: {parameters:.2f} M parameters, {trainer.update.precision}",
        f"processes: {trainer.processes.count}, on {trainer.device}",
        f"crops: {stages}; in each process {config.accumulate} part(s) of a step",
        f"data: {json.dumps(trainer.samples.manifest(), ensure_ascii=False)}",
        f"validation: {len(trainer.validation)} images" if trainer.validation else "validation: none",
        f"loader alone: {rates.loader_crops_per_s:.1f} crops/s with {config.data.workers} worker(s) a process",
        f"device alone: {rates.device_crops_per_s:.1f} crops/s, {rates.step_seconds:.3f} s/step; it would wait for "
        f"the loader {rates.data_wait:.0%} of the time",
    ]
    if rates.peak_memory is not None:
        lines.append(f"peak memory: {rates.peak_memory / 2**30:.2f} GiB")
    if config.iterations is not None:
        slower = rates.batch / min(rates.loader_crops_per_s, rates.device_crops_per_s)
        total = duration(slower * (config.iterations - trainer.step))
        lines.append(
            f"{config.iterations - trainer.step} steps: about {total} at the first stage's rate, without validation"
        )
    else:
        left = max(60 * config.time_budget_minutes - trainer.elapsed, 0)
        lines.append(f"time budget: {duration(left)} left")
    return lines


def draw_curves(folder: Path, name: str) -> None:
    """Write the run's plot, `curves.png` and `curves.svg`; without matplotlib say so."""
    from xyscannet.errors import XYScanError
    from xyscannet.reports.figures.training import curves

    try:
        records = []
        for text in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # a record that a full disk cut off
                records.append(json.loads(text))
        curves([folder / "curves.png", folder / "curves.svg"], records, name=name)
    except (XYScanError, OSError) as error:
        console.warn(f"no plot of the run: {error}")
