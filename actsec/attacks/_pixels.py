"""Pixels and colours for the one-pixel search: where a pixel lies, which colours it may take, and how it is painted.

An image (channels, height, width) has height * width pixels; any other input is one channel and one row of features. A
colour has a value in [0, 1] for each channel, from the low end of that coordinate's box to the high end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actsec.types import Cases

GREY_LEVELS, COLOUR_LEVELS = 17, 2


@dataclass(frozen=True, slots=True)
class Grid:
    """All one-pixel changes with ``levels`` values a channel: colour-major, colour * pixels + place."""

    channels: int
    height: int
    width: int
    levels: int

    @property
    def pixels(self) -> int:
        """Places that can be changed."""
        return self.height * self.width

    @property
    def colours(self) -> int:
        """Colours that each may take."""
        return int(math.pow(self.levels, self.channels))

    @property
    def total(self) -> int:
        """Candidates of the grid."""
        return self.pixels * self.colours

    @property
    def axes(self) -> tuple[int, ...]:
        """The grid as an array: one axis a channel, then height and width."""
        return (*(self.levels,) * self.channels, self.height, self.width)

    def colour(self, number: Tensor) -> Tensor:
        """Colours (..., channels) in [0, 1] of the colour numbers (...); the first channel has the slowest digit."""
        digits = [number // self.levels**i % self.levels for i in reversed(range(self.channels))]
        return torch.stack(digits, -1).float() / (self.levels - 1)

    def spread(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Per channel (n, levels, pixels), shaped to broadcast over (n, *levels, pixels)."""
        n, count = len(parts[0]), self.channels
        return [p.reshape(n, *(self.levels if i == j else 1 for j in range(count)), -1) for i, p in enumerate(parts)]


def grid_of(shape: Sequence[int], levels: int | None) -> Grid:
    """The grid of inputs of a shape; without levels 17 (grey and features) or 2 (colour: the corners of the box)."""
    channels, height, width = shape if len(shape) == 3 else (1, 1, math.prod(shape))
    return Grid(channels, height, width, levels or (GREY_LEVELS if channels == 1 else COLOUR_LEVELS))


def paint(cases: Cases, base: Tensor, place: Tensor, colour: Tensor) -> Tensor:
    """Candidates (n, k, *shape): base (n, *shape) with pixels at place (n, k, m) set to colour (n, k, m, channels)."""
    n, k = place.shape[:2]
    channels = colour.shape[-1]
    canvas = base.reshape(n, 1, channels, -1).repeat(1, k, 1, 1)
    where, share = place[:, :, None].expand(-1, -1, channels, -1), colour.to(base.dtype).transpose(2, 3)
    low, high = (_at(end, where) for end in (cases.low, cases.high))
    return canvas.scatter_(3, where, low + (high - low) * share).reshape(n, k, *base.shape[1:])


def shades(cases: Cases, grid: Grid) -> Tensor:
    """The value of every level at every coordinate (n, channels, levels, pixels), as ``paint`` sets it."""
    n = len(cases)
    level = cases.x.new_tensor(range(grid.levels))[:, None] / (grid.levels - 1)
    low, high = (
        end.reshape(n, grid.channels, 1, -1) if isinstance(end, Tensor) else end for end in (cases.low, cases.high)
    )
    return (low + (high - low) * level).expand(n, grid.channels, grid.levels, grid.pixels)


def movable(cases: Cases, grid: Grid) -> Tensor | None:
    """Pixels that have room to change (n, pixels), or None where all do: the box is two numbers."""
    if not isinstance(cases.low, Tensor) and not isinstance(cases.high, Tensor):
        return None
    room = torch.as_tensor(cases.high, device=cases.x.device) - cases.low
    return (room > 0).expand(cases.x.shape).reshape(len(cases), grid.channels, -1).any(1)


def _at(end: float | Tensor, where: Tensor) -> float | Tensor:
    """An end of the box at places (n, k, channels, m)."""
    if not isinstance(end, Tensor):
        return end
    n, k, channels, _ = where.shape
    return end.reshape(n, 1, channels, -1).expand(-1, k, -1, -1).gather(3, where)
