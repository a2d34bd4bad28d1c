"""Carlini & Wagner L2: minimise size and misclassification together, with a binary search over their exchange rate.

In w with x' = low + (high - low) * (tanh(w) + 1) / 2, Adam minimises ||x' - x||^2 + c * max(confidence - margin(x'),
0), margin = max_{j != y} z_j - z_y, or z_t - max_{j != t} z_j for targeted rows (Carlini & Wagner 2017, eq. in section
V, f_6). c begins at 0.001 and grows tenfold until a round succeeds, then bisects, for each row on its own; each round
starts at x with fresh moments. A round ends early when a tenth of its steps brought the row nothing over the tenth
before: no lower loss, from its third tenth on, or, where it has not succeeded, no nearer to success (the authors
compare two losses of the whole batch). From 10 rounds on the last one repeats the smallest c that worked. Pixels within
a two-thousandth of the range of the ends of the box start there, or tanh would freeze them (the authors' code: a
two-millionth, from which Adam needs some 300 steps to get away, and it moves all other pixels too). Cost: at most
search_steps * steps forwards and backwards.

start_at = best, in a recipe, begins every round at the best attempt of the attacks before.

confidence makes the search go on past the boundary. The judge still keeps the smallest success by the goal; to demand
the margin of what is returned, ask the goal ``Misclassify(confidence=...)`` too.

Known failures: slow, and minimal_l2 comes nearer at a tenth of the cost. Adam moves every coordinate at the same pace,
so that where the smallest change is large (a provably robust model) hundreds of steps are not enough: the paper's code
takes 10,000. The constants suit inputs of unit range. A finite eps does not constrain the search: iterates outside the
ball are rejected and counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from actsec.draws import Draws
from actsec.errors import BadOption
from actsec.geometry import boxed, finite_rows, spread
from actsec.losses import Margin, graded
from actsec.types import Ask, Cases, Knowledge, Norm, Reply

_INWARDS = 1 - 1e-3
_STALLED = 0.9999
_CHECKS = 10
_SWINGS = 2
_REPEATS_FROM = 10
_BETA1, _BETA2, _TINY = 0.9, 0.999, 1e-8


@dataclass(frozen=True, slots=True)
class CarliniWagnerState:
    """Each row's iterate w with Adam's moments, its place in its own round, and its bracket of c.

    lowest is the least loss since the last look at it, last_lowest that of the tenth of a round before;
    nearest and last_nearest are the same of what the margin lacks.
    """

    w: Tensor
    first: Tensor
    second: Tensor
    step: Tensor
    round: Tensor
    c: Tensor
    low: Tensor
    high: Tensor
    succeeded: Tensor
    lowest: Tensor
    last_lowest: Tensor
    nearest: Tensor
    last_nearest: Tensor
    done: Tensor


@dataclass(frozen=True, slots=True)
class CarliniWagner:
    """The paper's L2 attack, every row with its own c, step and early end."""

    steps: Annotated[int, "Adam steps of each round"] = 400
    search_steps: Annotated[int, "rounds, one value of c each"] = 9
    step_size: Annotated[float, "Adam's learning rate, in w"] = 0.01
    c: Annotated[float, "first value of the constant"] = 0.001
    confidence: Annotated[float, "margin in logits that a success must have (the paper's kappa)"] = 0.0
    abort_early: Annotated[bool, "end a row's round when its loss has stalled"] = True
    start_at: Annotated[Literal["input", "best"], "where rounds begin: best is what a recipe has found so far"] = (
        "input"
    )

    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    knowledge: ClassVar[Knowledge] = "white_box"
    roles: ClassVar[tuple[str, ...]] = ("minimal",)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.search_steps < 1:
            raise BadOption(
                f"carlini_wagner(steps={self.steps}, search_steps={self.search_steps})", "Both are at least 1."
            )
        if not (self.step_size > 0 and self.c > 0 and self.confidence >= 0):
            raise BadOption(
                f"carlini_wagner(step_size={self.step_size}, c={self.c}, confidence={self.confidence})",
                "step_size and c are above 0, confidence at least 0.",
            )

    def start(self, cases: Cases, draws: Draws) -> CarliniWagnerState:
        w, none = self._first(cases), torch.zeros_like(cases.id)
        zero = torch.zeros_like(cases.eps)
        far = torch.full_like(zero, torch.inf)
        c = torch.full_like(zero, self.c)
        zeros = torch.zeros_like(w)
        return CarliniWagnerState(
            w, zeros, zeros, none, none, c, zero, far, none.bool(), far, far, far, far, none.bool()
        )

    def ask(self, state: CarliniWagnerState, cases: Cases) -> Ask:
        return Ask(_forward(state.w, cases)[:, None], Margin())

    def tell(self, state: CarliniWagnerState, reply: Reply, cases: Cases, draws: Draws) -> CarliniWagnerState:
        margin, gradient = graded(reply)
        short = (self.confidence - margin[:, 0].double()).clamp_min(0)
        loss = reply.size[:, 0].square() + state.c * short
        # Not reply.success: a finite eps must not turn the search for c.
        succeeded = state.succeeded | ((reply.score[:, 0] > 0) & (short == 0))
        w, first, second = self._adam(state, gradient[:, 0], short > 0, cases)
        step = state.step + 1
        every = max(self.steps // _CHECKS, 1)
        # Adam's first steps overshoot and swing back: they say nothing of where the round is going.
        lowest = torch.where(state.step >= _SWINGS * every, torch.minimum(state.lowest, loss), torch.inf)
        check = step % every == 0
        nearest = torch.minimum(state.nearest, short)
        hopeless = ~succeeded & (nearest > _STALLED * state.last_nearest)
        stalled = check & ((lowest > _STALLED * state.last_lowest) | hopeless) & self.abort_early
        moved = replace(
            state,
            w=w,
            first=first,
            second=second,
            step=step,
            succeeded=succeeded,
            lowest=torch.where(check, torch.inf, lowest),
            last_lowest=torch.where(check, lowest, state.last_lowest),
            nearest=torch.where(check, torch.inf, nearest),
            last_nearest=torch.where(check, nearest, state.last_nearest),
        )
        return self._next_round(moved, (step >= self.steps) | stalled, cases)

    def _first(self, cases: Cases) -> Tensor:
        """The w that rounds begin at."""
        found = cases.start if self.start_at == "best" else None
        return _inverse(cases, cases.x if found is None else found)

    def _adam(
        self, state: CarliniWagnerState, margin: Tensor, short: Tensor, cases: Cases
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step of Adam (Kingma & Ba 2015, algorithm 1) on w, at each row's own step."""
        x = _forward(state.w, cases)
        pull = torch.where(short, state.c, torch.zeros_like(state.c)).to(x.dtype)
        gradient = 2 * (x - cases.x) - spread(pull, x) * finite_rows(margin)
        gradient = gradient * (1 - torch.tanh(state.w).square()) * ((cases.high - cases.low) / 2)
        first = _BETA1 * state.first + (1 - _BETA1) * gradient
        second = _BETA2 * state.second + (1 - _BETA2) * gradient.square()
        at = (state.step + 1).double()
        mean = first / spread(1 - _BETA1**at, x).to(x.dtype)
        scale = (second / spread(1 - _BETA2**at, x).to(x.dtype)).sqrt() + _TINY
        return state.w - self.step_size * mean / scale, first, second

    def _next_round(self, state: CarliniWagnerState, over: Tensor, cases: Cases) -> CarliniWagnerState:
        """Rows whose round is over get their next c and start again at x; the others go on."""
        high = torch.where(state.succeeded, torch.minimum(state.high, state.c), state.high)
        low = torch.where(state.succeeded, state.low, torch.maximum(state.low, state.c))
        c = torch.where(torch.isinf(high), state.c * 10, (low + high) / 2)
        next_round = state.round + 1
        if self.search_steps >= _REPEATS_FROM:
            last = (next_round == self.search_steps - 1) & torch.isfinite(high)
            c = torch.where(last, high, c)

        def begin(fresh: Tensor, old: Tensor) -> Tensor:
            return torch.where(spread(over, old), fresh, old)

        return CarliniWagnerState(
            w=begin(self._first(cases), state.w),
            first=begin(torch.zeros_like(state.w), state.first),
            second=begin(torch.zeros_like(state.w), state.second),
            step=begin(torch.zeros_like(state.step), state.step),
            round=begin(next_round, state.round),
            c=begin(c, state.c),
            low=begin(low, state.low),
            high=begin(high, state.high),
            succeeded=begin(torch.zeros_like(state.succeeded), state.succeeded),
            lowest=begin(torch.full_like(state.lowest, torch.inf), state.lowest),
            last_lowest=begin(torch.full_like(state.lowest, torch.inf), state.last_lowest),
            nearest=begin(torch.full_like(state.nearest, torch.inf), state.nearest),
            last_nearest=begin(torch.full_like(state.nearest, torch.inf), state.last_nearest),
            done=over & (next_round >= self.search_steps),
        )


def _forward(w: Tensor, cases: Cases) -> Tensor:
    return boxed(cases, cases.low + (cases.high - cases.low) * (torch.tanh(w) + 1) / 2)


def _inverse(cases: Cases, x: Tensor) -> Tensor:
    """The w of x: 0, of no effect, where the box has no width."""
    width = torch.as_tensor(cases.high - cases.low, dtype=x.dtype, device=x.device)
    share = torch.where(width > 0, 2 * (x - cases.low) / width - 1, torch.zeros_like(x))
    return torch.atanh(share.clamp(-_INWARDS, _INWARDS))
