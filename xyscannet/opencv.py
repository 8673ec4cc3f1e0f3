"""OpenCV, `cv2`, or how to get one that loads.

Packages that ask for `opencv-python`, as pyiqa does, have its files laid over those of `opencv-python-headless`. It
needs a desktop's libraries, such as libxcb and libGL, which servers and small containers lack.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

from xyscannet.errors import UnavailableError

_HEADLESS = "opencv-python-headless"
_OTHERS = ("opencv-python", "opencv-contrib-python")


class OpenCVError(UnavailableError, ImportError):
    """OpenCV does not load."""


def _remedy() -> str:
    others = " ".join(name for name in _OTHERS if _is_installed(name))
    again = f"pip install --force-reinstall --no-deps {_HEADLESS}"
    if not others:
        return again
    return f"{others}, for desktops, lies over {_HEADLESS}: pip uninstall -y {others}, then {again}"


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


_path = list(sys.path)
try:
    import cv2
except ImportError as error:
    # Else its folder stays in front, where `typing` is another one, and the next try is taken for a recursion.
    sys.path[:] = _path
    vars(sys).pop("OpenCV_LOADER", None)
    raise OpenCVError(f"OpenCV cannot be loaded ({error}): {_remedy()}") from error

__all__ = ["cv2"]
