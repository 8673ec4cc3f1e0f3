"""`xyscan bench`: how fast networks run on this machine, how much memory they take, and how exact they are."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xyscan_cli import console, machine, options, tables
from xyscannet.errors import ConfigError, InputError, UnavailableError

if TYPE_CHECKING:
    import torch

    from xyscannet.analysis.bench import Result
    from xyscannet.analysis.operators import OperatorResult

COLUMNS: dict[str, Callable[[Result], str | None]] = {
    "network": lambda r: Path(r.case.model).name,
    "form": lambda r: r.case.form,
    "size": lambda r: f"{r.case.height}x{r.case.width}" + (f"x{r.case.batch}" if r.case.batch > 1 else ""),
    "dtype": lambda r: r.case.dtype,
    "scan": lambda r: r.case.scan,
    "ms": lambda r: r.failure or f"{r.seconds * 1e3:.1f}",
    "x time": lambda r: _figure(r.time_ratio, ".2f"),
    "MP/s": lambda r: _figure(r.megapixels_per_second, ".3f"),
    "GFLOP/s": lambda r: _figure(r.gflops, ".1f"),
    "peak MiB": lambda r: _figure(r.peak_bytes, ".0f", 2**20),
    "x memory": lambda r: _figure(r.memory_ratio, ".2f"),
    "scan ms": lambda r: _figure(r.scan_seconds, ".1f", 1e-3),
    "scan G/s": lambda r: _figure(r.scan_rate, ".2f", 1e9),
    "max error": lambda r: _figure(r.max_error, ".1e"),
    "PSNR dB": lambda r: _figure(r.psnr, ".1f"),
    "gradient error": lambda r: _figure(r.gradient_error, ".1e"),
}
OPERATOR_COLUMNS: dict[str, Callable[[OperatorResult], str | None]] = {
    "operator": lambda r: r.case.operator,
    "size": lambda r: f"{r.case.height}x{r.case.width}" + (f"x{r.case.batch}" if r.case.batch > 1 else ""),
    "dtype": lambda r: r.case.dtype,
    "pass": lambda r: "both" if r.case.train else "forward",
    "backend": lambda r: r.case.backend,
    "us": lambda r: "out of memory" if r.seconds is None else f"{r.seconds * 1e6:.1f}",
    "x time": lambda r: _figure(r.time_ratio, ".2f"),
    "MB": lambda r: _figure(r.bytes, ".2f", 1e6),
    "GB/s": lambda r: _figure(r.rate, ".1f", 1e9),
    "% of copy": lambda r: _figure(r.share, ".1f", 0.01),
}
WORDS = 5  # the first columns of both, which are not figures
ALIASES = {"mambair": "mambair-variant"}


def command(
    models: Annotated[
        str, typer.Option("--models", metavar="NAME|FILE,...", help="Networks, or checkpoint files.")
    ] = "xyscannet-s,xyscannet-b",
    sizes: Annotated[
        str, typer.Option("--sizes", metavar="HxW,...", help="Image sizes, height before width.")
    ] = "256x256",
    dtypes: Annotated[
        str, typer.Option("--dtypes", metavar="fp32,bf16,fp16", help="Types of the arithmetic.")
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
            help="How to execute: eager-loop, eager-cuda, unfused, fused, compiled, graph. "
            "Default fused; unfused with --train.",
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare", metavar="NAME|FILE,...", help="More networks, measured in turn with --models."
        ),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images at once.")] = 1,
    train: Annotated[
        bool, typer.Option("--train", help="Training steps (forward, backward, Adam) instead of forwards.")
    ] = False,
    ops: Annotated[
        bool,
        typer.Option(
            "--ops",
            help="Each operator alone at the first level of the first network, beside its definition: time, bytes "
            "that must move, and their rate against that of a copy.",
        ),
    ] = False,
    device: options.DeviceOption = "auto",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Repetitions; the median is shown.")] = 5,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure peak memory too.")] = True,
    json_path: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="Write the results as JSON, - to stdout.")
    ] = None,
    csv_path: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write a CSV table.")] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write a Markdown table.")
    ] = None,
    quiet: options.QuietOption = False,
) -> None:
    """Measure networks: time, arithmetic rate, peak memory, scan rate, and the error against the definition.

    Competitors take turns after a warm-up; GPU times are synchronised. The ratios of time and memory are to the
    first row of the same size and type. Memory is what one forward or training step adds to the weights. The scan's
    rate is in state updates a second, its scans run alone. Errors are against the network in float64 with the
    reference scan: of a 64x96 image in [0, 1], or of all gradients of a training step.

    Examples:  xyscan bench --models xyscannet-b --compare mambair --sizes 256x256,720x1280 --dtypes fp32,bf16

               xyscan bench --models xyscannet-b --sizes 720x1280 --dtypes bf16 --ops
    """
    console.set_quiet(quiet)
    shapes = [parse_size(text) for text in listed(sizes, "--sizes")]
    kinds = listed(dtypes, "--dtypes")
    for kind in kinds:
        if kind not in ("fp32", "bf16", "fp16"):
            raise ConfigError(f"--dtypes: {kind!r} is not one of fp32, bf16, fp16")
    for path in (None if json_path == "-" else json_path, csv_path, markdown):
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise ConfigError(f"{path}: its folder does not exist")

    from xyscannet import inference
    from xyscannet.analysis import bench

    place = inference.pick_device(device)
    if place.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {device}: measuring is possible on cpu and cuda only")
    names = _backends(listed(scans, "--scan"), place)
    networks = listed(models, "--models") + (listed(compare, "--compare") if compare else [])
    networks = list(dict.fromkeys(ALIASES.get(name, name) for name in networks))
    common = {"batch": batch, "train": train, "device": place, "repeats": repeats, "tell": console.say}
    if ops:
        from xyscannet.analysis import operators

        network, _ = bench.load(networks[0])
        beside = list(dict.fromkeys([*names, "reference"]))
        results = list(operators.measure(networks[0], network.config, shapes, kinds, beside, **common))
        header, rows = _table(results, OPERATOR_COLUMNS)
    else:
        execution = listed(forms, "--forms") if forms else None
        measured = bench.run(networks, shapes, kinds, names, forms=execution, memory=memory, **common)
        results = bench.with_ratios(list(measured))
        header, rows = _table(results, COLUMNS)
    record = {"machine": _machine(place), "command": _command_line(), "results": [_plain(r) for r in results]}
    if json_path == "-":
        console.data(record)
    else:
        tables.show(header, rows, right=range(WORDS, len(header)))
        if not ops and any(result.weights == "random" for result in results):
            console.say("networks without embedded weights ran with random ones")
    if json_path not in (None, "-"):
        _write(Path(json_path), lambda file: file.write(json.dumps(record, indent=1) + "\n"))
    if csv_path is not None:
        _write(csv_path, lambda file: _write_csv(file, results))
    if markdown is not None:
        _write(markdown, lambda file: file.write(_markdown(header, rows, record)))


def listed(text: str, option: str) -> list[str]:
    """The parts of a comma-separated option, each once."""
    parts = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise ConfigError(f"{option}: give one value at least")
    return parts


def parse_size(text: str) -> tuple[int, int]:
    """Height and width of `720x1280`."""
    found = re.fullmatch(r"([1-9]\d{0,5})[x×]([1-9]\d{0,5})", text)
    if not found:
        raise ConfigError(f"--sizes: {text!r} is not a size such as 720x1280 (height before width)")
    return int(found[1]), int(found[2])


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
    if device.type != "cuda":
        return found
    return found | machine.gpu_stack(device.index or 0)


def _command_line() -> str:
    return shlex.join(["xyscan", *sys.argv[1:]])


def _plain(result: Result | OperatorResult) -> dict[str, Any]:
    """For JSON, which has no infinity (an error of zero) and no NaN (a result that is not finite)."""
    record = dataclasses.asdict(result)
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }


def _figure(value: float | None, form: str, unit: float = 1) -> str | None:
    return None if value is None else format(value / unit, form)


def _table(
    results: Sequence[Any], columns: Mapping[str, Callable[[Any], str | None]]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows; without the columns that no result has a figure for."""
    cells = {title: [make(result) for result in results] for title, make in columns.items()}
    kept = {title: column for title, column in cells.items() if any(cell is not None for cell in column)}
    return list(kept), [[cell or "-" for cell in row] for row in zip(*kept.values(), strict=True)]


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]], record: dict[str, Any]) -> str:
    place = record["machine"]
    lines = [header, ["---"] * WORDS + ["---:"] * (len(header) - WORDS), *rows]
    foot = f"{place['device']}, {place['threads']} threads, torch {place['torch']}, {place['date']}"
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{table}\n`{record['command']}`\n\n{foot}.\n"


def _write_csv(file: Any, results: Sequence[Result | OperatorResult]) -> None:
    flat = []
    for result in results:
        record = dataclasses.asdict(result)
        flat.append(record.pop("case") | record)
    writer = csv.DictWriter(file, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)


def _write(path: Path, fill: Callable[[Any], object]) -> None:
    """Write a text file under a temporary name and move it into place."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            "w",
            dir=path.absolute().parent,
            prefix=f".{path.name}.",
            delete=False,
            encoding="utf-8",
            newline="",
        ) as file:
            temporary = file.name
            fill(file)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
    except OSError as failure:
        raise InputError(f"{path}: cannot be written: {failure.strerror or failure}") from None
    finally:
        if temporary is not None:
            os.unlink(temporary)
