from __future__ import annotations

import pytest
import torch

from tests.ops.compare import assert_matches_reference, rms_ratio
from xyscannet.ops import selective_scan_fn, slice_scan, use_backend


def sequence_inputs(batch=3, channels=12, length=19, states=16, groups_b=None, groups_c=None, strided=False):
    """u, delta, z (B, D, L); B and C (B, N, L) for groups None, constant (D, N) for 0, else (B, G, N, L)."""

    def image():
        x = torch.randn(batch, length, channels).transpose(1, 2)
        return x if strided else x.contiguous()

    def mixing(groups):
        if groups == 0:
            return torch.randn(channels, states)
        return torch.randn(*((batch, states, length) if groups is None else (batch, groups, states, length)))

    inputs = {
        "u": image(),
        "delta": image() - 1,
        "A": -torch.rand(channels, states) * 4,
        "B": mixing(groups_b),
        "C": mixing(groups_c),
        "D": torch.randn(channels),
        "z": image(),
        "delta_bias": torch.randn(channels),
    }
    return {name: x.requires_grad_() for name, x in inputs.items()}


def by_definition(u, delta, A, B, C, D, z, delta_bias):
    """The recurrence written once more, by einsum, for (B, D, L) and B, C of (B, D, N, L)."""
    delta = torch.nn.functional.softplus(delta + delta_bias[:, None])
    state, outputs = torch.zeros(*u.shape[:2], A.shape[1], dtype=u.dtype), []
    for t in range(u.shape[2]):
        decay = torch.exp(torch.einsum("bd,dn->bdn", delta[..., t], A))
        state = decay * state + torch.einsum("bd,bdn->bdn", delta[..., t] * u[..., t], B[..., t])
        outputs.append(torch.einsum("bdn,bdn->bd", state, C[..., t]))
    return (torch.stack(outputs, -1) + u * D[:, None]) * torch.nn.functional.silu(z), state


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize(
    "groups", [(None, None), (2, 2), (1, 12), (4, None), (0, None), (None, 0), (0, 0), (0, 3)]
)
def test_forms_of_b_and_c_with_every_gradient(groups, strided):
    inputs = sequence_inputs(groups_b=groups[0], groups_c=groups[1], strided=strided)
    assert_matches_reference(selective_scan_fn, inputs, delta_softplus=True, return_last_state=True)


@pytest.mark.parametrize("length", [1, 2, 63, 129])
def test_odd_lengths_without_last_state(length):
    assert_matches_reference(
        selective_scan_fn, sequence_inputs(length=length, channels=36), delta_softplus=True
    )


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_definition_written_once_more(backend):
    inputs = {name: x.detach().double() for name, x in sequence_inputs(groups_b=3, groups_c=0).items()}
    expanded = {
        **inputs,
        "B": inputs["B"].repeat_interleave(4, 1),
        "C": inputs["C"][None, :, :, None].expand(3, -1, -1, 19),
    }
    expected, state = by_definition(**expanded)
    with use_backend(backend):
        out, last = selective_scan_fn(**inputs, delta_softplus=True, return_last_state=True)
    assert rms_ratio(out, expected) < 1e-12 and rms_ratio(last, state) < 1e-12
    assert out.is_contiguous() and last.shape == (3, 12, 16)


def test_half_precision_keeps_a_float32_last_state():
    inputs = {name: x.detach() for name, x in sequence_inputs().items()}
    half = {name: x.bfloat16() if name in ("u", "delta", "B", "C", "z") else x for name, x in inputs.items()}
    out, last = selective_scan_fn(**half, delta_softplus=True, return_last_state=True)
    assert out.dtype == torch.bfloat16 and last.dtype == torch.float32
    assert rms_ratio(out, selective_scan_fn(**inputs, delta_softplus=True)) < 2e-2


def test_misfits_are_named():
    inputs = sequence_inputs()
    with pytest.raises(TypeError, match="A is torch.complex64"):
        selective_scan_fn(**{**inputs, "A": inputs["A"].to(torch.complex64)})
    with pytest.raises(ValueError, match="B has shape"):
        selective_scan_fn(**{**inputs, "B": inputs["B"][:, :, :3]})
    with pytest.raises(ValueError, match="delta has shape"):
        selective_scan_fn(**{**inputs, "delta": inputs["delta"][:, :3]})
    with pytest.raises(ValueError, match="multiple"):
        selective_scan_fn(**sequence_inputs(groups_b=2, groups_c=3))


def _arguments(**other: torch.Tensor | None) -> dict[str, torch.Tensor | None]:
    given = dict(zip(("u", "delta", "A", "B", "C"), sequence_inputs(1, 4, 5, 3).values()))
    return {**given, **other}


@pytest.mark.parametrize("name", ["delta", "A", "B", "C", "D", "z", "delta_bias"])
def test_tensors_of_other_devices_are_refused(name):
    given = _arguments(D=torch.ones(4), z=torch.ones(1, 4, 5), delta_bias=torch.ones(4))
    with pytest.raises(ValueError, match=f"{name} is on meta, u on cpu"):
        selective_scan_fn(**{**given, name: given[name].to("meta")})


@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "C"])
def test_what_is_needed_must_be_there(name):
    with pytest.raises(TypeError, match=f"{name} is NoneType, not a tensor"):
        selective_scan_fn(**_arguments(**{name: None}))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_result_may_be_changed_in_place(backend):
    u = torch.rand(1, 4, 5, requires_grad=True)
    given = _arguments(u=u)
    with use_backend(backend):
        selective_scan_fn(**given).add_(1).mul_(2).sum().backward()
        changed, u.grad = u.grad, None
        (2 * selective_scan_fn(**given) + 1).sum().backward()
    torch.testing.assert_close(changed, u.grad)


def test_forward_mode_is_refused_not_zero():
    given = _arguments()
    u = given.pop("u")
    with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
        torch.func.jvp(lambda u: selective_scan_fn(u, **given), (u,), (torch.ones_like(u),))
    with use_backend("reference"):
        torch.func.jvp(lambda u: selective_scan_fn(u, **given), (u,), (torch.ones_like(u),))


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(("batch", "length"), [(0, 5), (2, 0), (0, 0)])
def test_nothing_in_nothing_out(backend, batch, length):
    u, B = torch.ones(batch, 4, length), torch.ones(batch, 3, length)
    with use_backend(backend):
        out, last = selective_scan_fn(u, u, torch.ones(4, 3), B, B, return_last_state=True)
    assert out.shape == u.shape and torch.equal(last, torch.zeros(batch, 4, 3))


@pytest.mark.parametrize(("channels", "states"), [(0, 3), (4, 0)])
def test_nothing_to_scan_is_said(channels, states):
    u, A, B = torch.zeros(1, channels, 5), torch.zeros(channels, states), torch.zeros(channels, states)
    with pytest.raises(ValueError, match="nothing to scan"):
        selective_scan_fn(u, u, A, B, B)
    with pytest.raises(ValueError, match="nothing to scan"):
        u, B = torch.zeros(1, 2, 5, 1, channels), torch.zeros(1, 2, 5, 1, states)
        slice_scan(u, u, A, B, B, directions=("x",))
