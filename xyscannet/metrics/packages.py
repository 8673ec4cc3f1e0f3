"""The packages that compute the metrics: imported where used, named where missing."""

from __future__ import annotations

import importlib
import importlib.metadata
from types import ModuleType

from xyscannet.errors import UnavailableError


def load(module: str, distribution: str) -> ModuleType:
    """Imports a module. Raises UnavailableError naming the package to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnavailableError(
            f"this needs the package {distribution} ({error}): "
            f"pip install 'xyscannet[metrics]', or pip install {distribution}"
        ) from error


def version(distribution: str) -> str:
    """The installed version. Raises UnavailableError naming the package to install."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError as error:
        raise UnavailableError(
            f"this needs the package {distribution}: "
            f"pip install 'xyscannet[metrics]', or pip install {distribution}"
        ) from error
