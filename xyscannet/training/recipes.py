"""Configurations read from recipes and YAML files, with overrides; every fault is named with its key."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from xyscannet.errors import ConfigError
from xyscannet.training.config import TrainConfig, network_config

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


class _Loader(yaml.SafeLoader):
    """YAML whose mappings have no key twice, of which the last would count alone."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} again", problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return node


def recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def description(recipe: str) -> str:
    """What a recipe is for: the first line of its file."""
    first = (RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a recipe (by name) or a YAML file, apply `key.sub=value` overrides, check everything.

    Values of overrides are YAML (`data.photos=[a, b.tar]`); `model.width=24` changes a named network.
    Raises ConfigError with every fault found.
    """
    path = _find(source)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of keys to values")
    values.setdefault("name", path.stem)
    for item in overrides:
        _override(values, item)
    return parse_config(values, where=str(path))


def parse_config(values: Mapping[str, Any], where: str = "configuration") -> TrainConfig:
    """Check a mapping and make the configuration of it. Raises ConfigError."""
    unknown = list(_unknown_keys(TrainConfig, values, ""))
    if unknown:
        raise ConfigError(f"{where}: " + "; ".join(unknown))
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        faults = [_fault(item) for item in error.errors(include_url=False)]
        raise ConfigError(f"{where}: " + "; ".join(faults)) from error


def _find(source: str | Path) -> Path:
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"the configuration {path} does not exist")
        return path
    if str(source) in recipes():
        return RECIPES / f"{source}.yaml"
    near = difflib.get_close_matches(str(source), recipes(), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    known = ", ".join(recipes())
    raise ConfigError(f"no recipe is called {str(source)!r}{hint}; there are {known}; or give a .yaml file")


def _override(values: dict[str, Any], item: str) -> None:
    key, equals, text = item.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set needs key=value, not {item!r}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: {text!r} is not a YAML value") from error
    *parents, last = key.strip().split(".")
    model = values.get("model", TrainConfig.model_fields["model"].default)
    if parents == ["model"] and isinstance(model, str):
        values["model"] = network_config(model).to_dict()
    for parent in parents:
        inner = values.get(parent)
        if inner is None:
            inner = values[parent] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {key}: {parent!r} holds a value, not a section")
        values = inner
    values[last] = value


def _unknown_keys(kind: Any, values: Any, prefix: str) -> typing.Iterator[str]:
    """Name every key that `kind` does not have, with the nearest name that it has."""
    fields = _fields(kind)
    if fields is None or not isinstance(values, Mapping):
        return
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.4)
            hint = f"; did you mean {prefix + near[0]!r}?" if near else f"; known: {', '.join(fields)}"
            yield f"unknown key {prefix + str(key)!r}{hint}"
            continue
        inner = fields[key]
        if typing.get_origin(inner) is tuple and isinstance(value, Sequence) and not isinstance(value, str):
            for index, entry in enumerate(value):
                yield from _unknown_keys(typing.get_args(inner)[0], entry, f"{prefix}{key}.{index}.")
        else:
            yield from _unknown_keys(inner, value, f"{prefix}{key}.")


def _fields(kind: Any) -> dict[str, Any] | None:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kind = next((each for each in typing.get_args(kind) if _fields(each)), None)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    if dataclasses.is_dataclass(kind):
        return {field.name: field.type for field in dataclasses.fields(kind)}
    return None


def _fault(item: Mapping[str, Any]) -> str:
    message = str(item["msg"]).removeprefix("Value error, ")
    place = ".".join(str(part) for part in item["loc"])
    return f"{place}: {message}" if place else message
