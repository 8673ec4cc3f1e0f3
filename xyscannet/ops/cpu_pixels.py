"""Runs of pixels between memory and scratch arrays: float32 at plain addresses, channels next to each other."""

from __future__ import annotations

from xyscannet.ops.simd import F32, LANES, inner, load, read_lanes, store, write_lanes

SIZE = 4  # bytes of an element


@inner
def filled(count, to):
    return (count + to - 1) // to * to


@inner
def read_pixels(x, pixel, count, channels, scratch, at, width):
    """`count` pixels from address x on, into scratch from `at` on, `width` apart."""
    for p in range(count):
        for e in range(0, channels, LANES):
            lanes = read_lanes(scratch, F32, x + p * pixel + e * SIZE, channels - e)
            store(scratch, at + p * width + e, lanes)


@inner
def write_pixels(scratch, width, out, pixel, count, channels):
    """`count` pixels to address out on."""
    for p in range(count):
        for e in range(0, channels, LANES):
            write_lanes(F32, out + p * pixel + e * SIZE, load(scratch, p * width + e), channels - e)


@inner
def write_sums(scratch, width, x, x_pixel, out, out_pixel, count, channels):
    """`count` pixels, added to those at address x, to address out on."""
    for p in range(count):
        for e in range(0, channels, LANES):
            some = channels - e
            value = read_lanes(scratch, F32, x + p * x_pixel + e * SIZE, some) + load(scratch, p * width + e)
            write_lanes(F32, out + p * out_pixel + e * SIZE, value, some)
