"""What is in this machine: processors, memory, packages. Nothing that is broken there makes these fail."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xyscannet.control_groups import processors
from xyscannet.environment import cores

if TYPE_CHECKING:
    import torch

CORE = {
    "torch": "torch",
    "numpy": "numpy",
    "numba": "numba",
    "pillow": "PIL",
    "opencv-python-headless": "xyscannet.opencv",
    "safetensors": "safetensors",
    "pydantic": "pydantic",
    "pyyaml": "yaml",
    "typer": "typer",
    "rich": "rich",
}
EXTRAS = {
    "cuda": {"mamba-ssm": "mamba_ssm", "causal-conv1d": "causal_conv1d"},
    "metrics": {
        "pyiqa": "pyiqa",
        "lpips": "lpips",
        "stlpips-pytorch": "stlpips_pytorch",
        "clean-fid": "cleanfid",
    }
    | {"scikit-image": "skimage", "scipy": "scipy", "matplotlib": "matplotlib"},
    "train": {"accelerate": "accelerate", "tensorboard": "tensorboard"}
    | {"scikit-image": "skimage", "matplotlib": "matplotlib"},
    "video": {"av": "av"},
    "heif": {"pillow-heif": "pillow_heif"},
    "cluster": {"ray": "ray", "fsspec": "fsspec"},
    "figures": {"matplotlib": "matplotlib"},
    "peers": {"spandrel": "spandrel", "spandrel-extra-arches": "spandrel_extra_arches"},
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
IMPORT_SECONDS = 120
TORCHVISION = {
    "pyiqa",
    "lpips",
    "stlpips_pytorch",
    "cleanfid",
    "spandrel",
    "spandrel_extra_arches",
}  # import it


def import_here(name: str, module: str) -> dict[str, str | None]:
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


def optional() -> Callable[[], list[dict[str, Any]]]:
    """Begin to import each optional package in another process, as a broken one may end it; what is returned waits."""
    packages = [
        (extra, name, module) for extra, members in EXTRAS.items() for name, module in members.items()
    ]
    found = [module for module in dict.fromkeys(module for *_, module in packages) if _is_found(module)]
    imported = import_elsewhere(found)

    def told() -> list[dict[str, Any]]:
        reasons = imported()
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

    return told


def _is_found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (Exception, SystemExit):
        return True  # its import will say what is wrong


def import_elsewhere(modules: list[str]) -> Callable[[], dict[str, str | None]]:
    """Begin to import modules in another process; what is returned waits, and tells why each fails, or None."""
    code = (
        "import sys\n"
        "sys.path[:] = filter(None, sys.path)\n"  # not where we are, which `-c` puts first
        "import gc, importlib, json, os\n"
        "gc.disable()\n"  # it would look through all that is imported, which stays
        "out = os.fdopen(os.dup(1), 'w')\n"
        "os.dup2(os.open(os.devnull, os.O_WRONLY), 1)\n"
        f"if not {TORCHVISION}.isdisjoint(sys.argv):\n"  # which xyscan itself imports so
        "    try:\n"
        "        from xyscannet.torchvision_guard import import_torchvision\n"
        "        import_torchvision()\n"
        "    except BaseException:\n"
        "        pass\n"
        "for name in sys.argv[1:]:\n"
        "    path = list(sys.path)\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "        reason = None\n"
        "    except BaseException as failure:\n"
        "        reason = f'{type(failure).__name__}: {failure}'.split('\\n')[0]\n"
        "        sys.path[:] = path\n"  # OpenCV leaves its folder there, in which the next would find others
        "    print(json.dumps([name, reason]), file=out, flush=True)\n"
        "os._exit(0)\n"
    )
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *modules],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
    except OSError as failure:
        reason = f"cannot start Python: {failure}"
        return lambda: dict.fromkeys(modules, reason)

    def told() -> dict[str, str | None]:
        try:
            output, _ = process.communicate(timeout=IMPORT_SECONDS)
            end = f"importing it ends the process (code {process.returncode})"
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            end = f"importing it takes longer than {IMPORT_SECONDS} s"
        reasons = dict(map(json.loads, output.splitlines()))
        left = [name for name in modules if name not in reasons]
        if left:
            reasons[left.pop(0)] = end
        return reasons | import_elsewhere(left)() if left else reasons

    return told


def cpu() -> dict[str, Any]:
    name, flags = platform.processor() or platform.machine(), set()
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        model = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
        name = model[1] if model else name
        listed = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
        flags = set(listed[1].split()) if listed else set()
    quota = processors()
    return {
        "name": name,
        "cores": cores(),
        "quota": None if quota == math.inf else quota,
        "instructions": [each for each in INSTRUCTIONS if each in flags],
    }


def memory() -> dict[str, int | None]:
    total = None
    with suppress(ValueError, OSError, AttributeError):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = None
    with suppress(Exception):  # numba, say, whose import may fail in any way, is told as what it is elsewhere
        from xyscannet.inference import available_memory

        available = int(available_memory("cpu"))
    return {"total_bytes": total, "available_bytes": available}


def gpus() -> list[dict[str, Any]]:
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


def gpu_stack(index: int) -> dict[str, Any]:
    """What a GPU's figures depend on: its name and the versions below torch."""
    import torch

    driver = None
    with suppress(OSError, subprocess.SubprocessError, IndexError):
        query = ["nvidia-smi", f"--id={index}", "--query-gpu=driver_version", "--format=csv,noheader"]
        run = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
        driver = run.stdout.split()[0]
    return {
        "device": torch.cuda.get_device_name(index),
        "driver": driver,
        "cuda": torch.version.cuda,
        "triton": _version("triton"),
    }


def versions() -> dict[str, str]:
    """Of what every result depends on."""
    import torch

    import xyscannet

    return {
        "xyscannet": xyscannet.__version__,
        "torch": torch.__version__,
        "Python": platform.python_version(),
    }


def device_name(device: torch.device) -> str:
    """A device in words: the GPU's name, or the CPU's and how many threads torch has."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu()['name']}, {torch.get_num_threads()} threads"
