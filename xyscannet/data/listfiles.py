"""The list files that RealBlur's authors tell training from test pairs with."""

from __future__ import annotations

import os
import re
from pathlib import Path

from xyscannet.data.sets import Sample, by_folder, group_of
from xyscannet.errors import InputError

LIST_FILE = re.compile(r"realblur[-_]?([jr])_(test|train)_list\.txt", re.IGNORECASE)


def read_list(path: Path) -> tuple[list[Sample], list[str]]:
    """The pairs of a list file, `sharp-path blur-path [...]` a line, below its folder, and what is wrong with it.

    Raises InputError for a file that cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    samples: dict[str, Sample] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        fault, pair = None, [path.parent / text for text in fields[:2]]
        if len(fields) < 2:
            fault = "holds one path; expected sharp-path blur-path"
        elif unsafe := [text for text in fields[:2] if _leaves(text)]:
            fault = f"leads out of the folder: {unsafe[0]}"
        elif missing := [each for each in pair if not os.path.isfile(each)]:
            fault = f"names {missing[0]}, which is no file"
        else:
            name = _listed_name(fields[1])
            if name in samples:
                fault = f"repeats {fields[1]}"
            else:
                samples[name] = Sample(name, pair[1], pair[0], group_of(name))
        if fault:
            problems.append(f"{path} line {number} {fault}")
    return list(samples.values()), problems


def _leaves(text: str) -> bool:
    return (
        text.startswith(("/", "\\")) or bool(re.match(r"[A-Za-z]:", text)) or ".." in re.split(r"[/\\]", text)
    )


def _listed_name(text: str) -> str:
    """`RealBlur-J_.../scene001/blur/blur_1.png` -> `scene001/blur_1`."""
    parts = Path(text).with_suffix("").parts
    inner = [part for part in parts[:-1] if part.lower() != "blur" and by_folder(part) is None]
    return "/".join([*inner, parts[-1]])
