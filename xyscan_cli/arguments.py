"""Values of options, read from the text that was given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from xyscannet.errors import ConfigError


def listed(text: str, option: str) -> list[str]:
    """The parts of a comma-separated option, each once. Raises ConfigError where there is none."""
    parts = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise ConfigError(f"{option}: give one value at least")
    return parts


def parse_size(text: str, option: str) -> tuple[int, int]:
    """Height and width of `720x1280`. Raises ConfigError for another form."""
    found = re.fullmatch(r"([1-9]\d{0,5})[x×]([1-9]\d{0,5})", text)
    if not found:
        raise ConfigError(f"{option}: {text!r} is not a size such as 720x1280 (height before width)")
    return int(found[1]), int(found[2])


def labels(models: Sequence[str]) -> dict[str, str]:
    """Networks' names, or their files' without folder and suffix; whole paths where several files are named alike."""
    short = {model: re.sub(r"\.(safetensors|pth)$", "", Path(model).name) for model in models}
    return {model: name if list(short.values()).count(name) == 1 else model for model, name in short.items()}
