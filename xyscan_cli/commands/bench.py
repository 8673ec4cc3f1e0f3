"""`xyscan bench`: how fast networks run on this machine, how much memory they take, and how exact they are."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xyscan_cli import console, machine, options, tables
from xyscannet.errors import ConfigError, InputError, UnavailableError

if TYPE_CHECKING:
    import torch

    from xyscannet.analysis.bench import Result

HEADER = [
    "network",
    "size",
    "dtype",
    "scan",
    "ms",
    "MP/s",
    "GFLOP/s",
    "peak MiB",
    "scan ms",
    "scan G/s",
    "max error",
    "PSNR dB",
]


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

    Competitors take turns after a warm-up; GPU times are synchronised. Memory is what one forward adds. The
    scan's rate is in state updates a second, its scans run alone. The error is that of the chosen type and
    scan on a 64x96 image in [0, 1], against the network in float64 with the reference scan.

    Example:  xyscan bench --models xyscannet-b --sizes 256x256,720x1280 --dtypes fp32,bf16 --scan cpu,reference
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
    results = list(
        bench.run(
            listed(models, "--models"),
            shapes,
            kinds,
            names,
            device=place,
            repeats=repeats,
            memory=memory,
            tell=console.say,
        )
    )
    record = {"machine": _machine(place), "results": [_plain(result) for result in results]}
    rows = [_row(result) for result in results]
    if json_path == "-":
        console.data(record)
    else:
        tables.show(HEADER, rows, right=range(4, len(HEADER)))
        if any(result.weights == "random" for result in results):
            console.say("networks without embedded weights ran with random ones")
    if json_path not in (None, "-"):
        _write(Path(json_path), lambda file: file.write(json.dumps(record, indent=1) + "\n"))
    if csv_path is not None:
        _write(csv_path, lambda file: _write_csv(file, results))
    if markdown is not None:
        _write(markdown, lambda file: file.write(_markdown(rows, record["machine"])))


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

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else machine.cpu()["name"]
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "xyscannet": xyscannet.__version__,
    }


def _plain(result: Result) -> dict[str, Any]:
    """For JSON, which has no infinity (an error of zero) and no NaN (a result that is not finite)."""
    record = dataclasses.asdict(result)
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }


def _row(result: Result) -> list[str]:
    case = result.case
    return [
        Path(case.model).name,
        f"{case.height}x{case.width}",
        case.dtype,
        case.scan,
        f"{result.seconds * 1e3:.1f}",
        f"{result.megapixels_per_second:.3f}",
        f"{result.gflops:.1f}",
        "-" if result.peak_bytes is None else f"{result.peak_bytes / 2**20:.0f}",
        f"{result.scan_seconds * 1e3:.1f}",
        f"{result.scan_rate / 1e9:.2f}",
        f"{result.max_error:.1e}",
        f"{result.psnr:.1f}",
    ]


def _markdown(rows: Sequence[Sequence[str]], place: dict[str, Any]) -> str:
    lines = [HEADER, ["---"] * 4 + ["---:"] * (len(HEADER) - 4), *rows]
    foot = f"{place['device']}, {place['threads']} threads, torch {place['torch']}"
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{foot}.\n"


def _write_csv(file: Any, results: Sequence[Result]) -> None:
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
