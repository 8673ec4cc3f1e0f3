"""`xyscan models card`: what weights do, measured, for their card."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xyscan_cli import console, networks, options, outputs, tables
from xyscan_cli.networks import pick_device
from xyscannet.addresses import place_of
from xyscannet.errors import ConfigError
from xyscannet.files import write_text

if TYPE_CHECKING:
    from xyscannet.analysis.card import Row


def command(
    photos: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", parser=options.local, help="Folder of sharp photographs not trained on."
        ),
    ],
    weights: options.WeightsOption = None,
    crop: Annotated[
        int | None,
        typer.Option(
            "--crop", metavar="N", min=64, help="Take the middle N x N pixels.", show_default="all of it"
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            "--window", metavar="N", min=64, help="Restore in tiles of N pixels too, in a row of its own."
        ),
    ] = None,
    metrics: Annotated[
        str, typer.Option("--metrics", metavar="NAME,...", help="See `xyscan eval --help`.")
    ] = "psnr,ssim,lpips-alex",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the blurs.")] = 2024,
    figure: Annotated[
        Path | None,
        typer.Option(
            "--figure",
            metavar="FILE",
            parser=options.local,
            help="Draw the first photograph at each strength (.png, .pdf, .svg).",
        ),
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option("--markdown", metavar="FILE", parser=options.local, help="Write the table for a card."),
    ] = None,
    json_path: options.JsonOption = None,
    device: options.DeviceOption = "auto",
    dtype: options.DTypeOption = options.DType.auto,
    scan: options.ScanOption = options.Scan.auto,
    channel_order: options.ChannelOrderOption = options.ChannelOrder.rgb,
    quiet: options.QuietOption = False,
) -> None:
    """Measure weights at small, medium and strong shake and on sharp pictures, beside classical methods.

    Each photograph is blurred once at each strength. Unsharp mask, Wiener's and Richardson-Lucy's deconvolution
    (scikit-image) are shown with the setting that is best for these very pictures; the last two are told the
    camera's true kernel at the picture's centre.
    """
    console.set_quiet(quiet)

    from xyscannet import inference
    from xyscannet.analysis import card
    from xyscannet.reports.figures import canvas

    paths = [] if figure is None else canvas.check_paths(figure)
    if paths:
        canvas.check_matplotlib()
    for option, path in (("--figure", figure), ("--markdown", markdown), ("--json", json_path)):
        outputs.file(option, path)
    place = pick_device(device)
    number = networks.arithmetic_type(dtype, place)
    with networks.scan_backend(scan, place):
        model, network, _ = networks.load_network(weights, place, channel_order.value)
        console.field("network", network)
        name = weights or networks.default_weights(place.type)
        plan = partial(inference.plan_image, config=model.config, device=place, dtype=number)

        def restore(image: Any, tile: str | int = "auto") -> Any:
            return inference.restore(model, image, plan(*image.shape[2:], tile=tile), dtype=number)

        def at_scales(image: Any) -> Any:
            return inference.restore_at_scales(model, image, dtype=number)[0]

        label = place_of(name).name
        restorers = {label: restore, f"{label}, scales as needed": at_scales}
        if window is not None:
            restorers[f"{label}, tiles of {window}"] = partial(restore, tile=window)
        wanted = [metric.strip() for metric in metrics.split(",") if metric.strip()]
        if "psnr" not in wanted:
            raise ConfigError("--metrics: psnr must be among them, which settings are chosen by")
        keep = int(figure is not None)
        rows = list(
            card.measure(restorers, photos, crop=crop, seed=seed, metrics=wanted, keep=keep, tell=console.say)
        )
    header, cells = _table(rows, wanted)
    run = console.given()
    records = [{k: v for k, v in dataclasses.asdict(row).items() if k != "examples"} for row in rows]
    text = "".join(json.dumps({**record, "command": run}) + "\n" for record in records)
    to_stdout = str(json_path) == "-"
    if json_path is not None and not to_stdout:
        write_text(json_path, text)
    if markdown is not None:
        write_text(markdown, _markdown(header, cells, run))
    if paths:
        console.say(_draw(paths, rows, run))
    if to_stdout:
        sys.stdout.write(text)
    else:
        tables.show(header, cells, right=range(3, len(header)))


def _table(rows: Sequence[Row], metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the card's table."""
    from xyscannet.metrics import registry
    from xyscannet.reports.tables import number

    known = [registry.info(name) for name in metrics]
    header = ["shake", "method", "setting", "images", *[each.title for each in known], "least"]
    cells = [
        [
            row.strength,
            row.method,
            row.setting or "-",
            str(row.images),
            *[number(each.name, row.values[each.name]) for each in known],
            f"{row.worst:.2f} dB" if row.strength == "sharp" else f"{row.worst:+.2f} dB",
        ]
        for row in rows
    ]
    return header, cells


def _markdown(header: list[str], cells: list[list[str]], run: str) -> str:
    from xyscannet.reports.grids import markdown_cell

    rule = ["---" if index < 3 else "---:" for index in range(len(header))]
    escaped = [[*map(markdown_cell, line)] for line in (header, *cells)]
    lines = [f"| {' | '.join(line)} |\n" for line in (escaped[0], rule, *escaped[1:])]
    foot = "least: the least gain of a picture over its blurred one; of sharp pictures, the least PSNR"
    return f"{''.join(lines)}\n{foot}.\n\n`{run}`\n"


def _draw(paths: Sequence[Path], rows: Sequence[Row], run: str) -> str:
    """Draw the first photograph of each strength as every method restores it; return the caption."""
    from xyscannet.analysis.card import BLURRED, SHARP
    from xyscannet.reports.figures.qualitative import Sample, qualitative_grid

    shown = []
    for strength in dict.fromkeys(row.strength for row in rows if row.strength != SHARP):
        pictures = {row.method: row.examples[0] for row in rows if row.strength == strength}
        blurred, sharp = pictures.pop(BLURRED)
        shown.append(Sample(strength, {method: pair[0] for method, pair in pictures.items()}, blurred, sharp))
    return qualitative_grid(paths, shown, command=run)
