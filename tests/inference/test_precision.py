"""The arithmetic of a forward is what it is said to be, and nothing of it stays."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack

import pytest
import torch
from torch.backends import cuda, cudnn

from xyscannet.inference.precision import arithmetic

pytestmark = pytest.mark.filterwarnings(
    "ignore:User provided device_type of 'cuda', but CUDA is not available"
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_run_in_the_type(dtype):
    a = torch.ones(2, 2)
    with arithmetic("cpu", dtype):
        assert (a @ a).dtype == dtype
    assert (a @ a).dtype == torch.float32


@pytest.mark.parametrize("tf32", [False, True])
def test_float32_is_rounded_on_a_gpu_only_where_asked_for(tf32, monkeypatch):
    monkeypatch.setattr(cudnn, "allow_tf32", True)
    with arithmetic("cuda", torch.float32, tf32):
        assert cudnn.allow_tf32 == cuda.matmul.allow_tf32 == tf32
        with arithmetic("cpu", torch.float32, not tf32):
            assert cudnn.allow_tf32 == tf32
    assert cudnn.allow_tf32 and not cuda.matmul.allow_tf32


def test_it_is_left_after_an_error_too(monkeypatch):
    monkeypatch.setattr(cudnn, "allow_tf32", True)
    with pytest.raises(KeyError), arithmetic("cuda", torch.float32):
        raise KeyError
    assert cudnn.allow_tf32


def test_the_last_of_several_puts_back_what_the_first_has_found(monkeypatch):
    monkeypatch.setattr(cudnn, "allow_tf32", True)
    first, second = ExitStack(), ExitStack()
    first.enter_context(arithmetic("cuda", torch.float32))
    second.enter_context(arithmetic("cuda", torch.float32))
    first.close()
    assert not cudnn.allow_tf32
    second.close()
    assert cudnn.allow_tf32


NEW = """
import warnings, torch
from torch.backends import cuda, cudnn
from xyscannet.inference.precision import arithmetic
warnings.simplefilter("ignore")
cudnn.conv.fp32_precision, cuda.matmul.fp32_precision = "tf32", "ieee"
cudnn.rnn.fp32_precision = "ieee"
with arithmetic("cuda", torch.float32):
    assert cudnn.conv.fp32_precision == cuda.matmul.fp32_precision == "ieee"
with arithmetic("cuda", torch.float32, tf32=True):
    assert cudnn.conv.fp32_precision == cuda.matmul.fp32_precision == "tf32"
assert (cudnn.conv.fp32_precision, cuda.matmul.fp32_precision) == ("tf32", "ieee")
"""


@pytest.mark.skipif(not hasattr(cudnn, "conv"), reason="torch before 2.9 has the old settings only")
def test_the_settings_of_newer_torch_are_kept_too():
    subprocess.run([sys.executable, "-c", NEW], check=True, timeout=120)
