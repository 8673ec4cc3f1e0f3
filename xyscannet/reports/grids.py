"""A table of measured and printed values, and how it is written: as rows of text, Markdown or LaTeX."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from xyscannet.files import shown
from xyscannet.reports.results import Column

_DIGITS = {"psnr": 2, "ssim": 4, "lpips": 4, "st": 4, "niqe": 3, "fid": 2, "kid": 5, "dists": 4}
_SIGNS = "*†‡§¶#"
_TRUTHS = ("Ground truth", "paper: Reference")  # rows of the sharp images themselves


@dataclass
class Row:
    """A line: what was measured, or what the paper has. `values` by column name; `signs` refer to footnotes."""

    label: str
    values: dict[str, float | None]
    texts: dict[str, str]
    measured: bool
    signs: str = ""


@dataclass
class Grid:
    """A table before it is written in some language. `signs` of columns and rows refer to the footnotes.

    The best two values of a column are marked, with `apart` those of the measured and of the printed rows each; so are
    those of the columns `unlike`, whose printed values are of another scale.
    """

    columns: list[Column]
    rows: list[Row]
    signs: dict[str, str] = field(default_factory=dict)
    footnotes: list[str] = field(default_factory=list)
    apart: bool = False
    unlike: frozenset[str] = frozenset()

    def heading(self, column: Column) -> str:
        arrow = "↑" if column.higher_is_better else "↓"
        return f"{column.title} {arrow}" + self.signs.get(column.name, "")

    def text(self, row: Row, column: Column) -> str:
        return row.texts.get(column.name, "-")

    def rank(self, row: Row, column: Column) -> int | None:
        """1 for the best finite value of a column, 2 for the second-best; None for the others and the ground truth."""
        apart = self.apart or column.name in self.unlike
        rivals = [each for each in self.rows if not apart or each.measured == row.measured]
        values = {each.values.get(column.name) for each in rivals if each.label not in _TRUTHS}
        finite = {value for value in values if value is not None and math.isfinite(value)}
        best = sorted(finite, reverse=column.higher_is_better)[:2]
        value = row.values.get(column.name)
        return best.index(value) + 1 if value in best else None


class Notes:
    """A grid's footnotes with signs, one for each text."""

    def __init__(self, made: Grid) -> None:
        self._grid, self._known = made, {}

    def sign(self, text: str) -> str:
        if text not in self._known:
            count = len(self._known)
            self._known[text] = _SIGNS[count % len(_SIGNS)] * (1 + count // len(_SIGNS))
            self._grid.footnotes.append(f"{self._known[text]} {text}.")
        return self._known[text]


def number(name: str, value: float, printed: bool = False) -> str:
    """A value with its metric's digits; the paper's values with the paper's."""
    if math.isinf(value):
        return "∞"
    family = re.split(r"[-:_]", name)[0]
    digits = 3 if name.endswith("x1000") else _DIGITS.get(family, 4)
    if printed:
        digits = 2 if family == "psnr" or (family == "niqe" and round(value, 2) == value) else 3
    return f"{value:.{digits}f}"


def text_rows(made: Grid) -> tuple[list[str], list[list[str]], list[str]]:
    """Header, rows and footnotes."""
    header = ["method", *(made.heading(column) for column in made.columns)]
    rows = [
        [row.label + row.signs, *(made.text(row, column) for column in made.columns)] for row in made.rows
    ]
    return header, rows, made.footnotes


def markdown(made: Grid, notes: Sequence[str] = ()) -> str:
    """A table with the best value of each column bold and the second underlined, its footnotes, and `notes`."""
    header = ["Method", *(made.heading(column) for column in made.columns)]
    lines = [header, ["---", *["---:"] * len(made.columns)]]
    marks = {1: "**{}**", 2: "<u>{}</u>", None: "{}"}
    for row in made.rows:
        cells = [f"**{markdown_cell(row.label)}**" if row.measured else markdown_cell(row.label)]
        cells[0] += markdown_cell(row.signs)
        cells += [marks[made.rank(row, column)].format(made.text(row, column)) for column in made.columns]
        lines.append(cells)
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return table + "".join(f"\n{markdown_cell(note)}  " for note in [*made.footnotes, *notes]) + "\n"


def latex(made: Grid, caption: str, notes: Sequence[str] = ()) -> str:
    """A `table` with booktabs' rules; the best value of each column bold, the second underlined; comments first."""
    head = " & ".join(["Method", *(_tex(made.heading(column)) for column in made.columns)])
    marks = {1: r"\textbf{%s}", 2: r"\underline{%s}", None: "%s"}
    body = []
    for row in made.rows:
        cells = [_tex(row.label + row.signs)]
        cells += [marks[made.rank(row, column)] % _tex(made.text(row, column)) for column in made.columns]
        body.append(" & ".join(cells) + r" \\")
    caption = " ".join([caption, *made.footnotes])
    comments = "".join(f"% {line}\n" for note in notes for line in note.splitlines())
    return (
        f"{comments}\\begin{{table}}\n\\centering\n\\begin{{tabular}}{{l{'r' * len(made.columns)}}}\n\\toprule\n"
        f"{head} \\\\\n\\midrule\n" + "\n".join(body) + "\n\\bottomrule\n\\end{tabular}\n"
        f"\\caption{{{_tex(caption)}}}\n\\end{{table}}\n"
    )


def markdown_cell(text: str) -> str:
    """Text for a cell of a table, in which it means nothing else."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", shown(text.replace("\n", " ")))


_TEX = {
    **{c: rf"\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "∞": r"$\infty$",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "§": r"\S{}",
    "¶": r"\P{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in shown(text.replace("\n", " ")))
