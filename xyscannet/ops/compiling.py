"""Numba compilation of the CPU kernels, kept on disk from run to run."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from numba import njit
from numba.core.caching import FunctionCache
from numba.core.runtime import rtsys

from xyscannet.environment import FIRST_USE
from xyscannet.ops.simd import LANES

_logger = logging.getLogger("xyscannet")


def _digest() -> str:
    """Of the sources that kernels are compiled from."""
    folder = Path(__file__).parent
    shared = folder / "cpu_pixels.py", folder / "tiles.py"
    sources = [*sorted(folder.glob("simd/*.py")), *sorted(folder.glob("*/cpu_*.py")), *shared]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


class _KernelCache(FunctionCache):
    """Numba looks only at the file of the kernel itself; this also forgets when what the kernel calls has changed.

    A folder that cannot be written costs the time of compiling again, nothing else. Where numba makes ready to compile
    before it loads (0.3 s in each process), this loads with what running needs.
    """

    _sources = f"{_digest()} {LANES}"
    _told = False

    def _index_key(self, sig, codegen):
        return (*super()._index_key(sig, codegen), self._sources)

    def load_overload(self, sig, target_context):
        found = None  # as where the guard keeps an error to itself
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            found = self._load_overload(sig, target_context)
        if found is None and not _KernelCache._told:
            _KernelCache._told = True
            logging.getLogger(FIRST_USE).info(
                "kernels are compiled for this processor when they are used first, which takes a while"
            )
        return found

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _logger.debug("compiled kernel not kept on disk: %s", error)


def compiled(function: Callable) -> Callable:
    """Compile a kernel at its first call, to run without the GIL; kept on disk where a folder is writable."""
    kernel = njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)(function)
    try:
        kernel._cache = _KernelCache(function)
    except (RuntimeError, OSError) as error:  # numba finds no folder for its cache
        _logger.debug("compiled kernels are not kept on disk: %s", error)
    return kernel
