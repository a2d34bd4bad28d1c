"""Where an attack ends, unjudged: the examples that training learns from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from actsec import geometry, losses
from actsec.draws import Draws
from actsec.search.answering import answer
from actsec.search.oracle import Oracle, frozen
from actsec.types import Ask, Attack, Cases, Loss, Observed, Reply, Target


def last_candidates(
    attack: Attack[object], target: Target, cases: Cases, draws: Draws, batch: int = 0, loss: Loss | None = None
) -> Tensor:
    """Where the attack ends on every row (n, *shape), unjudged: what adversarial training learns from.

    No verdict, no ledger, no early stop: every row, right or wrong, is followed to its last question. A last point that
    is only judged is not asked. Of an attack that ends without gradients, on scores alone, it is the candidate with the
    highest score of those it asked so. With a loss the attack climbs it in place of its own, as gradient or as score.
    """
    cases = geometry.tightened(cases)
    with frozen(target.model):
        oracle = Oracle(target, batch)
        state = attack.start(cases, draws)
        best, highest = cases.x, torch.full_like(cases.eps, -torch.inf)
        while True:
            ask = attack.ask(state, cases)
            if ask.wants is not None and not bool(ask.wants.any()):
                return ask.x[:, -1]
            if ask.loss is None:
                reply = _scored(oracle, ask, cases, loss)
                best, highest = _better(best, highest, ask, reply)
            else:
                ask = ask if loss is None else replace(ask, loss=loss)
                reply = _told(oracle, ask, cases)
            state = attack.tell(state, reply, cases, draws)
            if bool(state.done.all()):  # type: ignore[attr-defined]  # every state has it, see types.State
                return best if ask.loss is None else ask.x[:, -1]


def _scored(oracle: Oracle, ask: Ask, cases: Cases, loss: Loss | None) -> Reply:
    """The referee's answer about candidates without a gradient, the score being the loss where one is to be climbed."""
    reply = answer(oracle, losses.Hardest(), ask, cases, ())
    if loss is None:
        return reply
    n, k = ask.x.shape[:2]
    refused = None if reply.rejection is None else reply.rejection.flatten()
    value = loss(Observed(reply.logits.flatten(0, 1), (), refused), cases.repeated(k))
    return replace(reply, score=value.reshape(n, k))


def _better(best: Tensor, highest: Tensor, ask: Ask, reply: Reply) -> tuple[Tensor, Tensor]:
    """The best candidate (n, *shape) so far and its score (n,), after the scores of more of them."""
    score = torch.where(reply.inside, reply.score, -torch.inf).to(highest.dtype).nan_to_num(nan=-torch.inf)
    top, at = score.max(1)
    found = ask.x[torch.arange(len(at), device=at.device), at]
    better = top > highest
    return torch.where(geometry.spread(better, best), found, best), torch.where(better, top, highest)


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
