from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xyscannet.data.datasets import recognise
from xyscannet.data.synth import Synthesis, SynthSettings
from xyscannet.errors import ConfigError


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture()
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    Image.fromarray(picture(140, 180, 1)).save(folder / "a.png")
    Image.fromarray(picture(150, 130, 2)).save(folder / "deep" / "b.png")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def run(photos: Path, out: Path, exist: str = "error", **settings: object) -> list:
    return list(Synthesis(photos, out, SynthSettings(**settings), exist=exist).run())


def test_whole_photographs_in_gopro_layout(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = run(photos, out, count=2, strength="small")
    assert [result.error for result in results] == [None, None]
    names = ["a/000001", "a/000002", "deep__b/000001", "deep__b/000002"]
    assert [(found.split, [each.name for each in found.samples]) for found in recognise(out)] == [
        ("test", names)
    ]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["complete"] and len(manifest["pairs"]) == 4
    for record in manifest["pairs"]:
        source = np.asarray(Image.open(photos / record["source"]))
        left, top, right, bottom = record["box"]
        blur, sharp = (np.asarray(Image.open(out / record[kind])) for kind in ("blur", "sharp"))
        assert np.array_equal(sharp, source[top:bottom, left:right])
        assert blur.shape == sharp.shape and blur.dtype == np.uint8
        assert 2 < np.abs(blur.astype(float) - sharp).mean() < 60
        assert 0 < record["path_px"] <= 6.01


def test_hidden_photographs_are_left_out_and_linked_folders_are_read(photos: Path, tmp_path: Path) -> None:
    (photos / "deep").rename(tmp_path / "elsewhere")
    (photos / "deep").symlink_to(tmp_path / "elsewhere")
    (photos / "._a.png").write_bytes(b"no image")
    assert list(Synthesis(photos, tmp_path / "out").sources) == ["a", "deep__b"]


def test_the_seed_makes_the_same_files_whatever_else_is_there(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "one", crop=32, strength="small", seed=3)
    run(photos, tmp_path / "two", crop=32, strength="small", seed=3)
    run(photos, tmp_path / "other", crop=32, strength="small", seed=4)
    one, two, other = (contents(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert all(one[name] != other[name] for name in one)
    (photos / "a.png").unlink()
    run(photos, tmp_path / "fewer", crop=32, strength="small", seed=3)
    fewer = contents(tmp_path / "fewer")
    assert fewer["test/deep__b/blur/000001.png"] == one["test/deep__b/blur/000001.png"]
    assert Image.open(tmp_path / "one/test/a/blur/000001.png").size == (32, 32)


def test_crops_lie_about_what_is_sharp(tmp_path: Path) -> None:
    scene = np.full((300, 600, 3), 128, np.uint8)
    scene[:256, 256:512] = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    (tmp_path / "photos").mkdir()
    Image.fromarray(scene).save(tmp_path / "photos" / "a.png")
    run(tmp_path / "photos", tmp_path / "out", crop=32, strength="small", count=3)
    pairs = json.loads((tmp_path / "out" / "manifest.json").read_text())["pairs"]
    assert [pair["box"] for pair in pairs] == [[368, 112, 400, 144]] * 3


def test_photographs_that_fail_are_reported_and_do_not_stop_the_others(photos: Path, tmp_path: Path) -> None:
    (photos / "0.png").write_bytes(b"no image")
    Image.fromarray(picture(60, 60)).save(photos / "small.png")
    results = run(photos, tmp_path / "out", strength="strong")
    errors = {result.source.name: result.error for result in results if result.error}
    assert set(errors) == {"0.png", "small.png"}
    assert "0.png" in errors["0.png"] and "60 x 60 pixels are too few" in errors["small.png"]
    assert [len(found.samples) for found in recognise(tmp_path / "out")] == [2]


def test_existing_output_is_refused_kept_or_replaced(photos: Path, tmp_path: Path) -> None:
    out, settings = tmp_path / "out", {"crop": 32, "strength": "small"}
    run(photos, out, **settings)
    before = contents(out)
    with pytest.raises(ConfigError, match="not empty"):
        run(photos, out, **settings)
    (out / "test/a/blur/000001.png").write_bytes(b"damaged")
    (out / "test/deep__b/sharp/000001.png").unlink()
    results = run(photos, out, "skip", **settings)
    assert [result.kept for result in results] == [1, 0]
    assert (out / "test/a/blur/000001.png").read_bytes() == b"damaged"
    run(photos, out, "overwrite", **settings)
    assert contents(out) == before
    with pytest.raises(ConfigError, match="same settings"):
        run(photos, out, "skip", **settings, seed=1)
    (out / "test/a/blur/000007.png").write_bytes(b"")
    with pytest.raises(ConfigError, match="other pairs"):
        run(photos, out, "overwrite", **settings)


def test_an_interrupted_run_leaves_whole_files_and_can_be_finished(photos: Path, tmp_path: Path) -> None:
    settings = SynthSettings("small", crop=32)
    running = Synthesis(photos, tmp_path / "out", settings).run()
    next(running)
    running.close()
    assert not json.loads((tmp_path / "out/manifest.json").read_text())["complete"]
    (tmp_path / "out/test/a/sharp/.0123456789abcdef.part").touch()  # of a run that was killed
    results = list(Synthesis(photos, tmp_path / "out", settings, exist="skip").run())
    assert [result.kept for result in results] == [1, 0]
    run(photos, tmp_path / "whole", crop=32, strength="small")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_names_that_differ_in_suffix_only_stay_apart(photos: Path, tmp_path: Path) -> None:
    Image.fromarray(picture(140, 180, 1)).save(photos / "a.jpg")
    run(photos, tmp_path / "out", crop=32, strength="small")
    assert {path.name for path in (tmp_path / "out/test").iterdir()} == {"a.jpg", "a.png", "deep__b"}


def test_photographs_named_like_folders_of_a_data_set_are_pairs_as_any(photos: Path, tmp_path: Path) -> None:
    for name in ("Train.png", "blur.png", "sharp.png", "data.png", "gopro.png"):
        (photos / name).write_bytes((photos / "a.png").read_bytes())
    run(photos, tmp_path / "out", crop=16, strength="small")
    (found,) = recognise(tmp_path / "out")
    assert len(found.samples) == 7 and found.split == "test" and not found.problems


def test_a_name_that_is_no_text(photos: Path, tmp_path: Path) -> None:
    (photos / "a.png").rename(photos / "\udcff.png")
    results = run(photos, tmp_path / "out", crop=16, strength="small")
    assert [result.error for result in results] == [None, None]
    pairs = json.loads((tmp_path / "out/manifest.json").read_text())["pairs"]
    assert (tmp_path / "out" / pairs[1]["blur"]).is_file() and pairs[1]["source"] == "\udcff.png"


def test_wrong_folders_and_settings(photos: Path, tmp_path: Path) -> None:
    for out in (photos, photos / "out", tmp_path):
        with pytest.raises(ConfigError, match="lie in one another"):
            Synthesis(photos, out)
    with pytest.raises(ConfigError, match="no folder"):
        Synthesis(tmp_path / "absent", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no photographs"):
        Synthesis(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(ConfigError, match="known: small"):
        SynthSettings("weak")
    with pytest.raises(ConfigError, match="at least"):
        SynthSettings(count=0)
    assert not (tmp_path / "out").exists()
