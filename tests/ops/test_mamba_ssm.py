"""The adapter to mamba-ssm, against a stand-in that computes what the package does and refuses what it refuses."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from tests.ops.compare import BOUND, DIRECTIONS, rms_ratio, run, scan_inputs
from xyscannet.errors import UnavailableError
from xyscannet.ops import Backend, active_backend, backends, selective_scan_fn, slice_scan, use_backend
from xyscannet.ops.norm import layer_norm
from xyscannet.ops.selective_scan import mamba_ssm
from xyscannet.ops.selective_scan.reference import selective_scan_rows

table = importlib.import_module("xyscannet.ops.backends")  # the name in the package is the function's
ROOT = Path(__file__).resolve().parents[2]


def package_scan(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):
    """(batch, channels, L), B and C (batch, N, L); the checks are those of the package's extension."""
    for name, x in {"u": u, "delta": delta, "B": B, "C": C, "z": z}.items():
        if x is not None:
            assert x.dtype == u.dtype and (x.stride(-1) == 1 or x.shape[-1] == 1), name
    for name, x in {"A": A, "D": D, "delta_bias": delta_bias}.items():
        assert x is None or x.dtype == torch.float32, name
    assert u.shape == delta.shape and B.shape == (u.shape[0], A.shape[1], u.shape[2]) == C.shape
    turned = [None if x is None else x.transpose(1, 2) for x in (u, delta, B, C, z)]
    u, delta, B, C, z = turned
    out, last = selective_scan_rows(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    out = out.transpose(1, 2)
    return (out, last) if return_last_state else out


@pytest.fixture
def package(monkeypatch):
    """Puts `scan` in the package's place, as a backend for tensors of the CPU."""

    def install(scan=package_scan):
        module = types.ModuleType(mamba_ssm.MODULE)
        if scan is not None:
            module.selective_scan_fn = scan
        parts = mamba_ssm.MODULE.split(".")
        for end in range(1, len(parts)):
            monkeypatch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(parts[0]))
        monkeypatch.setitem(sys.modules, mamba_ssm.MODULE, module)
        mine = Backend("mamba_ssm", True, "a stand-in", ("cpu",), False)
        rows = tuple(mine if b.name == "mamba_ssm" else b for b in backends())
        monkeypatch.setattr(table, "_TABLE", rows)

    mamba_ssm.kernel.cache_clear()
    mamba_ssm.check.cache_clear()
    yield install
    mamba_ssm.kernel.cache_clear()
    mamba_ssm.check.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(2, 3, 5), (1, 1, 17), (3, 4, 1)])
def test_scans_as_the_definition(package, dtype, size):
    package()
    inputs = scan_inputs(*size, dtype=dtype)
    inputs["u"] = inputs["u"].detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    with use_backend("mamba_ssm"):
        found, grads, weights = run(slice_scan, inputs, delta_softplus=True, directions=DIRECTIONS)
    exact = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
    with use_backend("reference"):
        expected, expected_grads, _ = run(
            slice_scan, exact, [w.double() for w in weights], delta_softplus=True, directions=DIRECTIONS
        )
    assert found[0].dtype == dtype and rms_ratio(found[0], expected[0]) <= BOUND[dtype]
    for name in inputs:
        assert rms_ratio(grads[name], expected_grads[name]) <= 2 * BOUND[dtype], name


def test_without_the_optional_inputs_and_in_groups(package):
    package()
    from tests.ops.test_selective_scan_fn import sequence_inputs

    for given in (scan_inputs(without=("D", "z", "delta_bias")), None):
        with use_backend("mamba_ssm"):
            found = _either(given, sequence_inputs)
        with use_backend("reference"):
            expected = _either(given, sequence_inputs)
        assert all(rms_ratio(a, b) <= 1e-5 for a, b in zip(found, expected, strict=True))


def _either(given, sequence_inputs):
    if given is not None:
        return [slice_scan(**given, directions=DIRECTIONS)]
    torch.manual_seed(0)
    inputs = sequence_inputs(length=9, groups_b=2, groups_c=2)
    return selective_scan_fn(**inputs, delta_softplus=True, return_last_state=True)


def test_a_gradient_through_the_last_state_is_refused_for_it_would_be_missing(package):
    """The package's backward leaves it out."""

    def forgetful(*tensors, return_last_state, **options):
        out, last = package_scan(*tensors, return_last_state=True, **options)
        return out, last.detach()

    package(forgetful)
    u = torch.randn(1, 4, 8, requires_grad=True)
    others = torch.rand(1, 4, 8), -torch.rand(4, 2), torch.randn(1, 2, 8), torch.randn(1, 2, 8)
    with use_backend("mamba_ssm"):
        out, last = selective_scan_fn(u, *others, return_last_state=True)
        assert torch.autograd.grad(out.sum(), u, retain_graph=True)[0].abs().min() > 0
        with pytest.raises(UnavailableError, match="last state"):
            torch.autograd.grad(out.sum() + last.sum(), u)


def test_its_check_leaves_all_random_generators_as_they_are(package, monkeypatch):
    package()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("GPUs were seeded"))
    before = torch.random.get_rng_state()
    with torch.device("meta"):  # a default device other than the generator's
        mamba_ssm.check(torch.device("cpu"), torch.float32)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_only_the_scan_is_its(package):
    package()
    with use_backend("mamba_ssm"):
        assert active_backend("cpu") == "mamba_ssm" and table.own_backend("cpu") in (
            "cpu",
            "triton",
            "reference",
        )
        x = torch.randn(1, 4, 3, 3)
        assert layer_norm(x, torch.ones(4), torch.zeros(4)).shape == x.shape
    assert active_backend("cpu") != "mamba_ssm"


def test_it_is_never_chosen_by_itself(package, monkeypatch):
    package()
    only = tuple(b for b in backends() if b.name in ("mamba_ssm", "reference"))
    monkeypatch.setattr(table, "_TABLE", only)
    assert table._resolve("auto")["cpu"] == "reference"


@pytest.mark.parametrize("wrong", ["output", "gradient", "nan"])
def test_wrong_results_are_refused(package, wrong):
    class Spoiled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return 0.9 * grad

    def scan(u, *rest, **options):
        if wrong == "gradient":
            return package_scan(Spoiled.apply(u), *rest, **options)
        out, last = package_scan(u, *rest, **options)
        return (out * 1.01 if wrong == "output" else out * float("nan")), last

    package(scan)
    message = "gradient of u" if wrong == "gradient" else "the output"
    with use_backend("mamba_ssm"):
        for _ in range(2):
            with pytest.raises(UnavailableError, match=f"wrong results on cpu in float32: .*{message}"):
                slice_scan(**scan_inputs(), directions=DIRECTIONS)


def test_the_check_runs_once_and_leaves_random_numbers(package):
    calls = []
    package(lambda *args, **options: calls.append(1) or package_scan(*args, **options))
    before = torch.random.get_rng_state()
    with use_backend("mamba_ssm"), torch.no_grad():
        inputs = {name: x.detach() for name, x in scan_inputs(branches=1).items()}
        state = torch.random.get_rng_state()
        for expected in (2, 3):
            slice_scan(**inputs, directions=("x",))
            assert len(calls) == expected
        assert torch.equal(state, torch.random.get_rng_state())
    torch.random.set_rng_state(before)


def test_float64_is_refused(package):
    package()
    with use_backend("mamba_ssm"), pytest.raises(UnavailableError, match="float64"):
        slice_scan(**scan_inputs(dtype=torch.float64), directions=DIRECTIONS)


def test_another_version_without_the_function(package):
    package(None)
    with use_backend("mamba_ssm"), pytest.raises(UnavailableError, match="AttributeError"):
        slice_scan(**scan_inputs(), directions=DIRECTIONS)


@pytest.mark.parametrize(
    "raised",
    [
        "ImportError('no module')",
        "OSError('libcudart.so: cannot open')",
        "RuntimeError('a\\nb')",
        "SystemExit(1)",
    ],
)
def test_an_import_that_fails_in_any_way_is_a_reason(tmp_path, raised):
    """In a process of its own: the package is found on the path, and breaks when it is imported."""
    folder = tmp_path / "mamba_ssm"
    folder.mkdir()
    (folder / "__init__.py").write_text(f"print('imported')\nraise {raised}\n")
    code = """
import sys
from xyscannet import ops
assert 'mamba_ssm' not in sys.modules
from xyscannet.errors import UnavailableError
from xyscannet.ops.selective_scan import mamba_ssm
for _ in range(2):
    try:
        mamba_ssm.kernel()
    except UnavailableError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}:{':'.join(sys.path)}", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "imported" and raised.split("(")[0] in lines[-1] and "pip install" in lines[-1]


def test_where_it_cannot_run_it_says_why():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    found = {b.name: b for b in backends()}["mamba_ssm"]
    assert not found.usable and ("not installed" in found.reason or "no CUDA device" in found.reason)
    with pytest.raises(UnavailableError, match="mamba_ssm.*cannot run here"):
        use_backend("mamba_ssm")


def test_the_command_line_refuses_it_with_the_reason(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    from typer.testing import CliRunner

    from xyscan_cli.app import app

    photo = ROOT / "examples"
    arguments = ["deblur", str(photo), str(tmp_path / "out"), "--scan", "mamba_ssm"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 3 and "mamba_ssm" in result.stderr and "cannot run here" in result.stderr
    assert "not installed" in result.stderr or "no CUDA device" in result.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_package_itself_on_gpu(dtype):
    pytest.importorskip("mamba_ssm", exc_type=Exception)
    inputs = {name: x.detach().cuda().requires_grad_() for name, x in scan_inputs(dtype=dtype).items()}
    with use_backend("mamba_ssm"):
        found, grads, weights = run(slice_scan, inputs, delta_softplus=True, directions=DIRECTIONS)
    expected, expected_grads, _ = run(slice_scan, inputs, weights, delta_softplus=True, directions=DIRECTIONS)
    assert rms_ratio(found[0], expected[0]) <= 2 * BOUND[dtype]
    assert all(rms_ratio(grads[name], expected_grads[name]) <= 4 * BOUND[dtype] for name in inputs)
