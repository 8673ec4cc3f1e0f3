"""One HTML page of evaluations: table, images side by side under a slider, histograms. It needs no network."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xyscannet.errors import ConfigError
from xyscannet.files import write_text
from xyscannet.reports import grids, tables
from xyscannet.reports.results import Evaluation, ImageResult

Read = Callable[[str], np.ndarray]
IMAGES = 24  # whose pictures are embedded
SIDE = 1024  # pixels of an embedded image's longer side at most
DETAIL = 256  # pixels of the window that is embedded in full size
QUALITY, DETAIL_QUALITY = 86, 95


def write_page(
    path: str | Path,
    evaluations: Sequence[Evaluation],
    *,
    read: Read,
    paper: bool = True,
) -> None:
    """Write the page, at once or not at all.

    Every image is in its table; of 24 of them, the worst by the last evaluation's first metric, the best, and
    others evenly between, the pictures are embedded: scaled to 1024 pixels, and 256 x 256 pixels in full size where
    the restored image differs most from the sharp one.

    Args:
        evaluations: of one set, e.g. the blurred input and one or more networks.
        read: the 8-bit RGB pixels (H, W, 3) of a file; what it raises is shown in the picture's place.
        paper: whether the paper's rows are in the table on top.

    Raises:
        ConfigError: there are no evaluations, or they are of different sets.
        InputError: the file cannot be written.
    """
    if not evaluations:
        raise ConfigError("a page needs an evaluation at least")
    data = _data(evaluations, paper)
    heading = f"{evaluations[-1].label} on {evaluations[-1].dataset}"
    data["title"] = heading
    chosen = _chosen(evaluations[-1], IMAGES)
    data["embedded"] = len(chosen)
    views = {name: _view(name, evaluations, read) for name in chosen}
    for image in data["images"]:
        image["view"] = views.get(image["name"])
    write_text(Path(path), _page(heading, data))


def _data(evaluations: Sequence[Evaluation], paper: bool) -> dict[str, Any]:
    """Everything on the page but its pictures, as plain values."""
    summary = tables.grid(evaluations, paper)
    header, rows, footnotes = grids.text_rows(summary)
    labels = [evaluation.label for evaluation in evaluations]
    columns = {c.name: c for evaluation in evaluations for c in evaluation.columns if not c.of_set}
    names = list(dict.fromkeys(image.name for evaluation in evaluations for image in evaluation.images))
    by_name = [{image.name: image for image in evaluation.images} for evaluation in evaluations]
    first = evaluations[0]
    facts = {"Set": first.dataset, "Protocol": first.protocol, "Images": str(len(names))}
    if first.expected is not None:
        facts["Published count"] = str(first.expected)
    for evaluation in evaluations:
        known = {k: v for k, v in evaluation.settings.items() if v not in (None, [], "")}
        facts[evaluation.label] = ", ".join(f"{k}: {v}" for k, v in known.items()) or "-"
    last = evaluations[-1]
    facts |= {"Versions": ", ".join(f"{k} {v}" for k, v in last.versions.items()), "Machine": last.machine}
    facts |= {"Date": last.date, "Command": last.command}
    return {
        "methods": labels,
        "summary": {
            "header": header,
            "rows": [
                {"cells": cells, "measured": row.measured}
                for cells, row in zip(rows, summary.rows, strict=True)
            ],
            "notes": footnotes,
        },
        "columns": [
            {"name": c.name, "title": c.title, "unit": c.unit, "higher": c.higher_is_better, "note": c.note}
            for c in columns.values()
        ],
        "images": [
            {
                "name": name,
                "size": _size([held[name] for held in by_name if name in held]),
                "values": [_values(held.get(name)) for held in by_name],
                "failures": [dict(held[name].failures) if name in held else {} for held in by_name],
            }
            for name in names
        ],
        "notes": tables.provenance(evaluations)[: len(first.columns)],
        "facts": [[name, value] for name, value in facts.items() if value],
    }


def _size(images: Sequence[ImageResult]) -> str:
    for image in images:
        if image.width and image.height:
            return f"{image.width} × {image.height}"
    return ""


def _values(image: ImageResult | None) -> dict[str, float | str | None]:
    if image is None:
        return {}
    return {
        name: "inf" if value is not None and math.isinf(value) else value
        for name, value in image.values.items()
    }


def _chosen(evaluation: Evaluation, count: int) -> list[str]:
    """Names of the images whose pictures are shown: half of them the worst, a sixth the best, the rest between."""
    column = next((column for column in evaluation.columns if not column.of_set), None)
    if column is None:
        return [image.name for image in evaluation.images[:count]]
    sign = 1 if column.higher_is_better else -1

    def rank(image: ImageResult) -> tuple[bool, float, str]:
        value = image.values.get(column.name)
        return value is not None, sign * value if value is not None else 0.0, image.name

    names = [image.name for image in sorted(evaluation.images, key=rank)]
    if len(names) <= count:
        return names
    worst, best = names[: count // 2], names[len(names) - count // 6 :]
    between = names[count // 2 : len(names) - count // 6]
    left = count - len(worst) - len(best)
    spread = [between[(2 * i + 1) * len(between) // (2 * left)] for i in range(left)]
    return [*worst, *spread, *best]


def _view(name: str, evaluations: Sequence[Evaluation], read: Read) -> dict[str, Any]:
    """The pictures of an image: a list of {label, whole, detail}, and what could not be shown."""
    results = {e.label: image for e in evaluations for image in e.images if image.name == name}
    known = next(iter(results.values()))
    alone = len(evaluations) == 1  # its images may stand in the blurred ones' place
    methods = {label: i.restored for label, i in results.items() if alone or i.restored != known.blur}
    files = {} if known.blur in methods.values() else {"Blurred": known.blur}
    files |= methods
    files["Sharp"] = known.sharp
    pixels: dict[str, np.ndarray] = {}
    problems = []
    for label, file in files.items():
        if file is None:
            if label != "Sharp" and label != "Blurred":
                problems.append(f"{label}: the restored image was not kept")
            continue
        try:
            pixels[label] = read(file)
        except Exception as error:
            problems.append(f"{label}: {error}")
    box = _detail(pixels)
    return {
        "pictures": [
            {
                "label": label,
                "whole": _uri(_fitted(image), QUALITY),
                "detail": _uri(_cut(image, box), DETAIL_QUALITY) if box else None,
            }
            for label, image in pixels.items()
        ],
        "box": box,
        "problems": problems,
    }


def _detail(pixels: dict[str, np.ndarray]) -> list[int] | None:
    """Left, top and side of the window to show in full size; None where the whole image is."""
    images = list(pixels.values())
    if not images or any(image.shape != images[0].shape for image in images):
        return None
    height, width = images[0].shape[:2]
    if max(height, width) <= SIDE or min(height, width) < DETAIL:
        return None
    step = DETAIL // 2
    last = images[-1].astype(np.float32)
    error = np.abs(last - images[-2]).mean(2) if len(images) > 1 else np.abs(np.gradient(last.mean(2))[1])
    corners = [
        (error[top : top + DETAIL, left : left + DETAIL].mean(), left, top)
        for top in range(0, height - DETAIL + 1, step)
        for left in range(0, width - DETAIL + 1, step)
    ]
    _, left, top = max(corners)
    return [left, top, DETAIL]


def _cut(image: np.ndarray, box: Sequence[int]) -> np.ndarray:
    left, top, side = box
    return image[top : top + side, left : left + side]


def _fitted(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _uri(image: np.ndarray, quality: int) -> str:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _page(title: str, data: dict[str, Any]) -> str:
    here = Path(__file__).parent
    template, style, script = (
        (here / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")
    )
    return _filled(
        template,
        {
            "TITLE": html.escape(title),
            "STYLE": style,
            "STYLE_HASH": _digest(style),
            "SCRIPT": script,
            "SCRIPT_HASH": _digest(script),
            "DATA": _json(data),
        },
    )


def _filled(template: str, parts: dict[str, str]) -> str:
    """The template with its {{NAME}}s replaced, once each, whatever the parts contain."""
    pieces = []
    rest = template
    while "{{" in rest:
        before, _, rest = rest.partition("{{")
        name, _, rest = rest.partition("}}")
        pieces += [before, parts[name]]
    return "".join(pieces) + rest


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(data: Any) -> str:
    """JSON that ends no script element, whatever the names in it are."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    text = text.encode("utf-8", "backslashreplace").decode()  # names of files that are not UTF-8
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
