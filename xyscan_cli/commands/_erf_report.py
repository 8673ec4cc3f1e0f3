"""What `xyscan erf` prints, writes and draws."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xyscan_cli import console, outputs, tables
from xyscannet.errors import ConfigError
from xyscannet.files import write_bytes, write_text

if TYPE_CHECKING:
    import numpy as np

    from xyscannet.analysis.erf import ReceptiveField

SUFFIXES = (".pdf", ".png")


@dataclass(frozen=True, eq=False)
class Measured:
    """An ERF of a network with these weights ("random" or a file's name), of all of it or of one of its scanners."""

    model: str
    label: str
    weights: str
    field: ReceptiveField
    of_scanner: bool = False


def how(weights: str) -> str:
    """Where weights are from, for people."""
    return "random weights" if weights == "random" else f"weights {weights}"


def check(json_path: Path | None, csv_path: Path | None, maps: Path | None, figures: Path | None) -> None:
    """Before the work: raises what writing and drawing to these would raise after it."""
    from xyscannet.reports.figures import canvas

    for option, path in (("--json", json_path), ("--csv", csv_path), ("--maps", maps)):
        outputs.file(option, path)
    if maps is not None and maps.suffix != ".npz":
        raise ConfigError(f"--maps {maps}: maps are written as .npz")
    if figures is not None:
        canvas.check_matplotlib()
        if figures.is_file():
            raise ConfigError(f"--figures {figures}: is a file; name a folder")


def put(path: Path, text: str) -> None:
    """Write a text file in one step, and say so."""
    write_text(path, text)
    console.say(f"wrote {path}")


def save_maps(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name, compressed, in one step, and say so."""
    import numpy as np

    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    write_bytes(path, data.getvalue())
    console.say(f"wrote {path}")


def write(
    results: Sequence[Measured], told: Mapping[str, Any], json_path: Path | None, csv_path: Path | None
) -> None:
    """The files of records and of the table."""
    if json_path is not None and str(json_path) != "-":
        put(json_path, "".join(json.dumps(_record(each, told)) + "\n" for each in results))
    if csv_path is not None:
        put(csv_path, _csv(results))


def show(results: Sequence[Measured], told: Mapping[str, Any], json_path: Path | None) -> None:
    """The table; with `--json -` the records on stdout instead."""
    if json_path is not None and str(json_path) == "-":
        for each in results:
            console.data(_record(each, told))
        return
    shares = [area.share for area in results[0].field.areas()]
    header = ["network", "weights", "part", "inputs", *(f"{100 * share:g} %" for share in shares), "reached"]
    rows = [
        [
            *(each.label, each.weights, each.field.part, str(each.field.inputs)),
            *(f"{100 * area.ratio:.3g} ({area.side} px)" for area in each.field.areas()),
            f"{100 * each.field.reached:.3g}",
        ]
        for each in results
    ]
    tables.show(header, rows, right=range(3, len(header)))
    console.say("areas of the squares that hold that share of the gradient, and what it reaches at all, in %")


def draw(folder: Path, results: Sequence[Measured], command: str) -> None:
    """Write `erf` and, of scanners, `scanners` with a network's three in a row, and their captions."""
    from xyscannet.reports.figures import canvas
    from xyscannet.reports.figures.erf import Field, receptive_fields

    folder = canvas.folder_of(folder)
    captions = {}
    for stem, of_scanner in (("erf", False), ("scanners", True)):
        chosen = [each for each in results if each.of_scanner is of_scanner]
        if not chosen:
            continue
        first = chosen[0].field
        if of_scanner:
            titles = [f"{each.label}, {each.field.part.partition(': ')[2]}" for each in chosen]
            places = dict.fromkeys(each.field.part.partition(":")[0] for each in chosen)
            of = f"what each module, and the whole block, adds in {', '.join(places)}"
            to = "feature map that enters it"
        else:
            titles = [each.label for each in chosen]
            of, to = f"the {first.part}", "input image"
        what = (
            f"the absolute gradient of the centre of {of} with respect to the {to}, mean over {first.inputs} "
        )
        what += "crops of photographs"
        fields = [
            Field(
                title,
                each.field.map,
                [(a.share, a.side, a.ratio) for a in each.field.areas()],
                how(each.weights),
            )
            for title, each in zip(titles, chosen, strict=True)
        ]
        paths = [folder / f"{stem}{suffix}" for suffix in SUFFIXES]
        captions[stem] = receptive_fields(
            paths, fields, what=what, command=command, across=3 if of_scanner else 4
        )
        for path in paths:
            console.say(f"wrote {path}")
    console.say(f"wrote {canvas.write_captions(folder, captions)}")


def _record(each: Measured, told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": each.model,
        "weights": each.weights,
        "part": each.field.part,
        "inputs": each.field.inputs,
        **told,
        "reached": each.field.reached,
        "areas": [asdict(area) for area in each.field.areas()],
    }


def _csv(results: Sequence[Measured]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "weights", "part", "inputs", "share", "side", "ratio", "reached"])
    for each in results:
        for area in each.field.areas():
            row = (each.model, each.weights, each.field.part, each.field.inputs)
            writer.writerow([*row, area.share, area.side, area.ratio, each.field.reached])
    return text.getvalue()
