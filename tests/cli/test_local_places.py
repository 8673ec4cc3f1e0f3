"""Addresses where only files of this machine are taken: one message, exit code 2, and no folder that is named "s3:"."""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.data.miniature import picture
from xyscan_cli import options
from xyscan_cli.app import COMMANDS, app
from xyscannet.errors import ConfigError
from xyscannet.training.recipes import load_config

THERE = "memory://box/place"


@pytest.fixture
def refused(here: Path):
    picture(here / "photos/a.png")
    before = sorted(Path().rglob("*"))

    def run(*arguments: str, code: int = 2) -> str:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == code, (result.output, result.exception)
        assert result.stderr.startswith("error: ") and result.stderr.count("error:") == 1
        assert "memory://box/place" in result.stderr and not result.stdout
        assert sorted(Path().rglob("*")) == before
        return result.stderr

    return run


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (["deblur", "photos", "out", "--json", THERE], ["--json"]),
        (["data", "synth", "photos"], ["OUT_DIR", THERE]),
        (["data", "synth", THERE, "out"], ["SHARP_DIR"]),
        (["data", "check", "photos", "--json", THERE], ["--json"]),
        (["models", "convert", "a.pth", f"{THERE}.safetensors"], ["OUT.safetensors"]),
        (["models", "card", THERE], ["DIR"]),
        (["models", "card", "photos", "--markdown", THERE], ["--markdown"]),
        (["train", "smoke", "--output", THERE], ["--output"]),
        (["train", "smoke", "--resume", THERE], ["--resume"]),
        (["train", f"{THERE}.yaml"], ["NAME|FILE"]),
        (["train", "smoke", "--perceptual-weights", THERE], ["--perceptual-weights"]),
        (["train", "smoke", "--set", f"data.photos=[photos, '{THERE}']"], ["data.photos.1"]),
        (["train", "smoke", "--set", f"data.validation={THERE}"], ["data.validation"]),
        (["train", "smoke", "--set", f"data.pairs=[{{root: '{THERE}'}}]"], ["data.pairs.0.root"]),
        (
            ["train", "smoke", "--set", f"validation.pairs={{blur: '{THERE}', sharp: x}}"],
            ["validation.pairs.blur"],
        ),
        (["train", "smoke", "--set", f"loss.perceptual_weights={THERE}"], ["loss: ", "is an address"]),
        (["ablate", "slices", "--out", THERE], ["--out"]),
        (["ablate", "slices", "--from", THERE], ["--from"]),
        (["ablate", "slices", "--latex", THERE], ["--latex"]),
        (["ablate", "slices", "--eval", f"gopro={THERE}"], ["--eval gopro"]),
        (["ablate", "slices", "--set", f"data.photos=['{THERE}']"], ["data.photos.0"]),
        (["erf", THERE], ["PHOTO|FOLDER"]),
        (["erf", "photos", "--figures", THERE], ["--figures"]),
        (["erf", "photos", "--maps", f"{THERE}.npz"], ["--maps"]),
        (["features", THERE], ["PHOTO"]),
        (["features", "photos/a.png", "--csv", THERE], ["--csv"]),
        (["bench", "--json", THERE], ["--json"]),
        (["bench", "--plot", f"{THERE}.png"], ["--plot"]),
        (["bench", "--trace", THERE], ["--trace"]),
    ],
    ids=lambda value: " ".join(value[:4]),
)
def test_an_address_is_refused_by_the_name_of_its_option(
    command: list[str], named: list[str], refused
) -> None:
    last = [named.pop()] if named[-1] == THERE else []
    error = refused(*command, *last)
    assert "address" in error and all(name in error for name in named), error


def functions() -> Iterator[Callable]:
    for name in COMMANDS:
        module = importlib.import_module(f"xyscan_cli.commands.{name}")
        if hasattr(module, "app"):
            yield from (each.callback for each in module.app.registered_commands)
        else:
            yield module.command


def test_every_path_of_every_command_refuses_addresses() -> None:
    """An option of type Path is local; one that takes addresses too is text, which the command gives to `place_of`."""
    seen = 0
    for function in functions():
        for name, hint in typing.get_type_hints(function, include_extras=True).items():
            if name != "return" and "Path" in str(typing.get_args(hint)[:1]):
                # Python 3.10 puts Optional around what is None by default.
                annotated = hint if hasattr(hint, "__metadata__") else typing.get_args(hint)[0]
                (said,) = annotated.__metadata__
                assert said.parser in (options.local, options.journal), (inspect.getfile(function), name)
                seen += 1
    assert seen > 25


def test_a_file_address_is_a_path(here: Path) -> None:
    assert options.local(f"file://{here}/a.csv") == here / "a.csv"
    assert options.local_text("auto") == "auto"


def test_the_library_refuses_them_in_a_configuration() -> None:
    with pytest.raises(ConfigError, match=r"data\.photos\.0: s3://bucket/photos is an address"):
        load_config("smoke", ["data.photos=['s3://bucket/photos']"])
