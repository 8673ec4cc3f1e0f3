"""torchvision beside a build of torch that its compiled operators do not match.

torchvision's wheel on PyPI is built against CUDA builds of torch. Beside a CPU build its extension does not load, and
`import torchvision` then fails with "operator torchvision::nms does not exist", because it describes operators that
the extension should have defined. lpips, pyiqa, clean-fid and spandrel all import torchvision, for its networks and
transforms, which need none of these operators. So when, and only when, the import fails in this way, the operators
are declared without an implementation: the import succeeds, and calling one of them still raises an error.
"""

from __future__ import annotations

import importlib
import re
import sys
from types import ModuleType

from xyscannet.errors import UnavailableError

MISSING = re.compile(r"operator torchvision::\w+ does not exist")
SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[object] = []  # a torch.library.Library takes its declarations along when it is collected


def import_torchvision() -> ModuleType:
    """torchvision, with its missing operators declared where its import needs them.

    Raises UnavailableError where the package is missing or cannot be imported for another reason.
    """
    try:
        return importlib.import_module("torchvision")
    except ImportError as error:
        raise UnavailableError(
            f"this needs the package torchvision ({error}): "
            'pip install "xyscannet[metrics]", or the release that fits your torch'
        ) from error
    except RuntimeError as error:
        if not MISSING.search(str(error)):
            raise UnavailableError(f"torchvision cannot be imported: {error}") from error
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # what the failed import left behind
    _declare_operators()
    try:
        return importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        raise UnavailableError(
            f"torchvision does not fit this build of torch ({error}): install the release made for it"
        ) from error


def _declare_operators() -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _libraries.append(library)
