"""Hypothesis strategies that damage the bytes of small valid files."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# the same damage on every machine, no database, no clock: what fails here fails everywhere
quick = settings(
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

_EXTREMES = [0, 1, 0x7F, 0x80, 0xFE, 0xFF]
_SIZES = [0, 1, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]


@st.composite
def _edit(draw: Callable, length: int) -> tuple[int, int, bytes]:
    """Where, how many bytes are replaced, and by what; most often near a file's start or end, where headers are."""
    near = min(length, 400)
    at = draw(st.integers(0, near - 1) | st.integers(length - near, length - 1) | st.integers(0, length - 1))
    byte = st.sampled_from(_EXTREMES) | st.integers(0, 255)
    kind = draw(st.sampled_from(["byte", "number", "insert", "delete", "cut"]))
    if kind == "byte":
        return at, 1, bytes([draw(byte)])
    if kind == "number":
        width, order = draw(st.sampled_from([2, 4, 8])), draw(st.sampled_from(["little", "big"]))
        value = draw(st.sampled_from(_SIZES)) & (1 << 8 * width) - 1
        return at, width, value.to_bytes(width, order)
    if kind == "insert":
        return at, 0, draw(st.binary(min_size=1, max_size=9))
    return at, draw(st.integers(1, 9)) if kind == "delete" else length, b""


def damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """`data` after one to six edits."""

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        content = bytearray(data)
        for at, count, new in edits:
            content[at : at + count] = new
        return bytes(content)

    return st.lists(_edit(len(data)), min_size=1, max_size=6).map(apply)
