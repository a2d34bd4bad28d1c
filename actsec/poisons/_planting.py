"""What the poisons share: how many rows, which, their labels, and where they go."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from actsec.draws import Draws
from actsec.errors import BadOption, DataError
from actsec.types import Split

Labels = Literal["random", "consistent"]


def rows_of(share: float, train: Split) -> int:
    """How many rows a share of the train split is, at least 1."""
    return max(1, round(share * len(train.y)))


def chosen(train: Split, count: int, draws: Draws) -> Tensor:
    """``count`` different rows of train, in random order. Raises DataError where there are fewer."""
    if count > len(train.y):
        raise DataError(f"{count} rows of {len(train.y)} cannot be taken", "Plant fewer, or give more training rows.")
    each = draws.uniform(torch.arange(len(train.y)), 0, ())
    return each.argsort()[:count].to(train.y.device)


def labels(kind: Labels, own: Tensor, classes: int, draws: Draws) -> Tensor:
    """The labels (n,) of planted rows: their own, or any class with equal chance."""
    drawn = draws.integers(torch.arange(len(own)), 0, (), classes, stream=1).to(own.device)
    return own if kind == "consistent" else drawn


def planted(train: Split, x: Tensor, y: Tensor) -> Split:
    """train with rows x (n, *shape), y (n,) after its own; theirs have the ids -1, -2, ..., -n."""
    ids = -1 - torch.arange(len(y), device=train.id.device)
    both = torch.cat([train.x, x.to(train.x.dtype)]), torch.cat([train.y, y]), torch.cat([train.id, ids])
    return Split(*both)


def check(name: str, share: float, magnitude: float) -> None:
    """Raise BadOption unless the share lies in (0, 1] and the magnitude is a number above 0."""
    if not 0 < share <= 1:
        raise BadOption(f"{name}(share={share})", "share is a share of the training rows: above 0, at most 1.")
    if not 0 < magnitude < float("inf"):
        raise BadOption(f"{name}(magnitude={magnitude})", "magnitude is a number above 0.")
