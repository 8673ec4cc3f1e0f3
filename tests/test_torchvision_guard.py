from __future__ import annotations

import subprocess
import sys

import pytest

from tests.metrics.calibration import needs
from xyscannet import torchvision_guard
from xyscannet.errors import UnavailableError


def python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


@needs("torchvision")
def test_torchvision_is_importable_and_its_missing_operators_still_fail() -> None:
    """In a process of its own, as this one may have imported torchvision already."""
    said = python(
        "import torch\n"
        "try:\n    import torchvision\nexcept RuntimeError as error:\n    print('broken', error)\n"
        "from xyscannet.torchvision_guard import import_torchvision, _libraries\n"
        "torchvision = import_torchvision()\n"
        "print(torchvision.models.alexnet.__name__, len(_libraries))\n"
        "boxes = torch.tensor([[0., 0, 1, 1], [0, 0, 1, 1]]), torch.tensor([1., 0.5])\n"
        "try:\n    print('kept', torchvision.ops.nms(*boxes, 0.5).tolist())\n"
        "except (RuntimeError, NotImplementedError):\n    print('refused')\n"
    )
    if said.startswith("broken"):
        assert "operator torchvision::nms does not exist" in said
        assert "alexnet 1" in said and said.rstrip().endswith("refused")
    else:  # this build of torchvision fits: nothing is declared
        assert "alexnet 0" in said and "kept [0]" in said


@needs("torchvision", "spandrel")
def test_spandrel_imports_after_it() -> None:
    python(
        "from xyscannet.torchvision_guard import import_torchvision\nimport_torchvision()\nimport spandrel"
    )


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ImportError("no"), r"needs the package torchvision \(no\)"),
        (RuntimeError("something else"), "torchvision cannot be imported: something else"),
        (RuntimeError("operator torchvision::other does not exist"), "does not fit this build of torch"),
    ],
)
def test_other_failures_are_told(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise error

    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "torchvision"}
    declared = []
    monkeypatch.setattr(torchvision_guard.importlib, "import_module", fail)
    monkeypatch.setattr(torchvision_guard, "_declare_operators", lambda: declared.append(1))
    try:
        with pytest.raises(UnavailableError, match=message):
            torchvision_guard.import_torchvision()
    finally:
        sys.modules.update(kept)
    assert len(declared) == ("torchvision::" in str(error))
