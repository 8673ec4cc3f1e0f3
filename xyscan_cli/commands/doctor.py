"""`xyscan doctor`: what this machine has, what works and what does not, with the reason."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated, Any

import typer

from xyscan_cli import console, machine, tables

SELF_CHECK = "xyscannet-s"
SELF_CHECK_PSNR = 80.0  # dB, fp32 against float64


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Say what this machine has: versions, devices, scan backends, optional packages, weights; and check itself.

    Exit code 3 if a package that is needed does not work, or a backend gives wrong results.
    """
    report = examine()
    if as_json:
        console.data(report | {"self_check": [console.finite(check) for check in report["self_check"]]})
    else:
        _print(report)
    if report["problems"]:
        raise typer.Exit(3)


def examine() -> dict[str, Any]:
    """Everything the command shows, as plain data. Nothing that is broken on the machine makes it fail."""
    import xyscannet

    optional = machine.optional()  # takes about as long as all that follows
    report: dict[str, Any] = {
        "xyscannet": xyscannet.__version__,
        "installed_at": str(Path(xyscannet.__file__).parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: machine.import_here(name, module) for name, module in machine.CORE.items()},
        "cpu": machine.cpu(),
        "memory": machine.memory(),
        "gpus": [],
        "backends": [],
        "optional": [],
        "weights": [],
        "self_check": [],
    }
    broken = [f"{name}: {found['reason']}" for name, found in report["packages"].items() if found["reason"]]
    report["problems"] = broken
    for name, fill in (
        ("gpus", machine.gpus),
        ("backends", _backends),
        ("weights", _weights),
        ("self_check", _self_check),
        ("optional", optional),
    ):
        try:
            report[name] = fill()
        except Exception as failure:
            report["problems"].append(f"{name}: {type(failure).__name__}: {failure}")
    for check in report["self_check"]:
        if not check["right"]:
            report["problems"].append(f"self-check: {check['scan']} on {check['device']} gives wrong results")
    return report


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
    from xyscannet.analysis.cases import Case

    checks = []
    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        model, weights = bench.load(SELF_CHECK, device)
        for backend in ops.backends():
            if not backend.serves(device) or backend.name == "reference":
                continue
            parity = bench.compare(model, Case(SELF_CHECK, 0, 0, "fp32", backend.name))
            checks.append(
                {
                    "network": SELF_CHECK,
                    "weights": weights,
                    "device": device,
                    "scan": backend.name,
                    "max_error": parity.max_error,
                    "psnr": parity.psnr,
                    "right": parity.psnr >= SELF_CHECK_PSNR,
                }
            )
    return checks


def _print(report: dict[str, Any]) -> None:
    memory = report["memory"]
    tables.facts(
        [
            ("xyscannet", f"{report['xyscannet']} in {report['installed_at']}"),
            ("Python", f"{report['python']} on {report['platform']}"),
            *[(name, _package(found)) for name, found in report["packages"].items()],
            ("CPU", _cpu(report["cpu"])),
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


def _cpu(cpu: dict[str, Any]) -> str:
    quota = f" of which control groups allow the time of {cpu['quota']:.3g}" if cpu["quota"] else ""
    return f"{cpu['name']}, {cpu['cores']} cores{quota}, {' '.join(cpu['instructions']) or 'no known SIMD'}"


def _package(found: dict[str, str | None]) -> str:
    return found["version"] or "installed" if not found["reason"] else f"does not work: {found['reason']}"


def _gpu(gpu: dict[str, Any]) -> str:
    return f"{gpu['name']}, {_gibibytes(gpu['memory_bytes'])}, capability {gpu['capability']}"


def _gibibytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 2**30:.1f} GiB"
