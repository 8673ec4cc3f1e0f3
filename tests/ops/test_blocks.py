"""The steps of blocks in the cache against the modules, one operator after another, in float64."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from tests.ops.conftest import kernels_of
from xyscannet.models import steps
from xyscannet.models.layers import GDFN, LayerNorm2d
from xyscannet.models.vssm import VSSM
from xyscannet.ops import blocks, keeping, packing, use_backend

SIZES = [(1, 12, 1, 1), (1, 24, 1, 500), (2, 20, 7, 13), (1, 48, 65, 70), (1, 40, 3, 131), (2, 24, 130, 9)]
LIMIT = 2e-6  # of the largest value


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The compiled kernels that have run."""
    from xyscannet.ops.blocks import cpu

    return kernels_of(cpu, monkeypatch)


def image(batch: int, channels: int, height: int, width: int) -> Tensor:
    x = torch.randn(batch, channels, height, width)
    return x.contiguous(memory_format=torch.channels_last)


def prepared(module: nn.Module) -> nn.Module:
    """With weights that are not small, so that every part shows."""
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1 and "A_log" not in name:
            parameter.mul_(2)
    return module.eval()


def norm_of(channels: int) -> LayerNorm2d:
    norm = LayerNorm2d(channels)
    norm.weight.normal_(1, 0.3), norm.bias.normal_(0, 0.3)
    return norm


def double(*modules: nn.Module) -> list[nn.Module]:
    return [copy.deepcopy(module).double() for module in modules]


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= LIMIT * expected.abs().max()


@pytest.mark.parametrize("expansion", [1.0, 2.7])
@pytest.mark.parametrize("size", SIZES)
def test_feed_forward(size: tuple[int, ...], expansion: float, kernels: list[str]) -> None:
    norm, ffn, x = norm_of(size[1]), prepared(GDFN(size[1], expansion)), image(*size)
    normed, made = double(norm, ffn)
    expected = made(normed(x.double()))
    assert_near(steps.feed_forward(norm, ffn, x, residual=False), expected)
    assert_near(steps.feed_forward(norm, ffn, x), x + expected)
    assert kernels == ["feed_forward", "feed_forward"]


@pytest.mark.parametrize("kind", ["intra", "inter"])
@pytest.mark.parametrize("size", SIZES)
def test_state_space(size: tuple[int, ...], kind: str, kernels: list[str]) -> None:
    norm, vssm, x = norm_of(size[1]), prepared(VSSM(size[1], kind)), image(*size)
    normed, made = double(norm, vssm)
    assert_near(steps.state_space(norm, vssm, x), x + made(normed(x.double())))
    assert kernels == ["scan_inputs", "scan_outputs"]


@pytest.mark.parametrize(
    "options", [{"bidirectional": True}, {"expand": 1}, {"expand": 3}, {"d_state": 4}, {"d_conv": 2}]
)
def test_state_space_of_other_mixers(options: dict) -> None:
    norm, vssm, x = norm_of(24), prepared(VSSM(24, "intra", **options)), image(1, 24, 9, 30)
    normed, made = double(norm, vssm)
    assert_near(steps.state_space(norm, vssm, x), x + made(normed(x.double())))


@pytest.mark.parametrize("size", SIZES)
def test_halves_and_what_is_wanted(size: tuple[int, ...], kernels: list[str]) -> None:
    """The parts that strips ask for, one by one."""
    norm, vssm, x = norm_of(size[1]), prepared(VSSM(size[1], "intra")), image(*size)
    normed, made = double(norm, vssm)
    features, gate = made.split(normed(x.double()))
    scanned = [made.scanner.rows(features), made.scanner.columns(features)]
    rows, opened = steps.half(norm, vssm, x, 0, gate=True)
    columns, nothing = steps.half(norm, vssm, x, 1, gate=False)
    assert nothing is None
    for found, expected in ((rows, scanned[0]), (columns, scanned[1]), (opened, gate)):
        assert_near(found, expected)
    merged = made.merge(made.scanner.conv_out(torch.cat(scanned, dim=1)), gate)
    assert_near(steps.merge(vssm, opened, rows, columns), merged)
    assert_near(steps.gate(norm, vssm, x), gate)
    assert_near(steps.features(norm, vssm, x), made.scanner.conv_in(features))
    assert kernels == ["scan_inputs", "scan_inputs", "scan_outputs", "scan_inputs", "scan_inputs"]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_pixels_result_does_not_depend_on_tiles_threads_or_what_is_beside(threads: int) -> None:
    """To the last bit."""
    norm, ffn, vssm = norm_of(24), prepared(GDFN(24)), prepared(VSSM(24, "inter"))
    x = image(3, 24, 70, 150)
    x[2] = float("nan")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = steps.feed_forward(norm, ffn, x), steps.features(norm, vssm, x)
        window = x[1:2, :, 5:50, 20:140]
        alone = steps.feed_forward(norm, ffn, window), steps.features(norm, vssm, window)
    finally:
        torch.set_num_threads(before)
    for all_, part in zip(together, alone):
        inside = all_[1:2, :, 6:49, 21:139]
        assert torch.equal(part[:, :, 1:-1, 1:-1], inside) and torch.isfinite(inside).all()


def test_a_nan_reaches_its_neighbours_alone() -> None:
    norm, ffn, x = norm_of(24), prepared(GDFN(24)), image(1, 24, 40, 150)
    x[0, 3, 20, 64] = float("nan")
    found = steps.feed_forward(norm, ffn, x).isnan().any(1)[0]
    expected = torch.zeros(40, 150, dtype=torch.bool)
    expected[19:22, 63:66] = True
    assert torch.equal(found, expected)


@pytest.mark.parametrize("layout", ["contiguous", "window", "every second", "one channel"])
def test_any_strides(layout: str) -> None:
    whole = image(2, 24, 20, 60)
    x = {
        "contiguous": lambda: whole.contiguous(),
        "window": lambda: whole[:, :, 3:17, 10:41],
        "every second": lambda: whole[:, :, ::2, ::3],
        "one channel": lambda: torch.randn(2, 24, 20, 60)[:, :, :, :1],
    }[layout]()
    norm, ffn, vssm = norm_of(24), prepared(GDFN(24)), prepared(VSSM(24, "intra"))
    plain = x.clone(memory_format=torch.contiguous_format).contiguous(memory_format=torch.channels_last)
    assert torch.equal(steps.feed_forward(norm, ffn, x), steps.feed_forward(norm, ffn, plain))
    assert torch.equal(steps.state_space(norm, vssm, x), steps.state_space(norm, vssm, plain))


@pytest.mark.parametrize("size", [(0, 24, 5, 5), (2, 24, 0, 5), (2, 24, 5, 0)])
def test_nothing_of_nothing(size: tuple[int, ...]) -> None:
    assert steps.feed_forward(norm_of(24), GDFN(24), torch.zeros(size)).shape == size


def test_weights_that_are_written_to_count_at_once() -> None:
    norm, ffn, x = norm_of(24), prepared(GDFN(24)), image(1, 24, 8, 8)
    steps.feed_forward(norm, ffn, x)
    for change in (
        lambda: ffn.project_in.weight.data.neg_(),  # which torch does not count
        lambda: ffn.project_out.weight.numpy().__imul__(2),
        lambda: ffn.project_out.weight.mul_(3),
        lambda: norm.bias.add_(1),
        lambda: ffn.load_state_dict(GDFN(24).state_dict()),
        lambda: setattr(ffn.dwconv, "weight", nn.Parameter(torch.randn(48, 1, 3, 3))),
    ):
        change()
        normed, made = double(norm, ffn)
        assert_near(steps.feed_forward(norm, ffn, x), x + made(normed(x.double())))


def test_weights_are_laid_out_once_while_they_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    norm, ffn, x, packs = norm_of(24), prepared(GDFN(24)), image(1, 24, 8, 8), []
    pack = packing.pack
    monkeypatch.setattr(packing, "pack", lambda rows: packs.append(1) or pack(rows))
    with keeping.kept():
        first = steps.feed_forward(norm, ffn, x)
        with keeping.kept():
            assert torch.equal(steps.feed_forward(norm, ffn, x), first)
        laid_out = len(packs)
        steps.feed_forward(norm, ffn, x)
    assert len(packs) == laid_out > 0
    steps.feed_forward(norm, ffn, x)
    assert len(packs) == 2 * laid_out


def test_while_they_are_kept_weights_are_told_apart() -> None:
    norm, x = norm_of(24), image(1, 24, 8, 8)
    with keeping.kept():
        for _ in range(20):  # each where the last one was
            ffn = prepared(GDFN(24))
            normed, made = double(norm, ffn)
            assert_near(steps.feed_forward(norm, ffn, x), x + made(normed(x.double())))


def test_where_it_does_not_run() -> None:
    weight, x = torch.zeros(24), image(1, 24, 4, 4)
    assert not blocks.runs_here(x.bfloat16(), weight) and not blocks.runs_here(x, weight.double())
    with torch.enable_grad():
        assert not blocks.runs_here(x, weight.clone().requires_grad_())
        assert blocks.runs_here(x, weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert not blocks.runs_here(x, weight)
    with use_backend("reference"):
        assert not blocks.runs_here(x, weight)
    assert not blocks.runs_here(x.to("meta"), weight.to("meta"))


def test_hooks_see_every_module() -> None:
    norm, vssm, x, seen = norm_of(24), prepared(VSSM(24, "intra")), image(1, 24, 8, 8), []
    plain = steps.state_space(norm, vssm, x)
    handle = vssm.scanner.conv_in.register_forward_hook(lambda *_: seen.append(1))
    assert_near(steps.state_space(norm, vssm, x), plain.double())
    handle.remove()
    steps.state_space(norm, vssm, x)
    assert seen == [1]


@pytest.mark.parametrize("trained", ["norm", "first", "middle", "last"])
def test_one_weight_that_is_trained_gets_its_gradient(trained: str) -> None:
    """Beside others that are frozen."""
    norm, ffn, vssm, x = norm_of(24), GDFN(24), VSSM(24, "intra"), image(1, 24, 6, 7)
    for module in (norm, ffn, vssm):
        module.requires_grad_(False)
    weights = {
        "norm": [norm.bias, norm.bias],
        "first": [ffn.project_in.weight, vssm.proj_in.weight],
        "middle": [ffn.dwconv.weight, vssm.scanner.mamba.D],
        "last": [ffn.project_out.weight, vssm.proj_out.weight],
    }[trained]
    with torch.enable_grad():
        for step, module, weight in zip((steps.feed_forward, steps.state_space), (ffn, vssm), weights):
            weight.requires_grad_()
            step(norm, module, x).sum().backward()
            assert weight.grad.abs().max() > 0
            weight.requires_grad_(False)


def test_hooks_see_what_strips_merge() -> None:
    norm, vssm, x, seen = norm_of(24), prepared(VSSM(24, "intra")), image(1, 24, 8, 8), []
    vssm.proj_out.register_forward_hook(lambda *_: seen.append(1))
    rows, opened = steps.half(norm, vssm, x, 0, gate=True)
    steps.merge(vssm, opened, rows, steps.half(norm, vssm, x, 1, gate=False)[0])
    assert seen == [1]


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, norm, square = image(1, 24, 4, 5), (torch.ones(24), torch.zeros(24), 1e-5), torch.zeros(24, 24, 1, 1)
    wide, taps, across = torch.zeros(48, 24, 1, 1), torch.zeros(48, 1, 3, 3), torch.zeros(1, 5, 12)
    short = (torch.ones(12), torch.zeros(24), 1e-5)
    for call in (
        lambda: blocks.feed_forward(x[0], norm, wide, taps, square),
        lambda: blocks.feed_forward(x, short, wide, taps, square),
        lambda: blocks.feed_forward(x, norm, wide[:47], taps[:47], square),
        lambda: blocks.feed_forward(x, norm, wide, taps[:24], square),
        lambda: blocks.feed_forward(x, norm, wide, taps, wide),
        lambda: blocks.scan_inputs(x, norm, wide, taps, wide),
        lambda: blocks.scan_inputs(x, norm, square, taps[:24], square),
        lambda: blocks.scan_inputs(x, norm, wide, taps, square, torch.zeros(96, 24)),
        lambda: blocks.scan_inputs(x, norm, wide, taps, square, half=0),
        lambda: blocks.scan_outputs(x, x, x, square, square),
        lambda: blocks.scan_outputs(x, x[:, :, :2], x, torch.zeros(24, 48, 1, 1), square),
        lambda: blocks.scan_outputs(x, None, x, square, wide),
        lambda: blocks.scan_outputs(x, None, x, square, square, residual=x[:, :12]),
        lambda: blocks.scan_outputs(x, None, x, square, square, gates=(across, across)),
    ):
        with pytest.raises(ValueError, match="expected|a half"):
            call()
