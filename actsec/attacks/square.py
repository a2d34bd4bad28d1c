"""Square attack: random search with square patches, from scores alone.

Keep the best point; propose a patch of side sqrt(p * pixels) at a random place, set to random corners of the ball; take
it when the margin rises (Andriushchenko et al. 2020, algorithms 1 to 3). L-inf begins at vertical stripes of +-eps. L2
begins at a random sign grid of norm eps; a proposal moves the mass of a second window, and what the ball still allows,
into a peaked bump in the first. p halves at fixed shares of the budget. In a recipe, begin = best goes on from what the
attacks before it left. Vectors are treated as one row of pixels. Cost: ``queries`` forwards, no gradient.

Uses no gradient, so it sees through gradient masking: where it breaks what PGD does not, PGD's number is wrong. Known
failures: slow on inputs of many pixels (the paper uses 5,000 to 10,000 queries); on vectors neighbouring features need
not belong together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from actsec.draws import Draws
from actsec.errors import BadOption
from actsec.geometry import bounded, place, row_sum, spread
from actsec.types import Ask, Cases, Knowledge, Norm, Reply

_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True, slots=True)
class SquareState:
    """The proposal x, the best point so far and its score, and how many proposals were judged."""

    x: Tensor
    best: Tensor
    score: Tensor
    step: Tensor
    done: Tensor


@dataclass(frozen=True, slots=True)
class Square:
    """Random search over square patches."""

    queries: Annotated[int, "forwards of each example"] = 1000
    p: Annotated[float, "share of the pixels that the first patches cover"] = 0.8

    begin: Annotated[Literal["stripes", "best"], "the paper's start, or a recipe's best attempt so far"] = "stripes"

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    knowledge: ClassVar[Knowledge] = "black_box"
    roles: ClassVar[tuple[str, ...]] = ("gradient_free",)

    def __post_init__(self) -> None:
        if self.queries < 1 or not 0 < self.p <= 1:
            raise BadOption(f"square(queries={self.queries}, p={self.p})", "queries is at least 1, p lies in (0, 1].")

    def passes(self, shape: tuple[int, ...]) -> int:
        """Forwards of an image that stands."""
        return self.queries

    def start(self, cases: Cases, draws: Draws) -> SquareState:
        bounded(cases, "square")
        step = torch.zeros_like(cases.id)
        c, h, w = _as_image(tuple(cases.x.shape[1:]))
        if cases.norm == "linf":
            sign = draws.sign(cases.id, step, (c, 1, w)).expand(-1, -1, h, -1)
            delta = sign * spread(cases.eps, sign).to(sign.dtype)
        else:
            tile = max(1, max(h, w) // 5)
            coarse = draws.sign(cases.id, step, (c, -(-h // tile), -(-w // tile)))
            sign = coarse.repeat_interleave(tile, 2).repeat_interleave(tile, 3)[:, :, :h, :w]
            delta = sign * spread(cases.eps, sign).to(sign.dtype) / math.sqrt(c * h * w)
        x = place(cases, delta.reshape(cases.x.shape))
        if self.begin == "best" and cases.start is not None:
            x = place(cases, cases.start - cases.x)
        return SquareState(x, x, torch.full_like(cases.eps, -torch.inf).to(x.dtype), step, step.bool())

    def ask(self, state: SquareState, cases: Cases) -> Ask:
        return Ask(state.x[:, None])

    def tell(self, state: SquareState, reply: Reply, cases: Cases, draws: Draws) -> SquareState:
        score = reply.score[:, 0].to(state.score.dtype)
        better = (score > state.score) & reply.inside[:, 0]
        best = torch.where(spread(better, state.x), state.x, state.best)
        step = state.step + 1
        delta = (best - cases.x).reshape(len(cases), *_as_image(tuple(cases.x.shape[1:])))
        side = self._side(step, delta)
        moved = (
            _patch(cases, delta, side, step, draws) if cases.norm == "linf" else _bump(cases, delta, side, step, draws)
        )
        x = place(cases, moved.reshape(cases.x.shape))
        return replace(
            state,
            x=x,
            best=best,
            score=torch.where(better, score, state.score),
            step=step,
            done=step >= self.queries,
        )

    def _side(self, step: Tensor, delta: Tensor) -> Tensor:
        """Side of the patch (n,) at each row's own step, in pixels; the length of a stretch where there is one row."""
        share = step.double() / self.queries
        passed = torch.stack([share > at for at in _HALVINGS]).sum(0)
        pixels = delta.shape[2] * delta.shape[3] * self.p * 0.5 ** passed.double()
        return (pixels if delta.shape[2] == 1 else pixels.sqrt()).round().clamp_min(1).to(torch.int64)


def _as_image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (1, 1, math.prod(shape))


def _window(cases: Cases, side: Tensor, step: Tensor, draws: Draws, size: tuple[int, int], stream: int) -> Tensor:
    """Chebyshev distance (n, 1, h, w) to the centre of a random window, in units where <= 1 is inside it."""
    out = []
    for axis, length in enumerate(size):
        short = side.clamp_max(length)
        corner = (draws.uniform(cases.id, step, (), stream + axis) * (length - short + 1)).to(torch.int64)
        place_of = torch.arange(length, device=side.device)[None]
        centre, half = (2 * corner + short - 1)[:, None], short[:, None]
        out.append((2 * place_of - centre).abs().double() / half)
    return torch.maximum(out[0][:, None, :, None], out[1][:, None, None, :])


def _patch(cases: Cases, delta: Tensor, side: Tensor, step: Tensor, draws: Draws) -> Tensor:
    """Algorithm 2: one patch set to a random corner of the ball per channel, or the opposite one if that is there."""
    inside = _window(cases, side, step, draws, (delta.shape[2], delta.shape[3]), 0) < 1
    eps = spread(cases.eps, delta).to(delta.dtype)
    corner = draws.sign(cases.id, step, (delta.shape[1], 1, 1), 2) * eps
    room = (cases.low - cases.x).reshape(delta.shape), (cases.high - cases.x).reshape(delta.shape)
    reached = torch.minimum(torch.maximum(corner.expand_as(delta), room[0]), room[1])
    same = (((reached - delta).abs() <= 1e-6 * eps) | ~inside).flatten(1).all(1)
    return torch.where(inside, torch.where(spread(same, delta), -corner, corner), delta)


def _bump(cases: Cases, delta: Tensor, side: Tensor, step: Tensor, draws: Draws) -> Tensor:
    """Algorithm 3: empty a second window into a peaked bump in the first, together with the unused budget."""
    size, c = (delta.shape[2], delta.shape[3]), delta.shape[1]
    first = _window(cases, side, step, draws, size, 0)
    second = _window(cases, side, step, draws, size, 4) < 1
    peak = torch.where(first < 1, 1 / (first * spread(side, first) + 1).square(), torch.zeros_like(first))
    either = (first < 1) | second
    mass = row_sum(torch.where(either, delta.double(), 0.0).square().flatten(1))
    unused = (cases.eps.square() - row_sum(delta.double().square().flatten(1))).clamp_min(0)
    old = torch.where(first < 1, delta.double(), 0.0)
    old = old / row_sum(old.square().flatten(2)).sqrt().clamp_min(1e-12)[:, :, None, None]
    peak = peak / row_sum(peak.square().flatten(1)).sqrt().clamp_min(1e-12)[:, None, None, None]
    shape = peak * draws.sign(cases.id, step, (c, 1, 1), 2) + old
    shape = shape / row_sum(shape.square().flatten(2)).sqrt().clamp_min(1e-12)[:, :, None, None]
    new = shape * spread(((mass + unused) / c).sqrt(), shape)
    moved = torch.where(either, new, delta.double())
    # A window wholly inside the other leaves nothing to move; the ball is then met by scaling.
    length = row_sum(moved.square().flatten(1)).sqrt().clamp_min(1e-12)
    return (moved * spread(cases.eps / length, moved)).to(delta.dtype)
