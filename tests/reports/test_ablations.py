"""An ablation's table: means and deviations above the paper's rows, reasons for what is empty, every format."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest

from xyscannet.errors import InputError
from xyscannet.reports import ablations, grids
from xyscannet.reports.ablations import Ablation, Cell, Variant

SETTINGS = {"training": {"iterations": 4}, "evaluation": {"gopro": {"images": 3}}}


def cell(variant: str, seed: int, value: float | None, **changes) -> Cell:
    given = {"study": "slices", "variant": variant, "seed": seed, "network": {}, "settings": SETTINGS}
    values = {} if value is None else {"gopro psnr": value}
    return Cell(**{**given, "values": values, "notes": {"gopro psnr": "scikit-image"}, **changes})


@pytest.fixture
def table() -> Ablation:
    cells = [cell("intra-only", 0, 30.0), cell("intra-only", 1, 31.0)]
    cells += [cell("xyscannet", 0, 29.0), cell("xyscannet", 1, None, failure="RuntimeError: lost")]
    figures = {"training time (s)": 12.345, "inference memory (GB)": 0.01234, "step seconds": 0.1}
    return Ablation(
        study="slices",
        table=7,
        variants=(Variant("intra-only", "intra only", {}, figures), Variant("xyscannet", "hybrid", {}, {})),
        cells=cells,
        metrics={"gopro psnr": "psnr", "hide psnr": "psnr", "mine lpips-alex": "lpips-alex"},
        seeds=2,
        gaps={"hide psnr": "no hide was given"},
        notes=("Mean ± standard deviation over 2 seeds.",),
        command="xyscan ablate slices --seeds 2",
    )


def test_rows_stand_above_the_papers(table):
    header, rows, notes = grids.text_rows(ablations.grid(table))
    assert header[:3] == ["method", "GoPro PSNR ↑", "HIDE PSNR ↑*"] and header[-1] == "mine lpips-alex ↓†"
    labels = [row[0].rstrip("‡") for row in rows]
    assert labels == ["intra only", "paper: intra only", "hybrid", "paper: hybrid"]
    assert rows[0][1:5] == ["30.50 ± 0.71", "-", "12.35", "-"] and rows[0][6] == "0.01234"
    assert rows[1][1:7] == ["32.18", "30.13", "103", "0.167", "12.82", "4.67"]
    assert rows[2][:2] == ["hybrid‡", "29.00"] and rows[3][5] == "11.60"
    assert notes[0] == "* no hide was given." and notes[1].startswith(
        "† the paper does not say which backbone"
    )
    assert notes[2:] == ["‡ 1 of 2 seeds.", "Mean ± standard deviation over 2 seeds."]


def test_rows_that_miss_images_say_so(table):
    first, *others = table.cells
    partly = replace(table, cells=[replace(first, problems=("gopro, 1: broken",)), *others])
    _, rows, notes = grids.text_rows(ablations.grid(partly))
    assert rows[0][0] == "intra only‡" and notes[2] == "‡ in 1 of its cells images failed in part or whole."


def test_a_time_for_which_there_was_too_little_memory(table):
    first, second = table.variants
    short = replace(first, figures=dict.fromkeys(["inference time (s)", "inference memory (GB)"]))
    rows = ablations.grid(replace(table, variants=(short, second))).rows
    assert rows[0].texts["inference time (s)"] == "out of memory"
    assert "inference memory (GB)" not in rows[0].texts and "inference time (s)" not in rows[2].texts


def test_a_row_that_the_paper_does_not_have_and_its_reference():
    cells = [cell("klff-mean", 0, None, study="fusion", values={"hide niqe": 3.5})]
    variant = Variant("klff-mean", "KLFF, mean gate", {}, {"GMACs": 2.189, "parameters (K)": 71.424})
    metrics = {"hide niqe": "niqe", "realblur-j lpips": "st-lpips"}
    table = Ablation("fusion", 8, (variant,), cells, metrics, 1)
    header, rows, _ = grids.text_rows(ablations.grid(table))
    assert [row[0] for row in rows] == ["KLFF, mean gate"]
    assert rows[0][1] == "3.500" and rows[0][-2:] == ["2.19", "71.42"]
    assert header[4].startswith("RealBlur-J LPIPS ↓")
    ours = Variant("mambair", "MambaIR", {}, {})
    vssm = ablations.grid(replace(table, study="vssm", table=5, variants=(ours,), cells=()))
    assert [row.label for row in vssm.rows] == ["paper: Reference", "MambaIR", "paper: MambaIR"]
    assert [vssm.rank(row, vssm.columns[0]) for row in vssm.rows] == [None, None, 1]


def test_the_direction_is_the_metrics_whatever_the_set_is_called(table):
    other = replace(table, metrics={"mypsnr niqe": "niqe", "mine psnr": "psnr"}, higher=["psnr"])
    columns = {column.name: column.higher_is_better for column in ablations.grid(other).columns}
    assert not columns["mypsnr niqe"] and columns["mine psnr"] and not columns["training time (s)"]


def test_best_values_are_marked_among_ours_and_among_the_papers(table):
    text = ablations.markdown(table)
    assert "| **30.50 ± 0.71** |" in text and "| **32.18** |" in text and "<u>29.00</u>" in text
    assert "xyscan ablate slices --seeds 2" in text and "GoPro PSNR: scikit-image" in text
    tex = ablations.latex(table)
    assert r"\textbf{30.50 $\pm$ 0.71}" in tex and r"\caption{Intra-slice" in tex
    assert tex.count(r"\begin{") == tex.count(r"\end{") == 2


def test_records(table):
    rows = list(csv.DictReader(io.StringIO(ablations.csv_text(table))))
    assert [(row["variant"], row["seed"], row["gopro psnr"]) for row in rows][:2] == [
        ("intra-only", "0", "30.0"),
        ("intra-only", "1", "31.0"),
    ]
    assert rows[3]["failure"] == "RuntimeError: lost" and rows[0]["step seconds"] == "0.1"
    text = ablations.to_json(table)
    assert text.count("\n") == 1 and text.isascii()  # JSON on a stdout of any encoding
    held = json.loads(text)["summary"]
    assert held["intra-only"]["gopro psnr"] == {
        "mean": 30.5,
        "deviation": pytest.approx(0.5**0.5),
        "seeds": 2,
        "paper": 32.18,
    }
    assert held["intra-only"]["training time (s)"]["mean"] == 12.345
    assert held["xyscannet"]["hide psnr"] == {"mean": None, "deviation": None, "seeds": 0, "paper": 30.11}


def test_a_cell_is_read_as_it_was_written():
    one = cell("xyscannet", 3, 30.25, problems=["gopro, b/1: too small"], versions={"torch": "2"})
    assert ablations.cell_from_json(ablations.cell_to_json(one), "here") == one
    for text in ("nothing", "[]", '{"format": 1, "variant": "a"}', '{"format": 99}'):
        with pytest.raises(InputError, match="here"):
            ablations.cell_from_json(text, "here")
