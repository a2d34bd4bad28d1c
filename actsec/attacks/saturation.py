"""Saturation forcing: push tanh, sigmoid and hardtanh units into the tails, where they hardly learn.

A unit is saturated where |f'(z)| is below 0.05 of its largest: |z| > 2.2 for tanh, |z| > 4.4 for sigmoid, computed from
the function. x_{t+1} = P(x_t + step_size * d(grad D)), D the mean over units of sigmoid(depth / tau), depth being how
far past the nearer end z is and tau = width * std(z) of the example and site: dead_relu's count for units that do not
die. Its goal is ``saturate``: success is a net rise of the saturated fraction, which is not misclassification. Cost:
steps + 1 forwards, steps backwards.

Known failures: activations with a dead half-line (relu6, hardsigmoid) are dead_relu's; a model without a site that
saturates is refused. Units that saturate upstream pass little gradient, so that the sites before them are moved by
their own depth alone.
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
class Saturation:
    """Projected gradient ascent on the smoothed count of saturated units."""

    steps: Annotated[int, "gradient steps"] = 50
    step_size: Annotated[float | None, "in input units; none is 2.5 * eps / steps"] = None
    width: Annotated[float, "softness of the count, in standard deviations of each site"] = 0.1
    site: Annotated[str | None, "one activation call; none is all of them"] = None

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    knowledge: ClassVar[Knowledge] = "white_box"
    roles: ClassVar[tuple[str, ...]] = ()
    goal: ClassVar[str] = "saturate"

    def __post_init__(self) -> None:
        _forcing.check("saturation", self.steps, self.step_size, self.width)

    def start(self, cases: Cases, draws: Draws) -> ForcingState:
        return _forcing.begin(cases, "saturation")

    def ask(self, state: ForcingState, cases: Cases) -> Ask:
        return Ask(state.x[:, None], DeadCount(self.width, "saturated", self.site), wants=state.step < self.steps)

    def tell(self, state: ForcingState, reply: Reply, cases: Cases, draws: Draws) -> ForcingState:
        return _forcing.climb(state, reply, cases, self.steps, self.step_size)
