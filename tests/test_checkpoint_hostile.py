"""Damaged and hostile checkpoints: one error that names the file, in bounded time and memory, and no code is run."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.damage import damaged, quick
from tests.limits import bounded
from tests.test_checkpoint import OFFICIAL, TINY, Evil
from xyscannet import checkpoint, checkpoint_file
from xyscannet.errors import ConfigError, XYScanError
from xyscannet.models import XYScanNet


def saved(state: object, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small file of each kind. The authors' names and shapes are kept, but one number stands for each tensor."""
    path = tmp_path_factory.mktemp("valid") / "ours.safetensors"
    checkpoint.save(path, XYScanNet(TINY), TINY)
    official = torch.load(OFFICIAL, weights_only=True)
    state = {name: torch.ones(1).expand(tensor.shape) for name, tensor in official.items()}
    return {
        "safetensors": path.read_bytes(),
        "pth": saved(state),
        "legacy": saved(state, _use_new_zipfile_serialization=False),
    }


def rewritten(data: bytes, change, **options) -> bytes:
    """A zip file with `change(name, content)` in place of each part's content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", **options) as new:
        for part in old.infolist():
            new.writestr(part.filename, change(part.filename, old.read(part)))
    return buffer.getvalue()


def refused(path: Path, data: bytes, words: str) -> None:
    path.write_bytes(data)
    with bounded(mebibytes=24), pytest.raises(ConfigError, match=words) as caught:
        checkpoint.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["safetensors", "pth", "legacy", "pickle in a sound pth"])
def test_damage_is_one_error_or_a_checkpoint(kind: str, valid: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "damaged.pth"

    @quick
    @given(st.data())
    def attempt(drawn: st.DataObject) -> None:
        def change(name: str, content: bytes) -> bytes:
            return drawn.draw(damaged(content)) if name.endswith("data.pkl") else content

        if kind == "pickle in a sound pth":
            path.write_bytes(rewritten(valid["pth"], change))
        else:
            path.write_bytes(drawn.draw(damaged(valid[kind])))
        with bounded():
            try:
                held = checkpoint.read(path)
            except XYScanError as error:
                assert str(path) in str(error)
            else:
                checkpoint.check(held.state, held.config, "what was read")

    for data in valid.values():
        path.write_bytes(data)
        checkpoint.read(path)
    attempt()


@pytest.mark.parametrize("part", ["data.pkl", "data/0", "version", "anything"])
def test_a_zip_bomb_is_refused_unpacked(part: str, valid: dict[str, bytes], tmp_path: Path) -> None:
    bomb = bytes(48 << 20)

    def change(name: str, content: bytes) -> bytes:
        return bomb if name.endswith("/" + part) else content

    data = rewritten(valid["pth"], change, compression=zipfile.ZIP_DEFLATED)
    if part == "anything":
        buffer = io.BytesIO(data)
        with zipfile.ZipFile(buffer, "a", compression=zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/anything", bomb)
        data = buffer.getvalue()
    assert len(data) < 1 << 20
    refused(tmp_path / "bomb.pth", data, "packed")


def test_parts_that_lie_over_each_other_are_refused(tmp_path: Path) -> None:
    """A stored part a thousand times over: the directory names it again and again."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 20))
        archive.filelist *= 1000
        archive._didModify = True
    refused(tmp_path / "bomb.pth", buffer.getvalue(), "packed")


def headed(**changes: object) -> bytes:
    values = {**TINY.to_dict(), **changes}
    return with_header({"config": json.dumps(values), "checkpoint_version": "1"})


def with_header(metadata: dict[str, str]) -> bytes:
    text = json.dumps({"__metadata__": metadata}).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "sizes",
    [
        {"encoder_blocks": [10**6, 1, 1]},
        {"width": 10**9},
        {"width": 10**12, "d_state": 10**12},
        {"d_state": 10**9},
        {"d_conv": 10**9},
        {"expand": 10**9},
        {"ffn_expansion": 1e300},
        {"ffn_expansion": float("inf")},
        {"ffn_expansion": float("nan")},
    ],
    ids=str,
)
def test_a_header_that_asks_for_an_endless_network(sizes: dict, tmp_path: Path) -> None:
    refused(tmp_path / "endless.safetensors", headed(**sizes), f"not valid: {next(iter(sizes))}")


@pytest.mark.parametrize(
    "metadata",
    [
        {"config": "[" * 100_000, "checkpoint_version": "1"},
        {"config": "{}", "checkpoint_version": "9" * 5000},
        {"config": "{}", "checkpoint_version": "²"},
        {"config": "9" * 5000, "checkpoint_version": "1"},
    ],
    ids=["nested", "long number", "superscript", "long configuration"],
)
def test_headers_that_python_stumbles_over(metadata: dict[str, str], tmp_path: Path) -> None:
    refused(tmp_path / "odd.safetensors", with_header(metadata), "version|not valid")


def test_a_file_of_another_kind_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "film.safetensors"
    with path.open("wb") as file:
        file.write(b"\x1aE\xdf\xa3 a film of a terabyte")
        file.truncate(1 << 40)  # takes no room on the disk
    with bounded(seconds=1), pytest.raises(ConfigError, match="is not a checkpoint"):
        checkpoint.read(path)


def test_a_checkpoint_that_vanishes_while_it_is_read(
    valid: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vanishing.pth"
    path.write_bytes(valid["pth"])
    digest = checkpoint_file._sha256
    monkeypatch.setattr(checkpoint_file, "_sha256", lambda *given: (path.unlink(), digest(*given))[1])
    with pytest.raises(XYScanError, match=r"vanishing\.pth: no such"):
        checkpoint.read(path)


def test_code_beside_sound_tensors_is_not_run(valid: dict[str, bytes], tmp_path: Path) -> None:
    """A state dict that would load, with one entry more, in each format that may hold code."""
    trace, path = tmp_path / "trace", tmp_path / "evil.pth"
    state = torch.load(io.BytesIO(valid["pth"]), weights_only=True)
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        refused(path, saved({"state_dict": state, "hook": Evil(trace)}, **options), "would run Python code")
    assert not trace.exists()
