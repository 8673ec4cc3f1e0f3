"""Tables on stdout: no figure is cut off, however narrow the terminal."""

from __future__ import annotations

import re

from xyscan_cli import tables


def test_a_narrow_terminal_breaks_the_last_column_and_cuts_nothing(capsys, monkeypatch) -> None:
    header, row = ["network", "ms", "note"], ["xyscannet-b", "1125.1", "as its authors wrote it"]
    tables.show(header, [row], right=[1])
    assert capsys.readouterr().out == (
        "network          ms  note\nxyscannet-b  1125.1  as its authors wrote it\n"
    )
    monkeypatch.setenv("FORCE_COLOR", "1")
    for width in ("30", "12"):
        monkeypatch.setenv("COLUMNS", width)
        tables.show(header, [row], right=[1])
        lines = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out).splitlines()
        assert lines[1].startswith("xyscannet-b  1125.1  as its")
        assert " ".join(line[21:] for line in lines[1:]) == row[2]
