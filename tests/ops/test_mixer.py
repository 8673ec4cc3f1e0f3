"""The mixer's middle in one walk on a CPU against the operators it is made of, in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.ops.compare import DIRECTIONS, mixer_inputs, rms_ratio
from tests.ops.conftest import kernels_of
from xyscannet.ops import use_backend
from xyscannet.ops.mixer import mamba_mixer


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(autouse=True)
def walks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The compiled kernels that have run."""
    from xyscannet.ops.mixer import cpu

    return kernels_of(cpu, monkeypatch)


def expected_of(inputs: dict[str, Tensor], directions: tuple[str, ...]) -> Tensor:
    with use_backend("reference"):
        return mamba_mixer(**{name: x.double() for name, x in inputs.items()}, directions=directions)


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 5), (1, 1, 97), (1, 49, 2), (1, 24, 48)])
@pytest.mark.parametrize("channels", [4, 12, 24, 48])
def test_every_direction_at_any_size(size: tuple[int, int, int], channels: int, walks: list[str]) -> None:
    inputs = mixer_inputs(*size, branches=4, channels=channels)
    assert rms_ratio(mamba_mixer(**inputs, directions=DIRECTIONS), expected_of(inputs, DIRECTIONS)) <= 2e-6
    assert walks == ["mixer"]


@pytest.mark.parametrize(
    "options", [{"rank": 1}, {"rank": 7}, {"states": 4}, {"states": 20}, {"taps": 1}, {"taps": 7}]
)
def test_any_rank_states_and_taps(options: dict) -> None:
    inputs = mixer_inputs(2, 9, 31, 2, 20, **options)
    assert rms_ratio(mamba_mixer(**inputs, directions=("x", "y")), expected_of(inputs, ("x", "y"))) <= 2e-6


@pytest.mark.parametrize("states", [1, 6])
def test_states_that_are_no_multiple_of_four(states: int, walks: list[str]) -> None:
    """They are taken operator by operator."""
    inputs = mixer_inputs(1, 3, 40, 2, 12, states=states)
    assert rms_ratio(mamba_mixer(**inputs, directions=("x", "y")), expected_of(inputs, ("x", "y"))) <= 2e-6
    assert not walks


def test_strong_decay() -> None:
    """Beyond the range of the short exponential."""
    inputs = mixer_inputs(1, 2, 60, 2, 24)
    inputs["A"] = inputs["A"] * 500
    assert rms_ratio(mamba_mixer(**inputs, directions=("x", "y")), expected_of(inputs, ("x", "y"))) <= 2e-6


def test_any_strides() -> None:
    inputs = mixer_inputs(2, 6, 40, 4, 24)
    whole, apart = inputs["xz"], torch.randn(2, 6, 40, 48, 2).transpose(3, 4)
    for xz in (whole[:, ::2, 3:31, 1:3], whole.transpose(1, 2)[:, :, :, :2], apart):
        strided, packed = {**inputs, "xz": xz}, {**inputs, "xz": xz.contiguous()}
        assert not xz.is_contiguous()
        found = mamba_mixer(**strided, directions=("x", "-y"))
        assert torch.equal(found, mamba_mixer(**packed, directions=("x", "-y")))
        assert rms_ratio(found, expected_of(strided, ("x", "-y"))) <= 2e-6


@pytest.mark.parametrize(
    "name", ["xz", "conv_weight", "conv_bias", "x_proj", "dt_weight", "dt_bias", "A", "D"]
)
def test_shapes_that_do_not_fit_are_refused(name: str) -> None:
    inputs = mixer_inputs(1, 3, 5, 2, 24)
    inputs[name] = inputs[name][..., :8] if name in ("xz", "x_proj", "A") else inputs[name][:8]
    with pytest.raises(ValueError, match="do not fit"):
        mamba_mixer(**inputs, directions=("x", "y"))


@pytest.mark.parametrize("directions", [("x", "y", "-x"), ("x", "z")])
def test_so_are_directions(directions: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="directions out of"):
        mamba_mixer(**mixer_inputs(1, 3, 5, 2, 24), directions=directions)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_does_not_depend_on_others(threads: int) -> None:
    """To the last bit, whatever the threads and even beside NaN."""
    inputs = mixer_inputs(3, 70, 50, 2, 24)
    torch.set_num_threads(threads)
    alone = mamba_mixer(**{**inputs, "xz": inputs["xz"][1:2, 20:21]}, directions=("x", "x"))
    inputs["xz"][:, 19] = inputs["xz"][:, 21] = inputs["xz"][0] = float("nan")
    together = mamba_mixer(**inputs, directions=("x", "x"))
    assert torch.equal(together[1:2, 20:21], alone) and torch.isfinite(alone).all()


def test_what_follows_a_nan_is_nan_and_what_is_before_is_not() -> None:
    inputs = mixer_inputs(1, 2, 90, 1, 24)
    inputs["xz"][0, 0, 40, 0, 3] = float("nan")
    found = mamba_mixer(**inputs, directions=("x",))[0, :, :, 0].isnan().any(-1)
    assert not found[0, :40].any() and found[0, 40:].all() and not found[1].any()
