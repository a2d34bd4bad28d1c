"""FGSM: one step of the size of the budget along the steepest direction of the loss.

x' = x + eps * sign(grad_x J(x, y)), clipped to the box, in L-inf (Goodfellow, Shlens & Szegedy 2014, section 4). It is
the point of ball and box where the linearised loss is largest, and so it is taken in L2 and L1 too: the budget that the
box makes useless in some coordinates goes to the others. Rows with a target step towards it. Cost: 1 forward and 1
backward, then 1 forward.

Known failure: where the softmax saturates in float32 the cross-entropy gradient is exactly zero, the step is zero and
the model only looks robust. ``fgsm(loss=margin)`` is a candidate of its own that does not have this blind spot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from actsec.draws import Draws
from actsec.geometry import bounded, farthest, spread
from actsec.losses import CrossEntropy, Margin, graded
from actsec.types import Ask, Cases, Knowledge, Norm, Reply


@dataclass(frozen=True, slots=True)
class FGSMState:
    """The next candidates, and how many questions were asked."""

    x: Tensor
    step: Tensor
    done: Tensor


@dataclass(frozen=True, slots=True)
class FGSM:
    """The fast gradient sign method."""

    loss: Annotated[Literal["cross_entropy", "margin"], "what the single step climbs"] = "cross_entropy"

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")
    knowledge: ClassVar[Knowledge] = "white_box"
    roles: ClassVar[tuple[str, ...]] = ("single_step",)

    def start(self, cases: Cases, draws: Draws) -> FGSMState:
        bounded(cases, "fgsm")
        none = torch.zeros_like(cases.id)
        return FGSMState(cases.x, none, none.bool())

    def ask(self, state: FGSMState, cases: Cases) -> Ask:
        loss = CrossEntropy() if self.loss == "cross_entropy" else Margin()
        return Ask(state.x[:, None], loss, wants=state.step == 0)

    def tell(self, state: FGSMState, reply: Reply, cases: Cases, draws: Draws) -> FGSMState:
        fresh = state.step == 0
        x = torch.where(spread(fresh, state.x), farthest(cases, graded(reply)[1][:, 0]), state.x)
        return replace(state, x=x, step=state.step + 1, done=~fresh)
