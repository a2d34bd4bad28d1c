"""Attacks propose, the referee disposes.

``drive`` is the only loop. It asks the attack for candidates, asks the model, judges every candidate, keeps the best,
drops settled rows inside the loop, lets waiting rows in, counts forwards and backwards per row, and at the end
confirms each success on a fresh forward of the original model. An attack never sees the model and never marks its own
homework.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from actsec import geometry, losses, rows
from actsec.draws import Draws
from actsec.oracle import Oracle, frozen
from actsec.types import Ask, Attack, Cases, Goal, Loss, Norm, Reply, Target

ALREADY_WRONG, FOUND, FAILED, REFUSED = 0, 1, 2, 3
STATUS = ("already_wrong", "found", "failed", "refused")
JUDGE_DRAWS = 20
CANDIDATE_VALUES = 1 << 23
"""Values of all candidates in play at once: 32 MiB in float32, a few times that at work."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What an attack achieved, rows first in the order of the cases.

    status (n,) int64 indexes STATUS; x (n, *shape) is the best admissible candidate (the smallest success when eps is
    infinite, else the highest score), never a blank and only the clean input when nothing else was admissible; score,
    size (n,) and logits (n, classes) belong to it; wrong (n,) is the share of fresh judgements of x that were wrong (0
    or 1 unless the target is stochastic); smallest (n, norms) is the least size of any confirmed misclassifying
    candidate, by NORMS_KEPT, infinity for none; forwards, backwards, found_at, rejected (n,) int64 count the attack's
    queries, the question that first succeeded (-1: none) and inadmissible candidates; refused counts successes that a
    judge took back.
    """

    status: Tensor
    x: Tensor
    score: Tensor
    size: Tensor
    wrong: Tensor
    smallest: Tensor
    forwards: Tensor
    backwards: Tensor
    found_at: Tensor
    rejected: Tensor
    refused: int
    logits: Tensor


NORMS_KEPT: tuple[Norm, ...] = ("linf", "l2", "l0")


@dataclass(slots=True)
class _Ledger:
    """Best so far of every row, on the cases' device."""

    verdicts: Verdicts
    success: Tensor
    witness: Tensor
    asked: Tensor
    minimal: bool

    def enter(self, index: Tensor, ask: Ask, reply: Reply, cases: Cases, repeats: int) -> None:
        """Record one reply for the rows at ``index``."""
        v, x, row = self.verdicts, ask.x, torch.arange(len(index), device=index.device)
        queries = x.shape[1] * repeats
        self.asked[index] += 1
        v.forwards[index] += queries
        if ask.loss is not None:
            v.backwards[index] += queries if ask.wants is None else queries * ask.wants.to(torch.int64)
        v.rejected[index] += (~reply.inside).sum(1)
        # The clean input is no attempt, so that a failed attack returns the best one it made.
        counts = reply.inside & (reply.size > 0) & ~reply.score.isnan()
        works = reply.success & counts
        value = torch.where(works, -reply.size.to(reply.score.dtype), reply.score) if self.minimal else reply.score
        value = torch.where(counts & (works | ~works.any(1, keepdim=True)), value, torch.full_like(value, -torch.inf))
        value, pick = value.max(1)
        success, score, size = works[row, pick], reply.score[row, pick], reply.size[row, pick]
        known = self.success[index]
        nearer = size < v.size[index] if self.minimal else score > v.score[index]
        better = torch.where(success, ~known | nearer, ~known & (value > v.score[index]))
        chosen = index[better]
        v.x[chosen] = x[row, pick][better]
        v.score[chosen], v.size[chosen] = score[better], size[better]
        v.logits[chosen] = reply.logits[row, pick][better]
        first = index[success & ~known]
        v.found_at[first] = self.asked[first]
        self.success[chosen] |= success[better]
        self._shrink(index, x, reply, cases)

    def _shrink(self, index: Tensor, x: Tensor, reply: Reply, cases: Cases) -> None:
        """Keep, in every norm, the smallest misclassifying candidate: it counts for every threat it satisfies."""
        finite = torch.isfinite(reply.logits).all(-1)
        wrong = (reply.logits.argmax(-1) != cases.y[:, None]) & reply.inside & finite
        some = wrong.any(1)
        if not bool(some.any()):
            return
        where, wrong, candidates, clean = index[some], wrong[some], x[some], cases.x[some]
        row, many = torch.arange(len(where), device=index.device), clean.repeat_interleave(x.shape[1], 0)
        for j, norm in enumerate(NORMS_KEPT):
            sizes = reply.size[some] if norm == cases.norm else geometry.distance(candidates.flatten(0, 1), many, norm)
            sizes = torch.where(wrong, sizes.reshape(wrong.shape), torch.inf)
            least, pick = sizes.min(1)
            closer = least < self.verdicts.smallest[where, j]
            self.verdicts.smallest[where[closer], j] = least[closer]
            self.witness[where[closer], j] = candidates[row, pick][closer]


def drive(
    attack: Attack[object],
    oracle: Oracle,
    goal: Goal,
    cases: Cases,
    draws: Draws,
    *,
    settle: bool = True,
    width: int = 256,
    judge: Oracle | None = None,
    queries: int | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> Verdicts:
    """Run an attack on all cases and return the confirmed verdicts.

    settle ends a row at its first success (never for minimal-norm cases, stochastic targets or goals that do not
    settle); width is how many rows are in play at once and changes nothing in the result; judge, when the oracle asks a
    stand-in, is the original, which confirms every improvement before it counts; queries bounds forwards per row.
    Use inside ``frozen``.
    """
    minimal = bool(torch.isinf(cases.eps).all())
    settle = settle and goal.settles and not minimal and not oracle.target.stochastic
    # The clean pass is the judge's: a stand-in has no say in what was wrong from the beginning.
    logits, score, baseline = _look(judge or oracle, goal, cases.x, cases)
    measured = baseline if judge is None else _look(oracle, goal, cases.x, cases)[2]
    ledger = _open(logits, score, cases, minimal)
    if goal.settles:
        ledger.verdicts.status[ledger.success] = ALREADY_WRONG
        waiting = torch.nonzero(~ledger.success).flatten()
    else:
        waiting = torch.arange(len(cases), device=cases.x.device)
    width = _width(attack, cases.rows(waiting[:1]), draws, width)
    total, refused = len(waiting), 0
    index, state = waiting[:0], None
    while len(index) or len(waiting):
        if len(waiting) and len(index) <= width // 2:
            new, waiting = waiting[: width - len(index)], waiting[width - len(index) :]
            fresh = attack.start(cases.rows(new), draws)
            state = fresh if state is None or not len(index) else rows.join(state, fresh)
            index = torch.cat([index, new])
        live = cases.rows(index)
        ask = attack.ask(state, live)
        if queries is not None:
            pays = ledger.verdicts.forwards[index] + ask.x.shape[1] * oracle.repeats <= queries
            if not bool(pays.all()):
                state, index = rows.take(state, pays), index[pays]
                continue
        reply = answer(oracle, goal, ask, live, tuple(part[index] for part in measured))
        if judge is not None:
            reply, taken_back = confirm(judge, goal, ask, reply, live, tuple(part[index] for part in baseline))
            refused += taken_back
        ledger.enter(index, ask, reply, live, oracle.repeats)
        state = attack.tell(state, reply, live, draws)
        over = state.done  # type: ignore[attr-defined]  # every state has it, see types.State
        if settle:
            over = over | reply.success.any(1)
        if bool(over.any()):
            state, index = rows.take(state, ~over), index[~over]
            if tell is not None:
                tell(total - len(index) - len(waiting), total)
    return _close(ledger, judge or oracle, goal, cases, baseline, refused)


def _width(attack: Attack[object], first: Cases, draws: Draws, width: int) -> int:
    """At most ``width`` rows in play, and no more than fit when the attack asks many candidates of each."""
    if not len(first):
        return width
    candidates = attack.ask(attack.start(first, draws), first).x
    return max(1, min(width, CANDIDATE_VALUES // max(candidates.numel(), 1)))


def _look(
    oracle: Oracle, goal: Goal, x: Tensor, cases: Cases, baseline: tuple[Tensor, ...] | None = None
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Logits, scores (n,) and baseline of one input a row; without a baseline x is it. Sites live for one call only."""
    parts, bases = [], []
    for piece in torch.split(torch.arange(len(cases), device=x.device), oracle.rows()):
        seen = oracle.observe(x[piece], goal.watches)
        bases.append(goal.baseline(seen) if baseline is None else tuple(part[piece] for part in baseline))
        parts.append((seen.logits, goal.score(seen, bases[-1], cases.rows(piece))))
    logits, scores = (torch.cat(column) for column in zip(*parts, strict=True))
    return logits, scores, tuple(torch.cat(column) for column in zip(*bases, strict=True))


def answer(oracle: Oracle, goal: Goal, ask: Ask, cases: Cases, baseline: tuple[Tensor, ...]) -> Reply:
    """What the referee tells the attack about its candidates."""
    n, k = ask.x.shape[:2]
    flat, row = ask.x.flatten(0, 1), torch.arange(n, device=ask.x.device).repeat_interleave(k)
    graded = torch.full_like(row, ask.loss is not None, dtype=torch.bool)
    if ask.wants is not None:
        graded = ask.wants[row]
    order, parts = [], []
    for loss, index in ((ask.loss, graded.nonzero().flatten()), (None, (~graded).nonzero().flatten())):
        for piece in torch.split(index, oracle.rows()) if len(index) else ():
            order.append(piece)
            parts.append(_query(oracle, goal, flat[piece], loss, cases.rows(row[piece]), baseline, row[piece]))
    back = torch.cat(order).argsort()
    logits, score, loss_value, gradient = (torch.cat(column)[back] for column in zip(*parts, strict=True))
    size = geometry.distance(flat, cases.x[row], cases.norm).reshape(n, k)
    inside = geometry.inside(ask.x, cases, size)
    score = score.reshape(n, k)
    reply = Reply(logits.reshape(n, k, -1), score, (score > 0) & inside, size, inside)
    if ask.loss is None:
        return reply
    return replace(reply, loss=loss_value.reshape(n, k), gradient=gradient.reshape(ask.x.shape))


def _query(
    oracle: Oracle, goal: Goal, x: Tensor, loss: Loss | None, cases: Cases, baseline: tuple[Tensor, ...], row: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, score, loss and gradient of at most one call's candidates; the last two are zeros without a loss."""
    if loss is None:
        seen, value, gradient = oracle.observe(x, goal.watches), x.new_zeros(len(x)), torch.zeros_like(x)
    else:
        seen, value, gradient = oracle.differentiate(x, cases, loss, goal.watches)
    return seen.logits, goal.score(seen, tuple(part[row] for part in baseline), cases), value, gradient


def confirm(
    judge: Oracle, goal: Goal, ask: Ask, reply: Reply, cases: Cases, baseline: tuple[Tensor, ...]
) -> tuple[Reply, int]:
    """The reply with every claimed success re-judged on the original; also how many were taken back."""
    claimed = torch.nonzero(reply.success.flatten()).flatten()
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


def cases_of(
    target: Target, x: Tensor, y: Tensor, norm: Norm, eps: float | Tensor | None, id: Tensor | None = None
) -> Cases:
    """Untargeted cases of a target: x (n, *shape) float32 in input units, y (n,), one eps or one a row."""
    radius = torch.as_tensor(torch.inf if eps is None else eps, dtype=torch.float64, device=x.device)
    return Cases(
        torch.arange(len(x), device=x.device) if id is None else id.to(x.device),
        x,
        y,
        torch.full_like(y, -1),
        radius.expand(len(x)).clone(),
        norm,
        *target.bounds,
    )


def attack_target(
    attack: Attack[object],
    target: Target,
    cases: Cases,
    goal: Goal | None = None,
    *,
    seed: int = 0,
    name: str = "",
    settle: bool = True,
    batch: int = 256,
    width: int | None = None,
    repeats: int | None = None,
    queries: int | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> Verdicts:
    """``drive`` on a frozen target: the model is bit-equal afterwards.

    repeats defaults to 1, or to JUDGE_DRAWS for a stochastic target.
    """
    draws_each = repeats or (JUDGE_DRAWS if target.stochastic else 1)
    with frozen(target.model):
        oracle = Oracle(target, batch, draws_each, seed, name)
        return drive(
            attack,
            oracle,
            goal or losses.Misclassify(),
            cases,
            Draws(seed, name),
            settle=settle,
            width=width or batch,
            queries=queries,
            tell=tell,
        )


def last_candidates(attack: Attack[object], target: Target, cases: Cases, draws: Draws, batch: int = 256) -> Tensor:
    """Where the attack ends on every row (n, *shape), unjudged: what adversarial training learns from.

    No verdict, no ledger, no early stop: every row, right or wrong, is followed to its last question.
    """
    goal = losses.Hardest()
    with frozen(target.model):
        oracle = Oracle(target, batch)
        state = attack.start(cases, draws)
        while True:
            ask = attack.ask(state, cases)
            if ask.loss is None or (ask.wants is not None and not bool(ask.wants.any())):
                return ask.x[:, -1]
            state = attack.tell(state, answer(oracle, goal, ask, cases, ()), cases, draws)
            if bool(state.done.all()):  # type: ignore[attr-defined]  # every state has it, see types.State
                return ask.x[:, -1]


def _open(logits: Tensor, score: Tensor, cases: Cases, minimal: bool) -> _Ledger:
    n, device = len(cases), cases.x.device
    success = score > 0
    count = torch.zeros(n, dtype=torch.int64, device=device)
    wrong = logits.argmax(1) != cases.y
    smallest = torch.full((n, len(NORMS_KEPT)), torch.inf, dtype=torch.float64, device=device)
    smallest[wrong] = 0.0
    verdicts = Verdicts(
        status=torch.full((n,), FAILED, dtype=torch.int64, device=device),
        x=cases.x.clone(),
        # A failed attack returns its best attempt, so the untouched input must lose to the first candidate.
        score=torch.where(success, score, torch.full_like(score, -torch.inf)),
        size=torch.zeros(n, dtype=torch.float64, device=device),
        wrong=torch.zeros(n, device=device),
        smallest=smallest,
        forwards=count.clone(),
        backwards=count.clone(),
        found_at=count - 1,
        rejected=count.clone(),
        refused=0,
        logits=logits.clone(),
    )
    witness = cases.x[:, None].repeat(1, len(NORMS_KEPT), *(1,) * (cases.x.dim() - 1))
    return _Ledger(verdicts, success.clone(), witness, count.clone(), minimal)


def _close(
    ledger: _Ledger, judge: Oracle, goal: Goal, cases: Cases, baseline: tuple[Tensor, ...], refused: int
) -> Verdicts:
    """Judge every final candidate on a fresh forward of the original model and fill in the verdict.

    A claim that does not hold is refused; a candidate that only a stand-in thought harmless is found.
    """
    v = ledger.verdicts
    logits, score, _ = _look(judge, goal, v.x, cases, baseline)
    v.score.copy_(score)
    v.logits.copy_(logits)
    attacked = v.status != ALREADY_WRONG
    held = attacked & (score > 0) & (ledger.success | (v.size > 0))
    taken_back = attacked & ledger.success & ~held
    v.status[held] = FOUND
    v.status[taken_back] = REFUSED
    if judge.target.stochastic:
        fresh = Oracle(judge.target, judge.batch, JUDGE_DRAWS, judge.seed, f"{judge.name}/judge")
        decisions = fresh.decisions(v.x).argmax(-1)
        v.wrong.copy_((decisions != cases.y).float().mean(0))
    else:
        v.wrong.copy_((logits.argmax(1) != cases.y).float())
    for j, norm in enumerate(NORMS_KEPT):
        claimed = torch.nonzero(torch.isfinite(v.smallest[:, j]) & (v.smallest[:, j] > 0)).flatten()
        if len(claimed):
            again = judge.observe(ledger.witness[claimed, j]).logits
            wrong = (again.argmax(1) != cases.y[claimed]) & torch.isfinite(again).all(1)
            v.smallest[claimed[~wrong], j] = torch.inf
        sizes = geometry.distance(v.x[held], cases.x[held], norm)
        wrong = logits[held].argmax(1) != cases.y[held]
        v.smallest[held, j] = torch.where(wrong, torch.minimum(v.smallest[held, j], sizes), v.smallest[held, j])
    return replace(v, refused=refused + int(taken_back.sum()))
