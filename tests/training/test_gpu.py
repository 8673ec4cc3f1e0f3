"""Training on a GPU: `--deterministic`, steps from CUDA graphs, batches made on a stream of their own."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.subprocesses import environment
from xyscannet.data.blur import BlurConfig, render, sample_blur
from xyscannet.training.feed import Feed
from xyscannet.training.loop import Interrupted, Trainer
from xyscannet.training.recipes import parse_config
from xyscannet.training.samples import source_of

from .conftest import DrawnPairs


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    for index, image in enumerate(noise):
        Image.fromarray(image).resize((384, 384), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


def curve(photos: Path, folder: Path, precision: str, seed: int) -> list[tuple[float, float]]:
    """Loss and gradient norm of every step of a run in a process of its own."""
    options = [f"data.photos=[{photos}]", "data.patch=64", "data.batch=2", "iterations=12", "log_every=1"]
    options += ["model=xyscannet-s", f"precision={precision}", f"seed={seed}"]
    arguments = [part for option in options for part in ("--set", option)]
    command = [sys.executable, "-m", "xyscan_cli", "train", "smoke", *arguments, "--output", str(folder)]
    subprocess.run(
        [*command, "--device", "cuda", "--deterministic"],
        env=environment(),
        check=True,
        timeout=600,
    )
    records = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [(each["loss"], each["grad_norm"]) for each in records if each["event"] == "step"]


@pytest.mark.gpu
@pytest.mark.slow  # three processes that compile kernels
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_seed_one_loss_curve(photos: Path, tmp_path: Path, precision: str) -> None:
    first = curve(photos, tmp_path / "first", precision, 5)
    assert len(first) == 12
    assert curve(photos, tmp_path / "second", precision, 5) == first
    assert curve(photos, tmp_path / "other", precision, 6) != first


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["adam", "muon"])
def test_captured_steps_are_the_plain_ones(tiny: dict, tmp_path: Path, kind: str) -> None:
    curves = {}
    for graphs in (False, True):
        optimiser = {"kind": kind, "lr": 2e-3, "warmup": 2}
        config = parse_config({**tiny, "optimiser": optimiser, "iterations": 10, "cuda_graphs": graphs})
        events: list[dict] = []
        trainer = Trainer(
            config, tmp_path / str(graphs), device="cuda", samples=DrawnPairs(), on_event=events.append
        )
        trainer.run()
        assert trainer.update.is_captured is graphs
        curves[graphs] = [(each["loss"], each["grad_norm"]) for each in events if each["event"] == "step"]
    for found, expected in zip(curves[True], curves[False], strict=True):
        assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.gpu
def test_a_captured_run_goes_on_where_it_stopped_and_on_the_cpu(tiny: dict, tmp_path: Path) -> None:
    config = parse_config({**tiny, "optimiser": {"kind": "muon", "lr": 2e-3, "warmup": 2}, "iterations": 12})
    whole = Trainer(config, tmp_path / "whole", device="cuda", samples=DrawnPairs())
    whole.run()
    first = Trainer(config, tmp_path / "parts", device="cuda", samples=DrawnPairs())
    first._should_stop = lambda: first.step == 6
    with pytest.raises(Interrupted):
        first.run()
    second = Trainer(config, tmp_path / "parts", device="cuda", samples=DrawnPairs(), resume="auto")
    assert second.step == 6
    second.run()
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    shutil.copytree(tmp_path / "parts", tmp_path / "cpu")
    longer = parse_config({**config.model_dump(mode="json"), "iterations": 14})
    Trainer(longer, tmp_path / "cpu", samples=DrawnPairs(), resume="auto").run()


@pytest.mark.gpu
def test_blur_rendered_ahead_on_the_gpu_is_the_cpus(photos: Path) -> None:
    data = {
        "photos": [str(photos)],
        "patch": 64,
        "batch": 4,
        "blur": {"path_px": [2, 8], "noise_share": 0, "jpeg_share": 0},
    }
    config = parse_config({"iterations": 1, "data": data})
    found = {}
    for name, together in (("cpu", 1), ("cuda", 3)):
        source = source_of(config, torch.device(name))
        make = partial(source.make, patch=64, batch=4, items=range(4))
        feed = Feed(make, source, torch.device(name), depth=2, threads=2, together=together)
        with contextlib.closing(feed.from_step(5)) as batches:
            found[name] = [next(batches).arrive() for _ in range(5)]
    for one, other in zip(found["cpu"], found["cuda"], strict=True):
        assert one.batch.origins == other.batch.origins
        torch.testing.assert_close(
            one.sharp, other.sharp.cpu(), rtol=0, atol=1e-6
        )  # a GPU divides by 255 otherwise
        away = (one.blur - other.blur.cpu()).abs()
        assert away.max() < 0.01 and away.mean() < 1e-4  # a rounding to 256 levels may tip


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu_while_it_renders() -> None:
    config, generator = (
        BlurConfig(path_px=(2, 8), jpeg_share=1, noise_share=1),
        torch.Generator().manual_seed(0),
    )
    side = 64 + 2 * config.margin
    scenes = torch.rand(4, 3, side, side, generator=generator).cuda()
    parameters = sample_blur(config, 4, 64, 64, generator)
    first = render(scenes, parameters)[0]  # which brings the tables there
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = render(scenes, parameters)[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(first, again)
