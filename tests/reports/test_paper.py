"""The paper's tables as data: every table whole, and the numbers that its text and the counts repeat."""

from __future__ import annotations

import math

import pytest

from xyscannet.reports import paper


@pytest.mark.parametrize("number", range(1, 9))
def test_every_row_has_every_column(number):
    table = paper.table(number)
    assert table.title and table.columns and set(table.columns.values()) <= {"higher", "lower"}
    assert all(len(values) == len(table.columns) for values in table.rows.values())


def test_no_ninth_table():
    with pytest.raises(KeyError):
        paper.table(9)


def value(number, method, column):
    table = paper.table(number)
    return table.rows[method][list(table.columns).index(column)]


def test_what_the_text_says_of_the_tables():
    """Section 4.2 and 4.3: best KID, reductions of time and memory, of NIQE and LPIPS, of MACs and parameters."""
    ours = {method: row[0] for method, row in paper.table(1).rows.items() if row[0]}
    assert min(ours, key=ours.get) == "XYScanNet" and ours["XYScanNet"] == 0.073
    assert 1 - ours["XYScanNet"] / ours["FFTformer"] == pytest.approx(0.25, abs=0.005)
    hide = {method: row[4] for method, row in paper.table(2).rows.items() if row[4] and math.isfinite(row[4])}
    assert sorted(hide.values())[-2:] == [31.74, 31.86] and hide["XYScanNet"] == 31.74
    blurred = value(3, "Blurred input", "niqe")
    drops = {method: blurred - row[0] for method, row in paper.table(3).rows.items()}
    expected = {"XYScanNet": 0.163, "NAFNet": 0.105, "LoFormer": 0.01, "FFTformer": 0.162}
    assert {method: round(drops[method], 3) for method in expected} == expected
    times = [value(5, method, "training time (s)") for method in ("XYScanNet", "MambaIR")]
    assert 1 - times[0] / times[1] == pytest.approx(0.5661, abs=1e-4)
    memory = [value(5, method, "inference memory (GB)") for method in ("XYScanNet", "MambaIR")]
    assert 1 - memory[0] / memory[1] == pytest.approx(0.4618, abs=1e-4)
    assert value(7, "hybrid", "gopro psnr") - value(7, "inter only", "gopro psnr") == pytest.approx(0.2)
    assert 1 - value(7, "hybrid", "training time (s)") / value(
        7, "intra only", "training time (s)"
    ) == pytest.approx(0.2039, abs=1e-4)
    assert value(8, "plain skip", "hide niqe") - value(8, "KLFF", "hide niqe") == pytest.approx(0.05)
    assert value(8, "plain skip", "realblur-j lpips") - value(8, "KLFF", "realblur-j lpips") == pytest.approx(
        0.041
    )
    assert 1 - value(8, "KLFF", "GMACs") / value(8, "AFF", "GMACs") == pytest.approx(0.493, abs=1e-3)
    assert 1 - value(8, "KLFF", "parameters (K)") / value(8, "AFF", "parameters (K)") == pytest.approx(
        0.5311, abs=1e-3
    )


def test_the_tables_agree_with_each_other():
    """The hybrid, uni-directional network with KLFF is one network in Tables 5 to 8."""
    assert value(5, "XYScanNet", "gopro lpips") == value(6, "unidirectional", "gopro lpips")
    assert value(6, "unidirectional", "gopro psnr") == value(7, "hybrid", "gopro psnr")
    assert value(5, "XYScanNet", "hide niqe") == value(8, "KLFF", "hide niqe")
    assert value(5, "XYScanNet", "inference memory (GB)") == value(7, "hybrid", "inference memory (GB)")


def test_rows_for_a_set():
    rows = {row.method: row for row in paper.rows_for("gopro", ["psnr", "lpips-vgg", "dists"])}
    assert rows["XYScanNet"].values == {"psnr": 33.91, "lpips-vgg": 0.067}
    assert "own paper" in rows["MISC"].remark and rows["MISC"].values["lpips-vgg"] is None
    j, r = (paper.rows_for(f"realblur-{kind}", ["niqe", "st-lpips", "psnr"]) for kind in "jr")
    assert j[-1].values == {"niqe": 3.71, "st-lpips": 0.041} and r[-1].values == {
        "niqe": 5.21,
        "st-lpips": 0.012,
    }
    assert paper.rows_for("rwbi", ["niqe"])[0].values == {"niqe": 3.546}
    assert "MISC" not in [row.method for row in paper.rows_for("gopro", ["niqe"])]
    assert paper.rows_for("photos", ["psnr"]) == [] and paper.rows_for("gopro", ["psnr-realblur"]) == []
    assert "not comparable" in paper.difference("fid") and paper.difference("psnr") is None
