"""What every figure shares: its page, fonts, line styles that grey print keeps apart, and how it is saved."""

from __future__ import annotations

import importlib.util
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from xyscannet.errors import ConfigError, InputError, UnavailableError
from xyscannet.files import shown, write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from xyscannet.reports.results import Evaluation

WIDTH = 7.0  # inches: both columns of a two-column page
DPI = 300
_FONT, _LEAST_FONT = 8, 5  # points
# Okabe and Ito's colours, dark and light in turn, each with a line of its own.
STYLES = (
    ("#0072B2", "-", "o"),
    ("#E69F00", "--", "s"),
    ("#000000", ":", "^"),
    ("#CC79A7", "-.", "D"),
    ("#009E73", (0, (5, 1)), "v"),
    ("#D55E00", (0, (3, 1, 1, 1)), "P"),
    ("#56B4E9", (0, (1, 1)), "X"),
)
_SETTINGS = {
    "font.size": _FONT,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 8,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "text.parse_math": False,  # labels are file names
    "pdf.fonttype": 42,
    "svg.hashsalt": "xyscannet",
}
_METADATA = {
    ".pdf": {"CreationDate": None, "Creator": "xyscannet"},
    ".svg": {"Date": None, "Creator": "xyscannet"},
    ".png": {"Software": "xyscannet"},
}


@contextmanager
def page(width: float, height: float) -> Iterator[Figure]:
    """An empty figure of that many inches, drawn without pyplot.

    Raises UnavailableError where matplotlib is not installed.
    """
    check_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS):
        yield Figure(figsize=(width, height), dpi=DPI)


def check_matplotlib() -> None:
    """Raises UnavailableError where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UnavailableError("figures need matplotlib: pip install 'xyscannet[figures]'")


def check_paths(paths: Path | str | Sequence[Path | str]) -> list[Path]:
    """One or several files as a list. Raises ConfigError for suffixes other than .pdf, .svg and .png."""
    found = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    for path in found:
        if path.suffix.lower() not in _METADATA:
            raise ConfigError(f"{path}: figures are written as {', '.join(_METADATA)}")
    return found


def save(figure: Figure, paths: Sequence[Path]) -> None:
    """Write the figure to every path, each under a temporary name first. Raises InputError."""
    for path in paths:
        suffix, data = path.suffix.lower(), io.BytesIO()
        figure.savefig(data, format=suffix[1:], dpi=DPI, metadata=_METADATA[suffix])
        write_bytes(path, data.getvalue())


def folder_of(folder: Path | str) -> Path:
    """The folder for figures, made where it is not there. Raises InputError."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise InputError(f"{folder}: cannot be written: {failure.strerror or failure}") from None
    return folder


def write_captions(folder: Path, captions: Mapping[str, str]) -> Path:
    """Write `captions.txt`: of each figure its file's stem and its caption. Raises InputError."""
    path = folder / "captions.txt"
    write_text(path, "\n".join(wrapped(stem, caption) for stem, caption in captions.items()))
    return path


def style(index: int) -> tuple[str, object, str]:
    """Colour, line and marker of the method at that place; after the first round they meet in other combinations."""
    round, place = divmod(index, len(STYLES))
    colour, line, marker = (
        STYLES[(place + round * step) % len(STYLES)][i] for i, step in enumerate((0, 1, 2))
    )
    return colour, line, marker


def logarithmic(axis: Axis) -> None:
    """Number a logarithmic axis of a page in plain digits, at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, handles: Sequence[object], labels: Sequence[str], columns: int) -> None:
    """A legend under the figure. Labels are set afterwards: matplotlib drops those that begin with an underscore."""
    made = figure.legend(
        handles,
        [f"{index}" for index in range(len(labels))],
        loc="lower center",
        ncols=min(len(labels), columns),
        frameon=False,
        handlelength=3.2,
    )
    for text, label in zip(made.get_texts(), labels, strict=True):
        text.set_text(shortened(label, 40))


def shortened(text: str, length: int) -> str:
    """The text on one line, its beginning cut where it is longer: the ends of file names differ."""
    text = shown(" ".join(text.split()))
    return text if len(text) <= length else "…" + text[1 - max(length, 2) :]


def fitted(text: str, length: int) -> tuple[str, float]:
    """The text on one line and its size in points: smaller where it is longer than `length`, cut where too long."""
    text = shortened(text, length * _FONT // _LEAST_FONT)
    return text, _FONT if len(text) <= length else max(_LEAST_FONT, _FONT * length / len(text))


def origin(evaluations: Sequence[Evaluation]) -> str:
    """The set, the protocol, how many images, and the command, for captions."""
    first = evaluations[0]
    counts = sorted({len(evaluation.images) for evaluation in evaluations})
    text = f"{first.dataset}, protocol {first.protocol}, {' or '.join(map(str, counts))} images"
    if first.expected is not None and counts != [first.expected]:
        text += f" of the set's {first.expected}"
    commands = dict.fromkeys(filter(None, (evaluation.command for evaluation in evaluations)))
    return f"{text}." + "".join(f" Made with: {command}" for command in commands)


def wrapped(title: str, caption: str) -> str:
    """A caption as a paragraph of plain text under its figure's name."""
    return f"{title}\n{textwrap.fill(caption, 110, break_long_words=False, break_on_hyphens=False)}\n"
