"""The network against its plain formulation, and a photograph of twelve megapixels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from statistics import median

import pytest
import torch

from xyscannet.models import XYScanNet, XYScanNetConfig

RACE = """
import json, time, torch
from xyscannet.analysis.eager import eager_forward
from xyscannet.models import zoo

def seconds(forward):
    start = time.perf_counter()
    forward()
    return time.perf_counter() - start

torch.manual_seed(0)
network, image = zoo.build("xyscannet-b").eval(), torch.rand(1, 3, 256, 256)
torch.nn.init.normal_(network.output.weight, std=0.05)
ours, plain = lambda: network(image), lambda: eager_forward(network, image)
with torch.inference_mode():
    a, b = ours(), plain()
    times = [(seconds(ours), seconds(plain)) for _ in range(3)]
error = (a - b).abs().max() / (b - image).abs().max()
print(json.dumps({"error": error.item(), "ours": [t[0] for t in times], "plain": [t[1] for t in times]}))
"""


@pytest.mark.slow  # the plain formulation takes several seconds a forward
def test_the_network_is_four_times_faster_than_its_plain_formulation_with_a_loop():
    """In a process of its own, since torch's default (small) pages are asked for before it starts."""
    environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", RACE], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    found = json.loads(done.stdout)
    assert found["error"] < 1e-4
    assert median(found["plain"]) >= 4 * median(found["ours"]), found


@pytest.mark.slow  # twelve megapixels
def test_twelve_megapixels_are_restored_whole():
    network = XYScanNet(XYScanNetConfig(width=4, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1))).eval()
    torch.nn.init.normal_(network.output.weight, std=0.2)
    image = torch.rand(1, 3, 3072, 4096)
    with torch.inference_mode():
        out = network(image)
    assert out.shape == image.shape and torch.isfinite(out).all() and not torch.equal(out, image)
