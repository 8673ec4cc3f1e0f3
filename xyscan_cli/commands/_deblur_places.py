"""What restores the images of `xyscan deblur`: networks on this machine, or the workers of a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from xyscan_cli import networks, options
from xyscan_cli.commands import _deblur_report as report

if TYPE_CHECKING:
    from xyscannet.inference import Job, Record, Settings
    from xyscannet.models import XYScanNetConfig


@dataclass(frozen=True)
class Asked:
    """The options that say what runs where."""

    weights: str | None
    channel_order: str
    device: str
    devices: str | None
    dtype: options.DType
    scan: options.Scan
    cluster: str | None
    cpus_per_worker: int | None


@dataclass(frozen=True)
class Place:
    """A network, ready to restore.

    Attributes:
        network: what it is, in words.
        device: "cpu", "cuda", ...: the kind it runs on.
        memory: bytes that are free where it runs; None for what is free here.
        where: what runs it, as fields of the plan.
        restore: `run_jobs` of `xyscannet.inference`, or what does as it does, without its second and third argument.
    """

    config: XYScanNetConfig
    network: str
    settings: Settings
    device: str
    memory: int | None
    where: Mapping[str, str]
    restore: Callable[..., None]


@contextmanager
def here(asked: Asked, settings: Settings) -> Iterator[Place]:
    """One or several devices of this machine."""
    from xyscannet.inference import run_jobs

    devices = networks.places(asked.device, asked.devices)
    dtype = networks.arithmetic_type(asked.dtype, *devices)
    settings = replace(settings, dtype=dtype, sharing=max(Counter(devices).values()))
    with networks.scan_backend(asked.scan, devices[0]):
        model, network, _ = networks.load_network(asked.weights, devices[0], asked.channel_order)
        models, where = networks.on_each(model, devices), report.here(devices, settings)

        def restore(jobs: Sequence[Job], **more: Any) -> None:
            run_jobs(jobs, models, settings, **more)

        yield Place(model.config, network, settings, str(devices[0]), None, where, restore)


@contextmanager
def on_cluster(asked: Asked, settings: Settings) -> Iterator[Place]:
    """The workers of a Ray cluster, which all run what one of them was found to have."""
    import torch

    from xyscannet.inference.on_cluster import look, run_on_cluster

    with networks.cluster(asked.cluster, asked.device, asked.devices, asked.cpus_per_worker) as cluster:
        worker = look(cluster, asked.scan.value)
        dtype = networks.named_type(asked.dtype) or worker.dtype
        settings = replace(settings, dtype=dtype, sharing=cluster.sharing)
        weights = asked.weights or networks.default_weights(cluster.device)
        model, network, _ = networks.load_network(weights, torch.device("cpu"), asked.channel_order)
        where = report.there(cluster, worker, settings)

        def restore(jobs: Sequence[Job], **more: Any) -> None:
            run_on_cluster(cluster, jobs, model, settings, scan=worker.scan, **more)

        yield Place(model.config, network, settings, cluster.device, worker.memory, where, restore)


@contextmanager
def nowhere(asked: Asked, settings: Settings) -> Iterator[Place]:
    """No network, as nothing is to be restored."""
    from xyscannet.inference import Record
    from xyscannet.models import XYScanNetConfig

    def restore(jobs: Sequence[Job], *, finished: Callable[[Record], None], **more: Any) -> None:
        for job in jobs:
            finished(Record(job, "failed", error=job.error) if job.error else Record(job, "skipped"))

    yield Place(XYScanNetConfig(), "none", settings, "cpu", None, {}, restore)
