"""Moving the pixels of one image on a CPU, compiled by numba; the same as `warp` in every byte.

The three channels of a pixel are computed together, in LLVM's portable vectors of four numbers: a
pixel is loaded with the byte behind it, whose result is not stored. So the source must have a byte
to spare behind its last pixel.

Source: as in `warp`.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastdeit.machine.numba_cache import compiled

LANES = 4
_BYTE, _INT, _ADDRESS, _DOUBLE = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.DoubleType()
_BYTES, _INTS, _DOUBLES = (ir.VectorType(kind, LANES) for kind in (_BYTE, _INT, _DOUBLE))

_jit = compiled()


class _Pixels:
    """Writes the instructions for pixels of four numbers."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def load(self, address: Any) -> Any:
        """Four bytes as float64."""
        builder = self.builder
        pixel = builder.load(builder.inttoptr(address, _BYTES.as_pointer()), align=1)
        return builder.sitofp(builder.zext(pixel, _INTS), _DOUBLES)

    def spread(self, number: Any) -> Any:
        """A float64 in all four places."""
        empty = ir.Constant(_DOUBLES, ir.Undefined)
        first = self.builder.insert_element(empty, number, _INT(0))
        zeros = ir.Constant(_INTS, [0] * LANES)
        return self.builder.shuffle_vector(first, empty, zeros)

    def kernel(self, taps: list[Any], d: Any) -> Any:
        """As `warp._kernel`, with the same rounding of each operation."""
        add, sub, mul = self.builder.fadd, self.builder.fsub, self.builder.fmul
        if len(taps) == 2:
            first, second = taps
            return add(first, mul(sub(second, first), d))
        v0, v1, v2, v3 = taps
        two = ir.Constant(_DOUBLES, [2.0] * LANES)
        p2 = sub(v2, v0)
        p3 = sub(add(mul(two, sub(v0, v1)), v2), v3)
        p4 = add(sub(sub(v1, v0), v2), v3)
        return add(v1, mul(d, add(p2, mul(d, add(p3, mul(d, p4))))))

    def store(self, values: Any, address: Any) -> None:
        """Truncate and clip to 0 .. 255; three bytes are written."""
        builder = self.builder
        whole = builder.fptosi(values, _INTS)
        for bound, beyond in ((0, "<"), (255, ">")):
            limit = ir.Constant(_INTS, [bound] * LANES)
            whole = builder.select(builder.icmp_signed(beyond, whole, limit), limit, whole)
        pixel = builder.trunc(whole, _BYTES)
        for channel in range(3):
            at = builder.add(address, _ADDRESS(channel))
            value = builder.extract_element(pixel, _INT(channel))
            builder.store(value, builder.inttoptr(at, _BYTE.as_pointer()))


def _sum_of(num_lines: int, num_columns: int) -> Any:
    """An intrinsic that sums `num_lines` x `num_columns` pixels, along x first."""

    # `lines` and `columns` are tuples of addresses and of byte offsets; `dx` and `dy` the
    # fractions; `out` is where to write. A side of 1 is not summed along.
    @intrinsic
    def sum_pixels(
        typing_context: Any,  # noqa: ARG001 - numba's signature
        lines: Any,
        columns: Any,
        dx: Any,  # noqa: ARG001
        dy: Any,  # noqa: ARG001
        out: Any,  # noqa: ARG001
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
            lines, columns, dx, dy, out = args
            pixels = _Pixels(builder)
            along_x, along_y = pixels.spread(dx), pixels.spread(dy)
            sums = []
            for j in range(num_lines):
                line = builder.extract_value(lines, j)
                taps = [
                    pixels.load(builder.add(line, builder.extract_value(columns, k)))
                    for k in range(num_columns)
                ]
                sums.append(taps[0] if num_columns == 1 else pixels.kernel(taps, along_x))
            pixels.store(sums[0] if num_lines == 1 else pixels.kernel(sums, along_y), out)
            return context.get_dummy_value()

        return types.void(lines, columns, types.float64, types.float64, types.intp), generate

    return sum_pixels


_sum_4_4, _sum_1_4, _sum_4_1, _sum_2_2 = (
    _sum_of(lines, columns) for lines, columns in ((4, 4), (1, 4), (4, 1), (2, 2))
)


@_jit
def warp_image(source: Any, out: Any, matrix: Any, fill: Any, is_bilinear: Any) -> None:
    """Move the pixels of one (H, W, 3) uint8 image by a (6,) float64 of `warp.matrices`.

    Both are C-contiguous; the source has a byte to spare behind it.
    """
    height, width, _ = source.shape
    a, b, c, d, e, f = matrix
    start, target, stride = source.ctypes.data, out.ctypes.data, 3 * width
    for y in range(height):
        for x in range(width):
            source_x = a * (x + 0.5) + b * (y + 0.5) + c
            source_y = d * (x + 0.5) + e * (y + 0.5) + f
            at = target + y * stride + 3 * x
            if not (0.0 <= source_x < width and 0.0 <= source_y < height):
                out[y, x, 0], out[y, x, 1], out[y, x, 2] = fill[0], fill[1], fill[2]
                continue
            source_x -= 0.5
            source_y -= 0.5
            left, top = math.floor(source_x), math.floor(source_y)
            dx, dy = source_x - left, source_y - top
            x1, x2 = 3 * max(left, 0), 3 * min(left + 1, width - 1)
            y1 = start + stride * max(top, 0)
            y2 = start + stride * min(top + 1, height - 1)
            if is_bilinear:
                _sum_2_2((y1, y2), (x1, x2), dx, dy, at)
                continue
            x0, x3 = 3 * max(left - 1, 0), 3 * min(left + 2, width - 1)
            y0 = start + stride * max(top - 1, 0)
            y3 = start + stride * min(top + 2, height - 1)
            # A kernel at distance 0 gives the pixel itself: 4 neighbours instead of 16 for shears
            # and translations.
            if dy == 0.0:
                _sum_1_4((y1,), (x0, x1, x2, x3), dx, dy, at)
            elif dx == 0.0:
                _sum_4_1((y0, y1, y2, y3), (x1,), dx, dy, at)
            else:
                _sum_4_4((y0, y1, y2, y3), (x0, x1, x2, x3), dx, dy, at)
