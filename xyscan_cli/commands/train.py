"""`xyscan train`: train a network from a recipe or a YAML file."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from xyscan_cli import console
from xyscan_cli.options import DeviceOption


def command(
    config: Annotated[str, typer.Argument(help="A recipe's name (smoke, default-s) or a YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value, as optimiser.lr=1e-4. Repeatable."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="The run's folder.", show_default="runs/NAME")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last state in the run's folder.")
    ] = False,
    device: DeviceOption = "auto",
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="The same bits from the same seed, somewhat slower: deterministic=true.",
        ),
    ] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the resolved configuration and exit.")
    ] = False,
) -> None:
    """Train a network on sharp photographs, blurred on the fly.

    The run's folder gets last.safetensors and best.safetensors (averaged weights), state.pt for --resume,
    log.jsonl, config.yaml and run.json. Ctrl-C ends the step, saves the state and exits with 130.
    """
    from xyscannet.training.config import load_config

    overrides = [*(overrides or []), *(["deterministic=true"] if deterministic else [])]
    resolved = load_config(config, overrides)
    if print_config:
        typer.echo(resolved.to_yaml(), nl=False)
        return

    from xyscannet.training.loop import Interrupted, Trainer

    stop = _StopOnSignal()
    with _shown(resolved) as show:
        trainer = Trainer(
            resolved,
            output or Path("runs") / resolved.name,
            device=_device(device),
            resume=resume,
            on_event=show,
            should_stop=stop.asked,
            command=shlex.join(["xyscan", *sys.argv[1:]]),
        )
        try:
            with stop:
                trainer.run()
        except Interrupted as interrupted:
            console.say(str(interrupted))
            raise stop.interrupt() from None


def _device(name: str) -> str:
    import torch

    from xyscannet.errors import ConfigError, UnavailableError

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ConfigError(f"--device {name!r} is not auto, cpu, cuda, cuda:N or mps") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise UnavailableError(f"--device {name}: no CUDA device is usable here; use --device cpu")
    return name


class _StopOnSignal:
    """While entered, the first SIGINT or SIGTERM is only remembered; the second interrupts at once."""

    def __init__(self) -> None:
        self._signal: int | None = None

    def asked(self) -> bool:
        """Whether a signal has arrived."""
        return self._signal is not None

    def interrupt(self) -> KeyboardInterrupt:
        """The exception that gives the signal's exit code."""
        return console.Terminated() if self._signal == signal.SIGTERM else KeyboardInterrupt()

    def __enter__(self) -> None:
        self._before = {
            number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)
        }

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: Any) -> None:
        if self.asked():
            raise self.interrupt()
        self._signal = number


@contextmanager
def _shown(config: Any) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that shows the loop's events: a progress bar on a terminal, plain lines elsewhere."""
    if not console.terminal().is_terminal:
        yield lambda event: console.say(_line(event))
        return
    total, unit = config.iterations or config.time_budget_minutes, "steps" if config.iterations else "minutes"
    begin = None
    with console.Progress(total, unit) as progress:

        def show(event: dict[str, Any]) -> None:
            nonlocal begin
            begin = event["progress"] if begin is None else begin
            progress.total = (1 - begin) * total
            name = f"loss {event['loss']:.4f}" if event["event"] == "step" else None
            progress.update((event["progress"] - begin) * total, name=name)
            if event["event"] != "step":
                console.say(_line(event))

        yield show


def _line(event: dict[str, Any]) -> str:
    step, kind = event["step"], event["event"]
    if kind == "step":
        return (
            f"step {step} loss {event['loss']:.4f} lr {event['lr']:.2e} grad {event['grad_norm']:.3f} "
            f"{event['seconds']:.2f} s/step {event['crops_per_s']:.1f} crops/s"
        )
    if kind == "validation":
        return (
            f"step {step} validation: {event['psnr']:.2f} dB (blurred {event['psnr_blur']:.2f}), "
            f"SSIM {event['ssim']:.4f} (blurred {event['ssim_blur']:.4f}), {event['worse']} of {event['images']} "
            f"worse, sharp input {event['psnr_sharp_input']:.1f} dB{', best' if event['best'] else ''}"
        )
    if kind == "start":
        length = f"{event['total']} steps" if event["total"] else "a time budget"
        return f"from step {step}: {event['parameters'] / 1e6:.2f} M parameters, {length}"
    if kind == "saved":
        return f"step {step} saved {event['path']}"
    return f"done after {step} steps"
