"""Ray and its clusters: the package, and one cluster found, or started here."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
from typing import Any

from xyscannet.errors import ConfigError, UnavailableError

_STORE_BYTES = 512 * 2**20  # of the object store, where the cluster is started here


def load_ray() -> Any:
    """The package ray. Raises UnavailableError where it is not installed."""
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UnavailableError(
            f'Ray cannot be imported ({error}): pip install "xyscannet[cluster]"'
        ) from None


def last_line(error: Exception) -> str:
    """The last line of an error's text, which says what happened where a traceback comes before it."""
    return str(error).strip().splitlines()[-1].strip()


def connect(ray: Any, address: str) -> None:
    """Connect this process to a cluster; see `Cluster` for the address. Raises as that does."""
    named = os.environ.get("RAY_ADDRESS") if address == "auto" else address
    if named not in (None, "", "auto", "local"):
        _refuse_dead(named)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=address, **quiet)
        except ConnectionError:
            if address != "auto" or os.environ.get("RAY_ADDRESS"):
                raise
            ray.init(address="local", include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)
        finally:
            _handle_termination(handler)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
        raise UnavailableError(
            f"no Ray cluster answers at {where} ({last_line(error)}): start one there with `ray start --head`"
        ) from None


def _refuse_dead(address: str) -> None:
    """Raises ConfigError for what is no address, UnavailableError where nobody listens: Ray would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise ConfigError(f"a cluster's address is auto or HOST:PORT, not {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UnavailableError(
            f"no Ray cluster answers at {address} ({error}): start one there with `ray start --head`"
        ) from None


def _handle_termination(handler: Any) -> None:
    """Put back the handler of SIGTERM, which Ray replaces by its own."""
    try:
        signal.signal(signal.SIGTERM, handler)
    except ValueError:  # not in the main thread, where Ray replaces nothing
        pass
