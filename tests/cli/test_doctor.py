"""`xyscan doctor` on a healthy machine, and on ones where something is broken."""

from __future__ import annotations

import json
import sys
from functools import cache

import pytest
import torch
from typer.testing import CliRunner

import xyscannet
from xyscan_cli import machine
from xyscan_cli.app import app
from xyscan_cli.commands import doctor
from xyscannet import inference, ops
from xyscannet.analysis import bench
from xyscannet.errors import UnavailableError

import_elsewhere = machine.import_elsewhere


@cache
def looked_at(*modules: str) -> dict[str, str | None]:
    return import_elsewhere(list(modules))()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Optional packages are looked at by tests of their own; what is here is looked at once."""
    monkeypatch.setattr(machine, "import_elsewhere", lambda modules: lambda: looked_at(*modules))
    monkeypatch.setattr(
        machine, "EXTRAS", {"metrics": {"scikit-image": "skimage"}, "video": {"no-such": "no_such"}}
    )


def run(*arguments: str):
    return CliRunner().invoke(app, ["doctor", *arguments])


def test_report_as_json():
    result = run("--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["xyscannet"] == xyscannet.__version__
    assert report["packages"]["torch"] == {"version": torch.__version__, "reason": None}
    assert report["cpu"]["cores"] >= 1
    assert report["memory"]["total_bytes"] >= report["memory"]["available_bytes"] > 1 << 28
    backends = {backend["name"]: backend for backend in report["backends"]}
    assert set(backends) == {backend.name for backend in ops.backends()}
    assert backends[ops.active_backend("cpu")]["default_on"][0] == "cpu"
    assert report["problems"] == []
    for check in report["self_check"]:
        assert check["right"]
        assert 0 < check["max_error"] < 1e-3
    assert {check["scan"] for check in report["self_check"]} >= {"cpu"}
    found = {package["package"]: package for package in report["optional"]}
    assert found["scikit-image"]["usable"]
    assert found["no-such"]["reason"] == 'not installed: pip install "xyscannet[video]"'


def test_report_as_text():
    result = run()
    assert result.exit_code == 0, result.output
    assert f"torch                   {torch.__version__}" in result.stdout
    assert "self-check: xyscannet-s" in result.stdout
    assert result.stderr == ""


def test_a_containers_quota_is_told(monkeypatch):
    monkeypatch.setattr(machine, "processors", lambda: 1.5)
    monkeypatch.setattr(doctor, "_self_check", list)
    result = run()
    assert "cores of which control groups allow the time of 1.5, " in result.stdout


def test_broken_package_is_a_problem(monkeypatch, tmp_path):
    (tmp_path / "broken_core.py").write_text("raise OSError('libGL.so.1: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(machine.CORE, "broken", "broken_core")
    monkeypatch.setattr(doctor, "_self_check", list)
    result = run()
    assert result.exit_code == 3
    assert "broken                  does not work: OSError: libGL.so.1: no such file" in result.stdout
    assert "broken: OSError: libGL.so.1" in result.stderr


def test_wrong_results_are_a_problem(monkeypatch):
    monkeypatch.setattr(bench, "compare", lambda *_: bench.Parity(0.3, 12.0))
    result = run()
    assert result.exit_code == 3
    assert "WRONG" in result.stdout
    assert "self-check: cpu on cpu gives wrong results" in result.stderr


def test_results_that_are_not_finite_are_null_in_json(monkeypatch):
    monkeypatch.setattr(bench, "compare", lambda *_: bench.Parity(float("inf"), float("nan")))
    result = run("--json")
    assert result.exit_code == 3
    for check in json.loads(result.stdout, parse_constant=pytest.fail)["self_check"]:
        assert check["max_error"] is None and check["psnr"] is None and not check["right"]
    assert "nan dB against the definition: WRONG" in run().stdout


def test_failing_parts_do_not_stop_the_rest(monkeypatch):
    def fail(*_):
        raise UnavailableError("no kernels today")

    monkeypatch.setattr(bench, "compare", fail)
    result = run("--json")
    assert result.exit_code == 3
    report = json.loads(result.stdout)
    assert report["problems"] == ["self_check: UnavailableError: no kernels today"]
    assert report["backends"]


def test_a_package_that_fails_in_any_way_leaves_the_rest_of_the_report(monkeypatch):
    def fail(device):
        raise AttributeError("numba has no attribute 'njit'")

    monkeypatch.setattr(inference, "available_memory", fail)
    found = machine.memory()
    assert found["available_bytes"] is None and found["total_bytes"] > 0


def test_optional_packages_are_imported_while_the_rest_is_looked_at(monkeypatch):
    events = []

    def begun(modules):
        events.append(modules)
        return lambda: events.append("told") or dict.fromkeys(modules)

    twice = {"metrics": {"scikit-image": "skimage"}, "train": {"scikit-image": "skimage"}}
    monkeypatch.setattr(machine, "EXTRAS", twice)
    monkeypatch.setattr(machine, "import_elsewhere", begun)
    monkeypatch.setattr(doctor, "_self_check", lambda: events.append("checked") or [])
    assert [package["extra"] for package in doctor.examine()["optional"]] == ["metrics", "train"]
    assert events == [["skimage"], "checked", "told"]


def test_files_of_the_working_directory_are_not_imported(monkeypatch, tmp_path):
    (tmp_path / "skimage.py").write_text("raise ImportError('a script of the user')")
    monkeypatch.chdir(tmp_path)
    assert import_elsewhere(["skimage"])() == {"skimage": None}


def test_imports_that_go_wrong(monkeypatch, tmp_path):
    (tmp_path / "fine_one.py").write_text("import os; print('noise'); os.write(2, b'\\xff noise')")
    (tmp_path / "raising.py").write_text("raise ImportError('undefined symbol: x\\nmore')")
    (tmp_path / "leaving.py").write_text("raise SystemExit(5)")
    (tmp_path / "dying.py").write_text("import os; os._exit(7)")
    (tmp_path / "slow_one.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(machine, "IMPORT_SECONDS", 5)
    assert machine.import_elsewhere(["raising", "dying", "leaving", "slow_one", "fine_one"])() == {
        "raising": "ImportError: undefined symbol: x",
        "dying": "importing it ends the process (code 7)",
        "leaving": "SystemExit: 5",
        "slow_one": "importing it takes longer than 5 s",
        "fine_one": None,
    }
