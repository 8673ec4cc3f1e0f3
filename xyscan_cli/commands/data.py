"""`xyscan data`: make pairs of blurred and sharp photographs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from xyscan_cli import console, options
from xyscan_cli.console import Progress, shown

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Make pairs of blurred and sharp photographs."
)


class Strength(str, Enum):
    """Lengths of the camera's path: 2-6, 6-14 and 14-30 pixels; mixed draws one of them for every pair."""

    small = "small"
    medium = "medium"
    strong = "strong"
    mixed = "mixed"


@app.callback()
def data() -> None:
    """Make pairs of blurred and sharp photographs."""


@app.command()
def synth(
    sharp_dir: Annotated[Path, typer.Argument(help="Folder of sharp photographs.", show_default=False)],
    out_dir: Annotated[Path, typer.Argument(help="Folder for the pairs.", show_default=False)],
    strength: Annotated[
        Strength,
        typer.Option("--strength", help="Path of the camera: 2-6, 6-14, 14-30 pixels, or a mixture."),
    ] = Strength.mixed,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed makes the same pairs.")] = 0,
    count: Annotated[int, typer.Option("--count", min=1, help="Pairs of each photograph.")] = 1,
    crop: Annotated[
        int | None,
        typer.Option(
            "--crop", min=16, help="Side in pixels of squares cut where it is sharp.", show_default="whole"
        ),
    ] = None,
    exist: Annotated[
        options.Exist, typer.Option("--exist", help="What to do with pairs that exist.")
    ] = options.Exist.error,
    quiet: options.QuietOption = False,
) -> None:
    """Blur sharp photographs and write pairs: OUT_DIR/test/PHOTOGRAPH/{blur,sharp}/000001.png and manifest.json.

    The blur is that of a shaken camera and of moving objects, with the camera's response, noise and JPEG. The sharp
    picture is the middle of the exposure. A margin of up to 39 pixels, beyond which nothing is known, is cut off.
    """
    console.set_quiet(quiet)
    from xyscannet.data.synth import Synthesis, SynthSettings

    settings = SynthSettings(strength.value, seed, count, crop)
    synthesis = Synthesis(sharp_dir, out_dir, settings, exist=exist.value)
    made, kept, failed = 0, 0, []
    with Progress(len(synthesis), "photographs") as bar:
        for done, result in enumerate(synthesis.run(), 1):
            made, kept = made + len(result.pairs) - result.kept, kept + result.kept
            if result.error:
                failed.append(result.error)
            bar.update(done, name=result.source.name)
    there = f", {kept} were there" if kept else ""
    console.say(f"{made} pairs written to {shown(out_dir)}{there}")
    if failed:
        console.error(
            "\n".join([f"{len(failed)} of {len(synthesis)} photographs failed:", *map(shown, failed)])
        )
        raise typer.Exit(1)
