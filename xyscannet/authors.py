"""The authors' released ``.pth`` files: read without running code, unwrapped, sized and renamed.

Only tensors are ever taken from such a file: a pickle that calls for anything else is refused unread.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from xyscannet.errors import ConfigError
from xyscannet.models import XYScanNetConfig

State = dict[str, torch.Tensor]

_WRAPPERS = (
    "params_ema",
    "ema",
    "state_dict",
    "model_state_dict",
    "params",
    "model",
    "net",
    "network",
    "generator",
)
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")

# Names in the authors' state dict (left) and here (right); applied in order.
_RENAMES = [
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"^patch_embed\.proj\.", r"patch_embed."),
        (r"\.(norm[12]_(?:ssm|ffn))\.body\.", r".\1."),
        (r"^((?:down|up)\d_\d)\.body\.1\.", r"\1.conv."),
        (r"\.(intra|inter)\.(conv_input|fuse_out|mamba)\.", r".\1.scanner.\2."),
        (r"\.intra\.", r".vssm1."),
        (r"\.inter\.", r".vssm2."),
        (r"\.scanner\.conv_input\.", r".scanner.conv_in."),
        (r"\.scanner\.fuse_out\.", r".scanner.conv_out."),
        (r"^clff_level([12])\.", r"fusion_level\1."),
        (r"^(fusion_level[12])\.fuse_out1\.", r"\1.conv_out."),
        (r"^reduce_chan_level([12])\.", r"reduce_level\1."),
    )
]


def read_pth(path: Path) -> tuple[State, XYScanNetConfig]:
    """State dict under this package's names, and the config its tensors show (gate "mean", as they trained).

    Raises ConfigError where the file is damaged, holds code, is packed, or is not such a state dict.
    """
    state = read_state(path)
    config = _config_of(state, path)
    return {rename(name): tensor for name, tensor in state.items()}, config


def is_authors(state: State) -> bool:
    """Whether the state dict is one of the authors', by the mixers that no other network has."""
    return any(".intra.mamba." in name for name in state)


def read_state(path: Path) -> State:
    """The state dict of any network in a ``.pth`` file, without what training wrapped around it.

    Raises ConfigError where the file is damaged, holds code, is packed, or has no state dict.
    """
    _refuse_packed(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a newer pickle protocol, which is then refused
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for damaged files
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found or "Unsupported operand" in str(error):
            doubt, named = ("", f" ({found[1]})") if found else ("it is damaged, or ", "")
            raise ConfigError(
                f"{path}: refused: {doubt}reading it would run Python code{named}. "
                "Save only the tensors of its state dict, with torch.save, and try again"
            ) from None
        raise _damaged(path) from None
    return _unwrap(content, path)


def _damaged(path: Path) -> ConfigError:
    return ConfigError(f"{path}: is damaged or not a PyTorch checkpoint; fetch or export it again")


def _refuse_packed(path: Path) -> None:
    """Refuse an archive whose parts are together larger than it is: torch.save packs nothing, and torch.load would
    unpack a megabyte to whatever it claims to hold."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return
        try:
            parts = zipfile.ZipFile(file).infolist()
        except Exception:  # zipfile raises many types for damaged files
            raise _damaged(path) from None
    packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
    if packed or sum(part.file_size for part in parts) > path.stat().st_size:
        raise ConfigError(
            f"{path}: refused: parts of it are packed, which torch.save never does, and may unpack to any size. "
            "Save the state dict again with torch.save"
        )


def _unwrap(content: object, path: Path) -> State:
    """The state dict inside a training checkpoint, without the prefixes of parallel and compiled modules."""
    found = list(_states(content))
    if not found:
        names = [str(key) for key in content] if isinstance(content, Mapping) else [type(content).__name__]
        raise ConfigError(f"{path}: holds no state dict, only {first(names) or 'an empty one'}")
    state = dict(next(filter(is_authors, found), found[0]))
    for _ in range(len(_PREFIXES)):
        for prefix in _PREFIXES:
            if all(name.startswith(prefix) for name in state):
                state = {name[len(prefix) :]: tensor for name, tensor in state.items()}
    return state


def _states(content: object, depth: int = 4) -> Iterator[State]:
    """The state dicts in a training checkpoint, those under the names that training programs give them first."""
    if _is_state(content):
        yield content
    elif isinstance(content, Mapping) and depth:
        named = [content[key] for key in _WRAPPERS if key in content]
        for inner in (*named, *filter(_is_state, content.values())):
            yield from _states(inner, depth - 1)


def _is_state(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items())
    )


def _config_of(state: State, path: Path) -> XYScanNetConfig:
    """Width, block counts and mixer sizes as the tensors show them; the gate is the one they trained with."""

    def shape(name: str, dimensions: int) -> torch.Size:
        if name not in state:
            raise ConfigError(
                f"{path}: is not an XYScanNet state dict: it lacks {name}; its names are {first(list(state))}"
            )
        if state[name].dim() != dimensions:
            raise ConfigError(f"{path}: {name} is {size(state[name].shape)}, not of {dimensions} dimensions")
        return state[name].shape

    def blocks(part: str) -> tuple[int, ...]:
        found = {m.groups() for name in state if (m := re.match(rf"{part}_level([123])\.(\d+)\.", name))}
        return tuple(sum(level == at for at, _ in found) for level in "123")

    decoder = blocks("decoder")
    level = next((level for level in (1, 2, 3) if decoder[level - 1]), None)
    if level is None:
        names = first(list(state))
        raise ConfigError(f"{path}: is not an XYScanNet state dict: no decoder blocks; its names are {names}")
    block = f"decoder_level{level}.0"
    width = shape("patch_embed.proj.weight", 4)[0]
    in_proj = shape(f"{block}.intra.mamba.in_proj.weight", 2)
    try:
        return XYScanNetConfig(
            width=width,
            encoder_blocks=blocks("encoder"),
            decoder_blocks=decoder,
            ffn_expansion=shape(f"{block}.ffn1.project_out.weight", 4)[1] / (width * 2 ** (level - 1)),
            d_state=shape(f"{block}.intra.mamba.A_log", 2)[1],
            d_conv=shape(f"{block}.intra.mamba.conv1d.weight", 3)[2],
            expand=in_proj[0] // (2 * in_proj[1]),
            gate="mean",
        )
    except (ConfigError, ZeroDivisionError) as error:
        raise ConfigError(f"{path}: no XYScanNet has tensors of these shapes: {error}") from None


def rename(name: str) -> str:
    """A name of the authors' state dict as this package has it."""
    for pattern, ours in _RENAMES:
        name = pattern.sub(ours, name)
    return name


def first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (f", and {len(names) - count} more" if len(names) > count else "")


def size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
