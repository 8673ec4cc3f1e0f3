"""Batches made ahead: their order, their groups, what a group brings to the device at once, faults."""

from __future__ import annotations

import contextlib
import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from xyscannet.training.feed import RENDERED, Feed, rendered_together

from .conftest import DrawnPairs

CPU = torch.device("cpu")


class Watched(DrawnPairs):
    """Notes the steps of every group that goes to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[list[int]] = []

    def to_device(self, batches, device):
        self.groups.append([batch.step for batch in batches])
        return super().to_device(batches, device)


def feed(samples: DrawnPairs, *, patch=lambda step: 16, **options) -> Feed:
    options = {"depth": 2, "threads": 1, **options}
    return Feed(lambda step: samples.make(step, patch(step), 2, range(2)), samples, CPU, **options)


def take(made: Feed, first: int, count: int) -> list:
    with contextlib.closing(made.from_step(first)) as batches:
        return [ready.arrive() for ready in itertools.islice(batches, count)]


@pytest.mark.parametrize(("together", "threads"), [(1, 1), (3, 1), (4, 3)])
def test_every_step_gets_its_own_batch_in_order(together: int, threads: int) -> None:
    found = take(feed(DrawnPairs(), together=together, threads=threads), 5, 10)
    assert [ready.batch.step for ready in found] == list(range(5, 15))
    for ready in found:
        expected = DrawnPairs().make(ready.batch.step, 16, 2, range(2))
        assert torch.equal(ready.blur, expected.blur) and torch.equal(ready.sharp, expected.sharp)
        assert ready.seconds > 0


def test_a_group_goes_to_the_device_at_once_as_far_as_its_patches_are_alike() -> None:
    samples = Watched()
    take(feed(samples, together=4, patch=lambda step: 16 if step < 6 else 24), 0, 8)
    assert samples.groups[:3] == [[0, 1, 2, 3], [4, 5], [6, 7]]


def test_no_more_is_made_than_said() -> None:
    samples = Watched()
    made = feed(samples, together=2, depth=5)
    with contextlib.closing(made.from_step(0)) as batches:
        next(batches)
    assert len(samples.made) <= made.ahead == 8


def test_a_fault_is_raised_where_its_batch_is_due() -> None:
    def make(step: int):
        if step == 4:
            raise ValueError("spoilt")
        return samples.make(step, 16, 2, range(2))

    samples = DrawnPairs()
    with contextlib.closing(Feed(make, samples, CPU, depth=2, threads=2).from_step(0)) as batches:
        assert len(list(itertools.islice(batches, 4))) == 4
        with pytest.raises(ValueError, match="spoilt"):
            next(batches)


def test_threads_that_begin_later_compute_as_before() -> None:
    def seen_by_a_new_thread() -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        take(feed(DrawnPairs(), threads=2), 0, 4)
        assert seen_by_a_new_thread() == torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_the_largest_step_bounds_what_is_rendered_at_once() -> None:
    shapes = ((128, 16), (256, 8))
    steps = rendered_together(shapes, 1)
    assert steps * 8 * 256**2 <= RENDERED < (steps + 1) * 8 * 256**2
    assert rendered_together(shapes, 4) * 2 * 256**2 <= RENDERED and rendered_together(shapes, 4) >= 4 * steps
    assert rendered_together(((4096, 8),), 1) == 1
