"""What an attack is told of the points it asks about, and what is measured again before it counts."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from actsec import geometry
from actsec.search.oracle import Oracle
from actsec.types import Ask, Cases, Goal, Loss, Reply


def answer(oracle: Oracle, goal: Goal, ask: Ask, cases: Cases, baseline: tuple[Tensor, ...]) -> Reply:
    """What the referee tells the attack about its candidates."""
    n, k = ask.x.shape[:2]
    flat, many = ask.x.flatten(0, 1), cases.repeated(k)
    bases = tuple(part.repeat_interleave(k, 0) for part in baseline) if k > 1 else baseline
    # The loss may aim at a class of the attack's choice; success stays what the goal says.
    aim = many.target if ask.target is None else ask.target.flatten()
    graded = ask.wants if ask.loss is not None else None
    if graded is None or bool(graded.all()):
        logits, score, value, gradient, refusal = _queried(oracle, goal, flat, ask.loss, many, aim, bases)
    else:
        # Rows that need no gradient get none: first they, then the others, then back in order.
        asks = graded.repeat_interleave(k)
        order, parts = [], []
        for loss, index in ((None, (~asks).nonzero().flatten()), (ask.loss, asks.nonzero().flatten())):
            if len(index):
                order.append(index)
                own = tuple(part[index] for part in bases)
                parts.append(_queried(oracle, goal, flat[index], loss, many.rows(index), aim[index], own))
        back = torch.cat(order).argsort()
        logits, score, value, gradient, refusal = (torch.cat(column)[back] for column in zip(*parts, strict=True))
    size = geometry.reached(flat, many).reshape(n, k)
    inside = geometry.inside(ask.x, cases, size)
    score = score.reshape(n, k)
    refusals = refusal.reshape(n, k) if oracle.target.rejects is not None else None
    reply = Reply(logits.reshape(n, k, -1), score, (score > 0) & inside, size, inside, rejection=refusals)
    if ask.loss is None:
        return reply
    return replace(reply, loss=value.reshape(n, k), gradient=gradient.reshape(ask.x.shape))


def _queried(
    oracle: Oracle, goal: Goal, x: Tensor, loss: Loss | None, cases: Cases, aim: Tensor, baseline: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Logits, score, loss, gradient and rejection of candidates (m, *shape); zeros without a loss or a detector.

    aim (m,) is the class that the loss moves towards, -1 for away from y. Sites live for one call of the model only, so
    the goal scores call by call.
    """
    parts = []
    for start in range(0, len(x), oracle.rows()):
        piece = slice(start, start + oracle.rows())
        own, part = cases.rows(piece), x[piece]
        if loss is None:
            seen = oracle.observe(part, goal.watches)
            value, gradient = part.new_zeros(len(part)), torch.zeros_like(part)
        else:
            aimed = replace(own, target=aim[piece])
            seen, value, gradient = oracle.differentiate(part, aimed, loss, goal.watches)
        score = goal.score(seen, tuple(base[piece] for base in baseline), own)
        refusal = torch.zeros_like(value) if seen.rejection is None else seen.rejection
        parts.append((seen.logits, score, value, gradient, refusal))
    if len(parts) == 1:
        return parts[0]
    logits, scores, values, gradients, refusals = (torch.cat(column) for column in zip(*parts, strict=True))
    return logits, scores, values, gradients, refusals


def confirm(
    judge: Oracle,
    goal: Goal,
    ask: Ask,
    reply: Reply,
    cases: Cases,
    baseline: tuple[Tensor, ...],
    doubtful: Tensor | None = None,
) -> tuple[Reply, int]:
    """The reply with the successes re-judged on the original, and how many of them were taken back.

    doubtful (n, k) bool names the successes to judge, None for all: one that changes no verdict can wait.
    """
    claimed = torch.nonzero((reply.success if doubtful is None else doubtful).flatten()).flatten()
    if not len(claimed):
        return reply, 0
    row = claimed // ask.x.shape[1]
    observed = judge.observe(ask.x.flatten(0, 1)[claimed], goal.watches)
    score = goal.score(observed, tuple(b[row] for b in baseline), cases.rows(row))
    success, scores, logits = reply.success.flatten().clone(), reply.score.flatten().clone(), reply.logits.clone()
    success[claimed], scores[claimed] = score > 0, score.to(scores.dtype)
    logits.flatten(0, 1)[claimed] = observed.logits
    k = reply.score.shape
    confirmed = replace(reply, logits=logits, score=scores.reshape(k), success=success.reshape(k))
    return confirmed, int((score <= 0).sum())
