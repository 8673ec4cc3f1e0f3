"""Inputs of the operators at any shape and layout, and the comparison with the float64 reference."""

from __future__ import annotations

import torch

from xyscannet.ops import use_backend

DIRECTIONS = ("x", "-x", "y", "-y")
BOUND = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}


def rms_ratio(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.detach(), expected.detach()
    error = (found.double() - expected.double()).square().mean().sqrt()
    return float(error / expected.double().square().mean().sqrt().clamp_min(1e-6))


def scan_inputs(
    batch=2, height=3, width=5, branches=4, channels=12, states=16, dtype=torch.float32, without=()
):
    """Leaf tensors by name; u and z, and B and C, are halves of one storage as in the network."""
    shape = (batch, height, width, branches)
    u, z = torch.randn(*shape, 2 * channels).to(dtype).split(channels, -1)
    b, c = torch.randn(*shape, 2 * states).to(dtype).split(states, -1)
    inputs = {
        "u": u,
        "delta": (torch.randn(*shape, channels) - 1).to(dtype),
        "A": -torch.rand(channels, states) * 4,
        "B": b,
        "C": c,
        "D": torch.randn(channels),
        "z": z,
        "delta_bias": torch.randn(channels),
    }
    if dtype == torch.float64:
        inputs = {name: x.double() for name, x in inputs.items()}
    return {name: x.detach().requires_grad_() for name, x in inputs.items() if name not in without}


def conv_inputs(batch=2, height=3, width=5, branches=4, channels=12, taps=4, dtype=torch.float32, bias=True):
    x = torch.randn(batch, height, width, branches, 2 * channels).to(dtype)[..., channels:]
    inputs = {"x": x, "weight": torch.randn(channels, taps), "bias": torch.randn(channels) if bias else None}
    if dtype == torch.float64:
        inputs = {name: None if x is None else x.double() for name, x in inputs.items()}
    return {name: x.detach().requires_grad_() for name, x in inputs.items() if x is not None}


def mixer_inputs(batch, height, width, branches, channels, rank=2, states=16, taps=4, dtype=torch.float32):
    return {
        "xz": torch.randn(batch, height, width, branches, 2 * channels).to(dtype),
        "conv_weight": torch.randn(channels, taps) / 2,
        "conv_bias": torch.randn(channels) / 2,
        "x_proj": torch.randn(rank + 2 * states, channels) / channels**0.5,
        "dt_weight": torch.randn(channels, rank) / 2,
        "dt_bias": torch.randn(channels) - 2,
        "A": -torch.rand(channels, states) * 4,
        "D": torch.randn(channels),
    }


def run(function, inputs, weights=None, **options):
    """The result(s) and the gradient of every input for one fixed random cotangent."""
    results = function(**inputs, **options)
    results = results if isinstance(results, tuple) else (results,)
    if weights is None:
        weights = [torch.randn_like(r, memory_format=torch.contiguous_format) for r in results]
    grads = torch.autograd.grad(
        results, list(inputs.values()), [w.to(r.dtype) for w, r in zip(weights, results)]
    )
    return results, dict(zip(inputs, grads)), weights


def assert_matches_reference(function, inputs, bound=None, **options):
    """Results and every gradient against the reference in float64, by the ratio of root mean squares."""
    dtype = next(iter(inputs.values())).dtype
    bound = BOUND[dtype] if bound is None else bound
    results, grads, weights = run(function, inputs, **options)
    exact = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
    with use_backend("reference"):
        expected, expected_grads, _ = run(function, exact, [w.double() for w in weights], **options)
    errors = {f"result {i}": rms_ratio(a, b) for i, (a, b) in enumerate(zip(results, expected))}
    errors |= {f"gradient of {name}": rms_ratio(grads[name], expected_grads[name]) for name in inputs}
    assert all(error <= bound for error in errors.values()), errors
    for name, grad in grads.items():
        assert grad.dtype == inputs[name].dtype and grad.shape == inputs[name].shape
    assert results[0].dtype == dtype
