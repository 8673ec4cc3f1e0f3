"""What a block of the network does to a pixel and its neighbours, on vectors (Numba, nothing of torch).

A task is a tile of an image: so many columns, all rows of a band. Its rows are taken one after another, through
scratch arrays that stay in the second-level cache: of what is as wide as the hidden channels only three rows exist,
those that the depth-wise convolution sees. Maps are (address, bytes from image to image, row to row, pixel to pixel) of
float32, channels next to each other. A pixel's result is the same wherever tiles begin.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from xyscannet.ops.compiling import compiled
from xyscannet.ops.cpu_pixels import SIZE, filled, read_pixels, write_pixels, write_sums
from xyscannet.ops.simd import (
    F32,
    LANES,
    PIXELS,
    WIDE,
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

RUN = 8  # pixels that are convolved at once; tiles are a multiple of it


@njit(error_model="numpy")
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


@njit(error_model="numpy")
def _line(span):
    """Pixels of a row of a tile: whole groups, from the first or, at an image's left edge, from the second on."""
    return filled(span, PIXELS) + 1


@njit(error_model="numpy")
def _project_row(x, pixel, left, span, columns, channels, eps, norm, weight, rows, scratch, hidden, at, room):
    """Normalised pixels left .. left + span - 1 of a row at address x, times the weight, into `hidden` from `at` on.

    Zero beyond the image's edges.
    """
    width = norm.shape[1]
    low, high = max(0, -left), min(span, columns - left)
    _normalise(x + (left + low) * pixel, pixel, high - low, channels, norm, eps, scratch, width, room)
    pixels = filled(high - low, PIXELS)
    line = hidden[at : at + _line(span) * rows]
    multiply(scratch, 0, width, pixels, channels, weight, rows, line[low * rows :], rows)
    line[: low * rows] = 0.0
    line[high * rows :] = 0.0


@njit(inline="always", error_model="numpy")
def _tap(hidden, p, step, taps, k, width, sums):
    """One row of taps of eight neighbouring pixels."""
    a0, a1, a2, a3, a4, a5, a6, a7 = sums
    w0, w1, w2 = load(taps, k), load(taps, k + width), load(taps, k + 2 * width)
    a0 = a0 + w0 * load(hidden, p)
    v = load(hidden, p + step)
    a0, a1 = a0 + w1 * v, a1 + w0 * v
    v = load(hidden, p + 2 * step)
    a0, a1, a2 = a0 + w2 * v, a1 + w1 * v, a2 + w0 * v
    v = load(hidden, p + 3 * step)
    a1, a2, a3 = a1 + w2 * v, a2 + w1 * v, a3 + w0 * v
    v = load(hidden, p + 4 * step)
    a2, a3, a4 = a2 + w2 * v, a3 + w1 * v, a4 + w0 * v
    v = load(hidden, p + 5 * step)
    a3, a4, a5 = a3 + w2 * v, a4 + w1 * v, a5 + w0 * v
    v = load(hidden, p + 6 * step)
    a4, a5, a6 = a4 + w2 * v, a5 + w1 * v, a6 + w0 * v
    v = load(hidden, p + 7 * step)
    a5, a6, a7 = a5 + w2 * v, a6 + w1 * v, a7 + w0 * v
    v = load(hidden, p + 8 * step)
    a6, a7 = a6 + w2 * v, a7 + w1 * v
    a7 = a7 + w2 * load(hidden, p + 9 * step)
    return a0, a1, a2, a3, a4, a5, a6, a7


@njit(error_model="numpy")
def _convolve(hidden, above, here, below, step, first, wide, pixels, taps, out, out_width):
    """out[p, e] = the convolution of channel first + e, e < wide, at the pixel between p, p + 1 and p + 2.

    Three rows of `hidden` from above, here and below on, pixels `step` apart; taps (9, step), flat.
    """
    zero = splat(hidden, 0.0)
    for p in range(0, pixels, RUN):
        for e in range(0, wide, LANES):
            k = first + e
            i = p * step + k
            sums = zero, zero, zero, zero, zero, zero, zero, zero
            sums = _tap(hidden, above + i, step, taps, k, step, sums)
            sums = _tap(hidden, here + i, step, taps, 3 * step + k, step, sums)
            a0, a1, a2, a3, a4, a5, a6, a7 = _tap(hidden, below + i, step, taps, 6 * step + k, step, sums)
            to = p * out_width + e
            store(out, to, a0)
            store(out, to + out_width, a1)
            store(out, to + 2 * out_width, a2)
            store(out, to + 3 * out_width, a3)
            store(out, to + 4 * out_width, a4)
            store(out, to + 5 * out_width, a5)
            store(out, to + 6 * out_width, a6)
            store(out, to + 7 * out_width, a7)


@njit(error_model="numpy")
def _tile_of(task, tiles, bands, tile, rows, height, columns):
    """(image, first column, count of columns, first row, the row after the last) of a task."""
    column = task % tiles * tile
    row = task // tiles % bands * rows
    image = task // tiles // bands
    return image, column, min(tile, columns - column), row, min(row + rows, height)


@compiled
def feed_forward(x, out, shape, eps, norm, project_in, taps, project_out, first_task, last_task):
    """out = project_out(silu(first) * second), with (first, second) = the convolution of project_in of x normalised.

    shape = height, columns, channels, columns of a tile, rows of a band, hidden channels of a half, whether x is
    added; norm (3, channels, padded); weights packed, both halves of project_in padded; taps (9, both halves), flat.
    """
    x_start, x_image, x_row, x_pixel = x
    out_start, out_image, out_row, out_pixel = out
    height, columns, channels, tile, rows, inner, residual = shape
    half = filled(inner, LANES)
    tiles, bands = (columns + tile - 1) // tile, (height + rows - 1) // rows
    step, span = 2 * half, tile + 2
    width = norm.shape[1]
    line = _line(span) * step
    hidden, room = np.zeros(3 * line, norm.dtype), np.zeros(LANES * (LANES + 2), norm.dtype)
    scratch = np.zeros(filled(span, PIXELS) * max(width, half), norm.dtype)
    gate = np.zeros(filled(tile, PIXELS) * half, norm.dtype)
    value = np.zeros(filled(tile, PIXELS) * half, norm.dtype)
    result = np.zeros(filled(tile, PIXELS) * width, norm.dtype)
    for task in range(first_task, last_task):
        image, left, count, low, high = _tile_of(task, tiles, bands, tile, rows, height, columns)
        start = x_start + image * x_image
        for y in range(low - 1, high + 1):
            at = (y + 1) % 3 * line
            if y < 0 or y >= height:
                hidden[at : at + line] = 0.0
            else:
                _project_row(
                    start + y * x_row, x_pixel, left - 1, span, columns, channels, eps, norm,
                    project_in, step, scratch, hidden, at, room,
                )  # fmt: skip
            if y <= low:
                continue
            above, here = (y - 1) % 3 * line, y % 3 * line
            _convolve(hidden, above, here, at, step, 0, half, tile, taps, gate, half)
            _convolve(hidden, above, here, at, step, half, half, tile, taps, value, half)
            for i in range(0, tile * half, WIDE):
                opened = load_wide(gate, i)
                store(gate, i, opened * sigmoid(opened) * load_wide(value, i))
            multiply(gate, 0, half, filled(count, PIXELS), inner, project_out, width, result, width)
            given = start + (y - 1) * x_row + left * x_pixel
            to = out_start + image * out_image + (y - 1) * out_row + left * out_pixel
            if residual:
                write_sums(result, width, given, x_pixel, to, out_pixel, count, channels)
            else:
                write_pixels(result, width, to, out_pixel, count, channels)


@compiled
def scan_inputs(
    x, out, gate, shape, eps, norm, proj_in, taps, conv_in, in_proj, first_task, last_task
):  # fmt: skip
    """(F, Y) = the convolution of proj_in of x normalised; gate = Y; out = conv_in of F, its branches times in_proj.

    shape = height, columns, channels, columns of a tile, rows of a band, then the channels of F, of Y, of conv_in's
    result, the number of its branches (0: it is `out` itself) and the channels of in_proj's result. F or Y may have
    none. norm and weights as in `feed_forward`: of proj_in and taps, F's part and Y's are padded each.
    """
    x_start, x_image, x_row, x_pixel = x
    out_start, out_image, out_row, out_pixel = out
    gate_start, gate_image, gate_row, gate_pixel = gate
    height, columns, channels, tile, rows, features, gates, inner, branches, outer = shape
    tiles, bands = (columns + tile - 1) // tile, (height + rows - 1) // rows
    f_wide, y_wide = filled(features, LANES), filled(gates, LANES)
    inner_wide, outer_wide = filled(inner, LANES), filled(outer, LANES)
    step, span, pixels = f_wide + y_wide, tile + 2, filled(tile, PIXELS)
    width, branch = norm.shape[1], inner // max(branches, 1)
    line = _line(span) * step
    hidden, room = np.zeros(3 * line, norm.dtype), np.zeros(LANES * (LANES + 2), norm.dtype)
    scratch = np.zeros(filled(span, PIXELS) * width, norm.dtype)
    f, g = np.zeros(pixels * f_wide, norm.dtype), np.zeros(pixels * y_wide, norm.dtype)
    mixed, projected = np.zeros(pixels * inner_wide, norm.dtype), np.zeros(pixels * outer_wide, norm.dtype)
    for task in range(first_task, last_task):
        image, left, count, low, high = _tile_of(task, tiles, bands, tile, rows, height, columns)
        start = x_start + image * x_image
        for y in range(low - 1, high + 1):
            at = (y + 1) % 3 * line
            if y < 0 or y >= height:
                hidden[at : at + line] = 0.0
            else:
                _project_row(
                    start + y * x_row, x_pixel, left - 1, span, columns, channels, eps, norm,
                    proj_in, step, scratch, hidden, at, room,
                )  # fmt: skip
            if y <= low:
                continue
            above, here = (y - 1) % 3 * line, y % 3 * line
            if gates:
                _convolve(hidden, above, here, at, step, f_wide, y_wide, tile, taps, g, y_wide)
                to = gate_start + image * gate_image + (y - 1) * gate_row + left * gate_pixel
                write_pixels(g, y_wide, to, gate_pixel, count, gates)
            if features:
                some = filled(count, PIXELS)
                to = out_start + image * out_image + (y - 1) * out_row + left * out_pixel
                _convolve(hidden, above, here, at, step, 0, f_wide, tile, taps, f, f_wide)
                multiply(f, 0, f_wide, some, features, conv_in, inner_wide, mixed, inner_wide)
                if branches == 0:
                    write_pixels(mixed, inner_wide, to, out_pixel, count, inner)
                for k in range(branches):
                    multiply(
                        mixed,
                        k * branch,
                        inner_wide,
                        some,
                        branch,
                        in_proj,
                        outer_wide,
                        projected,
                        outer_wide,
                    )
                    write_pixels(projected, outer_wide, to + k * outer * SIZE, out_pixel, count, outer)


@compiled
def scan_outputs(
    first, second, gate, x, out, shape, down, across, conv_out, proj_out, first_task, last_task
):  # fmt: skip
    """out = proj_out(silu(gate) * conv_out(first and second side by side)).

    shape = height, columns, channels, columns of a tile, rows of a band, channels of first and of second (0: there is
    none), whether first is multiplied by gates of its rows and columns, down (B, H, channels of first, padded) and
    across (B, W, the same), whether x is added.
    """
    first_start, first_image, first_row, first_pixel = first
    second_start, second_image, second_row, second_pixel = second
    gate_start, gate_image, gate_row, gate_pixel = gate
    x_start, x_image, x_row, x_pixel = x
    out_start, out_image, out_row, out_pixel = out
    height, columns, channels, tile, rows, one, two, gated, residual = shape
    tiles, bands = (columns + tile - 1) // tile, (height + rows - 1) // rows
    pixels, wide, width = filled(tile, PIXELS), filled(one + two, LANES), filled(channels, LANES)
    both, opened = np.zeros(pixels * wide + LANES, conv_out.dtype), np.zeros(pixels * width, conv_out.dtype)
    mixed, result = np.zeros(pixels * width, conv_out.dtype), np.zeros(pixels * width, conv_out.dtype)
    for task in range(first_task, last_task):
        image, left, count, low, high = _tile_of(task, tiles, bands, tile, rows, height, columns)
        some = filled(count, PIXELS)
        for y in range(low, high):
            at = first_start + image * first_image + y * first_row + left * first_pixel
            beside = second_start + image * second_image + y * second_row + left * second_pixel
            for p in range(count):  # in this order: vectors reach into what the next one overwrites
                read_pixels(at + p * first_pixel, first_pixel, 1, one, both, p * wide, wide)
                if two:
                    read_pixels(beside + p * second_pixel, second_pixel, 1, two, both, p * wide + one, wide)
            if gated:
                vertical, horizontal = down[image, y], across[image].reshape(-1)
                for p in range(count):
                    for e in range(0, wide, LANES):
                        value = load(both, p * wide + e) * load(vertical, e)
                        store(both, p * wide + e, value * load(horizontal, (left + p) * wide + e))
            multiply(both, 0, wide, some, one + two, conv_out, width, mixed, width)
            at = gate_start + image * gate_image + y * gate_row + left * gate_pixel
            read_pixels(at, gate_pixel, count, channels, opened, 0, width)
            for i in range(0, tile * width, WIDE):
                value = load_wide(opened, i)
                store(opened, i, value * sigmoid(value) * load_wide(mixed, i))
            multiply(opened, 0, width, some, channels, proj_out, width, result, width)
            to = out_start + image * out_image + y * out_row + left * out_pixel
            if residual:
                given = x_start + image * x_image + y * x_row + left * x_pixel
                write_sums(result, width, given, x_pixel, to, out_pixel, count, channels)
            else:
                write_pixels(result, width, to, out_pixel, count, channels)
