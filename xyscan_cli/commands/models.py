"""`xyscan models list|info|convert|mean|card`: the named networks and their checkpoints."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xyscan_cli import console, options, tables
from xyscan_cli.commands import _models_card
from xyscannet.errors import ConfigError

if TYPE_CHECKING:
    from xyscannet.models import XYScanNetConfig

app = typer.Typer(
    help="List, describe, convert and measure networks and their weights.",
    no_args_is_help=True,
    add_completion=False,
)
app.command("card")(_models_card.command)

COUNTED_AT = 256  # pixels, height and width that GMACs are given for
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


class Stored(str, Enum):
    """Number formats of a file."""

    fp16 = "fp16"
    fp32 = "fp32"


class Exist(str, Enum):
    """What to do with an output that exists."""

    error = "error"
    overwrite = "overwrite"


@app.command("list")
def list_models(json: JsonFlag = False) -> None:
    """List the named networks."""
    from xyscannet.models import zoo

    records = []
    for name in zoo.names():
        info = zoo.info(name)
        records.append(
            {
                "name": name,
                "width": info.config.width,
                "parameters": info.parameters,
                "gmacs": _gmacs(info.config),
                "weights": str(info.weights) if info.weights else None,
                "description": info.description,
            }
        )
    if json:
        console.data(records)
        return
    tables.show(
        ["name", "width", "parameters", f"GMACs at {COUNTED_AT}x{COUNTED_AT}", "weights", "description"],
        [
            [
                record["name"],
                str(record["width"]),
                _millions(record["parameters"]),
                f"{record['gmacs']:.1f}",
                "embedded" if record["weights"] else "-",
                record["description"],
            ]
            for record in records
        ],
        right=(1, 2, 3),
    )


@app.command()
def info(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE", help="A network's name or a checkpoint file, here or at an address."
        ),
    ],
    json: JsonFlag = False,
) -> None:
    """Describe a network or a checkpoint: configuration, size, checksum, and the card in its header."""
    record = _describe(model)
    if json:
        console.data(record)
        return
    pairs = [
        ("name", record["name"]),
        ("file", record["file"] or "no weights are embedded; give a checkpoint file with --weights"),
        ("sha256", record["sha256"]),
        ("stored as", record["dtype"]),
        ("parameters", f"{record['parameters']:,} ({_millions(record['parameters'])})"),
        ("GMACs", f"{record['gmacs']:.1f} at {COUNTED_AT}x{COUNTED_AT}"),
        *record["config"].items(),
    ]
    tables.facts([(name, str(value)) for name, value in pairs if value is not None])
    if record["metadata"]:
        print()
        tables.facts(list(record["metadata"].items()))


@app.command()
def convert(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="The authors' .pth, or a .safetensors file; or its address.")
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT.safetensors", parser=options.local, help="The file to write.")
    ],
    dtype: Annotated[Stored, typer.Option("--dtype", help="Number format of the file.")] = Stored.fp32,
    channel_order: options.ChannelOrderOption = options.ChannelOrder.rgb,
    exist: Annotated[Exist, typer.Option("--exist", help="What to do if the output exists.")] = Exist.error,
    json: JsonFlag = False,
) -> None:
    """Convert a checkpoint to safetensors with its configuration inside."""
    _check_target(target, [source], exist)
    from xyscannet import checkpoint

    held = checkpoint.read(checkpoint.resolve(source), channel_order.value)
    metadata = dict(held.metadata)
    if channel_order is options.ChannelOrder.bgr:
        metadata["channel_order"] = "converted from bgr to rgb"
    _write(target, held.state, held.config, metadata, dtype, json)


@app.command()
def mean(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE... OUT.safetensors",
            help="Checkpoints of one network, or a name whose weights are embedded; then the file to write.",
        ),
    ],
    shares: Annotated[
        str | None,
        typer.Option(
            "--shares",
            metavar="A,B,...",
            help="How much each counts, relative to the others; alike where not given.",
        ),
    ] = None,
    dtype: Annotated[Stored, typer.Option("--dtype", help="Number format of the file.")] = Stored.fp32,
    exist: Annotated[Exist, typer.Option("--exist", help="What to do if the output exists.")] = Exist.error,
    json: JsonFlag = False,
) -> None:
    """Average the weights of one network: of several runs, or of before and after a last phase of training.

    Between weights trained for PSNR and the same after a phase with LPIPS in the loss lies every compromise.
    """
    *sources, last = places
    target = options.local(last)
    _check_target(target, sources, exist)

    from xyscannet import checkpoint

    held = [checkpoint.read(checkpoint.resolve(source)) for source in sources]
    state = checkpoint.mean(held, _numbers(shares) if shares else None)
    metadata = {"mean_of": " ".join(each.sha256 for each in held)} | ({"shares": shares} if shares else {})
    _write(target, state, held[0].config, metadata, dtype, json)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--shares {text}: must be numbers with commas between them, such as 1,3") from None


def _check_target(target: Path, sources: list[str], exist: Exist) -> None:
    """ConfigError unless a checkpoint made of others may be written there."""
    if target.suffix != ".safetensors":
        raise ConfigError(f"{target}: the output's name must end in .safetensors")
    if os.path.lexists(target):
        if target.is_dir():
            raise ConfigError(f"{target}: is a folder")
        if target.exists() and any(os.path.exists(each) and target.samefile(each) for each in sources):
            raise ConfigError(f"{target}: is the input itself; choose another name")
        if exist is Exist.error:
            raise ConfigError(f"{target}: exists; use --exist overwrite to replace it")


def _write(
    target: Path, state: Any, config: XYScanNetConfig, metadata: dict[str, str], dtype: Stored, json: bool
) -> None:
    """Save a checkpoint and describe it."""
    import torch

    from xyscannet import checkpoint

    kind = torch.float16 if dtype is Stored.fp16 else torch.float32
    checkpoint.save(target, state, config, metadata=metadata, dtype=kind)
    record = _describe(str(target))
    if json:
        console.data(record)
        return
    size, width = target.stat().st_size / 1e6, record["config"]["width"]
    console.say(f"{target}: width {width}, {_millions(record['parameters'])} parameters, {size:.1f} MB")
    console.say(f"sha256 {record['sha256']}")


def _describe(model: str) -> dict[str, Any]:
    from xyscannet import checkpoint
    from xyscannet.models import zoo

    named = model in zoo.names()
    if named and zoo.info(model).weights is None:
        info = zoo.info(model)
        record = {"file": None, "sha256": None, "dtype": None, "parameters": info.parameters, "metadata": {}}
        config = info.config
    else:
        held = checkpoint.read(checkpoint.resolve(model))
        config = held.config
        kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in held.state.values()})
        record = {
            "file": str(held.source),
            "sha256": held.sha256,
            "dtype": ", ".join(kinds),
            "parameters": sum(tensor.numel() for tensor in held.state.values()),
            "metadata": held.metadata,
        }
    name = {"name": model if named else None}
    return name | record | {"gmacs": _gmacs(config), "config": config.to_dict()}


def _gmacs(config: XYScanNetConfig) -> float:
    from xyscannet.models import zoo

    known = {info.config: info.macs for info in map(zoo.info, zoo.names())}
    macs = known.get(config)
    if macs is None:
        from xyscannet.analysis import complexity

        macs = complexity.count(config, COUNTED_AT, COUNTED_AT).macs
    return round(macs / 1e9, 2)


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"
