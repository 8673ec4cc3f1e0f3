"""Pairs on the disk, mixtures, and parts of a batch."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.miniature import gopro_sequences, picture
from xyscannet import images
from xyscannet.errors import ConfigError, InputError
from xyscannet.training.config import PairsConfig
from xyscannet.training.recipes import parse_config
from xyscannet.training.samples import find_pairs, source_of
from xyscannet.training.validate import ValidationPairs

CPU = torch.device("cpu")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two pairs whose red channel tells the pair and whose green tells the column and blue the row."""
    for number in (1, 2):
        rows, columns = np.mgrid[:40, :50]
        image = np.stack([np.full_like(rows, 50 * number), columns, rows], -1).astype(np.uint8)
        for role, shift in (("blur", 0), ("sharp", 100)):
            path = tmp_path / "set" / role / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image + np.array([shift, 0, 0], np.uint8)).save(path)
    return tmp_path / "set"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed in range(2):
        picture(tmp_path / "photos" / f"{seed}.png", size=(160, 150), seed=seed)
    return tmp_path / "photos"


def config(**data: object):
    return parse_config({"iterations": 1, "data": {"patch": 16, "batch": 6, **data}})


def test_stored_pairs_are_cut_flipped_and_turned_alike(pairs: Path) -> None:
    source = source_of(config(pairs=[{"root": str(pairs)}]), CPU)
    batch = source.make(3, 16, 6, range(6))
    blur, sharp = source.to_device([batch], CPU)[0]
    assert blur.shape == (6, 3, 16, 16) and blur.dtype == torch.float32
    difference = ((sharp - blur) * 255).round()
    assert (difference[:, 0] == 100).all() and (difference[:, 1:] == 0).all()
    assert len(set(batch.origins)) == 6 and "blur" in batch.origins[0]
    turned = {tuple(image[1:, 0, 0].gt(image[1:, -1, -1]).tolist()) for image in blur}
    assert len(turned) > 1  # not all in one orientation
    again = source.to_device([source.make(3, 16, 6, range(6))], CPU)[0]
    assert torch.equal(again[0], blur)


def test_16_bits_are_the_nearest_8(pairs: Path) -> None:
    def given() -> tuple[torch.Tensor, ...]:
        source = source_of(config(pairs=[{"root": str(pairs)}]), CPU)
        stored = ValidationPairs(find_pairs(PairsConfig(root=str(pairs))), None)
        return *source.to_device([source.make(3, 16, 6, range(6))], CPU)[0], *stored.item(1)[1:]

    of_8 = given()
    for path in pairs.glob("*/*.png"):
        images.write(images.Photo(images.read(path).rgb.astype(np.uint16) * 257 + 128), path)
    assert all(torch.equal(one, other) for one, other in zip(of_8, given(), strict=True))


def test_crops_reach_the_edges(pairs: Path) -> None:
    source = source_of(config(patch=40, pairs=[{"root": str(pairs)}]), CPU)
    origins = [name for step in range(20) for name in source.make(step, 40, 6, range(6)).origins]
    places = {tuple(map(int, re.findall(r"[xy] (\d+)", name))) for name in origins}
    assert places == {(x, 0) for x in range(11)}


@pytest.mark.parametrize("kind", ["photos", "pairs", "both"])
def test_parts_of_a_batch_are_the_whole(kind: str, pairs: Path, photos: Path) -> None:
    data = {
        "photos": {"photos": [str(photos)]},
        "pairs": {"pairs": [{"blur": str(pairs / "blur"), "sharp": str(pairs / "sharp")}]},
    }
    chosen = {**data["photos"], **data["pairs"]} if kind == "both" else data[kind]
    settings = config(**chosen, blur={"path_px": [2, 4], "object_share": 0})
    source = source_of(settings, CPU)
    whole = source.make(5, 16, 6, range(6))
    blur, _ = source.to_device([whole], CPU)[0]
    halves = [source.make(5, 16, 6, items) for items in (range(3), range(3, 6))]
    assert sorted(whole.origins) == sorted(halves[0].origins + halves[1].origins)
    order = {name: row for row, name in enumerate(whole.origins)}
    for half in halves:
        part, _ = source.to_device([half], CPU)[0]
        wanted = blur[[order[name] for name in half.origins]]
        assert torch.equal(part, wanted)


def test_mixture_follows_its_weights(pairs: Path, photos: Path) -> None:
    settings = config(
        photos=[str(photos)],
        photos_weight=3,
        pairs=[{"root": str(pairs), "weight": 1}],
        blur={"path_px": [2, 4], "object_share": 0},
    )
    source = source_of(settings, CPU)
    names = [name for step in range(40) for name in source.make(step, 16, 6, range(6)).origins]
    share = sum("/set/" in name for name in names) / len(names)
    assert 0.17 < share < 0.33
    assert {"photos", "sets", "stored_share"} <= source.manifest().keys()


def test_layouts_are_recognised_and_the_split_taken(tmp_path: Path) -> None:
    root = gopro_sequences(tmp_path / "GoPro")
    for section in ({"dataset": "gopro", "root": str(root)}, {"root": str(root)}):
        dataset = find_pairs(PairsConfig(**section))
        assert dataset.split == "train" and len(dataset.samples) == 1
        assert dataset.samples[0].blur.parent.name == "blur"
        linear = find_pairs(PairsConfig(**section, gamma=True))
        assert [sample.blur.parent.name for sample in linear.samples] == ["blur_gamma"]
    to_validate = parse_config(
        {"iterations": 1, "validation": {"pairs": {"root": str(root)}}}
    ).validation.pairs
    assert to_validate.split == "test" and len(ValidationPairs(find_pairs(to_validate), 2)) == 2


def test_what_a_set_lacks_is_told(pairs: Path, photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    (pairs / "sharp" / "2.png").unlink()
    picture(photos / "small.png", size=(40, 40))
    for role in ("blur", "sharp"):
        picture(pairs / role / "3.png", size=(15, 40))
    source_of(config(pairs=[{"root": str(pairs)}], photos=[str(photos)]), CPU)
    told = " ".join(caplog.messages)
    assert "2.png" in told and "`xyscan data check` lists all 1 problems" in told
    assert "1 of 3 photographs are smaller than a crop" in told
    assert f"1 pairs of {pairs} are smaller than 16 pixels and left out" in told


@pytest.mark.parametrize("kind", ["photos", "pairs", "both"])
def test_no_stage_draws_what_an_earlier_one_has_drawn(kind: str, pairs: Path, photos: Path) -> None:
    given = {"photos": {"photos": [str(photos)]}, "pairs": {"pairs": [{"root": str(pairs)}]}}
    data = given.get(kind) or given["photos"] | given["pairs"]
    stages = [{"until": 0.5, "patch": 16, "batch": 4}, {"until": 1, "patch": 16, "batch": 2}]
    source = source_of(parse_config({"iterations": 8, "data": data, "stages": stages}), CPU)
    first = [name for step in range(4) for name in source.make(step, 16, 4, range(4)).origins]
    second = [name for step in range(4, 8) for name in source.make(step, 16, 2, range(2)).origins]
    assert len({*first, *second}) > 20  # of 24; two may be alike by chance


def test_faults_of_pairs_are_told(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no pair of at least 64x64"):
        source_of(config(patch=64, pairs=[{"root": str(pairs)}]), CPU)
    picture(pairs / "blur" / "2.png", size=(30, 30))
    with pytest.raises(InputError, match="differ in size"):
        source_of(config(pairs=[{"root": str(pairs)}]), CPU)
    with pytest.raises(InputError, match="differ in size"):
        ValidationPairs(find_pairs(PairsConfig(root=str(pairs))), None)
    for number, role in ((1, "blur"), (1, "sharp"), (2, "blur"), (2, "sharp")):
        picture(pairs / role / f"{number}.png", size=(30, 10))
    with pytest.raises(ConfigError, match=r"1\.png: a picture of 30 x 10 pixels cannot be validated on"):
        ValidationPairs(find_pairs(PairsConfig(root=str(pairs))), None)
    (pairs / "blur" / "2.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="2.png"):
        source_of(config(pairs=[{"root": str(pairs)}]), CPU)
    with pytest.raises(ConfigError, match="nothing to train on"):
        source_of(config(), CPU)
    with pytest.raises(ConfigError, match="give both"):
        config(pairs=[{"blur": "somewhere"}])
    with pytest.raises(ConfigError, match="gamma is of a dataset or root"):
        config(pairs=[{"blur": "somewhere", "sharp": "there", "gamma": True}])
    with pytest.raises(ConfigError, match="did you mean 'data.pairs.0.dataset'"):
        config(pairs=[{"datset": "gopro"}])


def test_what_does_not_fit_the_cache_is_decoded_again(pairs: Path) -> None:
    small = config(pairs=[{"root": str(pairs)}], cache_megapixels=0.003)
    source, other = source_of(small, CPU), source_of(config(pairs=[{"root": str(pairs)}]), CPU)
    for step in range(3):
        one, two = (each.make(step, 16, 6, range(6)) for each in (source, other))
        assert torch.equal(one.blur, two.blur)
    assert source._crops._held <= 3000 and len(source._crops._cache) == 1


@pytest.mark.parametrize("kind", ["photos", "both"])
def test_batches_rendered_together_are_those_rendered_alone(kind: str, pairs: Path, photos: Path) -> None:
    """As for a GPU, here on the CPU: sharp crops first, the blur of several steps at once."""
    chosen: dict = {
        "photos": [str(photos)],
        "blur": {"path_px": [2, 4], "object_share": 0.5, "object_px": [2, 4]},
    }
    if kind == "both":
        chosen["pairs"] = [{"root": str(pairs)}]
    settings = config(**chosen)
    ahead, later = source_of(settings, CPU), source_of(settings, torch.device("meta"))
    steps = range(3, 6)
    expected = [ahead.to_device([ahead.make(step, 16, 6, range(6))], CPU)[0] for step in steps]
    made = [later.make(step, 16, 6, range(6)) for step in steps]
    found = later.to_device(made, CPU)
    for step, (blur, sharp), (blur_alone, sharp_alone) in zip(steps, found, expected, strict=True):
        assert torch.equal(sharp, sharp_alone), step
        assert (blur - blur_alone).abs().max() < 1e-6
    assert [batch.origins for batch in made] == [ahead.make(step, 16, 6, range(6)).origins for step in steps]
