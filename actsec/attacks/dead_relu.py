"""Dead-ReLU forcing: push as many ReLU units as possible to z <= 0, where they give nothing and learn nothing.

x_{t+1} = P(x_t + step_size * d(grad D)), where D is the mean over all units of sigmoid(-z / tau), tau = width * std(z)
of the example and site: a smoothed count of dead units. A hinge on z spends the budget on strongly active units and
does no better than noise; the count moves the units that can be moved. No library packages this attack and no paper
defines it; it is PGD (Madry et al. 2017) on a count. Its goal is ``kill``: success is a net rise of the dead fraction
(killed minus revived), which is not misclassification and is reported apart. Cost: steps + 1 forwards, steps backwards.

Known failures: a site that cannot die (leaky_relu, gelu, tanh, ...) does not count, and a model without a site that can
is refused ("not applicable"), never reported as 0 %. Where every unit of a layer is already dead no gradient reaches
the sites before it through that layer, though each of them is still pushed directly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from actsec.draws import Draws
from actsec.errors import BadOption
from actsec.geometry import bounded, free, place, spread, steepest
from actsec.losses import KILLABLE, DeadCount, graded
from actsec.types import Ask, Cases, Knowledge, Norm, Reply


@dataclass(frozen=True, slots=True)
class DeadReLUState:
    """The next candidate and the number of steps taken."""

    x: Tensor
    step: Tensor
    done: Tensor


@dataclass(frozen=True, slots=True)
class DeadReLU:
    """Projected gradient ascent on the smoothed count of dead units."""

    steps: Annotated[int, "gradient steps"] = 50
    step_size: Annotated[float | None, "in input units; none is 2.5 * eps / steps"] = None
    width: Annotated[float, "softness of the count, in standard deviations of each site"] = 0.3

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    knowledge: ClassVar[Knowledge] = "white_box"
    roles: ClassVar[tuple[str, ...]] = ()
    goal: ClassVar[str] = "kill"
    kinds: ClassVar[tuple[str, ...]] = KILLABLE

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.width > 0:
            raise BadOption(f"dead_relu(steps={self.steps}, width={self.width})", "steps is at least 1, width above 0.")
        if self.step_size is not None and not self.step_size > 0:
            raise BadOption(f"dead_relu(step_size={self.step_size})", "step_size is above 0, or none.")

    def start(self, cases: Cases, draws: Draws) -> DeadReLUState:
        bounded(cases, "dead_relu")
        step = torch.zeros_like(cases.id)
        return DeadReLUState(cases.x, step, step.bool())

    def ask(self, state: DeadReLUState, cases: Cases) -> Ask:
        return Ask(state.x[:, None], DeadCount(self.width, self.kinds), wants=state.step < self.steps)

    def tell(self, state: DeadReLUState, reply: Reply, cases: Cases, draws: Draws) -> DeadReLUState:
        direction = steepest(free(graded(reply)[1][:, 0], state.x, cases), cases.norm)
        length = cases.eps * 2.5 / self.steps if self.step_size is None else torch.full_like(cases.eps, self.step_size)
        x = place(cases, state.x + direction * spread(length, direction).to(direction.dtype) - cases.x)
        return replace(state, x=x, step=state.step + 1, done=state.step >= self.steps)
