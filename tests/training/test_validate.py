from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from xyscannet.errors import ConfigError
from xyscannet.models import XYScanNet, XYScanNetConfig
from xyscannet.models.strips import Strips
from xyscannet.training import validate
from xyscannet.training.config import ValidationConfig
from xyscannet.training.validate import (
    ImageRecord,
    ValidationSet,
    evaluate,
    psnr_8bit,
    summary,
)

CONFIG = ValidationConfig(crop=64, images=3, strengths=("small", "medium"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    noise = np.random.default_rng(1).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    for index, image in enumerate(noise):
        Image.fromarray(image).resize((200, 160), Image.Resampling.BICUBIC).save(tmp_path / f"{index}.png")
    Image.fromarray(noise[0]).save(tmp_path / "small.png")
    return tmp_path


class Dimmed(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image - 10 / 255


def test_set_is_the_same_every_time_and_blurred(photos: Path) -> None:
    first, second = (ValidationSet.from_folder(photos, CONFIG) for _ in range(2))
    assert first.names == ("0.png", "1.png", "2.png")
    for one, other in zip(first.blur, second.blur, strict=True):
        assert one.dtype == torch.uint8 and one.shape == (3, 64, 64) and torch.equal(one, other)
    sharp = np.asarray(Image.open(photos / "0.png"))[48:112, 68:132]
    assert np.array_equal(first.sharp[0].permute(1, 2, 0).numpy(), sharp)
    other_seed = ValidationSet.from_folder(photos, CONFIG.model_copy(update={"seed": 1}))
    assert not torch.equal(first.blur[0], other_seed.blur[0])


def test_hidden_photos_are_left_out_and_linked_folders_are_read(
    photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("set")
    (folder / "linked").symlink_to(photos)
    (folder / "._0.png").write_bytes(b"no image")
    assert ValidationSet.from_folder(folder, CONFIG).names == ("linked/0.png", "linked/1.png", "linked/2.png")


def test_a_name_that_is_no_text(photos: Path) -> None:
    (photos / "2.png").rename(photos / "\udcff.png")
    assert ValidationSet.from_folder(photos, CONFIG).names == ("0.png", "1.png", "\udcff.png")


def test_small_photos_take_no_place_of_those_that_are_large_enough(photos: Path) -> None:
    (photos / "small.png").rename(photos / "00.png")
    config = CONFIG.model_copy(update={"images": 2})
    assert ValidationSet.from_folder(photos, config).names == ("0.png", "1.png")
    whole = ValidationConfig(crop=None, strengths=("small",))
    Image.new("RGB", (200, 32)).save(photos / "11.png")  # without the margin lower than what SSIM needs
    assert ValidationSet.from_folder(photos, whole).names == ("0.png", "00.png", "1.png", "2.png")


def test_photos_too_small_for_the_strongest_blur_do_not_end_the_set(photos: Path) -> None:
    Image.new("RGB", (100, 100)).save(photos / "00.png")  # 64 pixels and the margin of small shake
    assert ValidationSet.from_folder(photos, CONFIG).names == ("0.png", "1.png", "2.png")
    with pytest.raises(ConfigError, match="no photo of at least 178 pixels"):
        ValidationSet.from_folder(photos, ValidationConfig(crop=100))


def test_a_network_that_changes_nothing_scores_as_the_blurred(photos: Path) -> None:
    figures = evaluate(nn.Identity(), ValidationSet.from_folder(photos, CONFIG)).figures()
    assert figures["psnr"] == figures["psnr_blur"] and figures["ssim"] == figures["ssim_blur"]
    assert 5 < figures["psnr_blur"] < 40
    assert figures["worse"] == 0 and figures["images"] == 3
    assert figures["psnr_sharp_input"] == 100


def test_a_large_picture_is_restored_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    config = XYScanNetConfig(width=8, encoder_blocks=(1, 0, 0), decoder_blocks=(1, 0, 0))
    model = XYScanNet(config).eval()
    nn.init.normal_(model.output.weight, std=0.1)
    image = torch.randint(0, 256, (3, 48, 32), dtype=torch.uint8)
    pair = ValidationSet(("one",), (image,), (image.flip(2),))
    at_once, heights = evaluate(model, pair).figures(), []
    monkeypatch.setattr(validate, "AT_ONCE", 1000)
    monkeypatch.setattr(validate, "Strips", partial(Strips, elements=8 * 32 * 16, least=1))
    model.patch_embed.register_forward_hook(lambda module, x, out: heights.append(out.shape[2]))
    assert evaluate(model, pair).figures() == pytest.approx(at_once, abs=1e-3)
    assert max(heights) < 48


def test_a_network_that_spoils_is_counted_as_worse() -> None:
    image = torch.randint(20, 236, (3, 32, 32), dtype=torch.uint8)
    barely = (image.int() + 1).to(torch.uint8)
    figures = evaluate(Dimmed(), ValidationSet(("one",), (barely,), (image,))).figures()
    assert figures["worse"] == 1
    assert figures["psnr"] == pytest.approx(20 * np.log10(255 / 9), abs=1e-3)
    assert figures["psnr_sharp_input"] == pytest.approx(20 * np.log10(255 / 10), abs=1e-3)


def test_psnr_is_that_of_eight_bits() -> None:
    image = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    assert psnr_8bit(image, image + 5) == pytest.approx(34.1514, abs=1e-3)
    assert psnr_8bit(image, image) == 100


def test_summary_counts_what_is_worse_by_more_than_a_fifth_of_a_decibel() -> None:
    records = [ImageRecord(str(i), 30.0, psnr, 0.8, 0.9) for i, psnr in enumerate((29.79, 29.81, 33.0))]
    assert summary(records) == {
        "psnr": pytest.approx(30.8667, abs=1e-3),
        "ssim": pytest.approx(0.9),
        "psnr_blur": 30.0,
        "ssim_blur": pytest.approx(0.8),
        "worse": 1,
        "images": 3,
    }


def test_folder_without_usable_photos_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        ValidationSet.from_folder(tmp_path / "none", CONFIG)
    with pytest.raises(ConfigError, match="no photo of at least 104 pixels"):
        ValidationSet.from_folder(tmp_path, CONFIG)
