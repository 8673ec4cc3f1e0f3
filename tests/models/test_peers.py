"""Networks of other projects: their published sizes, this project's door, and what is refused."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path

import pytest
import torch

from tests.metrics.calibration import needs
from xyscannet import checkpoint
from xyscannet.analysis import cases
from xyscannet.analysis.complexity import count
from xyscannet.errors import ConfigError, UnavailableError
from xyscannet.models import peers

# Parameters, and multiply-accumulates in 1e9 at 256 x 256 as they are counted here; what was published stands beside.
# The published 141 of Restormer are its convolutions, without the 13.9 of attention's products. Uformer-B's 89.5 have
# each of its transposed convolutions in them four times, 2.8 too much, and norms. FFTformer's transforms are no
# products, and in neither figure.
PUBLISHED = {
    "nafnet-32": (17_111_907, 17.1, 15.96, 16.0),
    "nafnet-64": (67_888_835, 67.9, 63.05, 63.1),
    "fftformer": (16_560_474, 16.6, 131.42, 131),
    "uformer-b": (50_880_946, 50.9, 86.57, 89.5),
    "restormer": (26_126_644, 26.1, 154.88, 141),
    "mprnet": (20_127_073, 20.1, 759.41, 760),
}
both = needs("torchvision", "spandrel", "spandrel_extra_arches")
spandrel = needs("torchvision", "spandrel")


@both
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    """On the meta device, where Uformer's class cannot be made."""
    with contextlib.nullcontext() if name == "uformer-b" else torch.device("meta"):
        network = peers.build(name)
    parameters, millions, gmacs, published = PUBLISHED[name]
    found = count(network, 256, 256)
    assert (found.parameters, round(found.macs / 1e9, 2)) == (parameters, gmacs)
    assert round(parameters / 1e6, 1) == millions
    assert found.scans == {} and not network.training
    compared = found.by_operator["convolution"] if name == "restormer" else found.macs
    assert compared / 1e9 == pytest.approx(published, rel=0.035 if name == "uformer-b" else 0.004)


def test_every_name_is_published():
    assert set(PUBLISHED) == set(peers.PEERS)
    assert {cases.find(alias) for alias in ("nafnet", "uformer", "mambair")} == {
        "nafnet-64",
        "uformer-b",
        "mambair-variant",
    }


def tiny(architecture: str, **settings: object) -> torch.nn.Module:
    """A small network of an architecture, all its weights random."""
    peers._registry("")
    module = importlib.import_module(f"spandrel.architectures.{architecture}")
    torch.manual_seed(0)
    network = getattr(module, architecture)(**settings)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network


@pytest.fixture
def nafnet(tmp_path):
    network = tiny("NAFNet", width=8, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1])
    path = tmp_path / "NAFNet-tiny.pth"
    torch.save({"params": {f"module.{name}": x for name, x in network.state_dict().items()}}, path)
    return path


@spandrel
def test_any_size_in_and_out_and_not_clamped(nafnet):
    network, weights = cases.load(str(nafnet))
    assert (weights, network.architecture, network.training) == (nafnet.name, "NAFNet", False)
    for height, width in [(1, 1), (33, 50), (2, 64)]:
        assert network(torch.rand(2, 3, height, width)).shape == (2, 3, height, width)
    assert network(torch.full((1, 3, 8, 8), 7.0)).max() > 3
    assert not any(p.requires_grad for p in network.parameters())


@spandrel
def test_it_computes_what_spandrel_does():
    """FFTformer takes multiples of 32 only; spandrel pads them as this project does."""
    network = tiny("FFTformer", dim=8, num_blocks=[1, 1, 1], num_refinement_blocks=1)
    descriptor = peers._registry("")["FFTformer"].architecture.load(network.state_dict())
    image = torch.rand(1, 3, 40, 33)
    mine = peers.from_state(network.state_dict(), "x")(image)
    assert torch.equal(mine.clamp(0, 1), descriptor(image))
    mine.sum().backward()


@spandrel
def test_random_weights_are_the_same_each_time(monkeypatch):
    small = peers.PeerInfo(
        "nafnet-32", "spandrel", "NAFNet", {"width": 8, "enc_blk_nums": [1], "dec_blk_nums": [1]}
    )
    monkeypatch.setitem(peers.PEERS, "nafnet-32", small)
    before = torch.random.get_rng_state()
    (one, weights), (other, _) = cases.load("nafnet-32"), cases.load("nafnet-32")
    assert torch.equal(before, torch.random.get_rng_state()) and weights == "random"
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(one(image), other(image))


@spandrel
def test_tensors_of_no_network_and_of_other_tasks_are_refused(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"layer.weight": torch.ones(2, 2)}, path)
    with pytest.raises(ConfigError, match=r"x\.pth: its tensors are of no network that is known: .*NAFNet"):
        cases.load(str(path))
    bigger = tiny("SPAN", num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2)
    torch.save(bigger.state_dict(), path)
    with pytest.raises(ConfigError, match=r"this SPAN takes 3 channels to 3 and enlarges 2 times"):
        cases.load(str(path))


@spandrel
def test_tensors_that_do_not_fit_are_refused(nafnet):
    state = checkpoint.read_foreign(nafnet)
    del state["ending.bias"]
    with pytest.raises(ConfigError, match=r"y\.pth: its network cannot be built: .*ending\.bias"):
        peers.from_state(state, "y.pth")


class Payload:
    def __reduce__(self):
        return (print, ("code was run",))


def test_code_in_a_file_is_not_run(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    torch.save({"params": Payload()}, path)
    with pytest.raises(ConfigError, match=r"evil\.pth: refused"):
        cases.load(str(path))
    assert not capsys.readouterr().out


def absent(monkeypatch, package: str) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        peers.importlib.util, "find_spec", lambda name, *rest: None if name == package else found(name, *rest)
    )


def test_a_missing_package_names_the_extra(monkeypatch, tmp_path):
    absent(monkeypatch, "spandrel")
    path = tmp_path / "n.pth"
    torch.save({"layer.weight": torch.ones(2, 2)}, path)
    for asked in ("nafnet", str(path)):
        with pytest.raises(
            UnavailableError, match=r"needs the package spandrel: pip install 'xyscannet\[peers\]'"
        ):
            cases.load(asked)


@spandrel
def test_without_the_restrictive_licences_the_others_are_there(monkeypatch, nafnet):
    absent(monkeypatch, "spandrel_extra_arches")
    with pytest.raises(UnavailableError, match=r"restormer: .* spandrel_extra_arches: pip install"):
        peers.build("restormer")
    assert cases.load(str(nafnet))[0].architecture == "NAFNet"


@spandrel
def test_only_networks_of_this_project_are_looked_into(nafnet):
    with pytest.raises(ConfigError, match="NAFNet, whose parts are others"):
        cases.load_own(str(nafnet))


def test_the_authors_file_is_no_foreign_one():
    path = Path(__file__).parents[1] / "data" / "official_dim16_b112.pth"
    assert checkpoint.read_foreign(path) is None
    model, weights = cases.load_own(str(path))
    assert (model.config.width, weights) == (16, path.name)
