"""What `xyscan features` prints, writes and draws."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xyscan_cli import console, tables
from xyscan_cli.commands._erf_report import SUFFIXES, how, put

if TYPE_CHECKING:
    import numpy as np

    from xyscannet.analysis.features import Addition, Features, Scan
    from xyscannet.reports.figures.maps import Panel

SPAN = "Colours span the middle 99 % of the values; profiles all of them."
ARROWS = {"x": "→", "y": "↓", "-x": "←", "-y": "↑"}
HEADER = (
    "network",
    "weights",
    "module",
    "kind",
    "direction",
    "added",
    "delta",
    "delta sd",
    "decay",
    "likeness",
)


@dataclass(frozen=True, eq=False)
class Looked:
    """A network with these weights ("random" or a file's name), looked into."""

    model: str
    label: str
    weights: str
    features: Features

    def modules(self) -> Iterator[tuple[Addition, list[Scan]]]:
        """Every scanning module with its scans."""
        for addition in self.features.additions:
            yield addition, [scan for scan in self.features.scans if scan.module == addition.module]


def write(
    looked: Sequence[Looked],
    state: int | None,
    told: Mapping[str, Any],
    json_path: Path | None,
    csv_path: Path | None,
) -> None:
    """The files of records and of the table."""
    records = [record for each in looked for record in _records(each, state)]
    if json_path is not None and str(json_path) != "-":
        put(json_path, "".join(json.dumps(record | told) + "\n" for record in records))
    if csv_path is not None:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        put(csv_path, text.getvalue())


def show(
    looked: Sequence[Looked], state: int | None, told: Mapping[str, Any], json_path: Path | None
) -> None:
    """The table; with `--json -` the records on stdout instead."""
    records = [record for each in looked for record in _records(each, state)]
    labels = {each.model: each.label for each in looked}
    if json_path is not None and str(json_path) == "-":
        for record in records:
            console.data(record | told)
        return
    rows = [
        [
            *(labels[r["model"]], r["weights"], r["module"], r["kind"], ARROWS[r["direction"]]),
            *(f"{100 * r['added']:.3g} %", f"{r['delta']:.3g}", f"{r['delta_sd']:.3g}", f"{r['decay']:.4f}"),
            "-" if r["likeness"] is None else f"{r['likeness']:.3f}",
        ]
        for r in records
    ]
    tables.show(HEADER, rows, right=range(5, len(HEADER)))
    console.say(
        "added: what the module adds over the stream it is added to; delta and its deviation over the image; "
        f"decay: exp(delta A), {_which(state)}; likeness: cosine with the forward scan"
    )


def _records(looked: Looked, state: int | None) -> Iterator[dict[str, Any]]:
    for addition, scans in looked.modules():
        for scan in scans:
            yield {
                "model": looked.model,
                "weights": looked.weights,
                "module": scan.module,
                "kind": scan.kind,
                "direction": scan.direction,
                "added": addition.share,
                "delta": float(scan.delta.mean()),
                "delta_sd": float(scan.delta.std()),
                "decay": float(_decay(scan, state).mean()),
                "likeness": scan.likeness,
            }


def arrays(looked: Sequence[Looked]) -> dict[str, np.ndarray]:
    """Every map and profile, as `network/module/direction/what`."""
    found: dict[str, np.ndarray] = {}
    for each in looked:
        found[f"{each.label}/residual"] = each.features.residual
        for addition, scans in each.modules():
            found[f"{each.label}/{addition.module}/added"] = addition.map
            for scan in scans:
                home = f"{each.label}/{scan.module}/{scan.direction}"
                held = {"delta": scan.delta, "decay": scan.decay, "output": scan.output}
                found |= {f"{home}/{what}": values for what, values in held.items() if values is not None}
    return found


def draw(
    folder: Path, looked: Sequence[Looked], image: np.ndarray, name: str, state: int | None, command: str
) -> None:
    """Write `residual-features`, and for each network `states` (numbered where there are several), and captions.

    image: the photograph, (H, W, 3) float in [0, 1].
    """
    from xyscannet.reports.figures import canvas
    from xyscannet.reports.figures.maps import Panel, rows

    folder = canvas.folder_of(folder)
    photo = Panel("photograph", (image * 255).round().astype("uint8"), note="")
    names = ", ".join(f"{each.label} ({how(each.weights)})" for each in looked)
    figures = {
        "residual-features": (
            [row for each in looked for row in _added(each, photo)],
            f"Residual features over {name} of {names}: what the network adds to the photograph (mean over the "
            "colours; grey is zero, lighter is more), and what each scanning module adds to its stream, root mean "
            f"square over the channels, with its share of the stream beneath. {SPAN}",
        )
    }
    for number, each in enumerate(looked, start=1):
        figures["states" if len(looked) == 1 else f"states-{number}"] = (
            _states(each, photo, state),
            f"The scanners' states over {name} in {each.label} ({how(each.weights)}): delta after softplus, mean over "
            f"the channels, and the decay exp(delta A), {_which(state)}. Arrows are the scans' "
            f"directions. Where rows and columns are averaged (inter) they are profiles down and across. {SPAN}",
        )
    captions = {}
    for stem, (panels, caption) in figures.items():
        paths = [folder / f"{stem}{suffix}" for suffix in SUFFIXES]
        captions[stem] = rows(paths, panels, caption, command)
        for path in paths:
            console.say(f"wrote {path}")
    console.say(f"wrote {canvas.write_captions(folder, captions)}")


def _added(looked: Looked, photo: Panel) -> list[tuple[str, list[Panel]]]:
    """For every block the photograph, the residual and what its modules add; below, scans in both directions."""
    from xyscannet.reports.figures.maps import Panel

    residual = Panel("residual", looked.features.residual.mean(axis=2), signed=True)
    made: dict[str, list[Panel]] = {}
    for addition, _ in looked.modules():
        block = addition.module.rpartition(".")[0]
        panels = made.setdefault(f"{looked.label}\n{block}", [photo, residual])
        panels.append(Panel(addition.kind, addition.map, note=f"{100 * addition.share:.2g} % of the stream"))
    for addition, scans in looked.modules():
        if all(scan.likeness is None for scan in scans):
            continue
        most = max(float(scan.output.max()) for scan in scans)
        made[f"{looked.label}\n{addition.module}"] = [
            Panel(
                f"{addition.kind} {ARROWS[scan.direction]}, scanned",
                scan.output,
                down=scan.direction.endswith("y"),
                limits=(0.0, most),
                note=""
                if scan.likeness is None
                else f"cosine {scan.likeness:.2f} with {ARROWS[scan.direction[1:]]}",
            )
            for scan in scans
        ]
    return list(made.items())


def _states(looked: Looked, photo: Panel, state: int | None) -> list[tuple[str, list[Panel]]]:
    """A row for every module and sense of the scans: photograph, then delta and decay of each direction."""
    from xyscannet.reports.figures.maps import Panel, span

    made = []
    for addition, scans in looked.modules():
        for backwards in (False, True):
            chosen = [scan for scan in scans if scan.direction.startswith("-") is backwards]
            if not chosen:
                continue
            panels = [photo]
            for title, values in (
                ("delta", [scan.delta for scan in chosen]),
                ("decay", [_decay(scan, state) for scan in chosen]),
            ):
                limits = span(*values) if values[0].ndim == 2 else None
                panels += [
                    Panel(
                        f"{title} {ARROWS[s.direction]}", each, down=s.direction.endswith("y"), limits=limits
                    )
                    for s, each in zip(chosen, values, strict=True)
                ]
            made.append((f"{addition.module.rpartition('.')[0]}\n{addition.kind}", panels))
    return made


def _decay(scan: Scan, state: int | None) -> np.ndarray:
    return scan.decay.mean(axis=0) if state is None else scan.decay[state - 1]


def _which(state: int | None) -> str:
    return "mean over channels and states" if state is None else f"of state {state}, mean over the channels"
