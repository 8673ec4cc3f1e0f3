"""A row of a tile of an image, from the map that a block reads to its convolution, on vectors (Numba, no torch)."""

from __future__ import annotations

from xyscannet.ops.cpu_pixels import SIZE, filled
from xyscannet.ops.depthwise.cpu_tiles import RUN, add_taps, keep
from xyscannet.ops.simd import (
    F32,
    LANES,
    PIXELS,
    WIDE,
    clear,
    inner,
    load,
    load_wide,
    multiply,
    read_lanes,
    sigmoid,
    splat,
    spread,
    square_root,
    store,
    totals,
)
from xyscannet.ops.tiles import ZERO


@inner
def _normalise(x, pixel, count, channels, norm, eps, out, width, room):
    """`count` pixels from address x on, normalised: norm = weight, bias, one for each channel that is there.

    Pixels go together by as many as a vector has lanes: on these stand their means, and their deviations.
    """
    weight, bias, valid = norm[0], norm[1], norm[2]
    means, scales = LANES * LANES, LANES * LANES + LANES
    kind = out.dtype.type
    share, least = splat(out, kind(1.0) / kind(channels)), splat(out, eps)
    for first in range(0, count, LANES):
        together = min(LANES, count - first)
        for p in range(together):
            at, from_ = (first + p) * width, x + (first + p) * pixel
            sums = read_lanes(out, F32, from_, channels)
            store(out, at, sums)
            for e in range(LANES, channels, LANES):
                lanes = read_lanes(out, F32, from_ + e * SIZE, channels - e)
                store(out, at + e, lanes)
                sums = sums + lanes
            store(room, p * LANES, sums)
        store(room, means, totals(room, 0) * share)
        for p in range(together):
            at, mean = (first + p) * width, spread(room, means + p)
            centred = (load(out, at) - mean) * load(valid, 0)
            squares = centred * centred
            for e in range(LANES, channels, LANES):
                centred = (load(out, at + e) - mean) * load(valid, e)
                squares = squares + centred * centred
            store(room, p * LANES, squares)
        store(room, scales, 1.0 / square_root(totals(room, 0) * share + least))
        for p in range(together):
            at, mean, scale = (first + p) * width, spread(room, means + p), spread(room, scales + p)
            for e in range(0, channels, LANES):
                store(out, at + e, (load(out, at + e) - mean) * scale * load(weight, e) + load(bias, e))


@inner
def line_of(span):
    """Pixels of a row of a tile: whole groups, from the first or, at an image's left edge, from the second on."""
    return filled(span, PIXELS) + 1


@inner
def _project_row(x, pixel, left, span, columns, channels, eps, norm, weight, rows, scratch, hidden, at, room):
    """Normalised pixels left .. left + span - 1 of a row at address x, times the weight, into `hidden` from `at` on.

    Zero beyond the image's edges.
    """
    width = norm.shape[1]
    low, high = max(0, -left), min(span, columns - left)
    _normalise(x + (left + low) * pixel, pixel, high - low, channels, norm, eps, scratch, width, room)
    pixels = filled(high - low, PIXELS)
    multiply(scratch, ZERO, width, pixels, channels, weight, rows, hidden[at + low * rows :], rows)
    clear(hidden, at, at + low * rows)
    clear(hidden, at + high * rows, at + line_of(span) * rows)


@inner
def bring_row(
    y, x, row, pixel, left, span, height, columns, channels, eps, norm, weight, step, scratch, hidden, room
):
    """Row y of an image at address x into its place among the three rows of `hidden`; zero beyond the image.

    Returns where in `hidden` the rows y - 2, y - 1 and y begin.
    """
    line = line_of(span) * step
    at = (y + 1) % 3 * line
    if y < 0 or y >= height:
        clear(hidden, at, at + line)
    else:
        _project_row(
            x + y * row,
            pixel,
            left,
            span,
            columns,
            channels,
            eps,
            norm,
            weight,
            step,
            scratch,
            hidden,
            at,
            room,
        )
    return (y + 2) % 3 * line, y % 3 * line, at


@inner
def convolve(hidden, rows, step, first, wide, pixels, taps, out, out_width):
    """out[p, e] = the convolution of channel first + e, e < wide, at the pixel between p, p + 1 and p + 2.

    Three rows of `hidden` begin at `rows`, pixels `step` apart; taps (9, step), flat.
    """
    above, here, below = rows
    start, zero = hidden.ctypes.data, splat(hidden, 0.0)
    for p in range(0, pixels, RUN):
        for e in range(0, wide, LANES):
            k = first + e
            i = p * step + k
            sums = zero, zero, zero, zero, zero, zero, zero, zero
            sums = add_taps(hidden, F32, start + (above + i) * SIZE, step * SIZE, taps, k, step, sums)
            sums = add_taps(
                hidden, F32, start + (here + i) * SIZE, step * SIZE, taps, 3 * step + k, step, sums
            )
            sums = add_taps(
                hidden, F32, start + (below + i) * SIZE, step * SIZE, taps, 6 * step + k, step, sums
            )
            keep(out, p * out_width + e, out_width, sums)


@inner
def gate_by(opened, value, size):
    """opened <- silu(opened) value, `size` values, a multiple of four vectors."""
    for i in range(0, size, WIDE):
        gate = load_wide(opened, i)
        store(opened, i, gate * sigmoid(gate) * load_wide(value, i))


@inner
def tile_of(task, tiles, bands, tile, rows, height, columns):
    """(image, first column, count of columns, first row, the row after the last) of a task."""
    column = task % tiles * tile
    row = task // tiles % bands * rows
    image = task // tiles // bands
    return image, column, min(tile, columns - column), row, min(row + rows, height)
