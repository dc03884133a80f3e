"""3×3 convolutions with a quarter of the multiplications: 0.4 to 0.5 of the time, in float32 on a CPU.

Winograd's minimal filtering (Lavin and Gray, arXiv 1509.09308): m outputs in a row are coefficients of a product of
polynomials, and m + 2 values of the product determine them (Toom and Cook). A value takes one multiplication or, over
all channels, one matrix product. The transforms to values and back are matrix products too if pixels come first in
memory, `[H, W, N, C]`; normalisation and pooling keep that order (layers.py).

The error is below 1e-4 of the results' deviation; that of bf16 is 3e-3.
"""

from functools import lru_cache
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MOST = 8  # outputs in a row of a tile
POINTS = (0, 1, -1, 0.5, -0.5, 2, -2, 0.75, -0.75)  # and infinity: the smallest error of those tried
PART = 2**24  # bytes of values at a time, so that they stay in the cache


class _Side(NamedTuple):
    inputs: Tensor  # `[points, tiles, side]`, from inputs to values
    outputs: Tensor  # `[points, tiles, side]`; transposed, from values to outputs
    filters: Tensor  # `[points, 3]`, from filters to values


@lru_cache
def _side(side: int) -> _Side:
    tiles = ceil(side / MOST)
    most = ceil(side / tiles)
    points = most + 2
    powers = torch.zeros(points, points, dtype=torch.float64)
    powers[:-1] = torch.tensor(POINTS[: points - 1], dtype=torch.float64)[:, None] ** torch.arange(points)
    powers[-1, -1] = 1  # at infinity, only the highest power counts
    inputs = torch.linalg.inv(powers).T
    outputs, filters = (torch.cat((powers[:-1, :n], powers[-1:, -n:])) for n in (most, 3))
    for matrix in (outputs, filters):  # so that numbers are of similar size at all points
        size = matrix.abs().amax(1, keepdim=True).log2().round().exp2()
        matrix /= size
        inputs = inputs * size
    padded = torch.zeros(2, points, tiles, 1 + tiles * most + 1, dtype=torch.float64)
    for tile in range(tiles):
        padded[0, :, tile, tile * most :][:, :points] = inputs
        padded[1, :, tile, tile * most + 1 :][:, :most] = outputs
    inputs, outputs = padded[..., 1 : 1 + side].float().contiguous()
    return _Side(inputs, outputs, filters.float())


def _to_values(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Returns the values `[points, tiles · N, C]` of `x`, `[H, W, N, C]`."""
    points = len(columns)
    between = torch.bmm(columns.flatten(0, 1).expand(len(x), -1, -1), x.flatten(2))
    between = between.view(len(x), points, -1).transpose(0, 1)
    values = torch.bmm(rows.flatten(0, 1).expand(points, -1, -1), between)
    return values.view(points * len(rows), -1, x.shape[-1])


def _from_values(values: Tensor, rows: Tensor, columns: Tensor, x: Tensor) -> None:
    """Writes the transpose of `_to_values` to `x`, `[H, W, N, C]`."""
    points, tiles, _ = columns.shape
    between = x.new_empty(len(x), points, tiles * x[0, 0].numel())
    values = values.view(points, len(rows) * rows.shape[1], -1)
    torch.bmm(rows.flatten(0, 1).T.expand(points, -1, -1), values, out=between.transpose(0, 1))
    between = between.view(len(x), points * tiles, -1)
    torch.bmm(columns.flatten(0, 1).T.expand(len(x), -1, -1), between, out=x.flatten(2))


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Returns `[N, K, H, W]` for `x`, `[N, C, H, W]`, and 3×3 filters `[K, C, 3, 3]`, with zero padding."""
    channels, channels_in = weight.shape[:2]
    both = torch.kron(_side(x.shape[3]).filters, _side(x.shape[2]).filters)
    filters = both @ weight.permute(3, 2, 1, 0).reshape(9, -1)
    return _Convolve.apply(x, filters.view(-1, channels_in, channels))


class _Convolve(torch.autograd.Function):
    """`[N, K, H, W]` for `x`, `[N, C, H, W]`, and the values of filters, `[points, C, K]`; pixels first in memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, filters: Tensor) -> Tensor:
        ctx.channels_last = x.is_contiguous(memory_format=torch.channels_last)
        x = _pixels_first(x)
        ctx.save_for_backward(x, filters)
        y = x.new_empty(*x.shape[:3], filters.shape[2])
        rows, columns, part = _tiling(x, filters)
        for x_part, y_part in zip(x.split(part, 2), y.split(part, 2), strict=True):
            values = torch.bmm(_to_values(x_part, rows.inputs, columns.inputs), filters)
            _from_values(values, rows.outputs, columns.outputs, y_part)
        return y.permute(2, 3, 0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, y_gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        x, filters = ctx.saved_tensors
        y_gradient = _pixels_first(y_gradient)
        x_gradient, filters_gradient = torch.empty_like(x), torch.zeros_like(filters)
        rows, columns, part = _tiling(x, filters)
        for x_part, y_part, into in zip(*(t.split(part, 2) for t in (x, y_gradient, x_gradient)), strict=True):
            gradient = _to_values(y_part, rows.outputs, columns.outputs)
            filters_gradient.baddbmm_(_to_values(x_part, rows.inputs, columns.inputs).mT, gradient)
            if ctx.needs_input_grad[0]:
                _from_values(torch.bmm(gradient, filters.mT), rows.inputs, columns.inputs, into)
        if not ctx.needs_input_grad[0]:
            return None, filters_gradient
        x_gradient = x_gradient.permute(2, 3, 0, 1)
        if ctx.channels_last:  # the layer before is faster with its own order
            x_gradient = x_gradient.contiguous(memory_format=torch.channels_last)
        return x_gradient, filters_gradient


def _pixels_first(x: Tensor) -> Tensor:
    return x.permute(2, 3, 0, 1).contiguous()


def _tiling(x: Tensor, filters: Tensor) -> tuple[_Side, _Side, int]:
    """Returns how rows and columns of `x`, `[H, W, N, C]`, are cut into tiles, and how many images are a part."""
    rows, columns = _side(x.shape[0]), _side(x.shape[1])
    values = rows.inputs[..., 0].numel() * columns.inputs[..., 0].numel() * max(filters.shape[1:])
    return rows, columns, max(1, PART // (values * x.element_size()))
