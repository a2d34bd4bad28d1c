"""Zero tails: push gelu, silu, mish and softplus units so far down that they give numerically nothing.

These units never die by definition, but below some z both |f(z)| and |f'(z)| are at most 0.001: -3.8 for gelu, -9.1 for
silu, computed from the function. x_{t+1} = P(x_t + step_size * d(grad D)), D the mean over units of
sigmoid((end - z) / tau), tau = width * std(z) of the example and site: dead_relu's count with that end. Its goal is
``zero_tail``: success is a net rise of the fraction in the tail, which is not misclassification. Cost: steps + 1
forwards, steps backwards.

Known failures: the tail of silu and mish lies far out, and networks whose pre-activations are small keep out of it
whatever the input: a rise of 0 is the usual truth. A model without such a site is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from actsec.attacks import _forcing
from actsec.attacks._forcing import ForcingState
from actsec.draws import Draws
from actsec.forcing.aim import DeadCount
from actsec.types import Ask, Cases, Knowledge, Norm, Reply


@dataclass(frozen=True, slots=True)
class ZeroTail:
    """Projected gradient ascent on the smoothed count of units in a zero tail."""

    steps: Annotated[int, "gradient steps"] = 50
    step_size: Annotated[float | None, "in input units; none is 2.5 * eps / steps"] = None
    width: Annotated[float, "softness of the count, in standard deviations of each site"] = 0.1
    site: Annotated[str | None, "one activation call; none is all of them"] = None

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    knowledge: ClassVar[Knowledge] = "white_box"
    roles: ClassVar[tuple[str, ...]] = ()
    goal: ClassVar[str] = "zero_tail"

    def __post_init__(self) -> None:
        _forcing.check("zero_tail", self.steps, self.step_size, self.width)

    def start(self, cases: Cases, draws: Draws) -> ForcingState:
        return _forcing.begin(cases, "zero_tail")

    def ask(self, state: ForcingState, cases: Cases) -> Ask:
        return Ask(state.x[:, None], DeadCount(self.width, "zero_tail", self.site), wants=state.step < self.steps)

    def tell(self, state: ForcingState, reply: Reply, cases: Cases, draws: Draws) -> ForcingState:
        return _forcing.climb(state, reply, cases, self.steps, self.step_size)
