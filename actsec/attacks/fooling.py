"""Fooling: make the model as sure as it can be of a class, whatever the input shows.

x_{t+1} = P(x_t + step_size * (1 - t / steps) * d(grad J)), J = z_c - log sum_{j != c} exp(z_j), the log odds of class
c: the row's target, or the likeliest class other than the label, and with every restart the next likely. Unlike
cross-entropy and probability they do not saturate where the model is already sure, so that it goes on from 0.99 to
0.9999. Started from a blank or from noise, one row a class, it makes the images of Nguyen, Yosinski and Clune 2015
("Deep neural networks are easily fooled", section 3.3: gradient ascent) inside a ball around the blank; on examples it
makes confident mistakes. The goal is the threat's: ``linf:0.25:confident=0.99``. Cost of each start: steps forwards and
backwards, and 1 forward. The first begins at the input itself, further restarts at random points of the ball.

Known failures: where a saturated activation (sigmoid, tanh) leaves no gradient at a blank it stands still there, and
restarts help; without a target as few classes are tried as there are restarts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from actsec.draws import Draws
from actsec.errors import BadOption
from actsec.geometry import bounded, free, nearest, place, random_start, spread, steepest
from actsec.losses import graded, likely
from actsec.types import Ask, Cases, Knowledge, Norm, Observed, Reply


@dataclass(frozen=True, slots=True)
class LogOdds:
    """log(p / (1 - p)) of the row's target, or of the likeliest class other than y (m,).

    Behind a detector with a gradient, the lesser of that and what the detector still allows.
    """

    watches: ClassVar[bool] = False

    def __call__(self, observed: Observed, cases: Cases) -> Tensor:
        z = observed.logits
        likeliest = z.scatter(1, cases.y[:, None], -torch.inf).argmax(1)
        label = torch.where(cases.target >= 0, cases.target, likeliest)[:, None]
        odds = z.gather(1, label).squeeze(1) - z.scatter(1, label, -torch.inf).logsumexp(1)
        rejection = observed.rejection
        return odds if rejection is None or not rejection.requires_grad else torch.minimum(odds, -rejection)


@dataclass(frozen=True, slots=True)
class FoolingState:
    """The candidate to be judged next, the class of each start (n, restarts), and the number of steps taken."""

    x: Tensor
    aims: Tensor
    step: Tensor
    done: Tensor


@dataclass(frozen=True, slots=True)
class Fooling:
    """Projected gradient ascent on the log odds of a class."""

    steps: Annotated[int, "gradient steps of each start"] = 40
    step_size: Annotated[float | None, "of the first step, in input units; none is 4 * eps / steps"] = None
    restarts: Annotated[int, "starts tried: the input, then random points of the ball"] = 1

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    knowledge: ClassVar[Knowledge] = "white_box"
    roles: ClassVar[tuple[str, ...]] = ("iterative",)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise BadOption(f"fooling(steps={self.steps}, restarts={self.restarts})", "Both are at least 1.")
        if self.step_size is not None and not self.step_size > 0:
            raise BadOption(f"fooling(step_size={self.step_size})", "step_size is above 0, or none.")

    def start(self, cases: Cases, draws: Draws) -> FoolingState:
        bounded(cases, "fooling")
        step = torch.zeros_like(cases.id)
        return FoolingState(cases.x, cases.target[:, None].repeat(1, self.restarts), step, step.bool())

    def ask(self, state: FoolingState, cases: Cases) -> Ask:
        # The last point of a start is only judged.
        turn = (state.step // (self.steps + 1))[:, None]
        wants = state.step % (self.steps + 1) < self.steps
        return Ask(state.x[:, None], LogOdds(), wants, state.aims.gather(1, turn))

    def tell(self, state: FoolingState, reply: Reply, cases: Cases, draws: Draws) -> FoolingState:
        direction = steepest(free(graded(reply)[1][:, 0], state.x, cases), cases.norm)
        first = cases.eps * 4 / self.steps if self.step_size is None else torch.full_like(cases.eps, self.step_size)
        # Falling to 0: with steps of one length a tenth of the classes were missed at large eps, by overshooting.
        length = first * (1 - state.step % (self.steps + 1) / self.steps)
        x = nearest(cases, state.x + direction * spread(length, direction).to(direction.dtype))
        aims = torch.where((state.step == 0)[:, None], likely(reply.logits[:, 0], cases, self.restarts), state.aims)
        step = state.step + 1
        again = step % (self.steps + 1) == 0
        if self.restarts > 1 and bool(again.any()):
            x = torch.where(spread(again, x), place(cases, random_start(cases, draws, step)), x)
        return replace(state, x=x, aims=aims, step=step, done=step >= self.restarts * (self.steps + 1))
