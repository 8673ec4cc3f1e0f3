"""What a block of the network does to a pixel and its neighbours, on vectors (Numba, nothing of torch).

A task is a tile of an image: so many columns, all rows of a band. Its rows are taken one after another, through
scratch arrays that stay in the second-level cache: of what is as wide as the hidden channels only three rows exist,
those that the depth-wise convolution sees. Maps are (address, bytes from image to image, row to row, pixel to pixel) of
float32, channels next to each other. A pixel's result is the same wherever tiles begin.
"""

from __future__ import annotations

import numpy as np

from xyscannet.ops.blocks.cpu_tiles import bring_row, convolve, gate_by, line_of, tile_of
from xyscannet.ops.compiling import compiled
from xyscannet.ops.cpu_pixels import SIZE, filled, read_pixels, write_pixels, write_sums
from xyscannet.ops.simd import LANES, PIXELS, load, multiply, store
from xyscannet.ops.tiles import ONE, ZERO


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
    hidden, room = np.zeros(3 * line_of(span) * step, norm.dtype), np.zeros(LANES * (LANES + 2), norm.dtype)
    scratch = np.zeros(filled(span, PIXELS) * width, norm.dtype)
    gate = np.zeros(filled(tile, PIXELS) * half, norm.dtype)
    value = np.zeros(filled(tile, PIXELS) * half, norm.dtype)
    result = np.zeros(filled(tile, PIXELS) * width, norm.dtype)
    for task in range(first_task, last_task):
        image, left, count, low, high = tile_of(task, tiles, bands, tile, rows, height, columns)
        start = x_start + image * x_image
        for y in range(low - 1, high + 1):
            three = bring_row(
                y, start, x_row, x_pixel, left - 1, span, height, columns, channels, eps, norm,
                project_in, step, scratch, hidden, room,
            )  # fmt: skip
            if y <= low:
                continue
            convolve(hidden, three, step, ZERO, half, tile, taps, gate, half)
            convolve(hidden, three, step, half, half, tile, taps, value, half)
            gate_by(gate, value, tile * half)
            multiply(gate, ZERO, half, filled(count, PIXELS), inner, project_out, width, result, width)
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
    hidden, room = np.zeros(3 * line_of(span) * step, norm.dtype), np.zeros(LANES * (LANES + 2), norm.dtype)
    scratch = np.zeros(filled(span, PIXELS) * width, norm.dtype)
    f, g = np.zeros(pixels * f_wide, norm.dtype), np.zeros(pixels * y_wide, norm.dtype)
    mixed, projected = np.zeros(pixels * inner_wide, norm.dtype), np.zeros(pixels * outer_wide, norm.dtype)
    for task in range(first_task, last_task):
        image, left, count, low, high = tile_of(task, tiles, bands, tile, rows, height, columns)
        start = x_start + image * x_image
        for y in range(low - 1, high + 1):
            three = bring_row(
                y, start, x_row, x_pixel, left - 1, span, height, columns, channels, eps, norm,
                proj_in, step, scratch, hidden, room,
            )  # fmt: skip
            if y <= low:
                continue
            if gates:
                convolve(hidden, three, step, f_wide, y_wide, tile, taps, g, y_wide)
                to = gate_start + image * gate_image + (y - 1) * gate_row + left * gate_pixel
                write_pixels(g, y_wide, to, gate_pixel, count, gates)
            if features:
                some = filled(count, PIXELS)
                to = out_start + image * out_image + (y - 1) * out_row + left * out_pixel
                convolve(hidden, three, step, ZERO, f_wide, tile, taps, f, f_wide)
                multiply(f, ZERO, f_wide, some, features, conv_in, inner_wide, mixed, inner_wide)
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
        image, left, count, low, high = tile_of(task, tiles, bands, tile, rows, height, columns)
        some = filled(count, PIXELS)
        for y in range(low, high):
            at = first_start + image * first_image + y * first_row + left * first_pixel
            beside = second_start + image * second_image + y * second_row + left * second_pixel
            for p in range(count):  # in this order: vectors reach into what the next one overwrites
                read_pixels(at + p * first_pixel, first_pixel, ONE, one, both, p * wide, wide)
                if two:
                    read_pixels(beside + p * second_pixel, second_pixel, ONE, two, both, p * wide + one, wide)
            if gated:
                vertical, horizontal = down[image, y], across[image].reshape(-1)
                for p in range(count):
                    for e in range(0, wide, LANES):
                        value = load(both, p * wide + e) * load(vertical, e)
                        store(both, p * wide + e, value * load(horizontal, (left + p) * wide + e))
            multiply(both, ZERO, wide, some, one + two, conv_out, width, mixed, width)
            at = gate_start + image * gate_image + y * gate_row + left * gate_pixel
            read_pixels(at, gate_pixel, count, channels, opened, ZERO, width)
            gate_by(opened, mixed, tile * width)
            multiply(opened, ZERO, width, some, channels, proj_out, width, result, width)
            to = out_start + image * out_image + y * out_row + left * out_pixel
            if residual:
                given = x_start + image * x_image + y * x_row + left * x_pixel
                write_sums(result, width, given, x_pixel, to, out_pixel, count, channels)
            else:
                write_pixels(result, width, to, out_pixel, count, channels)
