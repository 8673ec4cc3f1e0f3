"""The variants of the paper's Tables 5 to 8, and every count that the paper prints of them."""

from __future__ import annotations

import pytest
import torch

from xyscannet.analysis.ablation.variants import STUDIES, VARIANTS, network
from xyscannet.analysis.complexity import count
from xyscannet.models import XYScanNetConfig, zoo
from xyscannet.reports import paper

B = XYScanNetConfig(width=48)
PARAMETERS = {
    "xyscannet": 7_301_952,
    "mambair": 7_406_496,
    "bidirectional": 7_301_952,
    "inter-only": 7_301_952,
    "intra-only": 7_301_952,
    "klff-mean": 7_301_952,
    "aff": 7_301_952 - 71_424 + 152_352,
    "plain-skip": 7_301_952 - 71_424,
}


def parameters(config: XYScanNetConfig, part: str = "") -> int:
    with torch.device("meta"):
        model = zoo.build(config)
    return sum(p.numel() for name, p in model.named_parameters() if name.startswith(part))


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters(variant):
    assert parameters(network(variant, B)) == PARAMETERS[variant]


@pytest.mark.parametrize(("fusion", "count"), [("xyscannet", 71_424), ("aff", 152_352), ("plain-skip", 0)])
def test_parameters_of_the_fusion_modules(fusion, count):
    assert parameters(network(fusion, B), "fusion_level") == count


@pytest.mark.parametrize(
    ("fusion", "total", "gmacs", "convolutions"), [("xyscannet", 58.8, 2.19, 2.19), ("aff", 60.9, 4.32, 4.30)]
)
def test_macs_at_256(fusion, total, gmacs, convolutions):
    """Table 8: AFF's 4.32 G are its convolutions' 4.30 G with their biases and an operation an element of GELU."""
    complexity = count(network(fusion, B), 256, 256)
    levels = [macs for name, macs in complexity.by_module.items() if name.startswith("fusion")]
    assert round(complexity.macs / 1e9, 1) == total
    assert round(sum(levels) / 1e9, 2) == convolutions
    assert round(complexity.fusion_macs / 1e9, 2) == gmacs


@pytest.mark.parametrize("name", zoo.names())
def test_macs_of_the_named_networks_at_256(name):
    info = zoo.info(name)
    macs = count(info.config, 256, 256).macs
    assert info.macs == macs
    published = {48: 58.8, 72: 129.6, 144: 507.4}.get(info.config.width)
    assert name in ("xyscannet-s", "mambair-variant") or round(macs / 1e9, 1) == published


def test_the_zoo_has_the_same_networks():
    assert zoo.info("xyscannet-b").config == network("xyscannet", B)
    assert zoo.info("mambair-variant").config == network("mambair", B)


@pytest.mark.parametrize("name", STUDIES)
def test_every_row_of_the_paper_is_a_variant(name):
    study = STUDIES[name]
    printed = set(paper.table(study.table).rows) - {"Reference"}
    assert printed == set(study.rows.values()) - {"KLFF, mean gate"}
    assert set(study.rows) <= set(VARIANTS)


def test_metrics_of_the_tables():
    assert STUDIES["slices"].metrics() == {"gopro psnr": ("gopro", "psnr"), "hide psnr": ("hide", "psnr")}
    assert STUDIES["fusion"].metrics()["realblur-j lpips"] == ("realblur-j", "st-lpips")
    assert len(STUDIES["vssm"].metrics()) == 9


def test_a_variant_keeps_the_size_and_nothing_else():
    small = XYScanNetConfig(width=8, decoder_blocks=(1, 0, 1), fusion="none", bidirectional=True)
    found = network("mambair", small)
    assert (found.width, found.decoder_blocks, found.scanners) == (8, (1, 0, 1), ("ss2d", "ss2d"))
    assert found.fusion == "klff" and not found.bidirectional
