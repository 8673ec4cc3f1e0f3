"""Workers on a Ray cluster. What runs where, and on whom, is Ray's to decide; this gives it units of work, hands
their results on, and gives those of a lost worker to another."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from xyscannet import environment
from xyscannet.errors import ConfigError, UnavailableError, XYScanError
from xyscannet.inference.connecting import connect, last_line, load_ray

MOST_CPUS = 4  # of a worker, where nothing else is asked for: more threads help one image little
MOST_LOSSES = 5  # workers that one unit may take down before it is given up
WINDOW = 2  # units that Ray holds for each worker: the one at work and the next
_GRACE = 60.0  # seconds that units at work have to end after an interruption
_REFRESH = 10.0  # seconds between two looks at the cluster's machines

Work = Callable[
    [Any, int], Any
]  # (unit, how many workers it has lost) -> result; in a worker, see `pause_point`


@dataclass(frozen=True)
class _Order:
    """What a worker needs to know before its first unit of a run."""

    run: str
    environment: dict[str, str]
    folder: str | None
    held: tuple[
        Any
    ]  # a reference to the pickled `make`; in a tuple, so that Ray does not fetch it for every unit


_ready: dict[str, Work] = {}  # in a worker: what the run's `make` made
_interrupted = threading.Event()  # in a worker


def _do(order: _Order, unit: Any, losses: int) -> Any:
    """A unit in a worker."""
    work = _ready.get(order.run)
    if work is None:
        os.environ.update(order.environment)
        if order.folder is not None:
            try:
                os.chdir(order.folder)
            except OSError as error:
                raise UnavailableError(
                    f"{order.folder} cannot be entered on {socket.gethostname()} ({error.strerror}): all machines of "
                    "a cluster must reach the files under the same names"
                ) from None
        make = load_ray().get(order.held[0])
        _ready.clear()
        work = _ready[order.run] = make()
    _interrupted.clear()
    handler = signal.signal(signal.SIGINT, lambda *_: _interrupted.set())  # Ray cancels by this signal
    try:
        return work(unit, losses)
    finally:
        signal.signal(signal.SIGINT, handler)


def pause_point(*_: Any) -> None:
    """Where work may end early: raises KeyboardInterrupt if the run was interrupted. Nowhere else does that happen."""
    if _interrupted.is_set():
        raise KeyboardInterrupt


class Cluster:
    """Workers of one size on a Ray cluster, for the length of a `with` block.

    Where this process is connected to Ray already, it stays so, and that cluster is used.

    Args:
        address: "auto" for the cluster that RAY_ADDRESS names or that runs on this machine, else one that is started
            here and ended with the block; or HOST:PORT of a cluster's head.
        device: "auto" (GPUs where the cluster has any), "cpu" or "cuda".
        cpus: processors of a worker; by default up to MOST_CPUS, a GPU's share of its machine at most.

    Attributes:
        device: "cpu" or "cuda"; a worker has one GPU.
        cpus: processors, and threads, of a worker.
        sharing: most workers that share a device's memory.

    Raises:
        UnavailableError: ray is not installed, or no cluster answers there, or it has no such worker.
        ConfigError: no such kind of device.
    """

    def __init__(self, address: str = "auto", device: str = "auto", cpus: int | None = None) -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"on a cluster the device must be auto, cpu or cuda, not {device!r}")
        self._address, self.device, self._asked = address, device, cpus
        self._ray = load_ray()

    def __enter__(self) -> Cluster:
        self._owned = not self._ray.is_initialized()
        if self._owned:
            connect(self._ray, self._address)
        try:
            self._measure()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        if self._owned:
            self._ray.shutdown()

    @property
    def machines(self) -> int:
        """Number of machines that have workers now."""
        return sum(count > 0 for count in self._counts())

    @property
    def workers(self) -> int:
        """Number of workers that there is room for now."""
        return sum(self._counts())

    def describe(self) -> str:
        """E.g. `2 workers on 1 machine, 1 CPU each`."""
        cpus = f"{self.cpus} CPU{'s' * (self.cpus != 1)}"
        size = f"1 GPU and {cpus}" if self.device == "cuda" else cpus
        workers, machines = self.workers, self.machines
        return f"{workers} worker{'s' * (workers != 1)} on {machines} machine{'s' * (machines != 1)}, {size} each"

    def ask(self, function: Callable[[], Any]) -> Any:
        """What a function returns in one of the workers."""
        answers: list[Any] = []
        self.run(_Asking(function), [None], finished=lambda _, answer: answers.append(answer))
        if answers[0] is None:
            raise UnavailableError(f"the cluster lost {MOST_LOSSES} workers one after another")
        return answers[0]

    def run(
        self,
        make: Callable[[], Work],
        units: Sequence[Any],
        *,
        finished: Callable[[Any, Any], Iterable[Any] | None],
        lost: Callable[[Any], None] = lambda unit: None,
        wanted: Callable[[Any], bool] = lambda unit: True,
        folder: str | None = None,
    ) -> None:
        """Do every unit that is wanted, at least once.

        An interruption or an error ends the run: units that are at work are interrupted, what still ends is reported.

        Args:
            make: pickled once and called once in each worker; what it returns is called there for unit after unit.
            finished: called in this thread with a unit and its result, as they come; the result is None where a unit
                lost MOST_LOSSES workers. It may return further units, which come next.
            lost: called in this thread with a unit whose worker was lost, which begins anew.
            wanted: called in this thread with a unit that is next, which is dropped where this says no.
            folder: each worker's current folder.

        Raises:
            UnavailableError: `folder` is not on a worker's machine, or xyscannet cannot be imported there.
            What `make` or the work raises, without which no unit gets done.
        """
        order = _Order(secrets.token_hex(8), _environment(), folder, (self._ray.put(make),))
        remote = self._ray.remote(
            num_cpus=self.cpus,
            num_gpus=int(self.device == "cuda"),
            max_retries=0,  # here, so that a unit knows what it was before
            max_calls=0,  # a worker keeps its network
            scheduling_strategy="SPREAD",
        )(_do)
        waiting = deque((unit, 0) for unit in units)  # each with the workers that it has lost
        at_work: dict[Any, tuple[Any, int]] = {}
        looked, room = -_REFRESH, 0
        try:
            while waiting or at_work:
                if time.monotonic() - looked > _REFRESH:
                    looked, room = time.monotonic(), max(self.workers, 1) * WINDOW
                while waiting and len(at_work) < room:
                    unit, losses = waiting.popleft()
                    if wanted(unit):
                        at_work[remote.remote(order, unit, losses)] = unit, losses
                for done in self._ray.wait(list(at_work), timeout=_REFRESH)[0] if at_work else ():
                    unit, losses = at_work.pop(done)
                    try:
                        result = self._result(done)
                    except _WorkerLost:
                        lost(unit)
                        if losses + 1 < MOST_LOSSES:
                            waiting.appendleft((unit, losses + 1))
                            continue
                        result = None
                    more = finished(unit, result) or ()
                    waiting.extendleft((each, 0) for each in reversed(list(more)))
        except BaseException:
            self._wind_up(at_work, finished)
            raise

    def _result(self, done: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(done)
        except (
            errors.WorkerCrashedError,
            errors.NodeDiedError,
            errors.LocalRayletDiedError,
            errors.OutOfMemoryError,
            errors.ObjectLostError,
        ) as error:
            raise _WorkerLost from error
        except errors.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, XYScanError):
                raise cause from None
            if "failed to import" in str(error) or isinstance(cause, ImportError):
                raise UnavailableError(
                    f"the cluster's machines cannot import what this one has ({last_line(error)}): install the same "
                    "xyscannet there"
                ) from None
            raise

    def _wind_up(self, at_work: dict[Any, tuple[Any, int]], finished: Callable[[Any, Any], Any]) -> None:
        for task in at_work:
            self._ray.cancel(task)
        over = self._ray.wait(list(at_work), num_returns=len(at_work), timeout=_GRACE)[0] if at_work else ()
        for task in over:
            try:
                result = self._ray.get(task)
            except Exception:  # interrupted, or it failed as what ended the run did
                continue
            finished(at_work[task][0], result)

    def _measure(self) -> None:
        """Decide on the size of a worker."""
        machines = self._machines()
        gpus = [machine for machine in machines if machine.get("GPU", 0) >= 1]
        if self.device == "cuda" and not gpus:
            raise UnavailableError(f"no machine of the cluster {self._address} has a GPU")
        if self.device == "auto":
            self.device = "cuda" if gpus else "cpu"
        if self.device == "cuda":
            most = min(int(machine.get("CPU", 0) // machine["GPU"]) for machine in gpus)
        else:
            most = max((int(machine.get("CPU", 0)) for machine in machines), default=0)
        self.cpus = self._asked or max(min(most, MOST_CPUS), 1)
        most = max(self._counts(), default=0)
        self.sharing = most if self.device == "cpu" else 1
        if most == 0:
            raise UnavailableError(f"no machine of the cluster {self._address} has {self.cpus} processors")

    def _machines(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _counts(self) -> list[int]:
        """Workers that each machine has room for."""
        counts = []
        for machine in self._machines():
            count = int(machine.get("CPU", 0) // self.cpus)
            counts.append(min(count, int(machine.get("GPU", 0))) if self.device == "cuda" else count)
        return counts


class _WorkerLost(Exception):
    """The process or the machine that was at a unit is gone."""


@dataclass(frozen=True)
class _Asking:
    function: Callable[[], Any]

    def __call__(self) -> Work:
        return lambda unit, losses: self.function()


def _environment() -> dict[str, str]:
    """What the workers take over of this process's environment; OpenMP has been loaded there by then."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("XYSCAN_")}
    pages = "THP_MEM_ALLOC_ENABLE"
    return kept | {pages: os.environ.get(pages, environment.DEFAULTS[pages])}
