"""One judge for all: what any library returns is looked at once, by the same rules, on the same model.

An image counts when the original model, in float32, decides wrongly on it and it lies inside box and ball. The
tolerance is 1e-6 of the radius, plus one unit in the last place of a float32 below 1 (6e-8): x + eps cannot be stored
more exactly, so a library that adds and clips is not accused of that. Everything beyond it is a violation: it counts as
a failure of the attack, and the table shows how many there were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from actsec.geometry import distance
from actsec.types import Norm

TOLERANCE = 1e-6
ROUNDING = 2.0**-24


@dataclass(frozen=True, slots=True)
class Judged:
    """Of each image, the size of the change that fools the model, infinity where it does not; and the violations.

    Images that were misclassified from the beginning have size 0, whatever was returned.
    """

    sizes: list[float]
    violations: int


def judge(
    model: nn.Module, x: Tensor, y: Tensor, found: Tensor, norm: Norm, eps: float | None, batch: int = 256
) -> Judged:
    """Look at what an attack returned, (n, *shape), for clean x (n, *shape), y (n,), when asked ``batch`` at a time."""
    if found.shape != x.shape:
        return Judged([math.inf] * len(x), len(x))
    candidate = found.detach().to(x)
    size = _size(candidate, x, norm)
    finite = torch.isfinite(candidate).flatten(1).all(1)
    boxed = ((candidate >= -TOLERANCE) & (candidate <= 1 + TOLERANCE)).flatten(1).all(1)
    near = size <= (math.inf if eps is None else eps * (1 + TOLERANCE) + ROUNDING)
    admissible = finite & boxed & near
    clean = _wrong(model, x, y, batch)
    shown = torch.where(finite.view(-1, *(1,) * (x.dim() - 1)), candidate, x)
    fooled = _wrong(model, shown, y, batch) & admissible
    sizes = torch.where(clean, torch.zeros_like(size), torch.where(fooled, size, torch.full_like(size, torch.inf)))
    return Judged(sizes.tolist(), int((~admissible).sum()))


def _size(found: Tensor, x: Tensor, norm: Norm) -> Tensor:
    if norm != "l0":
        return distance(found, x, norm)
    # Libraries that go through 0..255 and back move every other pixel by a rounding: that is no change.
    moved = (found - x).abs() > TOLERANCE
    return (moved.any(1) if x.dim() == 4 else moved).flatten(1).sum(1).double()


def _wrong(model: nn.Module, x: Tensor, y: Tensor, batch: int) -> Tensor:
    """Whether the decision is wrong in calls as the libraries make them, or in calls padded as our referee makes them.

    The last bits of a logit depend on how many rows share a call, and the smallest change ends within those bits of the
    boundary: one kind of call would favour whoever searched with it.
    """
    wrong = torch.zeros_like(y, dtype=torch.bool)
    with torch.no_grad():
        for pad in (1, 32):
            pieces = torch.split(x, batch)
            padded = [torch.cat([piece, piece[:1].expand(-len(piece) % pad, *piece.shape[1:])]) for piece in pieces]
            calls = [model(rows)[: len(piece)].argmax(1) for rows, piece in zip(padded, pieces, strict=True)]
            wrong |= torch.cat(calls) != y
    return wrong


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed; infinities are failures."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else math.nan


def best_of(many: Sequence[Sequence[float]]) -> list[float]:
    """Per image, the smallest size that anyone found, over lists of at most the same length."""
    length = max(map(len, many), default=0)
    return [min(sizes[i] for sizes in many if i < len(sizes)) for i in range(length)]


def ratios(sizes: Sequence[float], best: Sequence[float]) -> list[float]:
    """Per image, how many times the best known size this one is; images that nobody broke or that need none say 1."""
    return [_ratio(size, least) for size, least in zip(sizes, best, strict=False)]


def _ratio(size: float, least: float) -> float:
    if size == least:
        return 1.0
    return size / least if least else math.inf


def optimality(sizes: Sequence[float], best: Sequence[float]) -> float:
    """AttackBench's measure (Cina et al. 2025): 1 is the best anyone found on every image, 0 a failure on all.

    1 - (A - A_best) / (d_max - A_best), A the area under robust accuracy as a function of the size allowed, up to
    d_max, the largest best size. Areas here are those of the step function, which is the mean of the sizes cut off at
    d_max; AttackBench joins its points by the trapezoid rule, which credits an attack that fails everywhere.
    """
    best = best[: len(sizes)]
    finite = [size for size in best if math.isfinite(size)]
    if not finite:
        return math.nan
    most = max(finite)
    area, least = (sum(min(size, most) for size in column) / len(column) for column in (sizes, best))
    return 1.0 if area == least else 1 - (area - least) / (most - least) if most > least else 0.0
