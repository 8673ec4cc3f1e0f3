"""Numba compilation of the CPU kernels, kept on disk from run to run."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import pickle
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from numba import njit
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.runtime import rtsys

from xyscannet.environment import FIRST_USE
from xyscannet.files import locked
from xyscannet.ops.simd import LANES

PATIENCE = 60.0
"""Seconds that a process waits for another one that compiles the kernel that it wants."""
_logger = logging.getLogger("xyscannet")


@cache
def _tell(message: str) -> None:
    """Once in a process."""
    logging.getLogger(FIRST_USE).info(message)


def _tell_not_kept(error: Exception) -> None:
    _tell(
        "compiled kernels cannot be kept on disk: every process compiles them anew, unless NUMBA_CACHE_DIR names a "
        "folder that can be written"
    )
    _logger.debug("a compiled kernel is not kept: %s", error)


def _digest() -> str:
    """Of the sources that kernels are compiled from."""
    folder = Path(__file__).parent
    shared = folder / "cpu_pixels.py", folder / "tiles.py"
    sources = [*sorted(folder.glob("simd/*.py")), *sorted(folder.glob("*/cpu_*.py")), *shared]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


class _KernelFiles(IndexDataCacheFile):
    """A file for each compiled kernel, which begins with the digest of what it is and holds.

    Numba's one index of all files of a function is read and written without a lock: two processes that compile at the
    same moment can leave the machine code of one kernel under the key of another, which would then run in its place.
    Here a file that is damaged, or another kernel's, is not taken, and written anew.
    """

    def save(self, key, data):
        held = self._dump(data)
        with self._open_for_write(self._path(key)) as file:
            file.write(self._seal(key, held) + held)

    def load(self, key):
        try:
            found = Path(self._path(key)).read_bytes()
        except OSError:
            return None
        digest, held = found[:32], found[32:]
        return pickle.loads(held) if digest == self._seal(key, held) else None

    def claim(self, key):
        """The file, open and locked, while its kernel is compiled: another process that wants it waits, and loads it.

        None where there are no locks, and where another's compilation outlasts one's patience.
        """
        with contextlib.suppress(OSError):
            file = open(self._path(key), "ab")  # noqa: SIM115 -- whoever keeps the kernel closes it
            end = time.monotonic() + PATIENCE
            while not locked(file.fileno()):
                if time.monotonic() > end:
                    file.close()
                    return None
                time.sleep(0.02)
            return file
        return None

    def _path(self, key):
        signature, machine, (_, closed_over), _ = key  # what does not change as the sources do
        name = hashlib.sha256(repr((signature, machine, closed_over)).encode()).hexdigest()
        return self._data_path(f"{self._index_name.removesuffix('.nbi')}.{name[:16]}.nbc")

    def _seal(self, key, held):
        return hashlib.sha256(repr((self._version, self._source_stamp, key)).encode() + held).digest()


class _KernelCache(FunctionCache):
    """Numba looks only at the file of the kernel itself; this also forgets when what the kernel calls has changed.

    A folder that cannot be written is told, and costs the time of compiling again, nothing else. Where numba makes
    ready to compile before it loads (0.3 s in each process), this loads with what running needs.
    """

    _sources = f"{_digest()} {LANES}"
    _claimed = None

    def __init__(self, function):
        super().__init__(function)
        self._cache_file = _KernelFiles(
            self._cache_path, self._impl.filename_base, self._impl.locator.get_source_stamp()
        )

    def _index_key(self, sig, codegen):
        return (*super()._index_key(sig, codegen), self._sources)

    def load_overload(self, sig, target_context):
        rtsys.initialize(target_context)
        found = self._load_overload(sig, target_context)
        if found is None:
            self._claimed = self._cache_file.claim(self._index_key(sig, target_context.codegen()))
            found = self._load_overload(sig, target_context)  # which another process has compiled by now
            if found is not None:
                self._let_go()
            else:
                _tell("kernels are compiled for this processor when they are used first, which takes a while")
        return found

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _tell_not_kept(error)
        finally:
            self._let_go()

    def _let_go(self):
        if self._claimed is not None:
            self._claimed.close()
            self._claimed = None


def compiled(function: Callable) -> Callable:
    """Compile a kernel at its first call, to run without the GIL; kept on disk where a folder is writable."""
    kernel = njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)(function)
    try:
        kernel._cache = _KernelCache(function)
    except (RuntimeError, OSError) as error:  # numba finds no folder for its cache
        _tell_not_kept(error)
    return kernel
