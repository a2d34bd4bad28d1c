"""Where an attack ends, unjudged: the examples that training learns from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from actsec import geometry, losses
from actsec.draws import Draws
from actsec.oracle import Oracle, frozen
from actsec.referee import answer
from actsec.types import Ask, Attack, Cases, Loss, Observed, Reply, Target


def last_candidates(
    attack: Attack[object], target: Target, cases: Cases, draws: Draws, batch: int = 0, loss: Loss | None = None
) -> Tensor:
    """Where the attack ends on every row (n, *shape), unjudged: what adversarial training learns from.

    No verdict, no ledger, no early stop: every row, right or wrong, is followed to its last question. With a loss the
    attack climbs it in place of its own.
    """
    cases = geometry.tightened(cases)
    with frozen(target.model):
        oracle = Oracle(target, batch)
        state = attack.start(cases, draws)
        while True:
            ask = attack.ask(state, cases)
            if ask.loss is None or (ask.wants is not None and not bool(ask.wants.any())):
                return ask.x[:, -1]
            ask = ask if loss is None else replace(ask, loss=loss)
            state = attack.tell(state, _told(oracle, ask, cases), cases, draws)
            if bool(state.done.all()):  # type: ignore[attr-defined]  # every state has it, see types.State
                return ask.x[:, -1]


def _told(oracle: Oracle, ask: Ask, cases: Cases) -> Reply:
    """The referee's answer; of one candidate a row, all graded, what no attack looks at is not worked out."""
    plain = ask.x.shape[1] == 1 and ask.target is None and (ask.wants is None or bool(ask.wants.all()))
    if not plain or ask.loss is None or oracle.target.rejects is not None or len(cases) > oracle.rows():
        return answer(oracle, losses.Hardest(), ask, cases, ())
    seen, value, gradient = oracle.differentiate(ask.x[:, 0], cases, ask.loss, False)
    # It has every attribute that a reply has; the type would work them all out at once.
    return cast("Reply", _Unjudged(ask.x, cases, seen.logits[:, None], value[:, None], gradient[:, None]))


@dataclass(slots=True)
class _Unjudged:
    """A reply whose score and size are worked out when an attack asks for them: most learn from the gradient alone."""

    x: Tensor
    cases: Cases
    logits: Tensor
    loss: Tensor
    gradient: Tensor
    rejection: None = None

    @property
    def score(self) -> Tensor:
        """As losses.Hardest scores it (n, 1)."""
        return losses.Hardest().score(Observed(self.logits[:, 0]), (), self.cases)[:, None]

    @property
    def size(self) -> Tensor:
        """The distance in the threat's norm (n, 1)."""
        return geometry.reached(self.x[:, 0], self.cases)[:, None]

    @property
    def inside(self) -> Tensor:
        """Whether the candidate is admissible (n, 1)."""
        return geometry.inside(self.x, self.cases, self.size)

    @property
    def success(self) -> Tensor:
        """Whether it is, and fools the target (n, 1)."""
        return torch.logical_and(self.score > 0, self.inside)
