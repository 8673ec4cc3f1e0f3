"""One image: whole, tiled, ensemble, number formats, and what happens when numbers or memory run out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from xyscannet.errors import ConfigError, InputError
from xyscannet.inference import plan_image, restore
from xyscannet.inference.memory import peak_bytes
from xyscannet.inference.plan import plan_for, spans
from xyscannet.inference.restore import ENSEMBLE, blend_weights, turned, turned_back
from xyscannet.models import XYScanNet, XYScanNetConfig


class Toy(nn.Module):
    """A local operator with the network's door: every pixel from its 3 x 3 neighbourhood."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = XYScanNetConfig(width=8)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        return x + 0.1 * self.conv(x)


@pytest.fixture
def toy() -> Toy:
    return Toy().eval().requires_grad_(False)


def tiles(height: int, width: int, side: int):
    return plan_image(height, width, XYScanNetConfig(width=8), device="cpu", dtype=torch.float32, tile=side)


@pytest.mark.parametrize(
    ("length", "count", "overlap"), [(501, 3, 96), (997, 5, 32), (4096, 7, 96), (64, 1, 0)]
)
def test_blend_weights_sum_to_one(length: int, count: int, overlap: int) -> None:
    size, starts = spans(length, count, overlap)
    total = torch.zeros(length, dtype=torch.float64)
    for start, weight in zip(starts, blend_weights(length, size, starts)):
        assert (weight >= 0).all() and weight.shape == (size,)
        total[start : start + size] += weight.double()
    assert (total - 1).abs().max() < 1e-6


def test_blend_is_smooth() -> None:
    size, starts = spans(500, 3, 96)
    assert all(weight.diff().abs().max() < 0.02 for weight in blend_weights(500, size, starts))


@pytest.mark.parametrize(("height", "width", "side"), [(203, 317, 100), (90, 1000, 256), (301, 64, 64)])
def test_tiles_of_a_local_operator_give_the_whole(toy: Toy, height: int, width: int, side: int) -> None:
    image = torch.rand(2, 3, height, width)
    plan = tiles(height, width, side)
    assert plan.mode == "tiles"
    whole = toy(image).clamp(0, 1)
    toy.seen.clear()
    tiled = restore(toy, image, plan)
    assert len(set(toy.seen)) == 1 and len(toy.seen) == plan.grid[0] * plan.grid[1]
    # a tile's own border lacks its neighbours' pixels, there the ramp is near zero
    assert (tiled - whole).abs().max() < 2e-3


def test_no_pixel_of_another_tile_is_left(toy: Toy) -> None:
    flat = torch.full((1, 3, 200, 200), 0.5)
    assert (restore(toy, flat, tiles(200, 200, 80)) - restore(toy, flat))[..., 1:-1, 1:-1].abs().max() < 0.02


def test_result_is_clamped_float32_where_the_image_is(toy: Toy) -> None:
    out = restore(toy, torch.full((1, 3, 9, 7), 30.0, dtype=torch.float64))
    assert out.dtype == torch.float32 and out.max() == 1 and out.shape == (1, 3, 9, 7)


@pytest.mark.parametrize("turn", range(ENSEMBLE))
def test_turns_are_undone(turn: int) -> None:
    image = torch.rand(1, 3, 5, 7)
    assert torch.equal(turned_back(turned(image, turn), turn), image)


def test_ensemble_averages_eight_different_turns(toy: Toy) -> None:
    image = torch.rand(1, 3, 6, 10)
    assert len({turned(image, turn).flatten()[:8].numpy().tobytes() for turn in range(ENSEMBLE)}) == ENSEMBLE
    mean = torch.stack([turned_back(toy(turned(image, t)), t) for t in range(ENSEMBLE)]).mean(0)
    assert torch.allclose(restore(toy, image, ensemble=True), mean.clamp(0, 1), atol=1e-6)


class Overflowing(Toy):
    """Overflows in half precision alone."""

    def forward(self, x: Tensor) -> Tensor:
        big = self.conv(x * 3e5)
        return x + 0.0 * big


def test_not_finite_is_computed_again_in_float32(toy: Toy) -> None:
    model, said = Overflowing().eval(), []
    image = torch.rand(1, 3, 8, 8)
    assert torch.allclose(restore(model, image, dtype=torch.float16, tell=said.append), image)
    assert len(said) == 1 and "computed again in float32" in said[0]


def test_never_finite_is_an_error(toy: Toy) -> None:
    toy.conv.bias.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        restore(toy, torch.rand(1, 3, 8, 8))
    with pytest.raises(InputError, match="image holds values"):
        restore(toy, torch.full((1, 3, 8, 8), float("inf")))


@pytest.fixture
def network() -> XYScanNet:
    torch.manual_seed(0)
    blocks = {"encoder_blocks": (1, 0, 0), "decoder_blocks": (1, 0, 0)}
    model = XYScanNet(XYScanNetConfig(width=8, **blocks)).eval().requires_grad_(False)
    torch.nn.init.normal_(model.output.weight, std=0.02)
    return model


def test_in_strips_as_planned(network: XYScanNet) -> None:
    image = torch.rand(1, 3, 90, 120)
    whole = restore(network, image)
    options = {"device": "cpu", "dtype": torch.float32}
    memory = peak_bytes(90, 120, network.config, **options) - 1
    plan = plan_image(90, 120, network.config, memory=memory, **options)
    assert plan.mode == "strips"
    seen: list[float] = []
    assert (restore(network, image, plan, progress=seen.append) - whole).abs().max() < 1e-6
    assert seen == sorted(seen) and seen[-1] == pytest.approx(1)
    ensemble = restore(network, image, ensemble=True)
    assert (restore(network, image, plan, ensemble=True) - ensemble).abs().max() < 1e-6


def test_not_in_strips_where_these_would_leave_a_hook_out(network: XYScanNet) -> None:
    image = torch.rand(1, 3, 70, 90)
    planned = plan_image(70, 90, network.config, device="cpu", dtype=torch.float32, memory=2**20, tile="none")
    assert planned.mode == "strips"
    network.decoder_level1.register_forward_hook(lambda module, inputs, output: 3 * output)
    network.decoder_level1[0].vssm1 = nn.Sequential(network.decoder_level1[0].vssm1)
    plan = plan_for(network, 70, 90, dtype=torch.float32, memory=2**20, tile="none")
    assert plan.whole and "hooks" in plan.reason and plan.memory_bytes > planned.memory_bytes
    with torch.no_grad():
        wanted = network(image).clamp(0, 1)
    for given in (plan, planned, None):
        assert (restore(network, image, given) - wanted).abs().max() < 1e-6


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=str,
)
def test_out_of_memory_goes_on_in_strips(
    network: XYScanNet, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xyscannet.inference.plan.BETTER_IN_STRIPS", 10**6)
    image, said, calls = torch.rand(1, 3, 900, 900), [], []
    whole = restore(network, image)

    def fail_once(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls.append(inputs)
        if len(calls) == 1:
            raise error

    network.patch_embed.register_forward_pre_hook(fail_once)
    out = restore(network, image, tell=said.append)
    assert (out - whole).abs().max() < 1e-6
    assert said == ["memory ran out: restoring it in whole, in strips"]


def test_out_of_memory_halves_down_to_the_smallest_tiles(network: XYScanNet) -> None:
    image, said = torch.rand(1, 3, 300, 300), []
    whole = restore(network, image)
    limit = 200 * 200

    def fail_above(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].shape[2] * inputs[0].shape[3] > limit:
            raise MemoryError

    network.patch_embed.register_forward_pre_hook(fail_above)
    out = restore(network, image, tell=said.append)
    assert len(said) > 1 and all("tiles of" in note for note in said)
    assert (out - whole).abs().mean() < 5e-3
    limit = 10
    with pytest.raises(InputError, match="no smaller tiles"):
        restore(network, image)


def test_out_of_memory_where_tiles_are_switched_off(network: XYScanNet) -> None:
    said = []

    def fail(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        raise MemoryError

    network.patch_embed.register_forward_pre_hook(fail)
    with pytest.raises(InputError, match="in whole, in strips.*tiles are switched off"):
        restore(network, torch.rand(1, 3, 300, 300), tile="none", tell=said.append)
    assert set(said) == {"memory ran out: restoring it in whole, in strips"}


def test_as_many_images_at_once_as_memory_allows(network: XYScanNet, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, sizes, shares = torch.rand(5, 3, 40, 60), [], []
    whole = restore(network, batch)
    need = peak_bytes(40, 60, network.config, device="cpu", dtype=torch.float32)
    monkeypatch.setattr("xyscannet.inference.plan.available_memory", lambda device: 4 * need)
    network.patch_embed.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    plan = plan_image(40, 60, network.config, device="cpu", dtype=torch.float32)
    assert (restore(network, batch, plan, progress=shares.append) - whole).abs().max() < 1e-6
    assert sizes == [2, 2, 1]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1)


def test_out_of_memory_goes_on_with_one_image_at_a_time(network: XYScanNet) -> None:
    batch, said = torch.rand(3, 3, 40, 60), []
    whole = restore(network, batch)

    def fail_above(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) > 1:
            raise MemoryError

    network.patch_embed.register_forward_pre_hook(fail_above)
    assert (restore(network, batch, tell=said.append) - whole).abs().max() < 1e-6
    assert said == ["memory ran out: restoring one image at a time"]


def test_other_errors_pass() -> None:
    class Broken(Toy):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        restore(Broken(), torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 3, 0, 8)])
def test_wrong_shapes_are_refused(toy: Toy, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="shape"):
        restore(toy, torch.zeros(shape))


def test_progress_rises_to_one(toy: Toy) -> None:
    seen: list[float] = []
    restore(toy, torch.rand(1, 3, 200, 200), tiles(200, 200, 80), ensemble=True, progress=seen.append)
    assert seen == sorted(seen) and seen[-1] == pytest.approx(1) and len(seen) > 16
