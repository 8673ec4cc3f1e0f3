"""KLFF's gated sum against its definition in float64: outputs, every gradient, sizes that differ."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from tests.ops.compare import BOUND, assert_matches_reference, rms_ratio
from xyscannet.ops import use_backend
from xyscannet.ops.kl_gate import kl_gated_sum, reference


def kl_inputs(size=(3, 24, 8, 12), factors=((1, 1), (1, 1)), dtype=torch.float32, layout="channels-last"):
    """Leaves current, first, second; the two are smaller by `factors` in height and width."""

    def leaf(high, wide):
        batch, channels, height, width = size
        shape = (batch, channels, height // high, width // wide)
        x = torch.randn(shape).to(dtype)
        if layout == "channels-last":
            x = x.contiguous(memory_format=torch.channels_last)
        elif layout == "half":
            x = torch.stack([torch.full_like(x, float("nan")), x], 1).permute(0, 3, 4, 1, 2)
            x = x.reshape(shape[0], *shape[2:], -1)[..., channels:].permute(0, 3, 1, 2)
        return x.requires_grad_()

    return dict(zip(("current", "first", "second"), (leaf(*f) for f in ((1, 1), *factors)), strict=True))


GATES = ["element", "mean"]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("channels", [1, 5, 16, 24, 36, 48])
@pytest.mark.parametrize("layout", ["channels-last", "channels-first", "half"])
def test_equal_sizes(gate, dtype, channels, layout):
    inputs = kl_inputs((3, channels, 7, 9), dtype=dtype, layout=layout)
    assert_matches_reference(kl_gated_sum, inputs, gate=gate)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("factors", [((2, 2), (4, 4)), ((1, 3), (4, 1)), ((8, 12), (1, 1))])
def test_smaller_maps_are_resized_as_they_are_read(gate, factors):
    assert_matches_reference(kl_gated_sum, kl_inputs(factors=factors), gate=gate)


def test_sizes_that_are_no_divisors_take_torchs_resizing():
    inputs = kl_inputs((2, 6, 7, 9), ((2, 2), (3, 4)))  # 3x4 and 2x2
    assert_matches_reference(kl_gated_sum, inputs, gate="element")
    larger = kl_inputs((2, 6, 7, 9))
    larger["second"] = torch.randn(2, 6, 14, 11).requires_grad_()
    assert_matches_reference(kl_gated_sum, larger, gate="mean")


@pytest.mark.parametrize("height", [1, 2, 63, 129])
def test_every_number_of_rows(height):
    assert_matches_reference(kl_gated_sum, kl_inputs((1, 12, height, 3)), gate="element")
    assert_matches_reference(kl_gated_sum, kl_inputs((2, 12, height, 3)), gate="mean")


def test_gradients_in_double_precision():
    inputs = kl_inputs((2, 3, 4, 2), ((2, 1), (4, 2)), torch.float64)
    for gate in GATES:
        assert torch.autograd.gradcheck(partial(kl_gated_sum, gate=gate), tuple(inputs.values()))


def test_half_precision_takes_the_definition():
    inputs = kl_inputs((2, 6, 4, 4), dtype=torch.float16)
    found = kl_gated_sum(**inputs)
    assert found.dtype == torch.float16
    exact = reference.kl_gated_sum(*(x.double() for x in inputs.values()), "element")
    assert rms_ratio(found, exact) < 5e-3


def test_close_and_distant_values():
    """Where the logarithms cancel, and where exp overflows or vanishes."""
    current = torch.tensor([0.0, 1e-4, -30.0, 30.0, 87.0, -87.0, 1e4, -1e4, 200.0, -3.0, 5.0, -12.0])
    inputs = {"current": current, "first": current + 1e-3, "second": -current}
    inputs = {name: x.view(1, 12, 1, 1) for name, x in inputs.items()}
    with torch.no_grad():
        found = kl_gated_sum(**inputs)
        exact = reference.kl_gated_sum(*(x.double() for x in inputs.values()), "element")
    torch.testing.assert_close(found.double(), exact, rtol=2e-6, atol=2e-6)
    leaves = [x.requires_grad_() for x in inputs.values()]
    assert all(x.isfinite().all() for x in torch.autograd.grad(kl_gated_sum(*leaves).sum(), leaves))


@pytest.mark.parametrize("gate", GATES)
def test_nan_stays(gate):
    inputs = {name: x.detach() for name, x in kl_inputs((2, 20, 3, 3)).items()}
    for x in inputs.values():
        spoilt = x.clone()
        spoilt[0, 17, 1, 1] = float("nan")
        given = {name: spoilt if y is x else y for name, y in inputs.items()}
        found = kl_gated_sum(**given, gate=gate)
        assert found[0, 17, 1, 1].isnan() and found[1].isfinite().all()
        assert gate == "mean" or found.isnan().sum() == 1


def test_means_do_not_depend_on_threads_or_neighbours():
    inputs = kl_inputs((3, 24, 33, 35))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            result = kl_gated_sum(**inputs, gate="mean")
            found.append((result, *torch.autograd.grad(result.square().sum(), list(inputs.values()))))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
    alone = kl_gated_sum(**{name: x[1:2] for name, x in inputs.items()}, gate="mean")
    assert torch.equal(alone[0], found[0][0][1])


def test_empty_batches_and_one_pixel():
    for size in ((0, 6, 4, 4), (1, 6, 1, 1)):
        inputs = kl_inputs(size)
        for gate in GATES:
            result = kl_gated_sum(**inputs, gate=gate)
            assert result.shape == size
            torch.autograd.grad(result.sum(), list(inputs.values()))


def test_bad_input_is_refused():
    inputs = kl_inputs((2, 6, 4, 4))
    with pytest.raises(ValueError, match="'max' is unknown"):
        kl_gated_sum(**inputs, gate="max")
    with pytest.raises(ValueError, match="cannot be gated"):
        kl_gated_sum(inputs["current"], inputs["first"][:, :5], inputs["second"])


def test_types_that_differ_give_that_of_current():
    inputs = kl_inputs((2, 6, 4, 4))
    with use_backend("reference"):
        expected = kl_gated_sum(**inputs)
    inputs["second"] = inputs["second"].detach().bfloat16().requires_grad_()
    found = kl_gated_sum(**inputs)
    assert found.dtype == torch.float32 and rms_ratio(found, expected) < BOUND[torch.bfloat16]
    assert torch.autograd.grad(found.sum(), inputs["second"])[0].dtype == torch.bfloat16


@pytest.mark.parametrize("gate", GATES)
def test_compiled_whole(gate):
    inputs = kl_inputs(factors=((2, 2), (4, 4)))
    compiled = torch.compile(partial(kl_gated_sum, gate=gate), fullgraph=True, backend="aot_eager")
    assert_matches_reference(lambda **given: compiled(**given), inputs)


@pytest.mark.parametrize("mean", [False, True])
def test_registration_is_complete(mean):
    inputs = kl_inputs((2, 6, 4, 4), ((2, 2), (4, 4)))
    torch.library.opcheck(torch.ops.xyscannet.kl_gated_sum.default, (*inputs.values(), mean, "cpu"))


def test_autocast():
    """Convolutions before it give bfloat16; it computes in float32 and returns bfloat16."""
    from xyscannet.models.fusion import KLFF

    fuse = KLFF((8, 8, 8))
    levels = [torch.randn(1, 8, 4, 6) for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        found = fuse(*levels)
    assert found.dtype == torch.bfloat16 and rms_ratio(found, fuse(*levels)) < 2e-2
