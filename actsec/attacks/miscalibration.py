"""Miscalibration: move the confidence and leave the label, so that accuracy stays and calibration breaks.

x_{t+1} = P(x_t + step_size * (1 - t / steps) * d(grad J)), up or down by the aim (Galil and El-Yaniv 2021, "Disrupting
deep uncertainty estimation without harming accuracy"; Obadinma et al. 2024, "Calibration attacks", section 3):

    over     surer of everything: what is wrong looks certain
    under    less sure of everything: what is right looks doubtful
    worst    surer where the label is wrong, less sure where it is right: the largest ECE (maximum miscalibration)
    random   towards a confidence drawn for each row, uniform from 1 / classes to 1: confidence that says nothing any
             more, while its mean need not stand out (Obadinma et al.'s random confidence attack; their draws differ)

Random goes up from below its target and down from above. The target is keyed by the row's id: the same for every
attack, model and eps. What counts is to come nearer to it in log odds than the untouched input is.

Up, J = z_k - log sum_{j != k} exp(z_j), the log odds of the decided class k. Down, J = mean_j z_j - log sum_j exp(z_j),
which lowers k and whoever has caught up with it and raises the rest: towards 1 / classes, where minus the log odds
would stop at 1 / 2. From a point with another label J is the lead of k, so that a step across the boundary is followed
by one back and the search runs along it. (On a ResNet-20 at 8/255 the mean confidence falls from 0.94 to 0.19; taking
such steps back and halving them, it falls to 0.33, and to 0.48 by the log odds.)

The goal is ``miscalibrate``: a candidate counts when it is inside ball and box and the decision, by the target's own
rule and threshold, is that of the untouched input; of each row the one whose confidence moved most is kept. The control
is noise at the same eps under the same goal. Cost: steps forwards and backwards, and 1 forward, for each restart. The
first begins at the input itself, further ones at random points of the ball.

Known failures: temperature scaling divides the log odds and moves no optimum, so that it repairs the ECE of untouched
inputs and not that of attacked ones. Down, all classes alike is not the only way to a low probability of the first:
between three classes of a network in the plane one start ends at a median of 0.03 above what an exhaustive search
finds, four at 0.006. The search does not see a detector, whose rejections do not count.
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


@dataclass(frozen=True, slots=True)
class MiscalibrationState:
    """The candidate to be judged next, the decision (n,) on the untouched input (-1 before it is known), the step."""

    x: Tensor
    label: Tensor
    step: Tensor
    done: Tensor


@dataclass(frozen=True, slots=True)
class Miscalibration:
    """Projected gradient ascent on the log odds of the decided class, held to that class."""

    steps: Annotated[int, "gradient steps of each start"] = 30
    step_size: Annotated[float | None, "of the first step, in input units; none is 4 * eps / steps"] = None
    restarts: Annotated[int, "starts tried: the input, then random points of the ball"] = 1
    aim: Annotated[Aim, "surer, less sure, surer where wrong and less where right, or a random confidence"] = "worst"

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
        step = torch.zeros_like(cases.id)
        return MiscalibrationState(cases.x, torch.full_like(cases.y, -1), step, step.bool())

    def ask(self, state: MiscalibrationState, cases: Cases) -> Ask:
        # The last point of a start is only judged.
        wants = state.step % (self.steps + 1) < self.steps
        return Ask(state.x[:, None], Surety(self.aim), wants, state.label[:, None])

    def tell(self, state: MiscalibrationState, reply: Reply, cases: Cases, draws: Draws) -> MiscalibrationState:
        label = torch.where(state.label >= 0, state.label, reply.logits[:, 0].argmax(1))
        direction = steepest(free(graded(reply)[1][:, 0], state.x, cases), cases.norm)
        first = cases.eps * 4 / self.steps if self.step_size is None else torch.full_like(cases.eps, self.step_size)
        length = first * (1 - state.step % (self.steps + 1) / self.steps)
        x = nearest(cases, state.x + direction * spread(length, direction).to(direction.dtype))
        step = state.step + 1
        again = step % (self.steps + 1) == 0
        if self.restarts > 1 and bool(again.any()):
            x = torch.where(spread(again, x), place(cases, random_start(cases, draws, step)), x)
        return MiscalibrationState(x, label, step, step >= self.restarts * (self.steps + 1))
