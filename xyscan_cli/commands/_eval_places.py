"""Where `xyscan eval` restores and measures: on this machine, or on the workers of a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from xyscan_cli import console, machine, networks, options
from xyscan_cli.networks import pick_device

if TYPE_CHECKING:
    import torch

    from xyscannet.evaluation import Sample, Source
    from xyscannet.inference.cluster import Cluster


@dataclass(frozen=True)
class Running:
    """How networks run.

    Attributes:
        loaded: the device that they are loaded on.
        device: "cpu", "cuda", ...: the kind that they run on.
        scan: the scan backend that runs there.
        machine: what it is, in words.
        cluster: whose workers restore and measure; None for this process.
    """

    loaded: torch.device
    device: str
    dtype: torch.dtype
    scan: str
    machine: str
    tile: str | int
    scales: str | int
    ensemble: bool
    channel_order: str
    cluster: Cluster | None = None

    def across(
        self, samples: Sequence[Sample], source: Source, metrics: Callable[..., Sequence[Any]]
    ) -> Callable[..., None] | None:
        """What `evaluate` measures across: the cluster's workers; None for this process. `metrics` builds them, given
        the device."""
        if self.cluster is None:
            return None
        from xyscannet.evaluation.on_cluster import Measuring, measure_on
        from xyscannet.inference.on_cluster import Placed

        model = getattr(source, "model", None)
        placed = model and Placed(model, self.device, self.cluster.cpus, self.scan)
        if model is not None:
            source.tell = str  # what the workers hear comes back with their results
        measuring = Measuring(source, partial(metrics, device=self.device), placed)
        files = [file for sample in samples for file in (sample.blur, sample.sharp)]
        files += [getattr(source, name, None) for name in ("keep", "folder")]
        relative = any(file is not None and not file.is_absolute() for file in files)
        folder = os.getcwd() if relative else None
        return partial(measure_on, self.cluster, measuring, tell=console.warn, folder=folder)


@contextmanager
def here(device: str, dtype: options.DType, scan: options.Scan, **how: Any) -> Iterator[Running]:
    """This process."""
    from xyscannet import ops

    place = pick_device(device)
    name = machine.device_name(place)
    with networks.scan_backend(scan, place):
        active = ops.active_backend(place.type)
        yield Running(place, place.type, networks.arithmetic_type(dtype, place), active, name, **how)


@contextmanager
def on_cluster(
    address: str, cpus: int | None, device: str, dtype: options.DType, scan: options.Scan, **how: Any
) -> Iterator[Running]:
    """The workers of a Ray cluster, which all run what one of them was found to have."""
    import torch

    from xyscannet.inference.on_cluster import look

    with networks.cluster(address, device, None, cpus) as cluster:
        worker = look(cluster, scan.value)
        console.field("cluster", cluster.describe())
        name = f"{worker.device}, {cluster.describe()}"
        dtype = networks.named_type(dtype) or worker.dtype
        loaded = torch.device("cpu")
        yield Running(loaded, cluster.device, dtype, worker.scan, name, **how, cluster=cluster)
