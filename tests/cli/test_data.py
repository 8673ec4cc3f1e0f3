from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data import miniature
from xyscan_cli import exits
from xyscan_cli.app import load
from xyscannet.data import sets
from xyscannet.data.datasets import recognise


def xyscan(*arguments: object) -> int:
    command = load("data")
    return exits.exit_code_of(lambda: command.main(list(map(str, arguments)), "data", standalone_mode=False))


def test_synth_writes_pairs_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC).save(photos / "a.png")
    options = ["--strength", "small", "--crop", 32, "--count", 2]
    assert xyscan("synth", photos, out, *options) == 0
    assert [len(found.samples) for found in recognise(out)] == [2]
    captured = capsys.readouterr()
    assert "2 pairs" in captured.err and not captured.out
    assert xyscan("synth", photos, out, *options) == 2
    assert "not empty" in capsys.readouterr().err
    assert xyscan("synth", photos, out, *options, "--exist", "skip") == 0
    assert "2 were there" in capsys.readouterr().err
    (photos / "b.png").write_bytes(b"")
    assert xyscan("synth", photos, out, *options, "--exist", "skip", "--quiet") == 1
    assert "b.png" in capsys.readouterr().err


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Miniature GoPro and HIDE have the published number of samples."""
    monkeypatch.setitem(sets.KNOWN["gopro"].counts, "test", 3)
    monkeypatch.setitem(sets.KNOWN["gopro"].counts, "train", 1)
    monkeypatch.setitem(sets.KNOWN["hide"].counts, "test", 3)
    monkeypatch.setitem(sets.KNOWN["hide"].counts, "train", 1)


@pytest.mark.usefixtures("published")
def test_check_of_sound_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    miniature.gopro_sequences(tmp_path / "GoPro")
    miniature.hide_published(tmp_path / "HIDE_dataset")
    for options in ([], ["--deep"]):
        assert xyscan("check", tmp_path, *options) == 0
        captured = capsys.readouterr()
        assert not captured.out
        for told in (
            "GoPro test",
            "HIDE train",
            "16x12 (3)",
            "3, in 2 groups, 3 are published",
            "nothing wrong",
        ):
            assert told in captured.err
    assert xyscan("check", tmp_path / "GoPro", "--quiet", "--json", "-") == 0
    captured = capsys.readouterr()
    records = [json.loads(line) for line in captured.out.splitlines()]
    assert [(record["name"], record["split"], record["samples"]) for record in records] == [
        ("gopro", "test", 3),
        ("gopro", "train", 1),
    ]
    assert records[0]["sizes"] == {"16x12": 3} and not records[0]["problems"] and not captured.err


@pytest.mark.usefixtures("published")
def test_check_lists_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = miniature.gopro_sequences(tmp_path / "GoPro") / "test"
    (home / "GOPR0384_11_00/sharp/000001.png").write_bytes(b"")
    miniature.picture(home / "GOPR0384_11_00/sharp/000002.png", size=(17, 12))
    file = home / "GOPR0385_11_01/blur/000001.png"
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 255  # the header is sound, the pixels are not
    file.write_bytes(whole)
    assert xyscan("check", home, "--json", tmp_path / "out.jsonl") == 1
    told = capsys.readouterr().err
    assert "2 problems with GoPro test" in told and "0 bytes" in told and "16x12" in told and "17x12" in told
    (record,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert len(record["problems"]) == 2 and record["decoded"] is False
    assert xyscan("check", home, "--json", tmp_path / "no/out.jsonl") == 2
    assert "its folder does not exist" in capsys.readouterr().err
    assert xyscan("check", home, "--deep") == 1
    told = capsys.readouterr().err
    assert "3 problems" in told and "GOPR0385_11_01/blur/000001.png" in told.replace("\n", "")


def test_check_of_a_wrong_count_and_a_missing_partner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = miniature.realblur_ab(tmp_path / "RealBlur-R")
    (home / "test/testB/scene002_gt_1.png").unlink()
    assert xyscan("check", home / "test") == 1
    told = capsys.readouterr().err
    assert "holds 1 sample; the test split has 980" in told and "scene002_blur_1.png has no partner" in told


def test_check_cuts_long_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    miniature.put(tmp_path, "sharp/0.png", "blur/0.png", *(f"blur/{number}.png" for number in range(1, 31)))
    assert xyscan("check", tmp_path) == 1
    told = capsys.readouterr().err
    assert "30 problems" in told and "and 10 more" in told


def test_check_of_a_folder_without_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert xyscan("check", tmp_path) == 3
    assert "holds no data set" in capsys.readouterr().err
    assert xyscan("check", tmp_path / "absent") == 3
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "gopro.zip").touch()
    assert xyscan("check", tmp_path / "gopro.zip") == 3
    assert "gopro.zip is a file" in capsys.readouterr().err


def test_check_imports_no_torch(tmp_path: Path) -> None:
    miniature.gopro_ab(tmp_path / "GoPro")
    code = (
        "import sys; from xyscan_cli import app; sys.argv[1:] = ['data', 'check', sys.argv[1]]\n"
        "try: app.main()\nexcept SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "1 False", done.stderr
