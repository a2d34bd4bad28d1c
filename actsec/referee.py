"""Attacks propose, the referee disposes.

``drive`` is the only loop. It asks the attack for candidates, asks the model, judges every candidate, keeps the best,
drops settled rows inside the loop, lets waiting rows in, counts forwards and backwards per row, and at the end
confirms each success on a fresh forward of the original model. An attack never sees the model and never marks its own
homework.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from actsec import geometry, losses, rows
from actsec.draws import Draws
from actsec.oracle import Oracle, frozen
from actsec.types import Ask, Attack, Cases, Goal, Norm, Observed, Reply, Target

ALREADY_WRONG, FOUND, FAILED, REFUSED = 0, 1, 2, 3
STATUS = ("already_wrong", "found", "failed", "refused")
JUDGE_DRAWS = 20


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What an attack achieved, rows first in the order of the cases.

    status (n,) int64 indexes STATUS; x (n, *shape) is the best admissible candidate (the smallest success when eps is
    infinite, else the highest score), never a blank and only the clean input when nothing else was asked; score and size
    (n,) belong to it; wrong (n,) is the share of fresh judgements of x that were wrong (0 or 1 unless the target is
    stochastic); smallest (n, norms) is the least size of any confirmed misclassifying candidate, by NORMS_KEPT, infinity
    for none; forwards, backwards, found_at, rejected (n,) int64 count queries, the question that first succeeded (-1)
    and inadmissible candidates; refused counts successes a judge took back.
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

    def enter(self, index: Tensor, x: Tensor, reply: Reply, cases: Cases, repeats: int) -> None:
        """Record one reply for the rows at ``index``."""
        v = self.verdicts
        k = x.shape[1]
        self.asked[index] += 1
        v.forwards[index] += k * repeats
        if reply.gradient is not None:
            v.backwards[index] += k * repeats
        v.rejected[index] += (~reply.inside).sum(1)
        lowest = torch.full_like(reply.score, -torch.inf)
        value = torch.where(reply.success, -reply.size.to(reply.score.dtype), reply.score) if self.minimal else reply.score
        value = torch.where(reply.inside, value, lowest)
        value = torch.where(reply.success.any(1, keepdim=True) & ~reply.success, lowest, value)
        pick = value.argmax(1)
        row = torch.arange(len(index), device=index.device)
        success, score, size = reply.success[row, pick], reply.score[row, pick], reply.size[row, pick]
        known = self.success[index]
        nearer = size < v.size[index] if self.minimal else score > v.score[index]
        better = torch.where(success, ~known | nearer, ~known & (score > v.score[index])) & reply.inside[row, pick]
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
        row = torch.arange(len(where), device=index.device)
        for j, norm in enumerate(NORMS_KEPT):
            sizes = geometry.size(candidates - clean[:, None], norm, lead=2)
            sizes = torch.where(wrong, sizes, torch.full_like(sizes, torch.inf))
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
    clean = oracle.observe(cases.x, goal.watches)
    baseline = goal.baseline(clean)
    ledger = _open(clean, goal.score(clean, baseline, cases), cases, minimal)
    if goal.settles:
        ledger.verdicts.status[ledger.success] = ALREADY_WRONG
        waiting = torch.nonzero(~ledger.success).flatten()
    else:
        waiting = torch.arange(len(cases), device=cases.x.device)
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
        before = tuple(part[index] for part in baseline)
        reply = answer(oracle, goal, ask, live, before)
        if judge is not None:
            reply, taken_back = confirm(judge, goal, ask, reply, live, before)
            refused += taken_back
        ledger.enter(index, ask.x, reply, live, oracle.repeats)
        state = attack.tell(state, reply, live, draws)
        over = state.done  # type: ignore[attr-defined]  # every state has it, see types.State
        if settle:
            over = over | reply.success.any(1)
        if queries is not None:
            over = over | (ledger.verdicts.forwards[index] + ask.x.shape[1] * oracle.repeats > queries)
        if bool(over.any()):
            state, index = rows.take(state, ~over), index[~over]
            if tell is not None:
                tell(total - len(index) - len(waiting), total)
    return _close(ledger, judge or oracle, goal, cases, baseline, refused)


def answer(oracle: Oracle, goal: Goal, ask: Ask, cases: Cases, baseline: tuple[Tensor, ...]) -> Reply:
    """What the referee tells the attack about its candidates."""
    n, k = ask.x.shape[:2]
    flat, many = ask.x.flatten(0, 1), cases.repeated(k)
    loss = gradient = None
    if ask.loss is None:
        observed = oracle.observe(flat, goal.watches)
    else:
        observed, loss, gradient = oracle.differentiate(flat, many, ask.loss, goal.watches)
        loss, gradient = loss.reshape(n, k), gradient.reshape(ask.x.shape)
    size = geometry.size(flat - many.x, cases.norm).reshape(n, k)
    inside = geometry.inside(ask.x, cases, size)
    score = goal.score(observed, tuple(b.repeat_interleave(k, 0) for b in baseline), many).reshape(n, k)
    logits = observed.logits.reshape(n, k, -1)
    return Reply(logits, score, (score > 0) & inside, size, inside, loss, gradient)


def confirm(
    judge: Oracle, goal: Goal, ask: Ask, reply: Reply, cases: Cases, baseline: tuple[Tensor, ...]
) -> tuple[Reply, int]:
    """The reply with every claimed success re-judged on the original; also how many were taken back."""
    claimed = torch.nonzero(reply.success.flatten()).flatten()
    if not len(claimed):
        return reply, 0
    k = ask.x.shape[1]
    row = claimed // k
    observed = judge.observe(ask.x.flatten(0, 1)[claimed], goal.watches)
    score = goal.score(observed, tuple(b[row] for b in baseline), cases.rows(row))
    success, scores, logits = reply.success.flatten().clone(), reply.score.flatten().clone(), reply.logits.clone()
    success[claimed], scores[claimed] = score > 0, score.to(scores.dtype)
    logits.flatten(0, 1)[claimed] = observed.logits
    confirmed = Reply(
        logits,
        scores.reshape(reply.score.shape),
        success.reshape(reply.success.shape),
        reply.size,
        reply.inside,
        reply.loss,
        reply.gradient,
    )
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
    """``drive`` on a frozen target: the model is bit-equal afterwards. repeats defaults to 1, or JUDGE_DRAWS if stochastic."""
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


def _open(clean: Observed, score: Tensor, cases: Cases, minimal: bool) -> _Ledger:
    n, device = len(cases), cases.x.device
    success = score > 0
    count = torch.zeros(n, dtype=torch.int64, device=device)
    wrong = clean.logits.argmax(1) != cases.y
    smallest = torch.full((n, len(NORMS_KEPT)), torch.inf, dtype=torch.float64, device=device)
    smallest[wrong] = 0.0
    verdicts = Verdicts(
        status=torch.full((n,), FAILED, dtype=torch.int64, device=device),
        x=cases.x.clone(),
        score=score.clone() if not minimal else torch.where(success, score, torch.full_like(score, -torch.inf)),
        size=torch.zeros(n, dtype=torch.float64, device=device),
        wrong=torch.zeros(n, device=device),
        smallest=smallest,
        forwards=count + 1,
        backwards=count.clone(),
        found_at=count - 1,
        rejected=count.clone(),
        refused=0,
        logits=clean.logits.clone(),
    )
    # A failed attack returns its best attempt, so the untouched input must lose to the first candidate.
    verdicts.score[~success] = -torch.inf
    witness = cases.x[:, None].repeat(1, len(NORMS_KEPT), *(1,) * (cases.x.dim() - 1))
    return _Ledger(verdicts, success.clone(), witness, count.clone(), minimal)


def _close(
    ledger: _Ledger, judge: Oracle, goal: Goal, cases: Cases, baseline: tuple[Tensor, ...], refused: int
) -> Verdicts:
    """Confirm every success on a fresh forward of the original model and fill in the verdict."""
    v = ledger.verdicts
    observed = judge.observe(v.x, goal.watches)
    score = goal.score(observed, baseline, cases)
    v.score.copy_(score)
    v.logits.copy_(observed.logits)
    v.forwards.add_(judge.repeats)
    found = (v.status != ALREADY_WRONG) & ledger.success
    held = found & (score > 0)
    v.status[held] = FOUND
    v.status[found & ~held] = REFUSED
    if judge.target.stochastic:
        fresh = Oracle(judge.target, judge.batch, JUDGE_DRAWS, judge.seed, f"{judge.name}/judge")
        decisions = fresh.decisions(v.x).argmax(-1)
        v.wrong.copy_((decisions != cases.y).float().mean(0))
        v.forwards.add_(JUDGE_DRAWS)
    else:
        v.wrong.copy_((observed.logits.argmax(1) != cases.y).float())
    for j in range(len(NORMS_KEPT)):
        claimed = torch.nonzero(torch.isfinite(v.smallest[:, j]) & (v.smallest[:, j] > 0)).flatten()
        if len(claimed):
            again = judge.observe(ledger.witness[claimed, j]).logits.argmax(1)
            v.smallest[claimed[again == cases.y[claimed]], j] = torch.inf
    return Verdicts(**{**{f: getattr(v, f) for f in v.__slots__}, "refused": refused + int((found & ~held).sum())})
