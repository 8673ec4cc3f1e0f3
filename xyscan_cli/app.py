"""The command `xyscan`. Imports nothing heavy: a command's module is imported when that command is asked for."""

from __future__ import annotations

import importlib
import re
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from xyscan_cli import console, exits
from xyscannet import __version__, environment

COMMANDS = {
    "deblur": "Deblur photographs and clips: files, folders, globs or addresses.",
    "models": "List, describe, convert and measure networks and their weights.",
    "data": "Make pairs of blurred and sharp photographs, and check data sets.",
    "train": "Train a network from a YAML configuration.",
    "eval": "Measure restored images on a data set: PSNR, SSIM, LPIPS, NIQE, ... as the field does.",
    "ablate": "Make the paper's ablation tables: train, measure and profile every variant.",
    "erf": "Measure effective receptive fields of networks and of their scanners.",
    "features": "Show what a network adds to a photograph, and how its scanners' states move over it.",
    "bench": "Measure time, GFLOP/s, peak memory and parity on this machine.",
    "doctor": "Say what this machine has: versions, devices, scan backends.",
}


def _debug_option() -> Any:
    """The `--debug` that every command has."""

    def debug(flag: Annotated[bool, typer.Option("--debug", callback=console.set_debug)] = False) -> None: ...

    holder = typer.Typer(add_completion=False)
    holder.command()(debug)
    option = typer.main.get_command(holder).params[0]
    option.help = "Show a traceback with an error, and what the library logs."
    option.expose_value = False
    return option


def _complete(command: Any) -> None:
    """Give a command, or every command of a group, the option `--debug`; show no type beside flags.

    Help is broken where the terminal ends, not where the source's lines do.
    """
    if command.help:
        command.help = re.sub(r"(?<!\n)\n(?!\n)", " ", command.help)
    if isinstance(command, TyperGroup):
        for member in command.commands.values():
            _complete(member)
    elif not any("--debug" in parameter.opts for parameter in command.params):
        command.params.append(_debug_option())
    for parameter in command.params:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""


def load(name: str) -> Any:
    """Import a command's module and make its click command: a group from `app`, else the function `command`."""
    module = importlib.import_module(f"xyscan_cli.commands.{name}")
    holder = getattr(module, "app", None)
    if holder is None:
        holder = typer.Typer(add_completion=False)
        holder.command(name)(module.command)
    command = typer.main.get_command(holder)
    command.name = name
    _complete(command)
    return command


class LazyGroup(TyperGroup):
    """Lists the commands from a table, imports the one that runs, and turns every outcome into an exit code."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, line in COMMANDS.items():
            self.add_command(TyperCommand(name, help=line, callback=lambda: None))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if set(rest).isdisjoint(ctx.help_option_names):
            exits.look_where_we_are()
        return name, load(name) if name in COMMANDS else command, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise typer.Exit(exits.interrupted(interrupt)) from None

    def main(self, args: Any = None, prog_name: str | None = None, **extra: Any) -> Any:
        extra["standalone_mode"] = False
        console.set_given(sys.argv[1:] if args is None else args)
        environment.set_defaults()
        run = super().main
        sys.exit(exits.exit_code_of(lambda: run(args=args, prog_name=prog_name or "xyscan", **extra)))


app = typer.Typer(
    name="xyscan",
    cls=LazyGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"xyscan {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", callback=console.set_debug, help="Show a traceback with an error.")
    ] = False,
) -> None:
    """Deblur photographs and clips with XYScanNet, which scans feature maps row by row and column by column.

    Exit codes: 0 all done; 1 some inputs failed (they are listed);
    2 wrong usage or configuration; 3 something is missing on this machine;
    130 interrupted, 143 terminated (finished work is kept).
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """The console script: run `xyscan` on this process's arguments and exit with its code."""
    environment.spare_the_collector()
    app(prog_name="xyscan")
