"""Metrics that pyiqa computes: NIQE, DISTS and any other by its name there. Its licence is non-commercial."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from xyscannet.errors import ConfigError, UnavailableError
from xyscannet.metrics import weights
from xyscannet.metrics.base import ImageMetric, MetricInfo
from xyscannet.metrics.loading import loading, pyiqa_downloads
from xyscannet.metrics.networks import on_tensors
from xyscannet.metrics.packages import load, version
from xyscannet.torchvision_guard import import_torchvision

PREFIX = "pyiqa:"
ADDRESS = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/"
NIQE = ADDRESS + "niqe_modelparameters.mat"
DISTS = ADDRESS + "DISTS_weights-f5e65c96.pth"


def info(name: str) -> MetricInfo:
    """What pyiqa says of its metric `pyiqa:NAME`.

    Raises:
        ConfigError: pyiqa has no such metric, or it compares sets of images.
        UnavailableError: pyiqa is not installed.
    """
    import difflib

    import_torchvision()
    load("pyiqa", "pyiqa")
    known = load("pyiqa.default_model_configs", "pyiqa").DEFAULT_CONFIGS
    asked = name.removeprefix(PREFIX)
    if asked not in known:
        near = difflib.get_close_matches(asked, known, n=1)
        hint = f"did you mean {PREFIX}{near[0]}?" if near else "see pyiqa.list_models()"
        raise ConfigError(f"pyiqa {version('pyiqa')} has no metric {asked!r}; {hint}")
    config = known[asked]
    if "fid" in asked or asked == "inception_score":
        raise ConfigError(f"{name} compares sets of images: ask for fid or kid, which clean-fid computes")
    return MetricInfo(name, asked, not config.get("lower_better", False), config.get("metric_mode") == "FR")


def metric(info: MetricInfo, *, device: str, offline: bool) -> ImageMetric:
    """The metric that pyiqa has under `info.name`, in its default setting."""
    return _create(info, info.name.removeprefix(PREFIX), device=device, offline=offline)


def niqe(info: MetricInfo, *, device: str, offline: bool) -> ImageMetric:
    """NIQE (Mittal et al. 2013) with the parameters of its original release; smaller is more natural."""
    flavour = ", original release's parameters (not MATLAB's)"
    path, source = _niqe_parameters(offline)
    return _create(info, "niqe", flavour + source, device=device, offline=offline, pretrained_model_path=path)


def dists(info: MetricInfo, *, device: str, offline: bool) -> ImageMetric:
    """DISTS (Ding et al. 2020) on VGG-16; smaller is nearer."""
    path = weights.locate(DISTS, [_cache()]) or weights.carried("DISTS_pytorch", "weights.pt")
    if path is None:
        carrier = "pip install --no-deps dists-pytorch==0.1"
        path = weights.obtain(DISTS, offline=offline, carrier=carrier)
    return _create(info, "dists", ", VGG-16", device=device, offline=offline, pretrained_model_path=str(path))


def _create(
    info: MetricInfo, name: str, flavour: str = "", *, device: str, offline: bool, **options: Any
) -> ImageMetric:
    import torch

    with loading(info.name, offline=offline) as sources:
        package = load("pyiqa", "pyiqa")
        with pyiqa_downloads(offline, sources):
            network = package.create_metric(name, device=torch.device(device), **options)
    made_by = f"pyiqa {version('pyiqa')}, {name}{flavour}"
    return ImageMetric(info, made_by, on_tensors(info.name, network, device), str(sources))


def _niqe_parameters(offline: bool) -> tuple[Any, str]:
    """What pyiqa's NIQE takes for a MATLAB file, from that file or from basicsr's copy of its numbers."""
    path = weights.locate(NIQE, [_cache()])
    if path is not None:
        return str(path), ""
    path = weights.carried("basicsr", "metrics/niqe_pris_params.npz")
    if path is None:
        carrier = "pip install --no-deps --no-build-isolation basicsr==1.4.2"
        return str(weights.obtain(NIQE, offline=offline, carrier=carrier)), ""
    from scipy.io import savemat

    try:
        with np.load(path) as file:
            parameters = {
                "mu_prisparam": file["mu_pris_param"].reshape(1, 36),
                "cov_prisparam": file["cov_pris_param"].reshape(36, 36),
            }
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UnavailableError(f"{path} does not hold NIQE's parameters: {error}") from error
    matlab = io.BytesIO()
    savemat(matlab, parameters)
    return matlab, " from basicsr"


def _cache() -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "pyiqa"
