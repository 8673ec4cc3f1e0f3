"""Checkpoints: round trip, and every kind of wrong file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import stat
from pathlib import Path

import pytest
import safetensors.torch
import torch

from xyscannet import checkpoint, checkpoint_file
from xyscannet.errors import ConfigError, InputError, UnavailableError
from xyscannet.models import XYScanNet, XYScanNetConfig, zoo

DATA = Path(__file__).parent / "data"
OFFICIAL = DATA / "official_dim16_b112.pth"
TINY = XYScanNetConfig(width=4, encoder_blocks=(1, 0, 1), decoder_blocks=(1, 0, 1), d_state=2)


@pytest.fixture
def tiny() -> XYScanNet:
    torch.manual_seed(0)
    return XYScanNet(TINY)


@pytest.fixture
def official() -> dict[str, torch.Tensor]:
    return torch.load(OFFICIAL, weights_only=True)


def test_round_trip_is_exact_and_carries_the_card(tmp_path, tiny):
    path = tmp_path / "tiny.safetensors"
    digest = checkpoint.save(path, tiny, TINY, metadata={"recipe": "smoke – é", "seed": "7"})
    held = checkpoint.read(path)
    assert held.config == TINY
    assert held.metadata == {"recipe": "smoke – é", "seed": "7"}
    assert held.source == path
    assert held.sha256 == digest == hashlib.sha256(path.read_bytes()).hexdigest()
    for name, tensor in tiny.state_dict().items():
        assert torch.equal(held.state[name], tensor), name
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()


def test_headers_of_any_length_are_told_from_a_pickle(tmp_path, tiny):
    """A safetensors file begins with its header's length; where that ends in 0x80 it looks like a pickle."""
    path, first = tmp_path / "tiny.safetensors", set()
    for length in range(0, 256, 8):
        checkpoint.save(path, tiny, TINY, metadata={"note": "x" * length})
        first.add(path.read_bytes()[0])
        assert checkpoint.read(path).metadata == {"note": "x" * length}
    assert 0x80 in first


def test_same_content_gives_the_same_bytes(tmp_path, tiny):
    fields = {name: name for name in "qwertyuiop"}
    digests = {
        checkpoint.save(tmp_path / f"{i}.safetensors", tiny, TINY, metadata=dict(order))
        for i, order in enumerate([fields.items(), sorted(fields.items()), list(fields.items())[::-1]] * 3)
    }
    assert len(digests) == 1


def test_other_tools_read_the_file(tmp_path, tiny):
    path = tmp_path / "tiny.safetensors"
    checkpoint.save(path, tiny, TINY)
    loaded = safetensors.torch.load_file(path)
    assert loaded.keys() == tiny.state_dict().keys()
    with safetensors.safe_open(path, framework="np") as file:
        assert json.loads(file.metadata()["config"]) == TINY.to_dict()


def test_half_precision_storage(tmp_path, tiny):
    path = tmp_path / "tiny.safetensors"
    checkpoint.save(path, tiny, TINY, dtype=torch.float16)
    assert {t.dtype for t in checkpoint.read(path).state.values()} == {torch.float16}
    model = checkpoint.load_model(path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


def test_the_checksum_is_of_the_weights_where_another_file_takes_the_place(tmp_path, tiny, monkeypatch):
    path, other = tmp_path / "tiny.safetensors", tmp_path / "other.safetensors"
    checkpoint.save(path, tiny, TINY)
    torch.nn.init.ones_(tiny.output.weight)
    digest, sha256 = checkpoint.save(other, tiny, TINY), checkpoint_file._sha256

    def replaced_meanwhile(start, file):
        found = sha256(start, file)
        if other.exists():
            other.replace(path)
        return found

    monkeypatch.setattr(checkpoint_file, "_sha256", replaced_meanwhile)
    held = checkpoint.read(path)
    assert held.sha256 == digest and torch.equal(held.state["output.weight"], tiny.output.weight)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_other_types_than_floating_ones_are_not_saved(tmp_path, tiny, dtype):
    with pytest.raises(ConfigError, match="floating"):
        checkpoint.save(tmp_path / "tiny.safetensors", tiny, TINY, dtype=dtype)
    assert not list(tmp_path.iterdir())


def test_loading_leaves_the_random_generator_as_it_is(tmp_path, tiny):
    checkpoint.save(tmp_path / "tiny.safetensors", tiny, TINY)
    before = torch.random.get_rng_state()
    checkpoint.load_model(tmp_path / "tiny.safetensors")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_low_precision_network_keeps_the_scan_parameters(tmp_path, tiny):
    path = tmp_path / "tiny.safetensors"
    checkpoint.save(path, tiny, TINY)
    model = checkpoint.load_model(path, dtype=torch.bfloat16)
    kept = {name for name, p in model.named_parameters() if p.dtype == torch.float32}
    assert kept == {
        name for name, _ in model.named_parameters() if name.endswith(("A_log", "mamba.D", "dt_proj.bias"))
    }
    assert kept
    out = model(torch.rand(1, 3, 8, 12, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16


def test_those_of_ss2d_too(tmp_path):
    config = dataclasses.replace(TINY, scanners=("ss2d", "ss2d"))
    path = tmp_path / "tiny.safetensors"
    checkpoint.save(path, XYScanNet(config), config)
    model = checkpoint.load_model(path, dtype=torch.bfloat16)
    kept = {name for name, p in model.decoder_level1[0].vssm1.named_parameters() if p.dtype == torch.float32}
    assert kept == {"A_logs", "Ds", "dt_projs_bias"}
    assert model(torch.rand(1, 3, 8, 12, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_networks_of_one_checkpoint_share_nothing(tmp_path, tiny):
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, tiny, TINY)
    held = checkpoint.read(path)
    one, other = checkpoint.build(held), checkpoint.build(held)
    places = [
        {p.data_ptr() for p in each} for each in (one.parameters(), other.parameters(), held.state.values())
    ]
    assert len(set.union(*places)) == sum(map(len, places))


def test_overflow_is_refused(tmp_path, tiny):
    tiny.patch_embed.weight.data[0, 0, 0, 0] = 1e6
    with pytest.raises(ConfigError, match="patch_embed.weight.*overflow"):
        checkpoint.save(tmp_path / "x.safetensors", tiny, TINY, dtype=torch.float16)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("metadata", [{"config": "{}"}, {"seed": 7}])
def test_bad_metadata_is_refused(tmp_path, tiny, metadata):
    with pytest.raises(ConfigError, match="metadata"):
        checkpoint.save(tmp_path / "x.safetensors", tiny, TINY, metadata=metadata)


def test_unwritable_place(tmp_path, tiny):
    with pytest.raises(InputError, match="cannot be written"):
        checkpoint.save(tmp_path / "nowhere" / "x.safetensors", tiny, TINY)


def test_failed_write_keeps_the_old_file(tmp_path, tiny, monkeypatch):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", _no_space)
    with pytest.raises(InputError, match="no space left"):
        checkpoint.save(path, tiny, TINY)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_difference_is_readable(tmp_path, tiny):
    state = tiny.state_dict()
    state["extra.weight"] = state.pop("output.weight")
    state["patch_embed.weight"] = torch.zeros(4, 1, 3, 3)
    with pytest.raises(ConfigError) as caught:
        checkpoint.save(tmp_path / "x.safetensors", state, TINY)
    text = str(caught.value)
    assert "1 missing: output.weight" in text
    assert "1 unexpected: extra.weight" in text
    assert "1 of another shape: patch_embed.weight 4x1x3x3 instead of 4x3x3x3" in text


@pytest.mark.parametrize(
    "wrong", [torch.zeros(4, 3, 3, 3, dtype=torch.int8), torch.zeros(4, 3, 3, 3).to_sparse()]
)
def test_tensors_that_hold_no_weights(tiny, wrong):
    state = tiny.state_dict() | {"patch_embed.weight": wrong}
    with pytest.raises(ConfigError, match="1 not plain real numbers: patch_embed.weight"):
        checkpoint.check(state, TINY, "x")


def test_many_differences_are_counted(tiny):
    with pytest.raises(ConfigError, match=r"\d+ missing: \S+, \S+, \S+, and \d+ more"):
        checkpoint.check({}, TINY, "x")


# The authors' files


class Evil:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("protocol", [None, 2, 4, 5])
def test_code_in_a_pickle_is_refused_and_never_run(tmp_path, protocol):
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    if protocol:
        path.write_bytes(pickle.dumps({"state_dict": Evil(trace)}, protocol=protocol))
    else:
        torch.save({"state_dict": Evil(trace)}, path)
    with pytest.raises(ConfigError, match="evil.pth: refused: .*code") as caught:
        checkpoint.read(path)
    assert "system" in str(caught.value) or protocol in (4, 5)
    assert not trace.exists()


def _ours(tmp_path: Path) -> bytes:
    path = tmp_path / "ours.safetensors"
    checkpoint.save(path, XYScanNet(TINY), TINY)
    return path.read_bytes()


def _header(header: dict) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


WRONG = {
    "empty": (lambda tmp: b"", "zero bytes"),
    "text": (lambda tmp: b"hello, this is no checkpoint\n", "is not a checkpoint"),
    "short": (lambda tmp: b"abc", "is not a checkpoint"),
    "html": (lambda tmp: b"<!DOCTYPE html><html>404</html>", "is not a checkpoint"),
    "truncated": (lambda tmp: _ours(tmp)[:-100], "damaged or truncated"),
    "truncated in the header": (lambda tmp: _ours(tmp)[:40], "damaged or truncated"),
    "huge header": (lambda tmp: (1 << 60).to_bytes(8, "little") + b"{}", "damaged or truncated"),
    "truncated pth": (lambda tmp: OFFICIAL.read_bytes()[:50_000], "damaged"),
    "zip": (lambda tmp: b"PK\x03\x04" + bytes(200), "damaged"),
    "pickle without tensors": (lambda tmp: pickle.dumps({"a": 1}, protocol=2), "damaged|no state dict"),
    "foreign safetensors": (lambda tmp: safetensors.torch.save({"w": torch.ones(2)}), "of another program"),
    "bad config": (
        lambda tmp: _header({"__metadata__": {"config": "{", "checkpoint_version": "1"}}),
        "configuration in its header is not valid",
    ),
    "config of another type": (
        lambda tmp: _header({"__metadata__": {"config": "[1]", "checkpoint_version": "1"}}),
        "configuration in its header is not valid",
    ),
    "unknown key": (
        lambda tmp: _header({"__metadata__": {"config": '{"widht": 4}', "checkpoint_version": "1"}}),
        "widht.*width",
    ),
    "newer": (
        lambda tmp: _header({"__metadata__": {"config": "{}", "checkpoint_version": "99"}}),
        "version 99.*update",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_wrong_files_have_one_clear_message(tmp_path, kind, suffix):
    make, message = WRONG[kind]
    path = tmp_path / f"wrong.{suffix}"
    path.write_bytes(make(tmp_path))
    with pytest.raises(ConfigError, match=message) as caught:
        checkpoint.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        {"a": torch.ones(2)},
        {"patch_embed.proj.weight": torch.ones(2)},
        {"decoder_level1.999999999.x": torch.ones(2), "patch_embed.proj.weight": torch.ones(4, 3, 3, 3)},
        {
            "decoder_level1.0.intra.mamba.in_proj.weight": torch.ones(0, 0),
            "patch_embed.proj.weight": torch.ones(3, 3, 3, 3),
        },
        {},
        [torch.ones(2)],
        torch.ones(2),
    ],
)
def test_foreign_pth(tmp_path, content):
    path = tmp_path / "foreign.pth"
    torch.save(content, path)
    with pytest.raises(ConfigError, match=r"foreign\.pth"):
        checkpoint.read(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UnavailableError, match="no such checkpoint"):
        checkpoint.load_model(tmp_path / "no.safetensors")
    with pytest.raises(ConfigError, match="is a folder"):
        checkpoint.load_model(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(ConfigError, match="no regular file"):
        checkpoint.read(tmp_path / "pipe.pth")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(_ours(tmp_path))
    path.chmod(0)
    with pytest.raises(UnavailableError, match="cannot be read"):
        checkpoint.read(path)


def test_names(monkeypatch, tmp_path, tiny):
    with pytest.raises(ConfigError, match=r"xyscannet-x: neither .*xyscannet-s"):
        checkpoint.load_model("xyscannet-x")
    path = tmp_path / "w.safetensors"
    checkpoint.save(path, tiny, TINY)
    infos = {name: zoo.info(name) for name in zoo.names()}
    monkeypatch.setattr(zoo, "info", lambda name: _with_weights(infos[name], name, path))
    assert checkpoint.load_model("xyscannet-s").config == TINY
    with pytest.raises(UnavailableError, match="xyscannet-plus: no weights are embedded.*use xyscannet-s"):
        checkpoint.load_model("xyscannet-plus")


def _with_weights(info, name: str, path: Path):
    return dataclasses.replace(info, weights=path if name == "xyscannet-s" else None)


def _no_space(*_):
    raise OSError(28, "No space left on device")


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
