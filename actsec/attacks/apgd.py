"""APGD: projected gradient ascent with momentum whose step size sets itself.

z = P(x_t + eta * d(grad)), x_{t+1} = P(x_t + 0.75 (z - x_t) + 0.25 (x_t - x_{t-1})), d the steepest direction of the
norm, eta = 2 eps at first (first_step). At checkpoints (22 % of the steps, then at intervals that shrink by 3 % down to
6 %) a candidate halves its eta and goes back to its best point when at most 75 % of its steps since the last one raised
the loss, or when neither eta nor the best loss has changed since (Croce & Hein 2020, algorithm 1 and section 3.2; "at
most" as in the authors' code). P is the nearest point of ball and box; in L2 the gradient is first freed of the
coordinates that would only leave the box.

begin = ball is a random point of the ball, the paper's. begin = tiles is a corner of it: images are cut into tiles,
some 7 a side, and each gets a random sign (the patches of Square; single features for vectors). Short runs from many
tiled corners reach optima that runs from random points, which look alike to a convolution, rarely see: on the hardest
digit of a provably robust MNIST network 10 steps of PGD succeed from 22 % of 64 tiled corners and 5 % of 64 random
points.

targets = k climbs towards the k likeliest other classes at the input, all k at once; where there are fewer, further
random starts aim at them again. Rows with a target of their own use all k on it. Cost per restart: steps forwards and
backwards, and 1 forward, for each target; with targets, once, 1 forward and 1 backward more for each.

Known failures: cross-entropy vanishes where the softmax saturates in float32; dlr and margin do not. The schedule wants
some 20 steps at least to have a second checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from actsec.draws import Draws
from actsec.errors import BadOption
from actsec.geometry import bounded, free, nearest, place, random_start, spread, steepest
from actsec.losses import by_name, graded, likely
from actsec.types import Ask, Cases, Knowledge, Norm, Reply

_MOMENTUM, _RISES = 0.75, 0.75
_TILES = 7
_FIRST_CHECK, _SHRINK, _LEAST = 0.22, 0.03, 0.06


def checkpoints(steps: int) -> tuple[int, ...]:
    """The steps, from 0, at which the step size is looked at: w_j = ceil(p_j * steps) (Croce & Hein 2020, eq. 3.2)."""
    shares, found = [0.0, _FIRST_CHECK], [0]
    while (at := math.ceil(round(shares[-1] * steps, 9))) < steps:
        if at > found[-1]:
            found.append(at)
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - _SHRINK, _LEAST))
    return tuple(found)


@cache
def _widths(steps: int) -> tuple[int, ...]:
    """For each step the steps since the last checkpoint if it is one, else 0."""
    ends = {at: at - last for last, at in pairwise(checkpoints(steps))}
    return tuple(ends.get(step, 0) for step in range(steps + 1))


@dataclass(frozen=True, slots=True)
class Climb:
    """Per row and candidate (n, k): where it is and was, its best point with loss and gradient, and its step size.

    rises counts the steps since the last checkpoint that raised the loss; mark is the best loss at that checkpoint and
    halved says whether eta was halved there.
    """

    x: Tensor
    before: Tensor
    best: Tensor
    slope: Tensor
    loss: Tensor
    highest: Tensor
    mark: Tensor
    eta: Tensor
    rises: Tensor
    halved: Tensor


@dataclass(frozen=True, slots=True)
class APGDState:
    """The climbs, the class each aims at (n, k), -1 for none, and the steps taken, -1 before the targets are known."""

    climb: Climb
    target: Tensor
    step: Tensor
    done: Tensor


@dataclass(frozen=True, slots=True)
class APGD:
    """Auto-PGD, towards no class or towards several at once."""

    steps: Annotated[int, "gradient steps of each restart and target"] = 100
    restarts: Annotated[int, "random starts tried, one after the other"] = 1
    loss: Annotated[Literal["cross_entropy", "dlr", "margin"], "what is climbed"] = "cross_entropy"
    targets: Annotated[int, "likeliest other classes aimed at, all at once; 0 aims away from the label"] = 0
    first_step: Annotated[float, "size of the first step, in units of eps"] = 2.0
    begin: Annotated[Literal["ball", "tiles"], "a random point, or a corner that is constant on tiles"] = "ball"

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    knowledge: ClassVar[Knowledge] = "white_box"
    roles: ClassVar[tuple[str, ...]] = ("iterative", "margin")

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or self.targets < 0 or not self.first_step > 0:
            raise BadOption(
                f"apgd(steps={self.steps}, restarts={self.restarts}, targets={self.targets}, "
                f"first_step={self.first_step})",
                "steps and restarts are at least 1, targets at least 0, first_step is above 0.",
            )

    def passes(self, shape: tuple[int, ...]) -> int:
        """Forwards and twice the backwards of an image that stands."""
        return max(self.targets, 1) * self.restarts * (3 * self.steps + 1) + 3 * self.targets

    def start(self, cases: Cases, draws: Draws) -> APGDState:
        bounded(cases, "apgd")
        step = torch.full_like(cases.id, -1 if self.targets else 0)
        climb = self._begin(cases, draws, torch.zeros_like(step))
        target = cases.target[:, None].expand(climb.eta.shape)
        return APGDState(climb, target.clone(), step, torch.zeros_like(step, dtype=torch.bool))

    def ask(self, state: APGDState, cases: Cases) -> Ask:
        x = state.climb.x
        if self.targets:
            x = torch.where(spread(state.step < 0, x), cases.x[:, None], x)
        # The last point of a restart is only judged.
        wants = state.step % (self.steps + 1) < self.steps
        return Ask(x, by_name(self.loss), wants | (state.step < 0), state.target)

    def tell(self, state: APGDState, reply: Reply, cases: Cases, draws: Draws) -> APGDState:
        unknown, step = state.step < 0, state.step + 1
        moved = self._climb(state, reply, cases)
        again = (step > 0) & (step % (self.steps + 1) == 0)
        if self.restarts > 1 and bool(again.any()):
            moved = _pick(again, self._begin(cases, draws, step), moved)
        target = state.target
        if bool(unknown.any()):
            moved = _pick(unknown, state.climb, moved)
            target = torch.where(unknown[:, None], likely(reply.logits[:, 0], cases, target.shape[1]), target)
        return APGDState(moved, target, step, step >= self.restarts * (self.steps + 1))

    def _begin(self, cases: Cases, draws: Draws, step: Tensor) -> Climb:
        """Climbs at random points of the ball, one for each target."""
        many = range(max(self.targets, 1))
        families = [draws] + [draws.named(f"target {j}") for j in many[1:]]
        drawn = random_start if self.begin == "ball" else _tiled
        x = torch.stack([place(cases, drawn(cases, family, step)) for family in families], 1)
        eta = (self.first_step * cases.eps)[:, None].expand(-1, len(families)).clone()
        low = torch.full_like(eta, -torch.inf).to(x.dtype)
        return Climb(x, x, x, torch.zeros_like(x), low, low, low, eta, torch.zeros_like(eta), torch.ones_like(eta) > 0)

    def _climb(self, state: APGDState, reply: Reply, cases: Cases) -> Climb:
        """Algorithm 1 from the points just judged: the climbs with their next points."""
        step, k = state.step % (self.steps + 1), state.target.shape[1]
        known = _seen(state.climb, reply, step)
        known, back = self._check(known, step)
        wide = spread(back, known.x)
        base = torch.where(wide, known.best, known.x).flatten(0, 1)
        gradient = torch.where(wide, known.slope, graded(reply)[1]).flatten(0, 1)
        many = cases.repeated(k)
        if cases.norm != "linf":
            gradient = free(gradient, base, many)
        direction = steepest(gradient, cases.norm)
        eta = spread(known.eta.flatten(), base).to(base.dtype)
        ahead = nearest(many, base + direction * eta)
        share = torch.where(step > 0, _MOMENTUM, 1.0).to(base.dtype).repeat_interleave(k)
        share = spread(share, base)
        drift = base - known.before.flatten(0, 1)
        moved = nearest(many, base + share * (ahead - base) + (1 - share) * drift)
        return replace(known, x=moved.reshape(known.x.shape), before=base.reshape(known.x.shape))

    def _check(self, climb: Climb, step: Tensor) -> tuple[Climb, Tensor]:
        """The climbs after the checkpoint, where step (n,) is one, and which of them (n, k) go back to their best."""
        width = climb.eta.new_tensor(_widths(self.steps))[step][:, None]
        due = (width > 0).expand(climb.eta.shape)
        few = climb.rises <= _RISES * width
        stuck = ~climb.halved & (climb.mark >= climb.highest)
        back = due & (few | stuck)
        return replace(
            climb,
            eta=torch.where(back, climb.eta / 2, climb.eta),
            rises=torch.where(due, 0.0, climb.rises),
            halved=torch.where(due, back, climb.halved),
            mark=torch.where(due, climb.highest, climb.mark),
        ), back


def _tiled(cases: Cases, draws: Draws, step: Tensor) -> Tensor:
    """A random corner of the ball (n, *shape), constant on tiles of an image: about a seventh of its longer side."""
    shape = tuple(cases.x.shape[1:])
    if len(shape) == 3:
        channels, high, wide = shape
        side = -(-max(high, wide) // _TILES)
        coarse = draws.sign(cases.id, step, (channels, -(-high // side), -(-wide // side)))
        sign = coarse.repeat_interleave(side, 2).repeat_interleave(side, 3)[:, :, :high, :wide]
    else:
        sign = draws.sign(cases.id, step, shape)
    size = cases.eps if cases.norm == "linf" else cases.eps / math.sqrt(max(math.prod(shape), 1))
    return sign * spread(size, sign).to(cases.x.dtype)


def _seen(climb: Climb, reply: Reply, step: Tensor) -> Climb:
    """The climbs with the judged points' losses taken in."""
    loss, gradient = graded(reply)
    better = loss > climb.highest
    wide = spread(better, climb.x)
    first = (step == 0)[:, None]
    highest = torch.where(better, loss, climb.highest)
    return replace(
        climb,
        best=torch.where(wide, climb.x, climb.best),
        slope=torch.where(wide, gradient, climb.slope),
        loss=loss,
        highest=highest,
        mark=torch.where(first, highest, climb.mark),
        rises=climb.rises + (~first & (loss > climb.loss)),
    )


def _pick(rows: Tensor, chosen: Climb, other: Climb) -> Climb:
    """The climbs of ``chosen`` at ``rows`` (n,), of ``other`` elsewhere."""
    picked = {
        f.name: torch.where(spread(rows, value), value, getattr(other, f.name))
        for f in fields(Climb)
        for value in [getattr(chosen, f.name)]
    }
    return Climb(**picked)
