"""`xyscan doctor`: what this machine has, what works and what does not, with the reason."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from xyscan_cli import console, tables

CORE = {
    "torch": "torch",
    "numpy": "numpy",
    "numba": "numba",
    "pillow": "PIL",
    "opencv-python-headless": "cv2",
    "safetensors": "safetensors",
    "pydantic": "pydantic",
    "pyyaml": "yaml",
    "typer": "typer",
    "rich": "rich",
}
EXTRAS = {
    "cuda": {"mamba-ssm": "mamba_ssm", "causal-conv1d": "causal_conv1d"},
    "metrics": {"pyiqa": "pyiqa", "lpips": "lpips", "clean-fid": "cleanfid", "scikit-image": "skimage"},
    "train": {"accelerate": "accelerate", "tensorboard": "tensorboard"},
    "video": {"av": "av"},
    "peers": {"spandrel": "spandrel"},
}
INSTRUCTIONS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "asimd",
    "bf16",
    "sve",
    "sve2",
)
SELF_CHECK = "xyscannet-s"
SELF_CHECK_PSNR = 80.0  # dB, fp32 against float64
IMPORT_SECONDS = 120


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Say what this machine has: versions, devices, scan backends, optional packages, weights; and check itself.

    Exit code 3 if a package that is needed does not work, or a backend gives wrong results.
    """
    report = examine()
    if as_json:
        console.data(report)
    else:
        _print(report)
    if report["problems"]:
        raise typer.Exit(3)


def examine() -> dict[str, Any]:
    """Everything the command shows, as plain data. Nothing that is broken on the machine makes it fail."""
    import xyscannet

    report: dict[str, Any] = {
        "xyscannet": xyscannet.__version__,
        "installed_at": str(Path(xyscannet.__file__).parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _import_here(name, module) for name, module in CORE.items()},
        "cpu": cpu(),
        "memory": _memory(),
        "gpus": [],
        "backends": [],
        "optional": _optional(),
        "weights": [],
        "self_check": [],
    }
    broken = [f"{name}: {found['reason']}" for name, found in report["packages"].items() if found["reason"]]
    report["problems"] = broken
    for name, fill in (
        ("gpus", _gpus),
        ("backends", _backends),
        ("weights", _weights),
        ("self_check", _self_check),
    ):
        try:
            report[name] = fill()
        except Exception as failure:
            report["problems"].append(f"{name}: {type(failure).__name__}: {failure}")
    for check in report["self_check"]:
        if not check["right"]:
            report["problems"].append(f"self-check: {check['scan']} on {check['device']} gives wrong results")
    return report


def _import_here(name: str, module: str) -> dict[str, str | None]:
    try:
        loaded = importlib.import_module(module)
    except (Exception, SystemExit) as failure:
        return {"version": _version(name), "reason": _reason(failure)}
    version = getattr(loaded, "__version__", None)
    return {"version": str(version) if version else _version(name), "reason": None}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _reason(failure: BaseException) -> str:
    return f"{type(failure).__name__}: {failure}".split("\n")[0]


def _optional() -> list[dict[str, Any]]:
    """Each optional package: imported in another process, as a broken one may end the process that imports it."""
    packages = [
        (extra, name, module) for extra, members in EXTRAS.items() for name, module in members.items()
    ]
    found = [module for _, _, module in packages if _is_found(module)]
    reasons = import_elsewhere(found) if found else {}
    return [
        {
            "package": name,
            "extra": extra,
            "version": _version(name) if module in found else None,
            "usable": module in found and reasons[module] is None,
            "reason": reasons[module]
            if module in found
            else f'not installed: pip install "xyscannet[{extra}]"',
        }
        for extra, name, module in packages
    ]


def _is_found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (Exception, SystemExit):
        return True  # its import will say what is wrong


def import_elsewhere(modules: list[str]) -> dict[str, str | None]:
    """Import modules in another process; for each the reason why that fails, None where it does not."""
    code = (
        "import importlib, json, os, sys\n"
        "out = os.fdopen(os.dup(1), 'w')\n"
        "os.dup2(os.open(os.devnull, os.O_WRONLY), 1)\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "        reason = None\n"
        "    except BaseException as failure:\n"
        "        reason = f'{type(failure).__name__}: {failure}'.split('\\n')[0]\n"
        "    print(json.dumps([name, reason]), file=out, flush=True)\n"
    )
    reasons: dict[str, str | None] = {}
    waiting = list(modules)
    while waiting:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        try:
            run = subprocess.run(
                [sys.executable, "-c", code, *waiting],
                capture_output=True,
                text=True,
                timeout=IMPORT_SECONDS,
                env=environment,
            )
            output, end = run.stdout, f"importing it ends the process (code {run.returncode})"
        except subprocess.TimeoutExpired as failure:
            output = (
                (failure.stdout or b"").decode()
                if isinstance(failure.stdout, bytes)
                else failure.stdout or ""
            )
            end = f"importing it takes longer than {IMPORT_SECONDS} s"
        except OSError as failure:
            return reasons | dict.fromkeys(waiting, f"cannot start Python: {failure}")
        reasons |= dict(map(json.loads, output.splitlines()))
        waiting = [name for name in waiting if name not in reasons]
        if waiting:
            reasons[waiting.pop(0)] = end
    return reasons


def cpu() -> dict[str, Any]:
    name, flags = platform.processor() or platform.machine(), set()
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        model = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
        name = model[1] if model else name
        listed = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
        flags = set(listed[1].split()) if listed else set()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"name": name, "cores": usable, "instructions": [each for each in INSTRUCTIONS if each in flags]}


def _memory() -> dict[str, int | None]:
    total = None
    with suppress(ValueError, OSError, AttributeError):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = None
    with suppress(Exception):
        from xyscannet.inference import available_memory

        available = int(available_memory("cpu"))
    return {"total_bytes": total, "available_bytes": available}


def _gpus() -> list[dict[str, Any]]:
    import torch

    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(
            {
                "name": properties.name,
                "memory_bytes": properties.total_memory,
                "capability": f"{properties.major}.{properties.minor}",
            }
        )
    return found


def _backends() -> list[dict[str, Any]]:
    import torch

    from xyscannet import ops

    devices = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    active = {device: ops.active_backend(device) for device in devices}
    return [
        {
            "name": b.name,
            "usable": b.usable,
            "reason": b.reason,
            "default_on": [device for device in devices if active[device] == b.name],
        }
        for b in ops.backends()
    ]


def _weights() -> list[dict[str, Any]]:
    from xyscannet.models import zoo

    infos = [zoo.info(name) for name in zoo.names()]
    return [{"name": info.name, "file": str(info.weights)} for info in infos if info.weights]


def _self_check() -> list[dict[str, Any]]:
    """Every usable backend's network in fp32 against the definition in float64, on a small image."""
    import torch

    from xyscannet import ops
    from xyscannet.analysis import bench

    checks = []
    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        model, weights = bench.load(SELF_CHECK, device)
        for backend in ops.backends():
            if not backend.serves(device) or backend.name == "reference":
                continue
            error, psnr = bench.compare(model, "fp32", backend.name)
            checks.append(
                {
                    "network": SELF_CHECK,
                    "weights": weights,
                    "device": device,
                    "scan": backend.name,
                    "max_error": error,
                    "psnr": psnr,
                    "right": psnr >= SELF_CHECK_PSNR,
                }
            )
    return checks


def _print(report: dict[str, Any]) -> None:
    memory, cpu = report["memory"], report["cpu"]
    tables.facts(
        [
            ("xyscannet", f"{report['xyscannet']} in {report['installed_at']}"),
            ("Python", f"{report['python']} on {report['platform']}"),
            *[(name, _package(found)) for name, found in report["packages"].items()],
            (
                "CPU",
                f"{cpu['name']}, {cpu['cores']} cores, {' '.join(cpu['instructions']) or 'no known SIMD'}",
            ),
            (
                "memory",
                f"{_gibibytes(memory['available_bytes'])} free of {_gibibytes(memory['total_bytes'])}",
            ),
            ("GPU", "\n".join(_gpu(gpu) for gpu in report["gpus"]) or "none that torch can use"),
            ("weights", "\n".join(f"{w['name']}: {w['file']}" for w in report["weights"]) or "none embedded"),
        ]
    )
    print()
    tables.show(
        ["scan backend", "usable", "default on", "what it is, or why not"],
        [
            [b["name"], "yes" if b["usable"] else "no", ", ".join(b["default_on"]), b["reason"]]
            for b in report["backends"]
        ],
    )
    print()
    tables.show(
        ["optional package", "extra", "usable", "version, or why not"],
        [
            [
                p["package"],
                p["extra"],
                "yes" if p["usable"] else "no",
                p["reason"] or p["version"] or "installed",
            ]
            for p in report["optional"]
        ],
    )
    print()
    for check in report["self_check"]:
        print(
            f"self-check: {check['network']} ({check['weights']} weights) on {check['device']} with scan "
            f"{check['scan']}: largest error {check['max_error']:.1e}, {check['psnr']:.0f} dB against the "
            f"definition: {'right' if check['right'] else 'WRONG'}"
        )
    for problem in report["problems"]:
        console.error(problem)


def _package(found: dict[str, str | None]) -> str:
    return found["version"] or "installed" if not found["reason"] else f"does not work: {found['reason']}"


def _gpu(gpu: dict[str, Any]) -> str:
    return f"{gpu['name']}, {_gibibytes(gpu['memory_bytes'])}, capability {gpu['capability']}"


def _gibibytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 2**30:.1f} GiB"
