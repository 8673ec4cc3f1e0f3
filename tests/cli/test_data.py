from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xyscan_cli import console
from xyscan_cli.app import load
from xyscannet.data.pairs import find_pairs


def xyscan(*arguments: object) -> int:
    command = load("data")
    return console.exit_code_of(
        lambda: command.main(list(map(str, arguments)), "data", standalone_mode=False)
    )


def test_synth_writes_pairs_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC).save(photos / "a.png")
    options = ["--strength", "small", "--crop", 32, "--count", 2]
    assert xyscan("synth", photos, out, *options) == 0
    assert len(find_pairs(out)) == 2
    captured = capsys.readouterr()
    assert "2 pairs" in captured.err and not captured.out
    assert xyscan("synth", photos, out, *options) == 2
    assert "not empty" in capsys.readouterr().err
    assert xyscan("synth", photos, out, *options, "--exist", "skip") == 0
    assert "2 were there" in capsys.readouterr().err
    (photos / "b.png").write_bytes(b"")
    assert xyscan("synth", photos, out, *options, "--exist", "skip", "--quiet") == 1
    assert "b.png" in capsys.readouterr().err
