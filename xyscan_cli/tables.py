"""Tables on stdout: aligned on a terminal, and whole lines where stdout goes to a file or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from xyscan_cli.console import shown


def show(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Print rows of text under a header; the columns numbered in `right` are aligned to the right.

    On a narrow terminal only the last column is broken, between words; a longer line goes on in the next.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index in right else "left", no_wrap=index < len(header) - 1)
    rows = [[shown(cell) for cell in row] for row in rows]
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    *columns, last = zip(header, *rows, strict=True)
    words = [word for cell in last for word in cell.split()]
    least = [max(map(cell_len, column)) for column in (*columns, words)]
    console.width = max(console.width, sum(least) + 2 * len(columns)) if console.is_terminal else 100_000
    with console.capture() as capture:
        console.print(table)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in capture.get().splitlines()))


def facts(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names and values, one pair a line; a value of several lines is indented below its name."""
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        lines = [shown(line) for line in value.split("\n")]
        sys.stdout.write(f"{shown(name):<{width}}  {lines[0]}\n")
        sys.stdout.writelines(f"{'':<{width}}  {line}\n" for line in lines[1:])
