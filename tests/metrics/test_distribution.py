"""FID and KID against their formulas and against clean-fid's own reading of folders, on a stand-in for Inception."""

from __future__ import annotations

import inspect
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.metrics.calibration import needs
from xyscannet.errors import ConfigError, InputError, UnavailableError
from xyscannet.metrics import registry
from xyscannet.metrics.distribution import FID, KID, DistributionSettings, Features
from xyscannet.torchvision_guard import import_torchvision

pytestmark = needs("cleanfid", "torchvision")


def network(batch: torch.Tensor) -> torch.Tensor:
    """(N, 3, 299, 299) in [0, 255] to (N, 9): averages over a 3x3 grid of one random mixture of the channels."""
    assert batch.shape[1:] == (3, 299, 299) and batch.max() > 1
    mixed = torch.einsum("nchw,c->nhw", batch, torch.tensor([0.5, -0.2, 0.7]))
    return torch.nn.functional.adaptive_avg_pool2d(mixed, 3).flatten(1) / 40


def sets(count: int = 12) -> tuple[list[np.ndarray], list[np.ndarray]]:
    random = np.random.default_rng(3)
    sharp = [random.integers(0, 256, (40, 56, 3), dtype=np.uint8) for _ in range(count)]
    return [cv2.GaussianBlur(image, (0, 0), 2) // 2 for image in sharp], sharp


def metric(kind: type, images: tuple[list[np.ndarray], ...], **settings: int) -> FID | KID:
    built = kind(registry.info(kind.__name__.lower()), Features(network, DistributionSettings(**settings)))
    for restored, sharp in zip(*images):
        built.update(restored, sharp)
    return built


def features(images: list[np.ndarray]) -> np.ndarray:
    """The stand-in's features, resized by Pillow as clean-fid's paper asks: bicubic, antialiased, not rounded."""
    from PIL import Image

    resized = [
        np.stack(
            [
                np.asarray(
                    Image.fromarray(image[..., c].astype(np.float32)).resize((299, 299), Image.BICUBIC)
                )
                for c in range(3)
            ]
        )
        for image in images
    ]
    return network(torch.from_numpy(np.stack(resized).clip(0, 255))).double().numpy()


def write(images: list[np.ndarray], folder: Path) -> str:
    folder.mkdir()
    for index, image in enumerate(images):
        cv2.imwrite(str(folder / f"{index:03d}.png"), image[..., ::-1])
    return str(folder)


def test_fid_is_its_formula() -> None:
    images = sets()
    x, z = features(images[1]), features(images[0])
    cx, cz = np.cov(x, rowvar=False), np.cov(z, rowvar=False)
    # The trace of the root of a product is the sum of the roots of its eigenvalues.
    root = np.sqrt(np.linalg.eigvals(cz @ cx).astype(complex)).real.sum()
    expected = ((x.mean(0) - z.mean(0)) ** 2).sum() + np.trace(cx) + np.trace(cz) - 2 * root
    fid = metric(FID, images)
    assert fid.compute() == {"fid": pytest.approx(expected, rel=1e-4)}
    assert expected > 1 and not fid.higher_is_better and fid.kind == "distribution"
    assert metric(FID, (images[1], images[1])).compute()["fid"] == pytest.approx(0, abs=1e-4)


def test_kid_is_its_formula() -> None:
    images = sets()
    z, x = features(images[0]), features(images[1])
    n, size = len(x), x.shape[1]

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / size + 1) ** 3

    def within(a: np.ndarray) -> float:
        gram = kernel(a, a)
        return (gram.sum() - np.trace(gram)) / (n * (n - 1))

    expected = within(x) + within(z) - 2 * kernel(x, z).mean()
    kid = metric(KID, images, subsets=3)  # a subset is the whole set here
    values = kid.compute()
    assert values["kid"] == pytest.approx(expected, rel=1e-4)
    assert values["kid_x1000"] == 1000 * values["kid"]
    assert "3 subsets of 12, seed 0" in kid.note and "clean-fid 0." in kid.note


def test_clean_fid_reads_the_same_from_folders(tmp_path: Path) -> None:
    import_torchvision()  # which clean-fid imports
    from cleanfid import fid as clean

    images = sets()
    folders = [write(each, tmp_path / name) for each, name in zip(images, ("restored", "sharp"))]
    options = {"num_workers": 0, "device": torch.device("cpu"), "mode": "clean", "verbose": False}
    expected = clean.compute_fid(*folders, custom_feat_extractor=network, **options)
    assert metric(FID, images).compute()["fid"] == pytest.approx(expected, rel=1e-4)

    found = [clean.get_folder_features(folder, network, **options) for folder in folders]
    np.random.seed(7)
    expected = clean.kernel_distance(*found, num_subsets=20, max_subset_size=5)
    kid = metric(KID, images, subsets=20, subset_size=5, seed=7)
    assert kid.compute()["kid"] == pytest.approx(expected, rel=1e-3)
    taken = inspect.signature(clean.kernel_distance).parameters
    subsets, size = (taken[name].default for name in ("num_subsets", "max_subset_size"))
    assert DistributionSettings() == DistributionSettings(None, subsets, size, seed=0)


def test_the_seed_decides_the_subsets_and_the_global_generator_is_left_alone() -> None:
    images = sets()
    kid = metric(KID, images, subsets=4, subset_size=5, seed=1)
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    first = kid.compute()
    assert np.random.random() == expected
    assert kid.compute() == first
    assert metric(KID, images, subsets=4, subset_size=5, seed=2).compute() != first


def test_patches_are_compared_one_by_one() -> None:
    images = sets(3)
    cut = [
        [image[y : y + 20, x : x + 20] for image in each for y in (0, 20) for x in (0, 20)] for each in images
    ]
    whole = metric(FID, tuple(cut))
    patches = metric(FID, images, patch=20)
    assert patches.compute()["fid"] == pytest.approx(whole.compute()["fid"], rel=1e-4)
    assert "patches of 20×20, 12 restored and 12 sharp" in patches.note and "whole images" in whole.note
    assert "patches of 40×40, 3 restored and 3 sharp" in metric(FID, images, patch=40).note
    with pytest.raises(InputError, match="56×40 pixels holds no patch of 41×41"):
        patches = metric(FID, images, patch=41)


def test_fid_and_kid_share_features_and_go_on_after_an_interruption() -> None:
    images = sets()
    calls = []
    shared = Features(lambda batch: calls.append(1) or network(batch), DistributionSettings(subsets=2))
    both = [FID(registry.info("fid"), shared), KID(registry.info("kid"), shared)]
    for restored, sharp in list(zip(*images))[:5]:
        for each in both:
            each.update(restored, sharp)
    assert len(calls) == 10
    fid, kid = (metric(kind, ([], []), subsets=2) for kind in (FID, KID))
    for each in (fid, kid):
        each.resume(both[1].state())
        for restored, sharp in list(zip(*images))[5:]:
            each.update(restored, sharp)
    assert fid.compute() == metric(FID, images).compute()
    assert kid.compute() == metric(KID, images, subsets=2).compute()


def test_a_scipy_that_clean_fid_does_not_know_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy import linalg

    monkeypatch.setattr(linalg, "sqrtm", lambda matrix: matrix)
    with pytest.raises(UnavailableError, match=r"clean-fid .* does not work with SciPy .*scipy<1\.18"):
        metric(FID, sets(3)).compute()


def test_sets_may_differ_in_number_and_size() -> None:
    restored, sharp = sets()
    fid = metric(FID, ([], []))
    for image in restored[:7]:
        fid.update(image[:30], None)
    for image in sharp:
        fid.update(None, image)
    assert fid.compute()["fid"] > 1 and "7 restored and 12 sharp" in fid.note


def test_one_image_is_too_few() -> None:
    images = sets(1)
    for kind in (FID, KID):
        with pytest.raises(InputError, match="too few to compare: 1"):
            metric(kind, images).compute()
        with pytest.raises(InputError, match="too few to compare: 0"):
            metric(kind, ([], [])).compute()


def test_features_that_are_not_numbers_are_refused() -> None:
    restored, sharp = sets(1)
    broken = Features(lambda batch: network(batch) * float("nan"), DistributionSettings())
    with pytest.raises(InputError, match="not finite"):
        FID(registry.info("fid"), broken).update(restored[0], sharp[0])


def test_grey_and_16_bit_images_are_taken_as_8_bit_rgb() -> None:
    images = sets()
    deep = tuple([image.astype(np.uint16) * 257 for image in each] for each in images)
    assert metric(FID, deep).compute() == metric(FID, images).compute()
    grey = tuple([image[..., 0] for image in each] for each in images)
    rgb = tuple([np.repeat(image[..., None], 3, 2) for image in each] for each in grey)
    assert metric(FID, grey).compute() == metric(FID, rgb).compute()


@pytest.mark.parametrize("name", ["fid", "kid"])
def test_without_inception_they_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if Path("/tmp/inception-2015-12-05.pt").exists():
        pytest.skip("clean-fid's cache holds the network here")
    monkeypatch.setenv("XYSCAN_HOME", str(tmp_path))
    with pytest.raises(UnavailableError) as caught:
        registry.build(name, offline=True)
    message = str(caught.value)
    assert f"{name} needs clean-fid's Inception network and no other" in message
    assert "https://" in message and str(tmp_path / "metrics" / "inception-2015-12-05.pt") in message


def test_inception_is_taken_from_the_projects_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A TorchScript file of the same interface in its place: `layers` maps to 2048 numbers."""

    class Layers(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)).repeat(1, 683)[:, :2048]

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = Layers()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    monkeypatch.setenv("XYSCAN_HOME", str(tmp_path))
    (tmp_path / "metrics").mkdir()
    torch.jit.script(Network()).save(str(tmp_path / "metrics" / "inception-2015-12-05.pt"))
    settings = DistributionSettings(subsets=2, subset_size=3)
    kid, psnr = registry.build_all(["kid", "psnr"], offline=True, distribution=settings)
    restored, sharp = sets(3)
    for pair in zip(restored, sharp):
        kid.update(*pair)
        assert psnr.update(*pair) > 0
    x, z = (
        np.stack([(image.reshape(-1, 3).mean(0) - 128) / 128 for image in each]) for each in (sharp, restored)
    )
    assert kid.state()["sharp"][:, :3] == pytest.approx(x, abs=0.02)
    assert kid.state()["restored"].shape == (3, 2048) and kid.state()["restored"][0, 0] != x[0, 0]
    assert np.abs(kid.state()["restored"][:, :3] - z).max() < 0.02
    assert "2 subsets of 3" in kid.note


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings in ({"patch": 0}, {"subsets": 0}, {"subset_size": 1}, {"seed": -1}):
        with pytest.raises(ConfigError):
            DistributionSettings(**settings)


def test_sets_gathered_apart_are_those_gathered_at_once() -> None:
    images = sets(5)
    settings = DistributionSettings(subset_size=3)
    shared = Features(network, settings)
    fid, kid = FID(registry.info("fid"), shared), KID(registry.info("kid"), shared)
    for restored, sharp in zip(*images):
        alone = metric(FID, ([restored], [sharp])).state()
        for each in (fid, kid):  # they share their features, which must not be counted twice
            each.merge(alone)
    fid.merge({})  # of an image that failed
    assert fid.compute() == metric(FID, images).compute()
    assert kid.compute() == metric(KID, images, subset_size=3).compute()


def test_an_image_without_features_has_none_for_either() -> None:
    restored, sharp = sets(1)
    shared = Features(network, DistributionSettings(patch=41))
    fid, kid = FID(registry.info("fid"), shared), KID(registry.info("kid"), shared)
    for message, each in (("no patch", fid), ("missing", kid)):
        with pytest.raises(InputError, match=message):
            each.share(restored[0], sharp[0])
