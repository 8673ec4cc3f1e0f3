"""The commands of `xyscan`, one module each: a Typer group `app`, or a function `command`."""
