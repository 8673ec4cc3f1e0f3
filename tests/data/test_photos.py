from __future__ import annotations

import io
import logging
import re
import tarfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from xyscannet.data.photos import Crops, SharpPhotos, prefetch, sharp_tiles
from xyscannet.errors import ConfigError, InputError


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(path: Path, rgb: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), rgb[..., ::-1])
    return path


def test_folders_and_archives_are_read_as_rgb(tmp_path: Path) -> None:
    one, two = picture(30, 40, 1), picture(50, 20, 2)
    write(tmp_path / "folder/deep/one.png", one)
    archive = tmp_path / "train-00.tar"
    data = cv2.imencode(".png", two[..., ::-1])[1].tobytes()
    with tarfile.open(archive, "w") as tar:
        hidden = ("./._two.png", ".thumbnails/two.png", "./__MACOSX/two.png")
        for name, content in (
            ("two.png", data),
            *((n, b"hidden") for n in hidden),
            ("LICENCES.csv", b"file"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    photos = SharpPhotos([tmp_path / "folder", archive])
    assert len(photos) == 2 and photos.megapixels == pytest.approx(0.0022)
    assert np.array_equal(photos.photos[0], one) and np.array_equal(photos.photos[1], two)
    assert photos.names[1].endswith("train-00.tar:two.png")


def test_hidden_files_are_left_out_and_linked_folders_are_read(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/one.png", picture(30, 40))
    write(tmp_path / "folder/two.jfif.png", picture(30, 40)).rename(tmp_path / "folder/two.jfif")
    (tmp_path / "folder/._two.png").write_bytes(b"no image")
    (tmp_path / "folder/gone.png").symlink_to("gone")
    (tmp_path / "folder/linked").symlink_to(tmp_path / "elsewhere")
    photos = SharpPhotos([tmp_path / "folder"])
    assert photos.names == [str(tmp_path / "folder" / name) for name in ("linked/one.png", "two.jfif")]


def test_memory_bound_leaves_photographs_out_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(3):
        write(tmp_path / f"{i}.png", picture(100, 100, i))
    for i in range(9):  # of these no error is told
        (tmp_path / f"x{i}.png").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING, "xyscannet"):
        photos = SharpPhotos([tmp_path], cache_megapixels=0.025)
    assert len(photos) == 2 and "2.png and those after it are left out: 2 photographs fill" in caplog.text
    with pytest.raises(ConfigError, match="cache_megapixels"):
        SharpPhotos([tmp_path], cache_megapixels=0.001)


def test_sources_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent"):
        SharpPhotos([tmp_path / "absent"])
    with pytest.raises(ConfigError, match="no images"):
        SharpPhotos([tmp_path])
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"broken\.png"):
        SharpPhotos([tmp_path])
    (tmp_path / "x.tar").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"x\.tar"):
        SharpPhotos([tmp_path / "x.tar"])
    tarfile.open(tmp_path / "x.tar", "w").close()
    with pytest.raises(ConfigError, match=r"no images .* in the archive .*x\.tar"):
        SharpPhotos([tmp_path / "x.tar"])


def test_sources_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, archive = write(tmp_path / "a.png", picture(30, 40)), tmp_path / "b.tar"
    archive.touch()

    def refuse(path: object, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(tarfile, "open", refuse)
    for source, named in ((tmp_path, file), (file, file), (archive, archive)):
        with pytest.raises(InputError, match=f"{named.name} cannot be read: Permission denied"):
            SharpPhotos([source])


def test_sharp_tiles_are_those_with_fine_detail() -> None:
    photo = np.full((520, 800, 3), 128, np.uint8)
    photo[256:512, 512:768] = picture(256, 256)
    assert sharp_tiles(photo).tolist() == [[256, 512]]
    assert sharp_tiles(photo[:200]).shape == (0, 2)


@pytest.fixture()
def photos(tmp_path: Path) -> SharpPhotos:
    flat = np.full((600, 900, 3), 128, np.uint8)
    flat[256:512, 512:768] = picture(256, 256)
    write(tmp_path / "a.png", flat)
    write(tmp_path / "b.png", picture(300, 520, 5) // 64 * 8)
    write(tmp_path / "small.png", picture(40, 40))
    return SharpPhotos([tmp_path])


def test_batches_are_repeatable_and_depend_on_step_and_seed(photos: SharpPhotos) -> None:
    crops = Crops(photos, 4, 64, margin=5, seed=1)
    batch = crops.batch(7)
    assert batch.shape == (4, 3, 74, 74) and batch.dtype == torch.float32
    assert batch.min() >= 0 and batch.max() <= 1
    assert torch.equal(batch, Crops(photos, 4, 64, margin=5, seed=1).batch(7))
    assert not torch.equal(batch, crops.batch(8))
    assert not torch.equal(batch, Crops(photos, 4, 64, margin=5, seed=2).batch(7))
    assert torch.equal(Crops(photos, 2, 64, margin=5, seed=1).batch(14)[1], batch[1])  # sample 29 in both


def test_crops_prefer_sharp_tiles(photos: SharpPhotos) -> None:
    def share(sharp_share: float) -> float:
        crops = Crops(photos, 1, 64, sharp_share=sharp_share)
        return np.mean([crops.crop(i).std() > 1 for i in range(200)])

    assert share(1.0) > 0.95 > share(0.0) + 0.1


def test_crops_on_tiles_lie_within_the_photograph(tmp_path: Path) -> None:
    write(tmp_path / "a.png", picture(256, 300))
    crops = Crops(SharpPhotos([tmp_path]), 1, 64, sharp_share=1)
    told = [re.search(r"x (\d+), y (\d+), (\d+) px", crops.origin(i)) for i in range(200)]
    x, y, window = np.array([found.groups() for found in told], int).T
    assert window.min() >= 64 and window.max() <= 128 and len(set(window)) > 20
    assert (x.min(), y.min(), (y + window).max()) == (0, 0, 256) and (x + window).max() <= 300


def test_unscaled_crops_are_the_photograph_in_all_eight_orientations(tmp_path: Path) -> None:
    photo = picture(32, 32)
    write(tmp_path / "a.png", photo)
    crops = Crops(SharpPhotos([tmp_path]), 1, 32, scale=(0.5, 1.0))  # no room: the scale stays 1
    turned = [np.rot90(image, k) for image in (photo, photo[:, ::-1]) for k in range(4)]
    seen = set()
    for i in range(80):
        crop = crops.crop(i)
        seen.add(next(k for k, image in enumerate(turned) if np.array_equal(image, crop)))
    assert seen == set(range(8))


def test_impossible_crops_are_refused(photos: SharpPhotos) -> None:
    with pytest.raises(ConfigError, match="holds a crop"):
        Crops(photos, 1, 1000)
    with pytest.raises(ConfigError, match="scale"):
        Crops(photos, 1, 32, scale=(0.5, 2.0))


def test_prefetch_keeps_order_stays_few_steps_ahead_and_passes_errors_on() -> None:
    begun = []

    def make(step: int) -> int:
        begun.append(step)
        if step == 5:
            raise ValueError("step 5")
        return step * step

    steps = prefetch(make, range(100), depth=2)
    assert next(steps) == 0
    time.sleep(0.05)
    assert max(begun) <= 3
    assert [next(steps) for _ in range(4)] == [1, 4, 9, 16]
    with pytest.raises(ValueError, match="step 5"):
        next(steps)
    before = threading.active_count()
    endless = prefetch(lambda step: step, iter(int, 1))
    next(endless)
    endless.close()
    assert threading.active_count() <= before
