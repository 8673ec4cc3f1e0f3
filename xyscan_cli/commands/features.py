"""`xyscan features`: what a network adds to a photograph, and how its scanners' states move over it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xyscan_cli import console, options
from xyscan_cli.arguments import labels, listed
from xyscan_cli.commands import _features_report as report
from xyscan_cli.commands._erf_report import check, save_maps
from xyscan_cli.commands.erf import exact, out_of_memory
from xyscan_cli.networks import pick_device
from xyscan_cli.progress import Progress
from xyscannet.errors import ConfigError


def command(
    photo: Annotated[
        Path, typer.Argument(metavar="PHOTO", parser=options.local, help="A photograph.", show_default=False)
    ],
    models: Annotated[
        str,
        typer.Option(
            "--models",
            metavar="NAME|FILE,...",
            help="Networks, or checkpoint files: e.g. one that scans in one direction, one in both.",
        ),
    ] = "xyscannet-s",
    blocks: Annotated[
        str | None,
        typer.Option(
            "--blocks", metavar="NAME,...", help="Decoder blocks.", show_default="the last one of each level"
        ),
    ] = None,
    state: Annotated[
        int | None,
        typer.Option("--state", min=1, help="Decay of the N-th state alone, not the mean over the states."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--size", min=8, help="The centre crop of N pixels a side.", show_default="the whole photograph"
        ),
    ] = None,
    device: options.DeviceOption = "auto",
    scan: options.ScanOption = options.Scan.auto,
    figures: Annotated[
        Path | None,
        typer.Option(
            "--figures",
            metavar="DIR",
            parser=options.local,
            help="Write figures (PDF, PNG) and their captions.",
        ),
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(
            "--maps", metavar="FILE.npz", parser=options.local, help="Write every map and profile, for numpy."
        ),
    ] = None,
    json_path: options.JsonOption = None,
    csv_path: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", parser=options.local, help="Write a CSV table.")
    ] = None,
    quiet: options.QuietOption = False,
) -> None:
    """Look into a network while it restores a photograph, in float32.

    Of every scanning module of the blocks: what it adds to its stream; delta, the step of its state at each pixel; and
    the decay exp(delta A), the part of the state that outlives the step. Where rows and columns are averaged to
    sequences (the Inter-Scanner), delta and decay are profiles along the photograph. Of a network that scans in both
    directions also how alike both scans are.

    Examples:

    xyscan features photo.jpg --figures figures/

    xyscan features photo.jpg --models one-way.safetensors,both-ways.safetensors --size 256 --figures figures/
    """
    console.set_quiet(quiet)
    chosen = listed(blocks, "--blocks") if blocks is not None else None
    check(json_path, csv_path, maps, figures)

    from xyscannet import images
    from xyscannet.analysis import cases, photographs
    from xyscannet.analysis.features import features

    place = pick_device(device)
    names = list(dict.fromkeys(map(cases.find, listed(models, "--models"))))
    if size is None:
        image = photographs.as_image(images.read(photo))
    else:
        image = photographs.crops([photo], size, 1)[0].image
    looked: list[report.Looked] = []
    short = labels(names)
    with (
        exact(scan, place),
        out_of_memory(max(image.shape[2:])),
        Progress(len(names), "networks") as bar,
    ):
        for name in names:
            model, weights = cases.load_own(name, place)
            model.eval().requires_grad_(False)
            states = model.config.d_state
            if state is not None and state > states:
                raise ConfigError(f"--state {state}: {name} has {states} states a channel")
            looked.append(report.Looked(name, short[name], weights, features(model, image.to(place), chosen)))
            bar.update(len(looked), name=name)
    command_line = console.given()
    told = {"photo": str(photo), "size": list(image.shape[2:]), "command": command_line}
    report.write(looked, state, told, json_path, csv_path)
    if maps is not None:
        save_maps(maps, report.arrays(looked))
    if figures is not None:
        report.draw(figures, looked, image[0].permute(1, 2, 0).numpy(), photo.name, state, command_line)
    report.show(looked, state, told, json_path)
