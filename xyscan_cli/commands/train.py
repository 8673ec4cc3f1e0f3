"""`xyscan train`: train a network from a recipe or a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xyscan_cli import console, options
from xyscan_cli.networks import pick_device
from xyscan_cli.stopping import StopOnSignal


def command(
    config: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|FILE",
            parser=options.local_text,
            help="A recipe's name (see --list) or a YAML file.",
            show_default=False,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a value, such as optimiser.lr=1e-4 or start_from=xyscannet-s. Repeatable.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="DIR",
            parser=options.local,
            help="The run's folder.",
            show_default="runs/NAME",
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume",
            metavar="auto|PATH",
            parser=options.local_text,
            help="Continue from a state: auto, the newest of the run's folder, if there is one; PATH, the newest of "
            "that folder, or that state's file.",
        ),
    ] = None,
    device: options.DeviceOption = "auto",
    perceptual_weights: options.PerceptualWeightsOption = None,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="Give the same bits from the same seed, somewhat slower (--set deterministic=true).",
        ),
    ] = False,
    list_recipes: Annotated[bool, typer.Option("--list", help="List the recipes and exit.")] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the resolved configuration and exit.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check everything, measure loader and device, write nothing, exit."),
    ] = False,
) -> None:
    """Train a network: on sharp photographs blurred on the fly, on a data set's pairs, or on both.

    The run's folder gets last.safetensors and best.safetensors (averaged weights), stage-N.safetensors, the newest
    states for --resume, log.jsonl, TensorBoard's files, curves.png, config.yaml and run.json. SIGINT, SIGTERM and
    SIGHUP end the step, save the state and exit with 130. `accelerate launch -m xyscan_cli train ...` trains on many
    GPUs.
    """
    from xyscannet.errors import ConfigError
    from xyscannet.training.recipes import description, load_config, recipes

    if list_recipes:
        for name in recipes():
            typer.echo(f"{name:12}  {description(name)}")
        return
    if config is None:
        raise ConfigError("name a recipe or a YAML file; --list shows the recipes")
    extra = ["deterministic=true"] if deterministic else []
    extra += options.perceptual_weights(perceptual_weights)
    resolved = load_config(config, [*(overrides or []), *extra])
    if print_config:
        typer.echo(resolved.to_yaml(), nl=False)
        return

    from xyscan_cli.commands import _train_report as report
    from xyscannet.training.loop import Interrupted, Trainer

    if output is None and resume not in (None, "auto"):
        given = Path(resume)
        output = given.parent if given.suffix == ".pt" else given
    output = output or Path("runs") / resolved.name
    stop = StopOnSignal()
    with report.shown(resolved) as show:
        trainer = Trainer(
            resolved,
            output,
            device=str(pick_device(device)),
            resume=resume,
            on_event=show,
            should_stop=stop.asked,
            command=console.given(),
        )
        if dry_run:
            from xyscannet.training.rates import measure

            rates = measure(trainer)
            for line in report.plan(trainer, rates) if trainer.processes.main else []:
                typer.echo(line)
            return
        try:
            with stop:
                trainer.run()
        except Interrupted as interrupted:
            if trainer.processes.main:
                console.say(str(interrupted))
            raise KeyboardInterrupt from None
    if trainer.processes.main:
        report.draw_curves(output, resolved.name)
