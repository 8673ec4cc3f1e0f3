"""`xyscan data`: make pairs of blurred and sharp photographs, and check data sets."""

from __future__ import annotations

import json
from collections import Counter
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xyscan_cli import console, options, outputs
from xyscan_cli.console import shown
from xyscan_cli.progress import Progress
from xyscannet.addresses import place_of
from xyscannet.errors import UnavailableError
from xyscannet.files import write_text

if TYPE_CHECKING:
    from xyscannet.data.datasets import Dataset

HELP = "Make pairs of blurred and sharp photographs, and check data sets."
SHOWN = 20  # problems and sizes printed of a set; --json has all

app = typer.Typer(add_completion=False, no_args_is_help=True, help=HELP)


class Strength(str, Enum):
    """Lengths of the camera's path: 2-6, 6-14 and 14-30 pixels; mixed draws one of them for every pair."""

    small = "small"
    medium = "medium"
    strong = "strong"
    mixed = "mixed"


@app.callback(help=HELP)
def data() -> None:
    """The group of commands."""


@app.command()
def synth(
    sharp_dir: Annotated[
        Path,
        typer.Argument(
            metavar="SHARP_DIR", parser=options.local, help="Folder of sharp photographs.", show_default=False
        ),
    ],
    out_dir: Annotated[
        Path,
        typer.Argument(
            metavar="OUT_DIR", parser=options.local, help="Folder for the pairs.", show_default=False
        ),
    ],
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


@app.command()
def check(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="DIR",
            help="A data set, one of its splits, or a folder of sets, here or at an address such as s3://bucket/gopro.",
            show_default=False,
        ),
    ],
    deep: Annotated[bool, typer.Option("--deep", help="Decode every file, not only its header.")] = False,
    json_path: options.JsonOption = None,
    quiet: options.QuietOption = False,
) -> None:
    """Say which data sets a folder holds and what is wrong with them.

    GoPro, HIDE, RealBlur-J, RealBlur-R and RWBI are recognised in the layouts
    that circulate, and so are any folders {blur,sharp} or {input,target}.
    Counts are compared with the published ones. Files without a partner,
    unreadable files and pairs of two sizes are listed. The exit code is 1 if
    there are any problems, 3 if the folder holds no data set or its address
    cannot be reached. Files at an address are fetched, each for as long as
    it is looked at.
    """
    console.set_quiet(quiet)
    outputs.file("--json", json_path)
    from xyscannet.data import datasets
    from xyscannet.data.remote import seen

    sets = seen(datasets.recognise, place_of(folder))
    if not sets:
        raise UnavailableError(
            f"{folder} holds no data set: neither {', '.join(datasets.NAMES)} in a known layout and folder name "
            "nor folders blur and sharp or input and target"
        )
    records = []
    for each in sets:
        records.append(_checked(each, deep))
        _print(records[-1])
    lines = [json.dumps(record) + "\n" for record in records]
    if json_path is not None and str(json_path) != "-":
        write_text(json_path, "".join(lines))
    elif json_path is not None:
        for record in records:
            console.data(record)
    if any(record["problems"] for record in records):
        raise typer.Exit(1)


def _checked(found: Dataset, deep: bool) -> dict[str, Any]:
    from xyscannet.data.check import check as look

    sizes: Counter[tuple[int, int]] = Counter()
    problems = list(found.problems)
    with Progress(len(found.samples), "samples") as bar:
        for done, checked in enumerate(look(found, deep=deep), 1):
            if checked.size:
                sizes[checked.size] += 1
            problems += checked.problems
            bar.update(done, name=checked.sample.name)
    return {
        "name": found.name,
        "title": found.title,
        "split": found.split,
        "layout": found.layout,
        "root": str(found.root),
        "samples": len(found.samples),
        "expected": found.expected,
        "paired": any(sample.sharp for sample in found.samples),
        "groups": len({sample.group for sample in found.samples}),
        "sizes": {f"{width}x{height}": count for (width, height), count in sizes.most_common()},
        "decoded": deep,
        "problems": problems,
    }


def _print(record: dict[str, Any]) -> None:
    console.say(f"{record['title']} {record['split']}".strip(), "bold")
    console.field("folder", record["root"])
    console.field("layout", record["layout"])
    kind = "pairs" if record["paired"] else "images"
    published = "" if record["expected"] is None else f", {record['expected']} are published"
    groups = f", in {record['groups']} groups" if record["groups"] > 1 else ""
    console.field(kind, f"{record['samples']}{groups}{published}")
    sizes = [f"{size} ({count})" for size, count in record["sizes"].items()]
    more = f" and {len(sizes) - SHOWN} more" if len(sizes) > SHOWN else ""
    console.field("sizes", ", ".join(sizes[:SHOWN]) + more if sizes else "none can be read")
    problems = record["problems"]
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = [f"{count} with {record['title']} {record['split']}".rstrip() + ":"]
        lines += [f"  {shown(problem)}" for problem in problems[:SHOWN]]
        if len(problems) > SHOWN:
            lines.append(f"  and {len(problems) - SHOWN} more; --json FILE has all")
        console.error("\n".join(lines))
    else:
        read = "decoded" if record["decoded"] else "headers read"
        console.field("files", f"all there, {read}, nothing wrong")
