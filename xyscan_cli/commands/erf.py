"""`xyscan erf`: effective receptive fields of networks and of their scanners."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xyscan_cli import arguments, console, networks, options
from xyscan_cli.arguments import listed
from xyscan_cli.commands import _erf_report as report
from xyscan_cli.networks import pick_device
from xyscan_cli.progress import Progress
from xyscannet.errors import ConfigError, InputError, XYScanError

if TYPE_CHECKING:
    import torch

    from xyscannet.analysis.photographs import Crop

EXAMPLES = Path("examples")


def command(
    photos: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PHOTO|FOLDER",
            parser=options.local,
            help="Real photographs, or folders of them. Default: examples/.",
            show_default=False,
        ),
    ] = None,
    models: Annotated[
        str,
        typer.Option(
            "--models",
            metavar="NAME[:VARIANT]|FILE,...",
            help="Networks, or checkpoint files, side by side. A variant is one of xyscan ablate's, such as "
            "xyscannet-s:inter-only; it has random weights.",
        ),
    ] = "xyscannet-s",
    at: Annotated[
        str,
        typer.Option(
            "--at",
            metavar="residual|restored|PART",
            help="The output whose centre pixel is differentiated: the residual that the network adds, the "
            "restored image, or a part of the network by its name, such as decoder_level2.",
        ),
    ] = "residual",
    scanners: Annotated[
        bool,
        typer.Option(
            "--scanners",
            help="Also each scanner of a decoder block alone, on the feature maps that it meets.",
        ),
    ] = False,
    block: Annotated[
        str | None,
        typer.Option(
            "--block", metavar="NAME", help="That block.", show_default="the last, such as decoder_level1.0"
        ),
    ] = None,
    random: Annotated[
        bool, typer.Option("--random", help="Random weights instead of trained ones: the architecture alone.")
    ] = False,
    size: Annotated[int, typer.Option("--size", min=8, help="Pixels a side of the crops.")] = 256,
    count: Annotated[
        int, typer.Option("--inputs", min=1, help="Crops in all: each photograph's centre, then at random.")
    ] = 24,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random places.")] = 0,
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
        typer.Option("--maps", metavar="FILE.npz", parser=options.local, help="Write every map, for numpy."),
    ] = None,
    json_path: options.JsonOption = None,
    csv_path: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", parser=options.local, help="Write a CSV table.")
    ] = None,
    quiet: options.QuietOption = False,
) -> None:
    """Measure effective receptive fields (ERFs): which pixels the centre of the output depends on, and how much.

    The ERF is the gradient of the output's centre, summed over its channels, with respect to the input: its absolute
    value, summed over the input's channels and averaged over crops of real photographs, in float32. Printed are the
    smallest square around the centre that holds 20, 30, 50 and 99 % of it, as a share of the area, and the share of
    pixels that it reaches at all. Exit code 1 if a photograph could not be used.

    Examples:

    xyscan erf photos/ --models xyscannet-s,mambair --figures figures/

    xyscan erf photos/ --scanners --random --models xyscannet-s,mambair --size 128
    """
    console.set_quiet(quiet)
    if block is not None and not scanners:
        raise ConfigError("--block names the block of --scanners")
    report.check(json_path, csv_path, maps, figures)

    from xyscannet.analysis import cases, erf

    place = pick_device(device)
    names = list(dict.fromkeys(cases.ALIASES.get(name, name) for name in listed(models, "--models")))
    loaded = {name: _load(name, place, random, scanners) for name in names}
    for model, _ in loaded.values():  # names that a network does not have are told before any work
        erf.differentiated(model, at)
        if scanners:
            erf.chosen_block(model, block)
    inputs, failures = crops(photos or [EXAMPLES], size, count, seed)
    results: list[report.Measured] = []
    told = {"size": [size, size], "seed": seed, "command": console.given()}
    labels = arguments.labels(names)
    steps = len(inputs) * len(names) * (2 if scanners else 1)
    with exact(scan, place), Progress(steps, "inputs") as bar, out_of_memory(size):
        for name, (model, weights) in loaded.items():
            model.eval().requires_grad_(False)
            results += _measure((name, labels[name], weights), model, at, scanners, block, inputs, place, bar)
    report.write(results, told, json_path, csv_path)
    if maps is not None:
        report.save_maps(maps, {f"{each.label}/{each.field.part}": each.field.map for each in results})
    if figures is not None:
        report.draw(figures, results, told["command"])
    report.show(results, told, json_path)
    if failures:
        raise typer.Exit(1)


def _load(name: str, device: torch.device, random: bool, own: bool) -> tuple[torch.nn.Module, str]:
    """A network, a file, or `NAME:VARIANT`, and where its weights are from; with `own` one of this project's only."""
    from xyscannet.analysis import cases
    from xyscannet.analysis.ablation import variants
    from xyscannet.models import zoo

    size, _, variant = name.rpartition(":")
    if size not in zoo.names():
        load = cases.load_own if own else cases.load
        return load(name, device, random=random)
    if variant not in variants.VARIANTS:
        raise ConfigError(f"{name}: {variant!r} is no variant; they are {', '.join(variants.VARIANTS)}")
    return cases.untrained(variants.network(variant, zoo.info(size).config)).to(device), "random"


def crops(photos: Sequence[Path], size: int, count: int, seed: int) -> tuple[list[Crop], list[XYScanError]]:
    """The crops, and what was wrong with photographs that could not be used, of which the user hears."""
    from xyscannet.analysis import photographs

    if photos == [EXAMPLES] and not EXAMPLES.is_dir():
        raise ConfigError("give photographs or a folder of them: there is no folder examples/ here")
    failures: list[XYScanError] = []
    found = photographs.crops(photographs.find_photographs(photos), size, count, seed, failed=failures.append)
    names = dict.fromkeys(str(crop.path) for crop in found)
    console.field("inputs", f"{len(found)} crops of {size}×{size} pixels, of {len(names)} photographs")
    for failure in failures:
        console.error(str(failure))
    return found, failures


@contextmanager
def exact(scan: options.Scan, device: torch.device) -> Iterator[None]:
    """While entered, networks run in float32 with the scan of `--scan`, which is said."""
    import torch

    from xyscannet import ops
    from xyscannet.inference.precision import arithmetic

    with networks.scan_backend(scan, device), arithmetic(device.type, torch.float32):
        console.field("scan", ops.active_backend(device.type))
        yield


@contextmanager
def out_of_memory(size: int) -> Iterator[None]:
    """Raises InputError where memory runs out."""
    from xyscannet.inference.memory import memory_is_out

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not memory_is_out(error):
            raise
        raise InputError(f"memory ran out at {size} pixels a side; take a smaller --size") from error


def _measure(
    network: tuple[str, str, str],
    model: torch.nn.Module,
    at: str,
    scanners: bool,
    block: str | None,
    inputs: Sequence[Crop],
    device: torch.device,
    bar: Progress,
) -> Iterator[report.Measured]:
    from xyscannet.analysis import erf

    def images() -> Iterator[torch.Tensor]:
        return (crop.image.to(device) for crop in inputs)

    def advance() -> None:
        bar.update(int(bar.done) + 1, name=network[1])

    yield report.Measured(*network, erf.receptive_field(erf.differentiated(model, at), images(), at, advance))
    if scanners:
        for field in erf.scanner_fields(model, images(), block, advance):
            yield report.Measured(*network, field, True)
