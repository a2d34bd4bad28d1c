"""The nonsense itself: four kinds of inputs inside the box, drawn row by row, so that never all of them are held."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from actsec.draws import Draws

KINDS = ("uniform noise", "gaussian noise", "permuted pixels", "blank")
"""What the codes of ``Nonsense.kind`` mean. The first blanks are black, grey, white and the mean image."""
ROWS = 200
STATISTICS = 1000
"""The mean image and its deviation are those of the first so many images."""
AT_ONCE = 100
"""How many of them are held at once."""


@dataclass(frozen=True, slots=True)
class Moments:
    """The mean image and each value's deviation, *shape, float64."""

    mean: Tensor
    deviation: Tensor


def moments(pieces: Iterable[Tensor]) -> Moments:
    """Of images that come in pieces (n, *shape), joined as in Chan, Golub & LeVeque 1983, equation 2.1."""
    n, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for piece in pieces:
        x, before = piece.double(), n
        n += len(x)
        own = x.mean(0)
        away = own - mean
        squares = squares + (x - own).square().sum(0) + away.square() * (before * len(x) / n)
        mean = mean + away * (len(x) / n)
    return Moments(mean, (squares / n).sqrt())


def observed(x: Tensor) -> Moments:
    """``moments`` of the first STATISTICS images of x (n, *shape)."""
    return moments(torch.split(x[:STATISTICS], AT_ONCE))


@dataclass(frozen=True, slots=True)
class Drawn:
    """Nonsense of a box: each row of a kind is the same, whichever rows are asked for with it.

    x (n, *shape): the images whose pixels are permuted, with row ids (n,); bounds: the box; seed: of all draws.
    """

    x: Tensor
    id: Tensor
    like: Moments
    bounds: tuple[float, float]
    seed: int

    def counts(self) -> tuple[int, ...]:
        """How many rows each kind has, by KINDS."""
        return (ROWS, ROWS, min(len(self.x), ROWS), ROWS)

    def rows(self, kind: int, row: Tensor) -> Tensor:
        """Rows (m,) of a kind: (m, *shape) float32 inside the box."""
        (low, high), shape, draws = self.bounds, tuple(self.x.shape[1:]), Draws(self.seed, "nonsense")
        if kind == 0:
            return low + (high - low) * draws.named("uniform").uniform(row, 0, shape)
        if kind == 1:
            noise = draws.named("gaussian").normal(row, 0, shape)
            return (self.like.mean + self.like.deviation * noise).clamp(low, high).to(self.x.dtype)
        if kind == 2:
            return permuted(self.x[row], self.id[row], draws.named("permuted"))
        plain = (shape[0], 1, 1) if len(shape) == 3 else (1,) * len(shape)
        blank = (low + (high - low) * draws.named("blank").uniform(row, 0, plain)).expand(-1, *shape).clone()
        mean = self.like.mean.clamp(low, high).to(self.x.dtype)
        first: dict[int, float | Tensor] = {0: low, 1: (low + high) / 2, 2: high, 3: mean}
        for place, number in enumerate(row.tolist()):
            if number in first:
                blank[place] = first[number]
        return blank


def permuted(x: Tensor, id: Tensor, draws: Draws) -> Tensor:
    """Each image (n, channels, h, w) with its pixels in another order, colours kept; each vector with its features."""
    flat = x.flatten(2) if x.dim() == 4 else x.flatten(1)[:, None]
    order = draws.bits(id, 0, (flat.shape[2],)).argsort(dim=1, stable=True)
    return flat.gather(2, order[:, None].expand_as(flat)).reshape(x.shape)
