"""Miscalibration: move the confidence and leave the label, so that accuracy stays and calibration breaks.

x_{t+1} = P(a + s * d(grad J)), up or down by the aim (Galil and El-Yaniv 2021, "Disrupting deep uncertainty estimation
without harming accuracy"; Obadinma et al. 2024, "Calibration attacks", section 3):

    over     surer of everything: what is wrong looks certain
    under    less sure of everything: what is right looks doubtful
    worst    surer where the label is wrong, less sure where it is right: the largest ECE (maximum miscalibration)

Up, J = z_k - log sum_{j != k} exp(z_j), the log odds of the decided class k. Down, J = mean_j z_j - log sum_j exp(z_j),
which lowers k and whoever has caught up with it and raises the rest: towards 1 / classes, where minus the log odds
would stop at 1 / 2. a is the last point that still had the label: a step that crosses into another class is taken back
and the next is half as long; after one that did not, half as long again, at most 4 * eps / steps falling to 0.

The goal is ``miscalibrate``: a candidate counts when it is inside ball and box and the decision, by the target's own
rule and threshold, is that of the untouched input; of each row the one whose confidence moved most is kept. The control
is noise at the same eps under the same goal. Cost: steps forwards and backwards, and 1 forward, for each restart. The
first begins at the input itself, further ones at random points of the ball.

Known failures: temperature scaling divides the log odds and moves no optimum, so it repairs the ECE of untouched inputs
and not that of attacked ones; the search does not see a detector, whose rejections do not count; where float32 rounds
the gradient to 0 the row stands still.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from actsec.confidence import Surety
from actsec.draws import Draws
from actsec.errors import BadOption
from actsec.geometry import bounded, free, nearest, place, random_start, spread, steepest
from actsec.losses import graded
from actsec.types import Aim, Ask, Cases, Knowledge, Norm, Reply

_GROWN = 1.5

@dataclass(frozen=True, slots=True)
class MiscalibrationState:
    """The candidate to be judged next; the last point with the label, its direction, and the length of the next step.

    label (n,) is the decision on the untouched input, -1 before it is known; met (n,) whether a step ever crossed.
    """

    x: Tensor
    anchor: Tensor
    direction: Tensor
    length: Tensor
    label: Tensor
    met: Tensor
    step: Tensor
    done: Tensor


@dataclass(frozen=True, slots=True)
class Miscalibration:
    """Projected gradient ascent on the log odds of the decided class, held to that class."""

    steps: Annotated[int, "gradient steps of each start"] = 30
    step_size: Annotated[float | None, "of the first step, in input units; none is 4 * eps / steps"] = None
    restarts: Annotated[int, "starts tried: the input, then random points of the ball"] = 1
    aim: Annotated[Aim, "surer, less sure, or surer where wrong and less sure where right"] = "worst"

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    knowledge: ClassVar[Knowledge] = "white_box"
    roles: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise BadOption(f"miscalibration(steps={self.steps}, restarts={self.restarts})", "Both are at least 1.")
        if self.step_size is not None and not self.step_size > 0:
            raise BadOption(f"miscalibration(step_size={self.step_size})", "step_size is above 0, or none.")

    @property
    def goal(self) -> str:
        """The goal of a threat that this attack is for."""
        return "miscalibrate" if self.aim == "worst" else f"miscalibrate={self.aim}"

    def start(self, cases: Cases, draws: Draws) -> MiscalibrationState:
        bounded(cases, "miscalibration")
        step, still = torch.zeros_like(cases.id), torch.zeros_like(cases.x)
        label = torch.full_like(cases.y, -1)
        return MiscalibrationState(cases.x, cases.x, still, self._first(cases), label, step.bool(), step, step.bool())

    def _first(self, cases: Cases) -> Tensor:
        return cases.eps * 4 / self.steps if self.step_size is None else torch.full_like(cases.eps, self.step_size)

    def ask(self, state: MiscalibrationState, cases: Cases) -> Ask:
        # The last point of a start is only judged.
        wants = state.step % (self.steps + 1) < self.steps
        return Ask(state.x[:, None], Surety(self.aim), wants, state.label[:, None])

    def tell(self, state: MiscalibrationState, reply: Reply, cases: Cases, draws: Draws) -> MiscalibrationState:
        decided = reply.logits[:, 0].argmax(1)
        label = torch.where(state.label >= 0, state.label, decided)
        crossed = decided != label
        gradient = steepest(free(graded(reply)[1][:, 0], state.x, cases), cases.norm)
        anchor = torch.where(spread(crossed, state.x), state.anchor, state.x)
        direction = torch.where(spread(crossed, state.x), state.direction, gradient)
        turn = state.step % (self.steps + 1)
        falls = self._first(cases) * (1 - turn / self.steps)
        length = torch.where(crossed, state.length / 2, torch.minimum(state.length * _GROWN, falls))
        x = nearest(cases, anchor + direction * spread(length, direction).to(direction.dtype))
        step, met = state.step + 1, state.met | crossed
        again = step % (self.steps + 1) == 0
        if self.restarts > 1 and bool(again.any()):
            new = place(cases, random_start(cases, draws, step))
            x, length = torch.where(spread(again, x), new, x), torch.where(again, self._first(cases), length)
        done = step >= self.restarts * (self.steps + 1)
        return MiscalibrationState(x, anchor, direction, length, label, met, step, done)
