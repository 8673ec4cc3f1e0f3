"""`xyscan eval` on small sets: sources, files, what it refuses, exit codes."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from xyscan_cli.app import app
from xyscan_cli.commands.eval import Protocol, _protocol
from xyscannet import checkpoint
from xyscannet.errors import InputError, UnavailableError
from xyscannet.models import XYScanNet, XYScanNetConfig
from xyscannet.reports.results import from_json

pytest.importorskip("skimage", reason="the metrics' packages are not installed")
TINY = XYScanNetConfig(width=8, encoder_blocks=(1, 0, 0), decoder_blocks=(1, 0, 0), d_state=4)


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, ["eval", *[str(argument) for argument in arguments]])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Four pairs in blur/ and sharp/, restored images in a/ (as the blurred) and b/ (nearer to the sharp)."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for i in range(4):
        sharp = random.integers(0, 256, (24, 32, 3)).astype(float)
        blur = cv2.GaussianBlur(sharp, (0, 0), 1)
        for kind, image in (("sharp", sharp), ("blur", blur), ("a", blur), ("b", (blur + sharp) / 2)):
            save(tmp_path / kind / f"{i}.png", image.round().astype(np.uint8))
    return tmp_path


@pytest.fixture
def tiny(folder):
    torch.manual_seed(0)
    model = XYScanNet(TINY)
    torch.nn.init.normal_(model.output.weight, std=0.02)
    path = folder / "tiny.safetensors"
    checkpoint.save(path, model, TINY)
    return path


def test_a_network_beside_the_blurred_input(folder, tiny):
    options = ["--csv", "t.csv", "--markdown", "t.md", "--latex", "t.tex", "--json", "t.jsonl"]
    result = run(tiny, "--pairs", "blur", "sharp", "--blurred", "--keep", *options)
    lines = result.stdout.splitlines()
    assert lines[0].split()[:2] == ["method", "PSNR"]
    assert lines[1].startswith("blurred input") and lines[2].startswith("tiny")
    assert "scan: " in result.stderr and "s an image" in result.stderr and "worst PSNR" in result.stderr
    blurred, network = (from_json(line) for line in (folder / "t.jsonl").read_text().splitlines())
    assert len(network.images) == 4 and network.settings["weights"] and network.command.startswith("xyscan")
    assert network.images[0].values["psnr"] != blurred.images[0].values["psnr"]
    kept = cv2.imread(network.images[0].restored)
    error = np.square(kept.astype(float) - cv2.imread("sharp/0.png")).mean()
    assert network.images[0].values["psnr"] == pytest.approx(10 * np.log10(255**2 / error))
    rows = list(csv.DictReader(Path("t.csv").read_text().splitlines()))
    assert [row["label"] for row in rows] == ["blurred input"] * 4 + ["tiny"] * 4
    assert "| **tiny**" in Path("t.md").read_text() and r"\toprule" in Path("t.tex").read_text()
    held = Path("runs/eval-blur/tiny/evaluation.json").read_text()
    assert from_json(held).images == network.images


def test_a_run_goes_on_and_is_not_mixed_with_another(folder, tiny):
    first = run(tiny, "--pairs", "blur", "sharp", "--out", "out")
    assert not [*Path("out").rglob("*.png")]
    again = run(tiny, "--pairs", "blur", "sharp", "--out", "out")
    assert "4 images were measured before" in again.stderr and again.stdout == first.stdout
    assert (
        "--fresh" in run(tiny, "--pairs", "blur", "sharp", "--out", "out", "--metrics", "psnr", code=2).stderr
    )
    run(tiny, "--pairs", "blur", "sharp", "--out", "out", "--metrics", "psnr", "--fresh")


def test_channels_in_another_order_are_another_evaluation(folder, tiny):
    command = [tiny, "--pairs", "blur", "sharp", "--out", "out"]
    run(*command)
    assert "channel_order: rgb there, bgr now" in run(*command, "--channel-order", "bgr", code=2).stderr


@pytest.mark.parametrize("change", ["blur", "sharp", "a"])
def test_images_that_have_changed_are_not_taken_for_measured(change, folder):
    command = ["a", "--pairs", "blur", "sharp", "--out", "out", "--json", "-"]
    first = run(*command)
    file = next(Path(change).iterdir())
    file.write_bytes(next(Path("b").iterdir()).read_bytes())
    error = run(*command, code=2).stderr
    assert "that have changed since" in error and "--fresh" in error
    assert run(*command, "--fresh").stdout != first.stdout


def test_processors_of_workers_that_are_not_there(folder):
    assert "--cluster" in run("a", "--pairs", "blur", "sharp", "--cpus-per-worker", "2", code=2).stderr


def test_other_pairs_are_another_evaluation(folder):
    command = ["a", "--pairs", "blur", "sharp", "--out", "out"]
    run(*command)
    next(Path("blur").iterdir()).unlink()
    assert "something else (other pairs" in run(*command, code=2).stderr


def test_what_cannot_be_measured_is_refused_before_the_first_is(folder, tiny):
    command = ["a", "--pairs", "blur", "sharp", "--out", "out"]
    for missing, code in (("nowhere.safetensors", 3), ("runs/nowhere", 3), ("nowhere", 2)):
        assert "nowhere" in run(*command, missing, code=code).stderr
    run("b", *command[1:], "--metrics", "psnr")
    assert "out/b holds an evaluation of something else" in run(*command, "b", code=2).stderr
    assert sum(path.stat().st_size for path in Path("out").glob("a/*")) == 0
    shown = run(*command, "--metrics", "psnr", tiny, "b").stderr
    assert shown.index("measuring a") < shown.index("measuring tiny") < shown.index("4 images were measured")


def test_figures_without_matplotlib_are_refused_before_the_first_image(folder, monkeypatch):
    def missing():
        raise UnavailableError("figures need matplotlib")

    monkeypatch.setattr("xyscannet.reports.figures.canvas.check_matplotlib", missing)
    run("a", "--pairs", "blur", "sharp", "--out", "out", "--figures", "f", code=3)
    assert not Path("out").exists() and not Path("f").exists()


def test_images_that_were_kept_for_figures_are_kept_on(folder, tiny):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    command = [tiny, "--pairs", "blur", "sharp", "--out", "out"]
    run(*command, "--limit", "4", "--figures", "figures")
    again = run(*command, "--limit", "4")
    assert "4 images were measured before" in again.stderr
    assert "4 images were measured before" in run(*command, "--report", "page.html").stderr
    run(*command, "--fresh")
    told = run(*command, "--report", "page.html", code=2).stderr
    assert "something else (restored images that were not kept); --fresh" in told


def test_two_folders_image_by_image(folder):
    result = run("a", "b", "--paired", "--pairs", "blur", "sharp", "--json", "-")
    *lines, last = result.stdout.splitlines()
    assert [from_json(line).label for line in lines] == ["a", "b"]
    comparison = json.loads(last)["comparison"]
    assert comparison["wins"] == {"psnr": 4, "ssim": 4} and len(comparison["differences"]["psnr"]) == 4
    shown = run("a", "b", "--paired", "--pairs", "blur", "sharp").stdout
    assert "better on" in shown and "4 of 4" in shown
    assert "two sources" in run("a", "--paired", "--pairs", "blur", "sharp", code=2).stderr


def test_files_are_written_though_stdout_is_gone(folder, monkeypatch):
    def gone(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("xyscan_cli.tables.show", gone)
    files = ["t.csv", "t.md", "t.tex", "t.jsonl"]
    options = [*zip(["--csv", "--markdown", "--latex", "--json"], files, strict=True)]
    CliRunner().invoke(app, ["eval", "a", "--pairs", "blur", "sharp", "--out", "out", *sum(options, ())])
    assert all(Path(name).stat().st_size for name in [*files, "out/a/evaluation.json"])


def test_the_table_is_shown_though_a_file_cannot_be_written(folder, monkeypatch):
    def full(place, text):
        raise InputError(f"{place}: no space left")

    monkeypatch.setattr("xyscan_cli.outputs.put", full)
    result = run("a", "--pairs", "blur", "sharp", "--csv", "full", code=1)
    assert result.stdout.startswith("method") and "full" in result.stderr


def test_names_that_are_not_utf_8(folder):
    pytest.importorskip("matplotlib")
    name = os.fsdecode(b"r\xff")
    try:
        Path("b").rename(name)
    except OSError:
        pytest.skip("the file system takes UTF-8 alone")
    for kind in ("blur", "sharp", name):
        Path(kind, "1.png").rename(Path(kind, os.fsdecode(b"caf\xe9.png")))
    files = {
        "--csv": "t.csv",
        "--markdown": "t.md",
        "--latex": "t.tex",
        "--report": "p.html",
        "--figures": "f",
    }
    options = [*sum(files.items(), ()), "--json", "t.jsonl"]
    run(name, "--pairs", "blur", "sharp", "--out", "out", *options)
    for text in (Path("t.jsonl").read_text(), Path("out/r/evaluation.json").read_text()):
        found = from_json(text)
        assert found.label == name and [image.name for image in found.images][-1] == os.fsdecode(b"caf\xe9")
    assert [row["image"] for row in csv.DictReader(Path("t.csv").read_text().splitlines())][3] == r"caf\udce9"
    assert (
        r"**r\\udcff**" in Path("t.md").read_text() and r"r\textbackslash{}udcff" in Path("t.tex").read_text()
    )
    assert (
        r"<title>r\udcff on" in Path("p.html").read_text()
        and r"r\udcff" in Path("f/captions.txt").read_text()
    )


def test_labels_of_one_folder_name(folder):
    Path("a").rename("b c"), Path("b").rename("b-c")
    run("b c", "b-c", "sharp", "--pairs", "blur", "sharp", "--out", "out")
    found = [from_json(path.read_text()) for path in sorted(Path("out").glob("*/evaluation.json"))]
    assert sorted(evaluation.label for evaluation in found) == ["b c", "b-c", "sharp"]
    assert Path("out/sharp").is_dir() and not Path("out/b-c").exists()


def test_results_do_not_lie_among_the_images(folder):
    assert "choose another --out" in run("--restored", "b", "--sharp", "sharp", "--out", ".", code=2).stderr
    inside = ["a", "--pairs", "blur", "sharp", "--out", "sharp/here"]
    assert "choose another --out" in run(*inside, "--keep", code=2).stderr
    run(*inside)
    assert {path.name for path in Path("b").iterdir()} == {f"{i}.png" for i in range(4)}


def test_restored_beside_sharp(folder):
    result = run("--restored", "b", "--sharp", "sharp", "--json", "-")
    found = from_json(result.stdout)
    assert found.label == "b" and len(found.images) == 4 and found.summaries["ssim"].count == 4
    run("--restored", "b", code=2)
    assert "--blurred" in run("--restored", "b", "--sharp", "sharp", "--blurred", code=2).stderr
    run("a", "--restored", "b", "--sharp", "sharp", code=2)


def test_any_folder_of_pairs(folder, tiny):
    for kind in ("blur", "sharp"):
        (folder / "set/test/s").mkdir(parents=True, exist_ok=True)
        (folder / kind).rename(folder / "set/test/s" / kind)
    assert (
        from_json(run(tiny, "--root", "set", "--limit", 2, "--json", "-").stdout).images[1].name.endswith("1")
    )
    assert "holds no" in run(tiny, "--root", "a", code=3).stderr


def test_a_set_that_is_not_there(folder, monkeypatch):
    monkeypatch.delenv("XYSCAN_DATA", raising=False)
    assert "XYSCAN_DATA" in run("--dataset", "gopro", code=3).stderr
    error = run("--dataset", "realblur-j", "--root", "a", code=3).stderr
    assert "expected" in error and "https://" in error


def test_images_that_fail_are_listed(folder):
    Path("blur/1.png").write_bytes(b"nothing")
    save(folder / "blur/2.png", np.zeros((5, 5, 3), np.uint8))
    result = run("--restored", "blur", "--sharp", "sharp", code=1)
    assert "1.png" in result.stderr and "2: " in result.stderr and "2 of 4 images failed" in result.stderr
    assert result.stdout.startswith("method")


def test_one_image_has_no_interval(folder):
    result = run("--restored", "b", "--sharp", "sharp", "--limit", 1)
    assert "[" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--dataset NAME"),
        (["--pairs", "blur", "sharp", "--dataset", "gopro"], 2, "exclude each other"),
        (["--pairs", "blur", "nowhere"], 3, "nowhere does not exist"),
        (["--pairs", "blur", "sharp", "--metrics", "psnrr"], 2, "did you mean 'psnr'"),
        (["--pairs", "blur", "sharp", "--metrics", ","], 2, "one metric"),
        (["--pairs", "blur", "sharp", "--csv", "no/such/file"], 2, "does not exist"),
        (["--pairs", "blur", "sharp", "--csv", "-"], 2, "--csv -: only --json writes to stdout"),
        (["a", "--pairs", "blur", "sharp", "--figures", "blur/0.png"], 2, "is a file; name a folder"),
        (["nowhere", "--pairs", "blur", "sharp"], 2, "nowhere"),
        (["a", "a", "--pairs", "blur", "sharp"], 2, "twice"),
        (["--pairs", "blur", "sharp", "--scan", "triton", "--device", "cpu"], 3, "triton"),
    ],
)
def test_wrong_options(folder, arguments, code, message):
    assert message in " ".join(run(*arguments, code=code).stderr.split())


def test_realblur_is_aligned(folder, monkeypatch):
    from dataclasses import replace

    from xyscannet.data import datasets

    random = np.random.default_rng(1)
    for i in range(4):  # of noise ECC makes another thing on another processor, or nothing
        sharp = cv2.resize(
            random.integers(0, 256, (6, 8, 3), np.uint8), (64, 48), interpolation=cv2.INTER_CUBIC
        )
        save(folder / "sharp" / f"{i}.png", sharp)
        for kind, sigma in (("blur", 2), ("b", 1)):
            save(folder / kind / f"{i}.png", cv2.GaussianBlur(sharp, (0, 0), sigma))
    found = replace(
        datasets.pair_folders("blur", "sharp"), name="realblur-j", title="RealBlur-J", expected=980
    )
    monkeypatch.setattr(datasets, "find", lambda *_: found)
    result = run("b", "--dataset", "realblur-j", "--json", "-")
    evaluation = from_json(result.stdout)
    assert [column.name for column in evaluation.columns] == ["psnr-realblur", "ssim-realblur"]
    assert evaluation.protocol == "realblur" and evaluation.expected == 980
    plain = from_json(
        run("b", "--dataset", "realblur-j", "--protocol", "plain", "--json", "-", "--fresh").stdout
    )
    assert plain.columns[0].name == "psnr"
    aligned, unaligned = (each.summaries[each.columns[0].name].mean for each in (evaluation, plain))
    assert aligned == pytest.approx(unaligned, abs=1)  # nothing was moved or dimmed


def test_the_papers_rows_are_those_of_a_test_split(folder):
    Path("blur").rename("gopro")
    assert "Restormer" not in run("b", "--pairs", "gopro", "sharp").stdout
    for split in ("test", "train"):
        Path("GoPro", split).mkdir(parents=True)
        Path("GoPro", split, "blur").symlink_to(folder / "gopro")
        Path("GoPro", split, "sharp").symlink_to(folder / "sharp")
        shown = run("b", "--dataset", "gopro", "--root", "GoPro", "--split", split, "--out", split).stdout
        assert ("Restormer" in shown) == (split == "test")


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        *((name, "realblur") for name in ("realblur-r", "RealBlur-J", "RealBlur_J_test", "RealBlur")),
        *((name, "plain") for name in ("gopro", "realblurry-photos", "test")),
    ],
)
def test_the_protocol_is_that_of_the_set(name, protocol):
    assert _protocol(Protocol.auto, name) == protocol


def test_no_sharp_images_no_psnr(folder, monkeypatch):
    from xyscannet.data import datasets

    monkeypatch.setattr(datasets, "find", lambda *_: datasets.images_below("blur"))
    assert "need sharp images" in run("--dataset", "rwbi", "--metrics", "psnr", code=2).stderr
