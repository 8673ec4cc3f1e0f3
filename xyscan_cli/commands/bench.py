"""`xyscan bench`: how fast networks run on this machine, how much memory they take, and how exact they are."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xyscan_cli import console, machine, options, outputs, tables
from xyscan_cli.arguments import listed, parse_size
from xyscan_cli.commands import _bench_report as report
from xyscan_cli.networks import pick_device
from xyscannet.errors import ConfigError, UnavailableError
from xyscannet.files import write_text

if TYPE_CHECKING:
    import torch


def command(
    models: Annotated[
        str | None,
        typer.Option(
            "--models",
            metavar="NAME|FILE,...",
            help="Networks, or checkpoint files. Default xyscannet-s,xyscannet-b; with --compare xyscannet-b, "
            "the size of the paper's tables.",
        ),
    ] = None,
    sizes: Annotated[
        str, typer.Option("--sizes", metavar="HxW,...", help="Image sizes, height before width.")
    ] = "256x256",
    dtypes: Annotated[
        str, typer.Option("--dtypes", metavar="fp32,tf32,bf16,fp16", help="Types of the arithmetic.")
    ] = "fp32",
    scans: Annotated[
        str,
        typer.Option(
            "--scan", metavar="auto|NAME,...", help="Scan backends; auto takes the one that runs by default."
        ),
    ] = "auto",
    forms: Annotated[
        str | None,
        typer.Option(
            "--forms",
            metavar="NAME,...",
            help="How to execute: eager-loop, eager-cuda, unfused, fused, strips, compiled, graph. "
            "Default fused; unfused with --train.",
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            metavar="NAME|FILE,...",
            help="More networks, measured in turn with --models: mambair, and those of other projects (extra peers): "
            "nafnet (-32, -64), restormer, fftformer, mprnet, uformer, or a .pth file of any that spandrel knows.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images at once.")] = 1,
    train: Annotated[
        bool, typer.Option("--train", help="Training steps (forward, backward, Adam) instead of forwards.")
    ] = False,
    with_training: Annotated[
        bool, typer.Option("--with-training", help="Forwards and training steps, in one table.")
    ] = False,
    ops: Annotated[
        bool,
        typer.Option(
            "--ops",
            help="Each operator alone at the first level of the first network, beside its definition: time, bytes "
            "that must move, and their rate against that of a copy.",
        ),
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace",
            metavar="FILE",
            parser=options.local,
            help="Profile one call of the first network, size, type, form and scan: where the time goes, and how "
            "far it is from what a copy of the same memory takes. FILE takes the timeline (Chrome's JSON).",
        ),
    ] = None,
    device: options.DeviceOption = "auto",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Repetitions; the median is shown.")] = 5,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure peak memory too.")] = True,
    parity: Annotated[
        bool,
        typer.Option(
            "--parity/--no-parity", help="The error against the definition too, which is slow on a CPU."
        ),
    ] = True,
    json_path: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE|-", parser=options.local, help="Write the results as JSON, - to stdout."
        ),
    ] = None,
    csv_path: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", parser=options.local, help="Write a CSV table.")
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option("--markdown", metavar="FILE", parser=options.local, help="Write a Markdown table."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            parser=options.local,
            help="Draw time and memory over megapixels, a line for each network, as FILE.pdf, .svg or .png (without "
            "one of these: PDF and PNG), its caption beside it as .txt.",
        ),
    ] = None,
    quiet: options.QuietOption = False,
) -> None:
    """Measure networks: work, time, arithmetic rate, peak memory, scan rate, and the error against the definition.

    Competitors take turns after a warm-up; GPU times are synchronised. The ratios of time and memory are to the
    first row of the same size, type and pass. GMACs are the multiply-accumulates of a forward's convolutions and
    matrix products, G scan the state updates of its scans, in 1e9, both counted by torch's dispatcher. Memory is what
    one forward or training step adds to the weights; where there is too little, the row says so. Files are written anew
    after every row, so that a run that is stopped leaves what it had. The scan's rate is in
    state updates a second, its scans run alone. Errors are against the network in float64 with the reference scan: of
    a 64x96 image in [0, 1], or of all gradients of a training step.

    Examples:

    xyscan bench --models xyscannet-b --compare mambair --sizes 256x256,720x1280 --dtypes fp32,bf16

    xyscan bench --compare nafnet,restormer,NAFNet-GoPro-width64.pth --sizes 256x256 --plot costs.png

    xyscan bench --models xyscannet-b --sizes 720x1280 --dtypes bf16 --ops

    xyscan bench --models xyscannet-b --sizes 720x1280 --dtypes bf16 --trace timeline.json
    """
    console.set_quiet(quiet)
    shapes = [parse_size(text, "--sizes") for text in listed(sizes, "--sizes")]
    kinds = listed(dtypes, "--dtypes")
    for kind in kinds:
        if kind not in ("fp32", "tf32", "bf16", "fp16"):
            raise ConfigError(f"--dtypes: {kind!r} is not one of fp32, tf32, bf16, fp16")
    drawings = _drawings(plot)
    if train and with_training:
        raise ConfigError("--train and --with-training: ask for one of them")
    if (ops or trace is not None) and (with_training or plot is not None):
        raise ConfigError("--with-training and --plot are for whole networks, not for --ops and --trace")
    to_stdout = str(json_path) == "-"
    files = {"--json": json_path, "--csv": csv_path, "--markdown": markdown, "--trace": trace}
    for option, path in [*files.items(), *(("--plot", drawing) for drawing in drawings)]:
        outputs.file(option, path)

    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # torch's profiler tells of itself otherwise

    from xyscannet.analysis import bench
    from xyscannet.analysis.cases import find, load_own

    place = pick_device(device)
    if place.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {device}: measuring is possible on cpu and cuda only")
    names = _backends(listed(scans, "--scan"), place)
    models = models or ("xyscannet-b" if compare else "xyscannet-s,xyscannet-b")
    asked = listed(models, "--models") + (listed(compare, "--compare") if compare else [])
    networks = list(dict.fromkeys(map(find, asked)))
    execution = listed(forms, "--forms") if forms else None
    common = {"device": place, "repeats": repeats}

    def write(sheet: report.Sheet) -> None:
        where = _machine(place), console.given()
        if json_path is not None and not to_stdout:
            write_text(json_path, report.json_text(sheet, *where))
        if csv_path is not None:
            write_text(csv_path, report.csv_text(sheet))
        if markdown is not None:
            write_text(markdown, report.markdown_text(sheet, *where))

    if trace is not None and ops:
        raise ConfigError("--trace and --ops are two different measurements; ask for one")
    if trace is not None:
        from xyscannet.analysis import trace as tracing
        from xyscannet.analysis.cases import Case

        form = execution[0] if execution else "unfused" if train else "fused"
        case = Case(networks[0], *shapes[0], kinds[0], names[0], form, batch, train)
        sheet = report.traced(tracing.trace(case, trace, **common))
    elif ops:
        from xyscannet.analysis import operators

        network, _ = load_own(networks[0])
        beside = list(dict.fromkeys([*names, "reference"]))
        common |= {"batch": batch, "train": train, "tell": console.say}
        sheet = report.operators(
            list(operators.measure(networks[0], network.config, shapes, kinds, beside, **common))
        )
    else:
        common |= {"batch": batch, "tell": console.say}
        measured: list[bench.Result] = []
        results = bench.run(
            networks,
            shapes,
            kinds,
            names,
            forms=execution,
            memory=memory,
            parity=parity,
            passes=[False, True] if with_training else [train],
            **common,
        )
        for result in results:
            measured.append(result)
            sheet = report.networks(bench.with_ratios(measured))
            write(sheet)  # after every row, for runs that are stopped
    write(sheet)
    where = _machine(place), console.given()
    if plot is not None:
        caption = report.draw(drawings, measured, *where)
        write_text(plot.with_suffix(".txt"), f"{caption}\n")
        console.say(caption)
    if to_stdout:
        sys.stdout.write(report.json_text(sheet, *where))
    else:
        tables.show(sheet.header, sheet.rows, right=sheet.figures)
        for note in sheet.notes:
            console.say(note)


def _drawings(plot: Path | None) -> list[Path]:
    """The files of `--plot`, before anything is measured for them."""
    from xyscannet.reports.figures import canvas

    if plot is None:
        return []
    canvas.check_matplotlib()
    return canvas.check_paths(plot if plot.suffix else [plot.with_suffix(".pdf"), plot.with_suffix(".png")])


def _backends(names: Sequence[str], device: torch.device) -> list[str]:
    from xyscannet import ops

    known = {backend.name: backend for backend in ops.backends()}
    chosen = []
    for name in names:
        if name == "auto":
            name = ops.active_backend(device.type)
        if name not in known:
            raise ConfigError(f"--scan: {name!r} is not one of auto, {', '.join(known)}")
        if not known[name].serves(device.type):
            raise UnavailableError(
                f"the scan backend {name} cannot run on {device.type} here: {known[name].reason}"
            )
        chosen.append(name)
    return list(dict.fromkeys(chosen))


def _machine(device: torch.device) -> dict[str, Any]:
    import torch

    import xyscannet

    found = {
        "device": machine.cpu()["name"],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "xyscannet": xyscannet.__version__,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }
    if "spandrel" in sys.modules:
        found["spandrel"] = importlib.metadata.version("spandrel")
    if device.type != "cuda":
        return found
    return found | machine.gpu_stack(device.index or 0)
