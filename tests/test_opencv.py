"""What is said where OpenCV does not load."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from xyscan_cli import machine
from xyscannet.errors import UnavailableError

BROKEN = """
import os, sys
if hasattr(sys, "OpenCV_LOADER"):
    raise ImportError("recursion")
sys.OpenCV_LOADER = True
sys.path.insert(1, os.path.dirname(__file__))
raise ImportError("libxcb.so.1: cannot open shared object file")
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose `cv2` leaves its own folder in the path and fails, as OpenCV's does."""
    (tmp_path / "cv2").mkdir()
    (tmp_path / "cv2" / "__init__.py").write_text(BROKEN)
    (tmp_path / "cv2" / "fine_one.py").write_text("raise ImportError('of cv2')")
    (tmp_path / "fine_one.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "cv2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "xyscannet.opencv", raising=False)
    return tmp_path


def test_a_desktops_build_is_named_with_the_way_back(broken: Path) -> None:
    desktop = broken / "opencv_python-5.0.0.dist-info"
    desktop.mkdir()
    (desktop / "METADATA").write_text("Metadata-Version: 2.1\nName: opencv-python\nVersion: 5.0.0\n")
    path = list(sys.path)
    for kind in (UnavailableError, ImportError):
        with pytest.raises(kind, match=r"\(libxcb.*pip uninstall -y opencv-python, then pip install"):
            importlib.import_module("xyscannet.opencv")
    assert sys.path == path


def test_without_one_it_is_installed_again(broken: Path) -> None:
    with pytest.raises(
        UnavailableError, match=r"file\): pip install --force-reinstall --no-deps opencv-python-h"
    ):
        importlib.import_module("xyscannet.opencv")


def test_a_report_tells_it_and_looks_at_the_rest_as_they_are(broken: Path) -> None:
    found = machine.import_here("opencv-python-headless", machine.CORE["opencv-python-headless"])
    assert found["reason"].startswith("OpenCVError: OpenCV cannot be loaded (libxcb.so.1")
    assert machine.import_elsewhere(["cv2", "fine_one"])() == {
        "cv2": "ImportError: libxcb.so.1: cannot open shared object file",
        "fine_one": None,
    }
