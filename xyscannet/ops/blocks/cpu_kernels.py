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
from xyscannet.ops.depthwise.cpu_tiles import RUN, add_taps, keep
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


@njit(error_model="numpy")
def _bring_row(
    y, x, row, pixel, left, span, height, columns, channels, eps, norm, weight, step, scratch, hidden, room
):
    """Row y of an image at address x into its place among the three rows of `hidden`; zero beyond the image.

    Returns where in `hidden` the rows y - 2, y - 1 and y begin.
    """
    line = _line(span) * step
    at = (y + 1) % 3 * line
    if y < 0 or y >= height:
        hidden[at : at + line] = 0.0
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


@njit(error_model="numpy")
def _convolve(hidden, rows, step, first, wide, pixels, taps, out, out_width):
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


@njit(error_model="numpy")
def _gate(opened, value, size):
    """opened <- silu(opened) value, `size` values, a multiple of four vectors."""
    for i in range(0, size, WIDE):
        gate = load_wide(opened, i)
        store(opened, i, gate * sigmoid(gate) * load_wide(value, i))


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
    hidden, room = np.zeros(3 * _line(span) * step, norm.dtype), np.zeros(LANES * (LANES + 2), norm.dtype)
    scratch = np.zeros(filled(span, PIXELS) * width, norm.dtype)
    gate = np.zeros(filled(tile, PIXELS) * half, norm.dtype)
    value = np.zeros(filled(tile, PIXELS) * half, norm.dtype)
    result = np.zeros(filled(tile, PIXELS) * width, norm.dtype)
    for task in range(first_task, last_task):
        image, left, count, low, high = _tile_of(task, tiles, bands, tile, rows, height, columns)
        start = x_start + image * x_image
        for y in range(low - 1, high + 1):
            three = _bring_row(
                y, start, x_row, x_pixel, left - 1, span, height, columns, channels, eps, norm,
                project_in, step, scratch, hidden, room,
            )  # fmt: skip
            if y <= low:
                continue
            _convolve(hidden, three, step, 0, half, tile, taps, gate, half)
            _convolve(hidden, three, step, half, half, tile, taps, value, half)
            _gate(gate, value, tile * half)
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
    hidden, room = np.zeros(3 * _line(span) * step, norm.dtype), np.zeros(LANES * (LANES + 2), norm.dtype)
    scratch = np.zeros(filled(span, PIXELS) * width, norm.dtype)
    f, g = np.zeros(pixels * f_wide, norm.dtype), np.zeros(pixels * y_wide, norm.dtype)
    mixed, projected = np.zeros(pixels * inner_wide, norm.dtype), np.zeros(pixels * outer_wide, norm.dtype)
    for task in range(first_task, last_task):
        image, left, count, low, high = _tile_of(task, tiles, bands, tile, rows, height, columns)
        start = x_start + image * x_image
        for y in range(low - 1, high + 1):
            three = _bring_row(
                y, start, x_row, x_pixel, left - 1, span, height, columns, channels, eps, norm,
                proj_in, step, scratch, hidden, room,
            )  # fmt: skip
            if y <= low:
                continue
            if gates:
                _convolve(hidden, three, step, f_wide, y_wide, tile, taps, g, y_wide)
                to = gate_start + image * gate_image + (y - 1) * gate_row + left * gate_pixel
                write_pixels(g, y_wide, to, gate_pixel, count, gates)
            if features:
                some = filled(count, PIXELS)
                to = out_start + image * out_image + (y - 1) * out_row + left * out_pixel
                _convolve(hidden, three, step, 0, f_wide, tile, taps, f, f_wide)
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
            _gate(opened, mixed, tile * width)
            multiply(opened, 0, width, some, channels, proj_out, width, result, width)
            to = out_start + image * out_image + y * out_row + left * out_pixel
            if residual:
                given = x_start + image * x_image + y * x_row + left * x_pixel
                write_sums(result, width, given, x_pixel, to, out_pixel, count, channels)
            else:
                write_pixels(result, width, to, out_pixel, count, channels)
