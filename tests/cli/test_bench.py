"""`xyscan bench`: the table, the files, and what it refuses."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from typer.testing import CliRunner

from tests.metrics.calibration import needs
from xyscan_cli.app import app
from xyscan_cli.commands import _bench_report
from xyscannet import checkpoint
from xyscannet.analysis import bench, operators
from xyscannet.analysis.forms import FORMS
from xyscannet.models import XYScanNet, XYScanNetConfig, peers

TINY = XYScanNetConfig(width=8, encoder_blocks=(1, 0, 1), decoder_blocks=(1, 0, 1), d_state=4)


@pytest.fixture
def tiny(tmp_path):
    model = XYScanNet(TINY)
    torch.nn.init.normal_(model.output.weight, std=0.05)
    path = tmp_path / "tiny.safetensors"
    checkpoint.save(path, model, TINY)
    return path


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, ["bench", "--device", "cpu", *[str(argument) for argument in arguments]])
    assert result.exit_code == code, result.output
    return result


def small(tiny, *arguments: object, code: int = 0):
    options = ["--models", tiny, "--sizes", "16x24", "--repeats", 1, "--no-memory"]
    return run(*options, *arguments, code=code)


def test_table_and_files(tiny, tmp_path):
    table, markdown, record = tmp_path / "a.csv", tmp_path / "a.md", tmp_path / "a.json"
    result = small(tiny, "--scan", "cpu,reference", "--csv", table, "--markdown", markdown, "--json", record)
    lines = result.stdout.splitlines()
    assert lines[0].split()[:5] == ["network", "form", "size", "dtype", "scan"]
    assert [line.split()[:5] for line in lines[1:]] == [
        ["tiny", "fused", "16x24", "fp32", "cpu"],
        ["tiny", "fused", "16x24", "fp32", "reference"],
    ]
    with table.open() as file:
        rows = list(csv.DictReader(file))
    held = json.loads(record.read_text())["results"]
    assert [float(row["seconds"]) for row in rows] == [each["seconds"] for each in held]
    assert [row["scan"] for row in rows] == ["cpu", "reference"]
    assert markdown.read_text().count("| tiny |") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", "a.md", "a.json", tiny.name}


def test_compared_networks_and_forms_have_ratios(tiny, tmp_path):
    other = tmp_path / "other.safetensors"
    checkpoint.save(other, XYScanNet(TINY), TINY)
    result = small(tiny, "--compare", other, "--forms", "unfused,eager-loop", "--json", "-")
    found = json.loads(result.stdout)["results"]
    cases = [(each["case"]["model"], each["case"]["form"]) for each in found]
    assert cases == [(str(f), form) for f in (tiny, other) for form in ("unfused", "eager-loop")]
    for each in found:
        assert each["time_ratio"] == pytest.approx(each["seconds"] / found[0]["seconds"])


def test_files_of_one_name_are_told_apart(tiny, tmp_path):
    other = tmp_path / "another/tiny.safetensors"
    other.parent.mkdir()
    checkpoint.save(other, XYScanNet(TINY), TINY)
    _, *rows = small(tiny, "--compare", other, "--no-parity").stdout.splitlines()
    assert [row.split()[0] for row in rows] == [str(tiny), str(other)]


def test_forwards_and_training_steps_in_one_table(tiny, tmp_path):
    pytest.importorskip("matplotlib")
    plot = tmp_path / "costs"
    result = small(
        tiny,
        "--sizes",
        "16x16,16x24",
        "--with-training",
        "--no-parity",
        "--plot",
        plot,
        "--json",
        tmp_path / "r.json",
    )
    header, *rows = (line.split() for line in result.stdout.splitlines())
    assert header[:5] == ["network", "form", "size", "pass", "dtype"] and "error" not in header
    assert [row[1:4] for row in rows] == [
        ["fused", "16x16", "forward"],
        ["fused", "16x24", "forward"],
        ["unfused", "16x16", "step"],
        ["unfused", "16x24", "step"],
    ]
    found = json.loads((tmp_path / "r.json").read_text())["results"]
    assert [each["time_ratio"] for each in found] == [1] * 4  # a step's is to a step
    assert all(each["scan_updates"] > 0 and each["images_per_second"] > 0 for each in found)
    caption = (tmp_path / "costs.txt").read_text()
    assert "a forward or a training step, 1 image in fp32" in caption
    assert "tiny forward, tiny step" in caption and "Made with: xyscan bench " in caption
    assert (tmp_path / "costs.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "costs.png").read_bytes().startswith(b"\x89PNG")


def test_lines_of_the_plot_are_named_by_what_differs():
    def result(seconds=1.0, **case):
        named = {"model": "a/n.pth", "height": 10, "width": 100, "dtype": "fp32", "scan": "cpu"}
        timing = bench.Timing((seconds,) if seconds else ())
        complexity = bench.Complexity(7, 1, 1, {}, {}, {}, 0)
        return bench._result(bench.Case(**named | case), "w", complexity, timing, None, None, bench.Parity())

    def costs(*results):
        return _bench_report.costs(results)

    (line,) = costs(result(), result(height=20), result(None, height=99)).values()
    assert [(cost.megapixels, cost.seconds) for cost in line] == [(0.001, 1.0), (0.002, 1.0), (0.0099, None)]
    assert list(costs(result(), result(model="other", form="unfused"))) == ["n", "other"]
    assert list(costs(result(), result(dtype="bf16"))) == ["n fp32", "n bf16"]
    assert list(costs(result(), result(train=True))) == ["n forward", "n step"]
    assert list(costs(result(), result(model="b/n.pth"))) == ["a/n.pth", "b/n.pth"]


@needs("torchvision", "spandrel")
def test_networks_of_other_projects(tiny, tmp_path):
    peers._registry("")
    from spandrel.architectures.NAFNet import NAFNet

    other = tmp_path / "naf.pth"
    network = NAFNet(width=8, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1])
    torch.save({"params": network.state_dict()}, other)
    options = ["--compare", other, "--forms", "fused,eager-loop", "--scan", "cpu,reference", "--json", "-"]
    result = small(tiny, *options)
    held = json.loads(result.stdout)
    *ours, theirs = held["results"]
    assert [(each["case"]["form"], each["case"]["scan"]) for each in ours] == [
        ("fused", "cpu"),
        ("fused", "reference"),
        ("eager-loop", "loop"),
    ]
    assert (theirs["case"]["form"], theirs["case"]["scan"], theirs["weights"]) == (
        "unfused",
        "none",
        "naf.pth",
    )
    assert theirs["parameters"] == sum(p.numel() for p in network.parameters())
    assert theirs["gmacs"] > 0 and theirs["scan_updates"] == 0
    assert (theirs["scan_seconds"], theirs["psnr"]) == (None, None)
    assert theirs["time_ratio"] == pytest.approx(theirs["seconds"] / ours[0]["seconds"])
    assert held["machine"]["spandrel"]
    assert "as their authors wrote them" in small(tiny, "--compare", other, "--train").stderr


def test_the_size_of_the_papers_tables_is_compared(monkeypatch):
    asked = []
    monkeypatch.setattr(bench, "run", lambda models, *_, **__: asked.append(models) or [])
    for arguments in (["--compare", "mambair,nafnet"], [], ["--models", "xyscannet", "--compare", "uformer"]):
        CliRunner().invoke(app, ["bench", "--device", "cpu", *arguments])
    assert asked == [
        ["xyscannet-b", "mambair-variant", "nafnet-64"],
        ["xyscannet-s", "xyscannet-b"],
        ["xyscannet", "uformer-b"],
    ]


def test_a_missing_extra(monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'xyscannet[peers]'" in run("--models", "nafnet", "--sizes", "16x16", code=3).stderr


def test_operators_beside_their_definitions(tiny, tmp_path):
    table = tmp_path / "ops.md"
    lines = small(tiny, "--ops", "--markdown", table).stdout.splitlines()
    assert lines[0].split()[:5] == ["operator", "size", "dtype", "pass", "backend"]
    assert len(lines) == 1 + 2 * len(operators.OPERATORS)
    assert [line.split()[-6] for line in lines[1:]] == ["cpu", "reference"] * len(operators.OPERATORS)
    assert "torch" in table.read_text()


def test_files_are_written_before_stdout(tiny, tmp_path, monkeypatch, ended_at_the_table):
    case = operators.OperatorCase("scan", "tiny", 1, 8, 8, "fp32", "cpu")
    result = operators.OperatorResult(case, 1.0, 8, 8.0, 1.0, 1.0)
    monkeypatch.setattr(operators, "measure", lambda *_, **__: [result])
    files = {option: tmp_path / f"ops{option}" for option in ("--csv", "--json", "--markdown")}
    small(tiny, "--ops", *[argument for pair in files.items() for argument in pair], code=130)
    assert all("scan" in path.read_text() for path in files.values())


def test_a_name_does_not_break_the_markdown_table():
    sheet = _bench_report.Sheet(["network", "ms"], [["a|b.pth", "1.0"]], [])
    text = _bench_report.markdown_text(
        sheet, {"device": "CPU", "threads": 1, "date": "today"}, "xyscan bench"
    )
    assert r"| a\|b.pth | 1.0 |" in text


def test_a_trace_says_where_time_goes(tiny, tmp_path):
    timeline, table, record = tmp_path / "t.json", tmp_path / "t.md", tmp_path / "r.json"
    result = small(
        tiny, "--trace", timeline, "--markdown", table, "--json", record, "--csv", tmp_path / "t.csv"
    )
    assert "xyscannet::mixer" in result.stdout and "aten::conv2d" in result.stdout
    assert "a copy at" in result.stderr and "a copy at" in table.read_text()
    names = {event.get("name") for event in json.loads(timeline.read_text())["traceEvents"]}
    assert "xyscannet::mixer" in names
    held = json.loads(record.read_text())["results"]
    assert {each["operator"] for each in held} <= names
    assert held[0]["case"]["scan"] == "cpu" and held[0]["seconds"] >= held[-1]["seconds"]
    with (tmp_path / "t.csv").open() as file:
        first = next(csv.DictReader(file))
    assert float(first["seconds"]) == held[0]["seconds"]
    assert float(first["call_seconds"]) == held[0]["case"]["call_seconds"]
    small(tiny, "--trace", timeline, "--forms", "compiled", code=2)
    small(tiny, "--trace", timeline, "--ops", code=2)


def test_training_steps(tiny):
    header, row = small(tiny, "--train", "--batch", 2).stdout.splitlines()
    assert "gradient error" in header and "PSNR" not in header and "peak MiB" not in header
    assert row.split()[:5] == ["tiny", "unfused", "16x24x2", "fp32", "cpu"]


def test_too_little_memory_is_a_row(tiny, monkeypatch):
    def failing(model, case):
        def step():
            raise MemoryError

        return step

    monkeypatch.setattr(bench, "call", failing)
    assert "out of memory" in small(tiny).stdout


def test_a_stopped_run_leaves_the_rows_that_it_had(tiny, tmp_path, monkeypatch):
    finished = bench._result

    def stopping(case, *others):
        if case.height == 24:
            raise KeyboardInterrupt
        return finished(case, *others)

    monkeypatch.setattr(bench, "_result", stopping)
    table, record = tmp_path / "a.csv", tmp_path / "a.json"
    small(tiny, "--sizes", "16x24,24x24", "--no-parity", "--csv", table, "--json", record, code=130)
    assert [each["case"]["height"] for each in json.loads(record.read_text())["results"]] == [16]
    assert len(table.read_text().splitlines()) == 2


def test_json_on_stdout_is_alone(tiny):
    result = small(tiny, "--json", "-")
    record = json.loads(result.stdout)
    assert record["results"][0]["case"] == {
        "model": str(tiny),
        "height": 16,
        "width": 24,
        "dtype": "fp32",
        "scan": "cpu",
        "form": "fused",
        "batch": 1,
        "train": False,
    }
    assert record["machine"]["torch"] == torch.__version__
    assert "parity" in result.stderr


def test_json_without_infinities(tiny, monkeypatch):
    monkeypatch.setattr(bench, "compare", lambda *_: bench.Parity(0.0, float("inf")))
    stdout = small(tiny, "--json", "-").stdout
    assert json.loads(stdout, parse_constant=pytest.fail)["results"][0]["psnr"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--sizes", "256"], 2, "'256' is not a size such as 720x1280"),
        (["--sizes", "0x5"], 2, "'0x5' is not a size"),
        (["--sizes", ","], 2, "--sizes: give one value"),
        (["--dtypes", "fp8"], 2, "'fp8' is not one of fp32, tf32, bf16, fp16"),
        (["--scan", "fast"], 2, "'fast' is not one of auto, "),
        (["--models", "xyscannet-z"], 2, "xyscannet-z: neither"),
        (["--compare", "nafnte"], 2, "did you mean 'nafnet'?"),
        (["--compare", "stripformer"], 2, "Known are xyscannet-s, "),
        (["--train", "--with-training"], 2, "ask for one of them"),
        (["--ops", "--plot", "x.png"], 2, "not for --ops"),
        (["--plot", "x.jpg"], 2, "figures are written as .pdf"),
        (["--plot", "no/where.png"], 2, "its folder does not exist"),
        (["--models", "no.safetensors"], 3, "no such checkpoint"),
        (["--csv", "no/where.csv"], 2, "its folder does not exist"),
        (["--csv", "."], 2, "--csv .: is a folder"),
        (["--trace", "."], 2, "--trace .: is a folder"),
        (["--with-training", "--forms", "fused"], 2, "a training step has no fused form"),
        (["--repeats", "0"], 2, "--repeats"),
    ],
)
def test_wrong_options(arguments, code, message, monkeypatch):
    monkeypatch.setattr(bench, "compare", lambda *_: pytest.fail("measured before it was refused"))
    assert message in " ".join(run(*arguments, code=code).stderr.split())


def test_the_help_names_every_form():
    text = " ".join(CliRunner().invoke(app, ["bench", "--help"]).output.replace("│", " ").split())
    assert f"How to execute: {', '.join(FORMS)}." in text
