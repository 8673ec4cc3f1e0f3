"""Evaluation of small sets: what is measured, what fails, what goes on after an interruption."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from xyscannet.errors import ConfigError, InputError, UnavailableError
from xyscannet.evaluation import AsIs, Folder, Journal, Network, evaluate
from xyscannet.evaluation.engine import _save, identity
from xyscannet.metrics.base import DistributionMetric, ImageMetric, MetricInfo
from xyscannet.reports.results import from_json, to_json


@dataclass(frozen=True)
class Pair:
    name: str
    blur: Path
    sharp: Path | None


def mean_error(restored, sharp):
    return float(np.abs(restored.astype(float) - sharp).mean())


def error_metric(compute=mean_error):
    return ImageMetric(MetricInfo("error", "Error", False, True), "mean absolute difference", compute)


class Pixels(DistributionMetric):
    """A metric of sets: the mean of all pixels of the restored images."""

    def __init__(self, made_by="a sum"):
        super().__init__(MetricInfo("pixels", "Pixels", True, False, kind="distribution"), made_by)
        self.total = self.count = 0

    def share(self, restored, sharp=None):
        return {"sums": np.array([restored.sum(), restored.size])}

    def merge(self, state):
        for total, count in [state["sums"]] if state else []:
            self.total += int(total)
            self.count += int(count)

    def state(self):
        return {"sums": np.array([self.total, self.count])}

    def resume(self, state):
        self.total, self.count = map(int, state.get("sums", (0, 0)))

    def compute(self):
        if not self.count:
            raise InputError("no images")
        return {"pixels": self.total / self.count, "pixels_x1000": 1000 * self.total / self.count}


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)
    return path


@pytest.fixture
def pairs(tmp_path):
    """Six pairs of random images, the last one identical."""
    random = np.random.default_rng(0)
    made = []
    for i in range(6):
        blur, sharp = random.integers(0, 256, (2, 12, 16, 3), dtype=np.uint8)
        sharp = blur if i == 5 else sharp
        files = (save(tmp_path / f"set/{kind}/{i}.png", x) for kind, x in (("blur", blur), ("sharp", sharp)))
        made.append(Pair(f"s/{i}", *files))
    return made


def measure(folder, samples, source=None, metrics=None, fresh=False, identity=None, **options):
    with Journal(folder, identity or {"what": "test"}, fresh=fresh) as journal:
        return evaluate(
            samples,
            source or AsIs(),
            metrics or [error_metric()],
            journal,
            dataset="mini",
            protocol="plain",
            **options,
        )


def test_values_and_summary(tmp_path, pairs):
    found = measure(tmp_path / "out", pairs, metrics=[error_metric(), Pixels()], expected=9)
    expected = [mean_error(cv2.imread(str(p.blur)), cv2.imread(str(p.sharp))) for p in pairs]
    assert [image.values["error"] for image in found.images] == pytest.approx(expected)
    summary = found.summaries["error"]
    assert summary.mean == pytest.approx(np.mean(expected)) and summary.median == pytest.approx(
        np.median(expected)
    )
    assert summary.low < summary.mean < summary.high and summary.count == 6
    assert summary.worst[0] == pairs[int(np.argmax(expected))].name and summary.worst[-1] != "s/5"
    pixels = np.mean([cv2.imread(str(p.blur)) for p in pairs])
    assert found.summaries["pixels"].mean == pytest.approx(pixels)
    assert found.summaries["pixels_x1000"].mean == pytest.approx(1000 * pixels)
    assert [c.of_set for c in found.columns] == [False, True, True]
    assert found.columns[0].median_seconds > 0 and found.expected == 9
    assert found.images[0].restored == str(pairs[0].blur)
    assert from_json(to_json(found)) == found


class Stop(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("states_every", [1, 2, 100])
def test_an_interrupted_run_goes_on(tmp_path, pairs, monkeypatch, states_every):
    monkeypatch.setattr("xyscannet.evaluation.engine.STATES_EVERY", states_every)
    whole = measure(tmp_path / "whole", pairs, metrics=[error_metric(), Pixels()])
    seen = []

    def counted(restored, sharp):
        seen.append(1)
        if len(seen) == 4:
            raise Stop
        return mean_error(restored, sharp)

    with pytest.raises(Stop):
        measure(tmp_path / "out", pairs, metrics=[error_metric(counted), Pixels()])
    again = measure(tmp_path / "out", pairs, metrics=[error_metric(counted), Pixels()])
    assert len(seen) == 4 + 3  # the three measured images are not measured again
    assert again.images == whole.images and again.summaries == whole.summaries


@pytest.mark.parametrize("damage", [Path.unlink, Path.touch, lambda path: path.write_bytes(b"PK")])
def test_a_killed_run_without_its_states_begins_again(tmp_path, pairs, damage):
    """Killed between two savings: images whose share is in no state are measured again, not counted twice."""
    measure(tmp_path / "out", pairs[:3], metrics=[error_metric(), Pixels()])
    with open(tmp_path / "out/journal.jsonl", "ab") as file:
        file.write(b'{"image": {"name": "s/3", "val')
    state = tmp_path / "out/pixels.npz"
    state.write_bytes(b"")
    damage(state)
    again = measure(tmp_path / "out", pairs, metrics=[error_metric(), Pixels()])
    whole = measure(tmp_path / "whole", pairs, metrics=[error_metric(), Pixels()])
    assert again.images == whole.images and again.summaries == whole.summaries


@pytest.mark.parametrize("when", ["measured", "merged", "written", "noted", "saved"])
@pytest.mark.parametrize("states_every", [1, 2, 100])
def test_an_image_counts_once_whenever_it_is_interrupted(tmp_path, pairs, monkeypatch, when, states_every):
    monkeypatch.setattr("xyscannet.evaluation.engine.STATES_EVERY", states_every)
    after = {
        "measured": (Pixels, "share"),
        "merged": (Pixels, "merge"),
        "written": (Journal, "_write"),
        "noted": (Journal, "add"),
        "saved": (Journal, "save_state"),
    }[when]
    whole, calls = getattr(*after), []

    def stopped(*arguments):
        found = whole(*arguments)
        calls.append(1)
        if len(calls) == 4:
            raise Stop
        return found

    with (
        monkeypatch.context() as patch,
        pytest.raises(Stop) if when != "saved" else contextlib.suppress(Stop),
    ):
        patch.setattr(*after, stopped)
        measure(tmp_path / "out", pairs, metrics=[error_metric(), Pixels()])
    again = measure(tmp_path / "out", pairs, metrics=[error_metric(), Pixels()])
    found = measure(tmp_path / "whole", pairs, metrics=[error_metric(), Pixels()])
    assert again.images == found.images and again.summaries == found.summaries


def test_states_of_another_evaluation_are_not_taken_and_other_files_stay(tmp_path, pairs, monkeypatch):
    whole = measure(tmp_path / "whole", pairs, metrics=[Pixels()])
    measure(tmp_path / "out", pairs[3:], metrics=[Pixels()])
    np.savez(tmp_path / "out/mine.npz", 1)

    def save(of_sets, journal):  # a run that is killed does not come to it later
        if not journal.images:
            _save(of_sets, journal)

    monkeypatch.setattr("xyscannet.evaluation.engine._save", save)
    measure(tmp_path / "out", pairs[:3], metrics=[Pixels()], fresh=True)
    again = measure(tmp_path / "out", pairs, metrics=[Pixels()])
    assert again.images == whole.images and again.summaries == whole.summaries
    assert (tmp_path / "out/mine.npz").exists()


def test_a_second_evaluation_counts_its_own_images_alone(tmp_path, pairs):
    whole = measure(tmp_path / "whole", pairs[3:], metrics=[Pixels()])
    metrics = [Pixels()]
    measure(tmp_path / "one", pairs[:3], metrics=metrics)
    assert measure(tmp_path / "other", pairs[3:], metrics=metrics).summaries == whole.summaries


def test_a_line_cut_off_is_measured_again(tmp_path, pairs):
    path, whole = tmp_path / "out/journal.jsonl", measure(tmp_path / "whole", pairs)
    for cut in (1, 20):
        measure(tmp_path / "out", pairs[:2], fresh=True)
        path.write_bytes(path.read_bytes()[:-cut])
        assert measure(tmp_path / "out", pairs).images == whole.images
        assert len(path.read_bytes().splitlines()) == 1 + len(pairs)


def test_another_evaluation_is_not_continued(tmp_path, pairs):
    measure(tmp_path / "out", pairs, identity={"weights": "a"})
    with pytest.raises(ConfigError, match="weights: a there, b now"):
        measure(tmp_path / "out", pairs, identity={"weights": "b"})
    assert measure(tmp_path / "out", pairs, identity={"weights": "b"}, fresh=True).images
    (tmp_path / "out/journal.jsonl").write_text("something else\n")
    with pytest.raises(ConfigError, match="no journal"):
        measure(tmp_path / "out", pairs)


def test_what_computes_a_metric_is_part_of_the_identity(pairs):
    first, second = (identity(pairs, AsIs(), [error_metric(), Pixels(made)]) for made in ("a 1.0", "a 1.1"))
    assert {name for name in first if first[name] != second[name]} == {"pixels"}


def test_what_fails_is_told_and_the_rest_measured(tmp_path, pairs):
    (tmp_path / "broken.png").write_bytes(b"no image")
    small = save(tmp_path / "small.png", np.zeros((4, 4, 3), np.uint8))
    bad = [
        Pair("broken", tmp_path / "broken.png", pairs[0].sharp),
        Pair("missing", tmp_path / "missing.png", pairs[0].sharp),
        Pair("no-sharp", pairs[0].blur, tmp_path / "missing.png"),
        Pair("sizes", small, pairs[0].sharp),
    ]
    nan = error_metric(
        lambda restored, sharp: math.nan if restored[0, 0, 0] == 255 else mean_error(restored, sharp)
    )
    white = Pair("nan", *(save(tmp_path / f"{n}.png", np.full((4, 4, 3), 255, np.uint8)) for n in "ab"))
    found = measure(tmp_path / "out", [*bad, white, *pairs[:2]], metrics=[nan, Pixels()])
    failures = {image.name: image.failures for image in found.images}
    assert "broken.png" in failures["broken"]["image"] and "missing.png" in failures["missing"]["image"]
    assert "missing.png" in failures["no-sharp"]["image"]
    assert "sizes" in failures["sizes"]["error"] and "nan" in failures["nan"]["error"]
    assert not failures["s/0"] and not failures["s/1"]
    assert found.summaries["error"].failed == 5 and found.summaries["error"].count == 2
    assert found.summaries["pixels"].count == 4
    alone = measure(tmp_path / "alone", bad[:1], metrics=[nan, Pixels()])
    assert alone.columns[1].note == "no images" and alone.summaries["pixels"].mean is None
    assert from_json(to_json(alone)) == alone


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_a_metric_without_memory_fails_on_that_image_alone(tmp_path, pairs, error):
    def compute(restored, sharp):
        if (restored == cv2.imread(str(pairs[1].blur))[..., ::-1]).all():
            raise error
        return 1.0

    found = measure(tmp_path / "out", pairs[:3], metrics=[error_metric(compute), Pixels()])
    assert [dict(image.failures) for image in found.images] == [
        {},
        {"error": "s/1: not enough memory"},
        {},
    ]
    assert found.summaries["pixels"].count == 3


def test_the_first_image_takes_longer_and_does_not_count(tmp_path, pairs):
    waits = iter([0.3])
    slow = error_metric(lambda restored, sharp: time.sleep(next(waits, 0.0)) or 1.0)
    assert measure(tmp_path / "out", pairs[:2], metrics=[slow]).columns[0].median_seconds < 0.1


def test_one_image_has_no_interval(tmp_path, pairs):
    summary = measure(tmp_path / "out", pairs[:1]).summaries["error"]
    assert summary.mean is not None and (summary.low, summary.high) == (None, None)


def test_identical_images_do_not_make_the_mean_infinite(tmp_path, pairs):
    psnr = ImageMetric(
        MetricInfo("psnr", "PSNR", True, True, unit="dB"),
        "",
        lambda restored, sharp: math.inf if (restored == sharp).all() else 20.0,
    )
    summary = measure(tmp_path / "out", pairs, metrics=[psnr]).summaries["psnr"]
    assert (summary.mean, summary.infinite, summary.count) == (20.0, 1, 5)
    assert "s/5" not in summary.worst


def test_nothing_and_twice_the_same(tmp_path, pairs):
    with pytest.raises(ConfigError, match="no image"):
        measure(tmp_path / "a", [])
    with pytest.raises(ConfigError, match="one name"):
        measure(tmp_path / "b", [pairs[0], pairs[0]])


def test_grey_and_16_bit(tmp_path, pairs):
    grey = save(tmp_path / "grey.png", np.full((5, 5), 100, np.uint8))
    deep = save(tmp_path / "deep.png", np.full((5, 5, 3), 90 * 257, np.uint16))
    found = measure(tmp_path / "out", [Pair("mixed", grey, deep)])
    assert found.images[0].values["error"] == 10


class Brighter(torch.nn.Module):
    """Stands in for a network."""

    def __init__(self):
        super().__init__()
        from xyscannet.models import XYScanNetConfig

        self.config = XYScanNetConfig(width=8, encoder_blocks=(1, 0, 0), decoder_blocks=(1, 0, 0))
        self.weight = torch.nn.Parameter(torch.tensor(10 / 255))

    def forward(self, x):
        return x + self.weight


def test_a_networks_images_are_measured_as_they_are_written(tmp_path, pairs):
    network = Network(Brighter(), "brighter", {"sha256": "x"}, keep=tmp_path / "kept")
    found = measure(tmp_path / "out", pairs, network)
    for pair, image in zip(pairs, found.images, strict=True):
        blur, written = cv2.imread(str(pair.blur)), cv2.imread(image.restored)
        np.testing.assert_array_equal(written, np.minimum(blur.astype(int) + 10, 255))
        assert image.values["error"] == mean_error(written, cv2.imread(str(pair.sharp)))
        assert image.restored_seconds > 0
    kept = measure(tmp_path / "again", pairs, Folder(tmp_path / "kept", pairs))
    assert [image.values for image in kept.images] == [image.values for image in found.images]
    assert measure(tmp_path / "not", pairs, Network(Brighter(), "b", {})).images[0].restored is None


def test_images_that_cannot_be_kept_are_measured_by_the_next_run(tmp_path, pairs, monkeypatch):
    def full(photo, path, **_):
        raise InputError(f"{path}: cannot be written: no space left")

    network = Network(Brighter(), "brighter", {"sha256": "x"}, keep=tmp_path / "kept")
    measure(tmp_path / "out", pairs[:2], network)
    with monkeypatch.context() as patch, pytest.raises(UnavailableError, match="no space left"):
        patch.setattr("xyscannet.evaluation.sources.write", full)
        measure(tmp_path / "out", pairs, network)
    assert not any(image.failures for image in measure(tmp_path / "out", pairs, network).images)
