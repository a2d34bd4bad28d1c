"""Dead-ReLU forcing: push ReLU units to z <= 0, where they give nothing and learn nothing.

x_{t+1} = P(x_t + step_size * d(grad D)). What D is, is the aim:

    count      the mean over all units of sigmoid(-z / tau), tau = width * std(z) of the example and site: a smoothed
               count of dead units. A hinge spends the budget on strongly active units and does no better than noise
    critical   the same count over each image's critical units alone, ranked on the untouched image at every site: the
               ``share`` of units (of channels, where the site is an image) with the largest effect on the logit of the
               label, by activation x gradient or by ablation (the logit with the unit less the logit without it)
    blackout   minus the mean of max(z, 0), of the site that is nearest to being wholly dead: when every unit of a layer
               is dead the logits are a constant and the gradient is exactly 0

``site`` confines any of them to one activation call. It is PGD (Madry et al. 2017) on a count. Its goal is ``kill``:
success is a net rise of the dead fraction (killed minus revived; of the critical units under ``critical``; a whole site
under ``blackout``), which is not misclassification and is reported apart. Cost: steps + 1 forwards, steps backwards.
Ranking by gradient adds 1 forward and 1 backward a row, by ablation 1 forward for every unit or channel, made before
the attack and not in its counts.

Known failures: a site that cannot die (leaky_relu, gelu, tanh, ...) does not count, and a model without a site that can
is refused ("not applicable"), never reported as 0 %. Where every unit of a layer is already dead no gradient reaches
the sites before it through that layer, though each of them is still pushed directly. The critical aim suppresses its
units more than it kills them, so that labels change at few kills. Trained networks may have no blackout at all:
``actsec study forcing`` tells whether one exists at the first layer, and holds every aim beside noise and PGD.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from actsec.attacks import _forcing
from actsec.attacks._forcing import ForcingState
from actsec.draws import Draws
from actsec.errors import BadOption
from actsec.forcing.aim import DeadCount, Ranked
from actsec.types import Ask, Cases, Knowledge, Norm, Reply


@dataclass(frozen=True, slots=True)
class DeadReLU:
    """Projected gradient ascent on the smoothed count of dead units."""

    steps: Annotated[int, "gradient steps"] = 50
    step_size: Annotated[float | None, "in input units; none is 2.5 * eps / steps"] = None
    width: Annotated[float, "softness of the count, in standard deviations of each site"] = 0.3
    aim: Annotated[Literal["count", "critical", "blackout"], "any units, critical ones, or a whole site"] = "count"
    rank: Annotated[Literal["gradient", "ablation"], "what makes a unit critical"] = "gradient"
    share: Annotated[float, "critical units or channels at each site, as a share"] = 0.25
    site: Annotated[str | None, "one activation call; none is all of them"] = None

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    knowledge: ClassVar[Knowledge] = "white_box"
    roles: ClassVar[tuple[str, ...]] = ()
    goal: ClassVar[str] = "kill"

    def __post_init__(self) -> None:
        _forcing.check("dead_relu", self.steps, self.step_size, self.width)
        if not 0 < self.share <= 1:
            raise BadOption(f"dead_relu(share={self.share})", "share is above 0 and at most 1.")

    @property
    def ranked(self) -> Ranked | None:
        """The units that are to be chosen before the attack begins."""
        return Ranked(self.rank, self.share, "dead") if self.aim == "critical" else None

    def start(self, cases: Cases, draws: Draws) -> ForcingState:
        return _forcing.begin(cases, "dead_relu")

    def ask(self, state: ForcingState, cases: Cases) -> Ask:
        loss = DeadCount(self.width, site=self.site, aim=self.aim)
        return Ask(state.x[:, None], loss, wants=state.step < self.steps)

    def tell(self, state: ForcingState, reply: Reply, cases: Cases, draws: Draws) -> ForcingState:
        return _forcing.climb(state, reply, cases, self.steps, self.step_size)
