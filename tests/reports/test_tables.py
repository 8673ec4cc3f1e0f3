"""Tables: the paper's rows around the measured one, marks, intervals, and what other languages need escaped."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import replace

import pytest

from xyscannet.errors import ConfigError
from xyscannet.reports import tables
from xyscannet.reports.results import Column, Comparison, Evaluation, ImageResult, Summary

PSNR = Column("psnr", "PSNR", "dB", True, "scikit-image", median_seconds=0.5)
FID = Column("fid", "FID", "", False, "clean-fid", of_set=True)


def evaluation(label="ours", mean=33.0, **changes):
    images = tuple(ImageResult(f"a/{i}", {"psnr": 30.0 + i}, height=4, width=5) for i in range(3))
    given = {
        "label": label,
        "dataset": "gopro",
        "protocol": "plain",
        "columns": (PSNR, FID),
        "images": images,
        "summaries": {
            "psnr": Summary(mean, mean, mean - 0.5, mean + 0.5, 3),
            "fid": Summary(12.345, None, None, None, 3),
        },
        "expected": 1111,
        "command": "xyscan eval --dataset gopro",
    }
    return Evaluation(**{**given, **changes})


def test_the_measured_row_stands_among_the_papers():
    header, rows, notes = tables.terminal_rows([evaluation()])
    labels = [row[0].rstrip("*†‡§¶#") for row in rows]
    at = labels.index("ours")
    assert labels[at - 1] == "Restormer" and labels[at + 1] == "DSR-SA"
    assert rows[at][1:] == ["33.00 [32.50, 33.50]", "12.35"]
    assert labels[-1] == "Ground truth" and rows[-1][1] == "∞"
    assert header[0] == "method" and header[1] == "PSNR ↑" and header[2].startswith("FID ↓")
    text = " ".join(notes)
    assert (
        "3 of the set's 1111 images" in text and "not comparable" in text and "Table 1 of the paper" in text
    )
    sign = rows[at][0].removeprefix("ours")
    assert sign and any(note.startswith(f"{sign} 3 of") for note in notes)


def test_values_of_two_scales_are_neither_ranked_nor_sorted_together():
    lower = replace(evaluation("other"), summaries={"fid": Summary(10.0, None, None, None, 3)})
    grid = tables.grid([replace(each, columns=(FID,)) for each in (evaluation(), lower)])
    assert [row.label for row in grid.rows[:2]] == ["ours", "other"]
    assert [grid.rank(row, FID) for row in grid.rows[:2]] == [2, 1]
    ranks = [grid.rank(row, FID) for row in grid.rows[2:]]
    assert 1 in ranks and 2 in ranks
    assert tables.grid([evaluation(columns=(FID, PSNR))]).rows[0].label != "ours"  # sorted by PSNR


def test_the_papers_digits():
    printed = [tables.number(name, value, printed=True) for name, value in (("niqe", 4.05), ("niqe", 3.546))]
    assert printed == ["4.05", "3.546"]
    assert (
        tables.number("psnr", 33.7, printed=True) == "33.70"
        and tables.number("ssim", 0.96, printed=True) == "0.960"
    )


def test_without_the_paper_the_order_stays():
    _, rows, notes = tables.terminal_rows([evaluation("b", 30.0), evaluation("a", 20.0)], paper=False)
    assert [row[0][0] for row in rows] == ["b", "a"]
    _, rows, notes = tables.terminal_rows([evaluation(dataset="photos", expected=None)])
    assert len(rows) == 1 and not notes


def test_failures_and_infinities_are_marked():
    images = (
        ImageResult("x", {"psnr": None}, failures={"image": "no image"}),
        ImageResult("y", {"psnr": math.inf}),
    )
    summary = Summary(None, None, None, None, 0, 1, 1)
    _, rows, notes = tables.terminal_rows(
        [evaluation(images=images, expected=None, summaries={"psnr": summary})], paper=False
    )
    assert rows[0][1:] == ["∞", "-"]
    assert any("1 of 2 images failed" in n for n in notes) and any(
        "leave out 1 images equal" in n for n in notes
    )


def test_one_set_a_table():
    with pytest.raises(ConfigError, match="one set"):
        tables.grid([evaluation(), evaluation(dataset="hide")])


def test_markdown_is_one_table_whatever_the_names():
    text = tables.markdown([evaluation("a|b*c_<i>")], paper=True)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert r"a\|b\*c\_\<i\>" in text
    assert "**34.21**" in text and "<u>34.10</u>" in text
    assert "scikit-image; 0.5 s an image" in text and "xyscan eval --dataset gopro" in text


def test_latex_is_balanced_and_escaped():
    text = tables.latex([evaluation(r"50% & $5_#{}~^\ ")])
    assert r"50\% \& \$5\_\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in text
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {2}
    assert r"\textbf{34.21}" in text and "↑" not in text
    assert all(line.startswith("%") for line in text.splitlines()[:3])


def test_csv_has_every_image():
    hostile = ImageResult('a,"b"\n', {"psnr": None}, failures={"psnr": "x, y"})
    text = tables.csv_text([evaluation(), replace(evaluation("two"), images=(hostile,))])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 4 and rows[0]["psnr"] == "30.0" and rows[3]["image"] == 'a,"b"\n'
    assert rows[3]["psnr"] == "" and rows[3]["failures"] == "psnr: x, y"
    assert "fid" not in rows[0]


def test_comparisons():
    summary = Summary(0.25, 0.2, -0.1, 0.6, 2, worst=("b", "a"))
    found = Comparison("old", "new", {"psnr": {"a": 1.0, "b": -0.5}}, {"psnr": summary}, {"psnr": 1})
    header, rows, notes = tables.comparison_rows(found, [PSNR, FID])
    assert rows == [["PSNR", "0.25 [-0.10, 0.60]", "0.20", "1 of 2", "b, a"]]
    assert len(header) == 5 and "new minus old" in notes[0]
