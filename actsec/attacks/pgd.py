"""PGD: repeated steepest steps, each projected back into the ball and the box.

x_{t+1} = P(x_t + step_size * d(grad J)), d the steepest direction of the norm (Madry et al. 2017, eq. in section 2.1).
Starts at a random point of the ball; further restarts begin at fresh ones. P is the nearest point of ball and box, and
in L2 and L1 the gradient is first freed of the coordinates that would only leave the box: on a linear model the fixed
point is the optimum. Cost per restart: steps forwards and backwards, and 1 forward.

Known failures: a fixed step oscillates near the optimum (more steps with a smaller step_size help); cross-entropy
vanishes where the softmax saturates (loss=margin does not). In L1 a step moves one coordinate, so steps bounds how many
change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from actsec.draws import Draws
from actsec.errors import BadOption
from actsec.geometry import bounded, free, nearest, place, random_start, spread, steepest
from actsec.losses import CrossEntropy, Margin, graded
from actsec.types import Ask, Cases, Knowledge, Norm, Reply


@dataclass(frozen=True, slots=True)
class PGDState:
    """The candidate to be judged next, and the number of steps taken since the attack began."""

    x: Tensor
    step: Tensor
    done: Tensor


@dataclass(frozen=True, slots=True)
class PGD:
    """Projected gradient ascent on a loss."""

    steps: Annotated[int, "gradient steps of each restart"] = 40
    step_size: Annotated[float | None, "in input units; none is 2.5 * eps / steps"] = None
    restarts: Annotated[int, "random starts tried"] = 1
    loss: Annotated[Literal["cross_entropy", "margin"], "what is climbed"] = "cross_entropy"
    random_start: Annotated[bool, "begin at a random point of the ball instead of the input"] = True

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")
    knowledge: ClassVar[Knowledge] = "white_box"
    roles: ClassVar[tuple[str, ...]] = ("iterative", "margin")

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise BadOption(f"pgd(steps={self.steps}, restarts={self.restarts})", "Both are at least 1.")
        if self.step_size is not None and not self.step_size > 0:
            raise BadOption(f"pgd(step_size={self.step_size})", "step_size is above 0, or none.")

    def start(self, cases: Cases, draws: Draws) -> PGDState:
        bounded(cases, "pgd")
        step = torch.zeros_like(cases.id)
        x = place(cases, random_start(cases, draws, step)) if self.random_start else cases.x
        return PGDState(x, step, step.bool())

    def ask(self, state: PGDState, cases: Cases) -> Ask:
        loss = CrossEntropy() if self.loss == "cross_entropy" else Margin()
        # The last point of a restart is only judged.
        return Ask(state.x[:, None], loss, wants=state.step % (self.steps + 1) < self.steps)

    def tell(self, state: PGDState, reply: Reply, cases: Cases, draws: Draws) -> PGDState:
        gradient = graded(reply)[1][:, 0]
        if cases.norm != "linf":
            gradient = free(gradient, state.x, cases)
        direction = steepest(gradient, cases.norm)
        length = cases.eps * 2.5 / self.steps if self.step_size is None else torch.full_like(cases.eps, self.step_size)
        x = nearest(cases, torch.addcmul(state.x, direction, spread(length, direction).to(direction.dtype)))
        step = state.step + 1
        again = step % (self.steps + 1) == 0
        if self.restarts > 1 and bool(again.any()):
            x = torch.where(spread(again, x), place(cases, random_start(cases, draws, step)), x)
        return replace(state, x=x, step=step, done=step >= self._questions())

    def _questions(self) -> int:
        return self.restarts * (self.steps + 1)
