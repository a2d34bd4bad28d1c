"""FGSM: one step of the size of the budget along the steepest direction of the loss.

x' = x + eps * sign(grad_x J(x, y)), clipped to the box, in L-inf (Goodfellow, Shlens & Szegedy 2014, section 4). It is
the point of ball and box where the linearised loss is largest, and so it is taken in L2 and L1 too: the budget that the
box makes useless in some coordinates goes to the others. Rows with a target step towards it. Cost: 1 forward and 1
backward, then 1 forward.

One gradient serves every size. Without an eps (threat ``linf``) the smallest step that works is looked for: 14 sizes
from 1/8192 of the widest step upwards by factors of 2, then ``refine`` questions of ``candidates`` sizes each, evenly
between the first that works and the last below it that does not. Success need not be monotone in the size, so that this
is the first crossing the grid shows, not always the first there is; a row that no size of the grid fools spends its
questions between them. Cost: 1 gradient, 14 + refine * candidates forwards. ``sizes`` asks for exactly these instead, a
whole curve at 1 gradient and a forward each.

Where the softmax saturates in float32 the gradient of the cross-entropy vanishes (its row-sum in the logits falls below
1e-12), the step would be zero or rounding noise and the model would only look robust: such a row climbs the margin, and
how many did is told. Known failure: between there and p_y = 1 - 6e-8 the label's own part of the gradient is already
rounded away; ``fgsm(loss=margin)`` has no such blind spot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from actsec.draws import Draws
from actsec.errors import BadOption, ThreatError
from actsec.geometry import farthest, size, spread
from actsec.losses import CrossEntropy, Margin, margin, wanted
from actsec.types import Ask, Cases, Knowledge, Norm, Observed, Reply

GRID = 14
_FLAT = 1e-12


@dataclass(frozen=True, slots=True)
class SlopingCrossEntropy:
    """The cross-entropy, but the margin in rows where it is flat. The gradient elsewhere is bit-equal."""

    watches: ClassVar[bool] = False

    def flat(self, logits: Tensor, cases: Cases) -> Tensor:
        """Rows (m,) whose cross-entropy has a gradient in the logits of row-sum below 1e-12."""
        one_hot = F.one_hot(wanted(cases), logits.shape[1])
        return (logits.softmax(1) - one_hot).abs().sum(1) < _FLAT

    def __call__(self, observed: Observed, cases: Cases) -> Tensor:
        flat = self.flat(observed.logits.detach(), cases)
        return torch.where(flat, margin(observed.logits, cases), CrossEntropy()(observed, cases))


@dataclass(frozen=True, slots=True)
class FGSMState:
    """The gradient, once known; the sizes (n,) that the smallest one lies between; how many questions were asked."""

    gradient: Tensor
    low: Tensor
    high: Tensor
    step: Tensor
    done: Tensor


@dataclass(frozen=True, slots=True)
class FGSM:
    """The fast gradient sign method, at one size, at many, or at the smallest that works."""

    loss: Annotated[Literal["cross_entropy", "margin"], "what the single step climbs"] = "cross_entropy"
    sizes: Annotated[tuple[float, ...], "without an eps: the sizes to try, instead of a search"] = ()
    refine: Annotated[int, "without an eps: questions after the grid"] = 3
    candidates: Annotated[int, "without an eps: sizes of each of these questions"] = 8

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")
    knowledge: ClassVar[Knowledge] = "white_box"
    roles: ClassVar[tuple[str, ...]] = ("single_step", "any_eps")

    def __post_init__(self) -> None:
        if not all(0 < value < math.inf for value in self.sizes):
            raise BadOption(f"fgsm(sizes={list(self.sizes)})", "Each size is a number above 0, in input units.")
        if self.refine < 0 or self.candidates < 1:
            raise BadOption(
                f"fgsm(refine={self.refine}, candidates={self.candidates})",
                "refine is at least 0, candidates at least 1.",
            )

    def start(self, cases: Cases, draws: Draws) -> FGSMState:
        open_ended = torch.isinf(cases.eps)
        if bool(open_ended.any() & ~open_ended.all()):
            raise ThreatError("fgsm was given an eps for some examples only", "Give all of them one, or none.")
        if self.sizes and not bool(open_ended.all()):
            raise ThreatError(f"fgsm(sizes=...) takes no eps, {cases.norm} has one", f"Give the threat {cases.norm}.")
        zero, step = torch.zeros_like(cases.eps), torch.zeros_like(cases.id)
        return FGSMState(torch.zeros_like(cases.x), zero, torch.full_like(zero, torch.inf), step, step.bool())

    def ask(self, state: FGSMState, cases: Cases) -> Ask:
        fresh = state.step == 0
        loss = SlopingCrossEntropy() if self.loss == "cross_entropy" else Margin()
        if bool(fresh.all()):
            return Ask(cases.x[:, None], loss)
        sizes = self._sizes(state, cases)
        many = replace(cases.repeated(sizes.shape[1]), eps=sizes.flatten())
        x = farthest(many, state.gradient.repeat_interleave(sizes.shape[1], 0))
        return Ask(x.reshape(*sizes.shape, *cases.x.shape[1:]), loss if bool(fresh.any()) else None, fresh)

    def tell(self, state: FGSMState, reply: Reply, cases: Cases, draws: Draws) -> FGSMState:
        fresh, sizes = state.step == 0, self._sizes(state, cases)
        gradient = state.gradient
        if reply.gradient is not None:
            gradient = torch.where(spread(fresh, gradient), reply.gradient[:, 0], gradient)
        works = reply.success & ~fresh[:, None]
        high = torch.minimum(state.high, torch.where(works, sizes, torch.inf).amin(1))
        below = torch.where(~works & (sizes < high[:, None]), sizes, 0.0).amax(1)
        low = torch.where(torch.isinf(high), 0.0, torch.maximum(state.low, below))
        step = state.step + 1
        return FGSMState(gradient, low, high, step, step >= self._questions(cases))

    def _questions(self, cases: Cases) -> int:
        """How many every row asks, so that the rows in play stay at one step."""
        return 2 + (0 if self.sizes or bool(torch.isfinite(cases.eps).all()) else self.refine)

    def _sizes(self, state: FGSMState, cases: Cases) -> Tensor:
        """The sizes (n, k) asked next, float64; 0 is the input itself. Fewer than k are filled up with their last."""
        parts = [(at, self._at(int(at), state, cases)) for at in torch.unique(state.step)]
        most = max(sizes.shape[1] for _, sizes in parts)
        filled = state.low.new_zeros(len(cases), most)
        for at, sizes in parts:
            whole = torch.cat([sizes, sizes[:, -1:].expand(-1, most - sizes.shape[1])], 1)
            filled = torch.where((state.step == at)[:, None], whole, filled)
        return filled

    def _at(self, step: int, state: FGSMState, cases: Cases) -> Tensor:
        """The sizes (n, k) of one step, for every row."""
        if step == 0:
            return torch.zeros_like(cases.eps)[:, None]
        if not bool(torch.isinf(cases.eps).any()):
            return cases.eps[:, None]
        if self.sizes:
            return cases.eps.new_tensor(self.sizes).expand(len(cases), -1)
        widest = size(torch.maximum(cases.high - cases.x, cases.x - cases.low), cases.norm)[:, None]
        if step == 1:
            return widest * 0.5 ** torch.arange(GRID - 1, -1, -1, dtype=widest.dtype, device=widest.device)
        k = self.candidates
        inner = torch.arange(1, k + 1, dtype=widest.dtype, device=widest.device)
        nowhere = torch.isinf(state.high)[:, None]
        low, high = state.low[:, None], state.high[:, None]
        between = low + (high - low) * (inner / (k + 1))
        anywhere = widest * ((inner - (step - 1) / (self.refine + 1)) / k)
        return torch.where(nowhere, anywhere, between)
