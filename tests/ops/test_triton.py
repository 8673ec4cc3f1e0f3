"""The Triton kernels: compiled for GPUs that need not be there, and run where one is."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.ops.compare import (
    BOUND,
    DIRECTIONS,
    assert_matches_reference,
    conv_inputs,
    run,
    scan_inputs,
)
from tests.ops.triton_compiling import OLDEST, compiling_for, resources
from tests.subprocesses import environment
from xyscannet import ops
from xyscannet.errors import UnavailableError
from xyscannet.ops import active_backend, backends, selective_scan_fn, slice_conv1d, slice_scan, use_backend

IMAGES = {"u", "delta", "z", "out", "dout", "du", "ddelta", "dz", "B", "C", "x", "dx"}
FLOATS = {"A", "D", "bias", "states", "dlast", "dB", "dC", "sums", "weight", "start", "ends", "spent"}


def _resources(module: str, name: str, capability: int, real: str, folder: Path) -> dict[str, int]:
    """Registers and bytes of stack of a kernel compiled for a GPU, read from its binary; all offsets are 64-bit."""
    triton = pytest.importorskip("triton", minversion=OLDEST)
    import triton.language as tl
    from triton.backends.compiler import GPUTarget

    kernel = getattr(pytest.importorskip(module), name)
    values = {
        "N": 16,
        "NP": 16,
        "BLOCK": 32,
        "CHUNK": 8,
        "GROUP": 2,
        "SPAN": 4,
        "SOFTPLUS": True,
        "REAL": tl.float32,
    }
    values |= {"TERMS": 8, "TAPS": 4, "TAPS_PADDED": 4, "TILE": 16, "SILU": True, "last": None}
    signature, constants = {}, {}
    for argument in kernel.arg_names:
        if argument in values or argument.endswith("_e"):
            signature[argument] = "constexpr"
            constants[argument] = values.get(argument, 1)
        elif argument in IMAGES:
            signature[argument] = f"*{real}"
        elif argument in FLOATS:
            signature[argument] = "*fp32"
        else:
            signature[argument] = "i64" if argument.endswith("_block") else "i32"
    source = triton.compiler.ASTSource(kernel, signature, constants)
    warps = 4 if name.startswith("conv") else 1
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    offsets = re.findall(r"tt\.addptr .* : .*, (?:tensor<[^>]*x)?(i\d+)>? loc", compiled.asm["ttir"])
    assert len(offsets) > 5 and set(offsets) == {"i64"}, set(offsets)
    return resources(compiled, folder)


PARTS = "xyscannet.ops.selective_scan.triton_parts"
SCAN, CONV = "xyscannet.ops.selective_scan.triton_kernels", "xyscannet.ops.causal_conv1d.triton_kernels"


@pytest.mark.parametrize(("capability", "real"), [(80, "fp32"), (90, "bf16")])
@pytest.mark.parametrize(
    ("module", "name"),
    [
        (SCAN, "scan_forward"),
        (PARTS, "part_ends"),
        (PARTS, "part_starts"),
        (CONV, "conv_forward"),
        (CONV, "conv_backward"),
    ],
)
def test_compiles_without_spills(tmp_path, module, name, capability, real):
    with compiling_for(capability, tmp_path):
        used = _resources(module, name, capability, real, tmp_path)
    assert 16 < used["REG"] < 255 and used["STACK"] == 0 and used["LOCAL"] == 0, used


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "real"), [(80, "bf16"), (90, "bf16")])
def test_the_backward_scan_compiles(tmp_path, capability, real):
    with compiling_for(capability, tmp_path):
        used = _resources(SCAN, "scan_backward", capability, real, tmp_path)
    assert used["STACK"] <= 768, used  # it holds the states of four steps and spills a little


@pytest.mark.slow
def test_one_binary_serves_every_size(tmp_path, monkeypatch):
    with compiling_for(90, tmp_path) as watch:
        from xyscannet.ops.causal_conv1d import triton as conv
        from xyscannet.ops.selective_scan import triton as scan

        watch(scan.kernels, "scan_forward", "scan_backward")
        watch(scan.triton_parts, "part_ends", "part_starts")
        made = watch(conv.kernels, "conv_forward", "conv_backward")
        monkeypatch.setattr(scan, "FEW", 10**6)  # rows are cut wherever they are long
        for height, width in ((3, 5), (1, 1), (2, 2), (16, 3), (1, 128), (1, 65)):
            x = {name: value.detach() for name, value in scan_inputs(2, height, width, 4, 33).items()}
            each = {name: x[name].expand(4, *x[name].shape) for name in ("A", "D", "delta_bias")}
            names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
            inputs = [each.get(name, x.get(name)) for name in names]
            out = torch.empty(x["u"].shape)
            states = torch.empty(scan.states_shape(x["u"].shape, 16, DIRECTIONS))
            scan.forward(*inputs, True, DIRECTIONS, out, states, None)
            grads = [torch.empty(value.shape) for value in inputs]
            scan.backward(out, None, states, *inputs, True, DIRECTIONS, grads)
            y = [value.detach() for value in conv_inputs(2, height, width, 4, 33).values()]
            conv.forward(*y, True, DIRECTIONS, out)
            conv.backward(out, *y, True, DIRECTIONS, [torch.empty(value.shape) for value in y])
    assert {name: len(binaries) for name, binaries in made.items()} == {
        "scan_forward": 2, "scan_backward": 1, "part_ends": 1, "part_starts": 1, "conv_forward": 1, "conv_backward": 1
    }  # fmt: skip


def test_backend_table():
    table = {b.name: b for b in backends()}
    assert table["triton"].reason
    if not torch.cuda.is_available():
        assert active_backend("cuda") == "reference"
        with pytest.raises(UnavailableError, match="CUDA device"):
            use_backend("triton")


def test_the_cpu_path_does_not_import_triton():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    code = "import sys, torch; before = 'triton' in sys.modules; import xyscannet.ops; "
    code += "print(before or 'triton' not in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "True"


@pytest.mark.parametrize("failure", [RuntimeError("no driver"), OSError("no library")])
def test_a_broken_driver_is_a_reason(monkeypatch, failure):
    def broken():
        raise failure

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", broken)
    backend = sys.modules["xyscannet.ops.backends"]._triton()
    assert not backend.usable and str(failure) in backend.reason


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere triton brings a compiler")
def test_what_triton_compiles_with_is_looked_for(monkeypatch, tmp_path):
    """Images of containers that only run programs have neither a compiler nor headers."""
    table = sys.modules["xyscannet.ops.backends"]
    for name in ("CC", "CPATH", "C_INCLUDE_PATH", "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(table.importlib, "import_module", lambda name: SimpleNamespace(__version__="3.9.0"))
    (tmp_path / "Python.h").write_text("")
    for compiler, include, reason in (
        ("/usr/bin/gcc", tmp_path, "compiled by triton 3.9.0"),
        (None, tmp_path, "triton needs a C compiler (gcc) where it runs: install them"),
        ("/usr/bin/gcc", tmp_path / "no", "triton needs Python's headers (python3-dev) where"),
        (None, tmp_path / "no", "needs a C compiler (gcc) and Python's headers (python3-dev) where"),
    ):
        monkeypatch.setattr(table.shutil, "which", lambda name, found=compiler: found)
        monkeypatch.setattr(table.sysconfig, "get_paths", lambda scheme, at=include: {"include": str(at)})
        backend = table._triton()
        assert backend.usable == reason.startswith("compiled") and reason in backend.reason
    (tmp_path / "abc").mkdir()
    (tmp_path / "abc" / "cuda_utils.so").write_text("")  # compiled before
    assert table._triton().usable


def test_kernels_divide_no_number_of_pythons():
    """Triton 3.3 does not: neither a type's width, nor anything else that is read off an object."""
    files = list(Path(ops.__file__).parent.rglob("triton*.py"))
    kernels = [
        node
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and "triton.jit" in map(ast.unparse, _decorators(node))
    ]
    assert len(kernels) > 20
    for kernel in kernels:
        divided = [
            node.left for node in ast.walk(kernel) if isinstance(getattr(node, "op", None), ast.FloorDiv)
        ]
        assert not [ast.unparse(left) for left in divided if isinstance(left, ast.Attribute)], kernel.name


def _decorators(function: ast.FunctionDef) -> list[ast.expr]:
    return [each.func if isinstance(each, ast.Call) else each for each in function.decorator_list]


@pytest.mark.parametrize(("version", "usable"), [("3.2.0", False), ("3.3.0", True), ("3.10.1+git1", True)])
def test_a_triton_without_tuples_is_not_used(monkeypatch, version, usable):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__=version))
    backend = sys.modules["xyscannet.ops.backends"]._triton()
    assert backend.usable is usable and version in backend.reason
    assert usable or "torch 2.7" in backend.reason


def _on_gpu(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: x.detach().cuda().requires_grad_() for name, x in inputs.items()}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    ("height", "width", "channels"),
    [(1, 2, 12), (3, 17, 24), (63, 129, 36), (128, 130, 48), (64, 257, 72), (33, 40, 144)],
)
def test_on_gpu(height, width, channels, dtype):
    assert active_backend("cuda") == "triton"
    scan = _on_gpu(scan_inputs(3, height, width, 4, channels, dtype=dtype))
    bound = {**BOUND, torch.float32: 2e-5}[dtype]  # thousands of terms are added up
    assert_matches_reference(slice_scan, scan, bound, delta_softplus=True, directions=DIRECTIONS)
    conv = _on_gpu(conv_inputs(3, height, width, 4, channels, dtype=dtype))
    assert_matches_reference(slice_conv1d, conv, bound, directions=DIRECTIONS)


@pytest.mark.gpu
@pytest.mark.parametrize("groups", [(None, None), (2, 2), (0, 3)])
def test_sequences_on_gpu(groups):
    from tests.ops.test_selective_scan_fn import sequence_inputs

    inputs = _on_gpu(sequence_inputs(length=129, groups_b=groups[0], groups_c=groups[1]))
    assert_matches_reference(selective_scan_fn, inputs, delta_softplus=True, return_last_state=True)


@pytest.mark.gpu
def test_twice_the_same_bits_on_gpu():
    inputs = _on_gpu(scan_inputs(2, 64, 65, 4, 72, dtype=torch.bfloat16))
    results, grads, weights = run(slice_scan, inputs, delta_softplus=True, directions=DIRECTIONS)
    for _ in range(3):
        again, more, _ = run(slice_scan, inputs, weights, delta_softplus=True, directions=DIRECTIONS)
        assert torch.equal(again[0], results[0]) and all(
            torch.equal(more[name], grads[name]) for name in grads
        )


@pytest.mark.gpu
def test_beyond_31_bits_of_offset_on_gpu():
    """A view whose elements lie more than 2**31 apart."""
    storage = torch.empty(2, 2**31 // 16 + 64, 16, device="cuda", dtype=torch.bfloat16)
    far = {}
    inputs = scan_inputs(2, 2, 3, 1, 16, dtype=torch.bfloat16)
    for i, name in enumerate(("u", "delta")):
        view = storage[:, -24 - 12 * i : -24 - 12 * i + 6].view(2, 2, 3, 1, 16)
        far[name] = view.copy_(inputs[name].detach().cuda()).detach().requires_grad_()
    found = {**_on_gpu(inputs), **far}
    assert_matches_reference(slice_scan, found, delta_softplus=True, directions=("y",))
