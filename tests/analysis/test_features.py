"""What hooks see of a forward is what a recomputation by the definition gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from xyscannet.analysis.features import features
from xyscannet.errors import ConfigError
from xyscannet.inference.precision import arithmetic
from xyscannet.models import XYScanNet, XYScanNetConfig
from xyscannet.ops import use_backend
from xyscannet.ops.selective_scan import reference


def network(**changes) -> XYScanNet:
    torch.manual_seed(0)
    settings = {"width": 8, "encoder_blocks": (0, 0, 0), "decoder_blocks": (2, 0, 1), "d_state": 3} | changes
    model = XYScanNet(XYScanNetConfig(**settings)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += 0.4 * torch.randn_like(parameter)
    return model


IMAGE = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def scanned(monkeypatch):
    """Of every branch that the definition scans: direction, delta after bias and softplus (1, H, W, E), A (E, N)."""
    branches, scan = [], reference.scan

    def spy(u, delta, A, B, C, D, z, bias, softplus, directions):
        for k, direction in enumerate(directions):
            branches.append((direction, F.softplus(delta[:, :, :, k] + bias[k]), A[k]))
        return scan(u, delta, A, B, C, D, z, bias, softplus, directions)

    monkeypatch.setattr(reference, "scan", spy)
    with use_backend("reference"):
        yield branches


@pytest.mark.parametrize("bidirectional", [False, True])
def test_delta_and_decay_are_the_definitions(scanned, bidirectional):
    model = network(bidirectional=bidirectional)
    found = features(model, IMAGE)
    ways = ["x", "y"] + ["-x", "-y"] * bidirectional
    lines = ["y"] + ["-y"] * bidirectional + ["x"] + ["-x"] * bidirectional
    names = [
        "decoder_level3.0.vssm1",
        "decoder_level3.0.vssm2",
        "decoder_level1.1.vssm1",
        "decoder_level1.1.vssm2",
    ]
    told = [(scan.module, scan.direction) for scan in found.scans]
    expected = [(name, way) for name in names for way in (ways if name.endswith("1") else lines)]
    assert told == expected
    scans = dict(zip(told, found.scans, strict=True))
    assert scans[names[0], "x"].delta.shape == (3, 4) and scans[names[0], "x"].decay.shape == (3, 3, 4)
    assert scans[names[3], "y"].delta.shape == (12,) and scans[names[3], "x"].decay.shape == (3, 16)

    # level 1's first block was not asked for: its branches come between
    block = len(found.scans) // 2
    watched = scanned[:block] + scanned[2 * block :]
    assert len(watched) == len(found.scans)
    for scan, (direction, delta, A) in zip(found.scans, watched, strict=True):
        assert scan.direction.startswith("-") == direction.startswith("-")
        decay = torch.exp(delta[..., None] * A).mean(-2)[0].movedim(-1, 0)  # (N, H, W)
        shape = scan.delta.shape
        np.testing.assert_allclose(scan.delta, delta[0].mean(-1).reshape(shape), rtol=1e-5)
        np.testing.assert_allclose(scan.decay, decay.reshape(3, *shape), rtol=1e-5)
        assert scan.decay.min() > 0 and scan.decay.max() < 1 and scan.delta.std() > 1e-3


def test_additions_are_what_the_block_adds():
    model = network()
    found = features(model, IMAGE, ["decoder_level1.0"])
    block = model.decoder_level1[0]
    seen = {}
    handle = block.register_forward_pre_hook(lambda m, inputs: seen.update(x=inputs[0]))
    residual = model(IMAGE) - IMAGE
    handle.remove()
    np.testing.assert_array_equal(found.residual, residual[0].permute(1, 2, 0))
    x = seen["x"]
    first = block.vssm1(block.norm1_ssm(x))
    one, two = found.additions
    assert (one.module, one.kind, two.kind) == ("decoder_level1.0.vssm1", "intra", "inter")
    np.testing.assert_allclose(one.map, first[0].square().mean(0).sqrt(), rtol=1e-5)
    assert one.share == pytest.approx(float(first.norm() / x.norm()), rel=1e-5)
    x = x + first
    x = x + block.ffn1(block.norm1_ffn(x))
    second = block.vssm2(block.norm2_ssm(x))
    assert two.share == pytest.approx(float(second.norm() / x.norm()), rel=1e-5)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_backward_scan_is_compared_with_the_forward_one():
    model = network(bidirectional=True, decoder_blocks=(1, 0, 0), scanners=("intra", "intra"))
    found = features(model, IMAGE)
    assert [scan.likeness is None for scan in found.scans[:4]] == [True, True, False, False]
    assert all(-1 <= scan.likeness <= 1 for scan in found.scans[2:4])
    mixer, outputs = model.decoder_level1[0].vssm1.scanner.mamba, []
    handle = mixer.register_forward_hook(lambda m, inputs, output: outputs.append(output))
    model(IMAGE)
    handle.remove()
    forward, backward = outputs[0][0, :, :, 0], outputs[0][0, :, :, 2]
    likeness = F.cosine_similarity(forward.flatten(), backward.flatten(), dim=0)
    assert found.scans[2].likeness == pytest.approx(float(likeness), abs=1e-5)
    np.testing.assert_allclose(found.scans[2].output, backward.square().mean(-1).sqrt(), rtol=1e-5)


def test_the_flat_scan_is_shown_too(scanned):
    model = network(scanners=("ss2d", "intra"), decoder_blocks=(1, 0, 0))
    found = features(model, IMAGE)
    assert [scan.direction for scan in found.scans] == ["x", "y", "-x", "-y", "x", "y"]
    assert [scan.output is None for scan in found.scans] == [True] * 4 + [False] * 2
    for k, (scan, (_, delta, _)) in enumerate(zip(found.scans, scanned[:4], strict=False)):
        image = delta[0, 0].mean(-1)
        image = image.view(12, 16) if k % 2 == 0 else image.view(16, 12).T
        np.testing.assert_allclose(scan.delta, image, rtol=1e-5)


def test_what_cannot_be_looked_at():
    with pytest.raises(ConfigError, match="are decoder_level3.0, decoder_level1.0, decoder_level1.1"):
        features(network(), IMAGE, ["decoder_level1.2"])
    with pytest.raises(ConfigError, match="one image"):
        features(network(), IMAGE.expand(2, 3, 12, 16))
    with pytest.raises(ConfigError, match="no decoder block"):
        features(nn.Conv2d(3, 3, 1), IMAGE)


@pytest.mark.gpu
def test_a_gpu_sees_the_same():
    model = network()
    here = features(model, IMAGE)
    with arithmetic("cuda", torch.float32):  # as in the command
        there = features(model.cuda(), IMAGE.cuda())
    largest = np.abs(here.residual).max()  # random weights make a large one
    np.testing.assert_allclose(there.residual, here.residual, rtol=0, atol=1e-4 * largest)
    for mine, theirs in zip(here.scans, there.scans, strict=True):
        np.testing.assert_allclose(theirs.delta, mine.delta, rtol=1e-3)
        np.testing.assert_allclose(theirs.decay, mine.decay, rtol=1e-3)
