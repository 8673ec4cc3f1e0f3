from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from xyscannet import images
from xyscannet.analysis import card, classical
from xyscannet.errors import ConfigError

data = pytest.importorskip("skimage.data")
CROP = 64


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs that hold the crop and the margin of strong blur, one that does not."""
    folder = tmp_path_factory.mktemp("photos")
    side = CROP + 2 * 42
    for name, size in (("astronaut", side), ("coffee", side), ("chelsea", CROP)):
        photo = getattr(data, name)()[100 : 100 + size, 150 : 150 + size]
        images.write(images.Photo(np.ascontiguousarray(photo)), folder / f"{name}.png")
    return folder


def test_a_name_that_is_no_text(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "\udcff.png").write_bytes((photos / "coffee.png").read_bytes())
    assert [scene.name for scene in card.scenes(tmp_path, "small", crop=CROP, seed=0)] == ["\udcff.png"]


def half_black(image: torch.Tensor) -> torch.Tensor:
    return torch.cat([image[..., : image.shape[-1] // 2] * 0, image[..., image.shape[-1] // 2 :]], -1)


@pytest.fixture(scope="module")
def rows(photos: Path) -> dict[tuple[str, str], card.Row]:
    restorers = {"nothing": lambda image: image, "spoils": half_black}
    found = list(card.measure(restorers, photos, crop=CROP, metrics=["psnr", "ssim"]))
    assert len(found) == 3 * 6 + 2
    return {(row.strength, row.method): row for row in found}


def test_a_network_that_changes_nothing_scores_as_the_blurred(rows: dict) -> None:
    for strength in ("small", "medium", "strong"):
        nothing, blurred = rows[strength, "nothing"], rows[strength, "blurred"]
        assert nothing.values == pytest.approx(blurred.values)
        assert nothing.worst == pytest.approx(0)
        assert nothing.images == 2
        assert rows[strength, "spoils"].worst < -3
    assert rows["sharp", "nothing"].values == {"psnr": 100.0, "ssim": 1.0}
    assert rows["sharp", "spoils"].values["psnr"] < 20


def test_stronger_shake_blurs_more(rows: dict) -> None:
    small, medium, strong = (rows[s, "blurred"].values["ssim"] for s in ("small", "medium", "strong"))
    assert small > medium > strong


def test_deconvolution_with_the_true_kernel_sharpens(rows: dict) -> None:
    for strength in ("small", "medium"):
        blurred = rows[strength, "blurred"].values["psnr"]
        assert rows[strength, "Richardson-Lucy"].values["psnr"] > blurred + 0.5
        assert rows[strength, "Wiener"].values["psnr"] > blurred


def test_the_setting_is_the_best_of_all(rows: dict, photos: Path) -> None:
    scenes = card.scenes(photos, "small", crop=CROP, seed=2024)
    for method, settings in classical.methods().items():
        means = {
            name: np.mean([card._psnr(make(scene.blur, scene.kernel), scene.sharp) for scene in scenes])
            for name, make in settings.items()
        }
        row = rows["small", method]
        assert row.setting == max(means, key=means.get)
        assert row.values["psnr"] == pytest.approx(means[row.setting])


def test_every_strength_blurs_the_same_photographs_anew(photos: Path) -> None:
    first, again, other = (card.scenes(photos, "small", crop=CROP, seed=seed) for seed in (1, 1, 2))
    assert [scene.name for scene in first] == ["astronaut.png", "coffee.png"]
    for one, same, another in zip(first, again, other):
        assert np.array_equal(one.blur, same.blur)
        assert np.array_equal(one.sharp, another.sharp)
        assert not np.array_equal(one.blur, another.blur)


def test_hidden_photographs_are_left_out_and_linked_folders_are_read(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(photos)
    (tmp_path / "._coffee.png").write_bytes(b"no image")
    found = card.scenes(tmp_path, "small", crop=CROP, seed=1)
    assert [scene.name for scene in found] == ["linked/astronaut.png", "linked/coffee.png"]


def test_a_folder_without_large_photographs_is_an_error(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no photograph .* pixels on each side"):
        card.scenes(photos, "small", crop=4000, seed=0)
    with pytest.raises(ConfigError, match="is no folder"):
        card.scenes(tmp_path / "absent", "small", crop=64, seed=0)


def test_deconvolution_keeps_flat_pictures_flat_up_to_the_border() -> None:
    flat = np.full((40, 50, 3), 128, np.uint8)
    kernel = np.zeros((9, 9))
    kernel[4] = 1 / 9
    for settings in classical.methods().values():
        for method in settings.values():
            assert np.abs(method(flat, kernel).astype(int) - 128).max() == 0
