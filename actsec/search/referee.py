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
from actsec.forcing import units
from actsec.search.answering import answer, confirm
from actsec.search.ledger import ALREADY_WRONG, FOUND, NORMS_KEPT, REFUSED, Ledger, Verdicts, opened
from actsec.search.oracle import Oracle, frozen, rejected
from actsec.types import BATCH, JUDGE_DRAWS, Ask, Attack, Cases, Goal, Norm, Observed, Recipe, Reply, Target

CANDIDATE_VALUES = 1 << 23
"""Values of all candidates in play at once: 32 MiB in float32, a few times that at work."""


def drive(
    attack: Attack[object] | Recipe,
    oracle: Oracle,
    goal: Goal,
    cases: Cases,
    draws: Draws,
    *,
    settle: bool = True,
    width: int = BATCH,
    judge: Oracle | None = None,
    queries: int | None = None,
    grid: int | None = None,
    tell: Callable[[int, int], None] | None = None,
    note: Callable[[Tensor, Ask, Reply], None] | None = None,
) -> Verdicts:
    """Run an attack, or the attacks of a recipe one after the other, on all cases; return the confirmed verdicts.

    settle ends a row at its first success (never for minimal-norm cases, stochastic targets or goals that do not
    settle); width is how many rows are in play at once and changes nothing in the result; judge, when the oracle asks a
    stand-in, is the original, which confirms every improvement before it counts; queries bounds forwards per row; grid
    is the number of steps between the ends of the box that whole-numbered data has: what was found is judged a second
    time rounded to it; note sees every question, with the rows it is about, and its reply. Use inside ``frozen``.
    """
    minimal = bool(torch.isinf(cases.eps).all())
    settle = settle and goal.settles and not minimal and not oracle.target.stochastic
    # The clean pass is the judge's: a stand-in has no say in what was wrong from the beginning.
    opening = None if judge is not None else _opening(attack, oracle, goal, cases, draws)
    if opening is None:
        logits, score, baseline = _look(judge or oracle, goal, cases.x, cases)
    else:
        logits, score, baseline = opening.logits[:, 0], opening.score[:, 0], ()
    watched = judge is not None and goal.watches
    measured = _look(oracle, goal, cases.x, cases)[2] if watched else baseline
    abstains = (judge or oracle).target.rejects is not None
    refused = rejected((judge or oracle).observe(cases.x)) if abstains and goal.settles else None
    ledger = opened(logits, score, cases, minimal, refused)
    if goal.settles:
        ledger.verdicts.status[ledger.success] = ALREADY_WRONG
    court = _Court(oracle, judge, goal, baseline, measured, ledger, width, queries, tell, note, opening)
    if isinstance(attack, Recipe):
        for i, part in enumerate(attack.parts(cases, logits.shape[1])):
            started = cases if i == 0 else replace(cases, start=ledger.verdicts.x)
            _run(court, part, started, draws.named(str(i)), settle=settle)
    else:
        _run(court, attack, cases, draws, settle=settle)
    return _close(court, cases, grid)


@dataclass(slots=True)
class _Court:
    """What stays the same from question to question, and the count of successes that a judge took back."""

    oracle: Oracle
    judge: Oracle | None
    goal: Goal
    baseline: tuple[Tensor, ...]
    measured: tuple[Tensor, ...]
    ledger: Ledger
    width: int
    queries: int | None
    tell: Callable[[int, int], None] | None
    note: Callable[[Tensor, Ask, Reply], None] | None
    opening: Reply | None
    refused: int = 0


def _run(court: _Court, attack: Attack[object], cases: Cases, draws: Draws, *, settle: bool) -> None:
    """One attack on the rows that nothing has broken yet; on all that may still improve when nothing settles."""
    ledger, oracle = court.ledger, court.oracle
    over = ledger.success if settle else ledger.verdicts.status == ALREADY_WRONG
    waiting = torch.nonzero(~over).flatten()
    width = _width(attack, cases.rows(waiting[:1]), draws, court.width)
    # The box cut to the ball is narrower than the ball by a rounding: who walks loses nothing by it, but what was made
    # elsewhere is held to the ball itself, and who looks for the smallest change comes from outside it.
    cut = (lambda part: part) if {"minimal", "stored"} & set(attack.roles) else geometry.tightened
    index, state, live, fresh = waiting[:0], None, None, None
    while len(index) or len(waiting):
        if len(waiting) and len(index) <= width // 2:
            new, waiting = waiting[: width - len(index)], waiting[width - len(index) :]
            fresh = attack.start(cut(cases.rows(new)), draws)
            state = fresh if state is None or not len(index) else rows.join(state, fresh)
            index, live = torch.cat([index, new]), None
        if live is None:
            live = cut(cases.rows(index))
        ask = attack.ask(state, live)
        if live.rules is not None:
            ask = replace(ask, x=_ruled(ask.x, live))
        if court.queries is not None:
            pays = ledger.verdicts.forwards[index] + ask.x.shape[1] * oracle.repeats <= court.queries
            if not bool(pays.all()):
                state, index, live = rows.take(state, pays), index[pays], None
                continue
        opens = fresh is not None and len(fresh.done) == len(index)  # type: ignore[attr-defined]
        reply = _heard(court, ask, live, index, opens=opens)
        fresh = None
        state = attack.tell(state, reply, live, draws)
        done = state.done  # type: ignore[attr-defined]  # every state has it, see types.State
        if settle:
            done = done | reply.success.any(1)
        if bool(done.any()):
            state, index, live = rows.take(state, ~done), index[~done], None
            if court.tell is not None:
                court.tell(len(cases) - len(index) - len(waiting), len(cases))


def _heard(court: _Court, ask: Ask, live: Cases, index: Tensor, *, opens: bool) -> Reply:
    """The reply to one question about the rows at ``index``, confirmed, and entered in the ledger.

    opens says that it is the first of all these rows: the clean pass may have answered it.
    """
    if opens and court.opening is not None and torch.equal(ask.x[:, 0], live.x):
        reply = rows.take(court.opening, index)
    else:
        reply = answer(court.oracle, court.goal, ask, live, tuple(part[index] for part in court.measured))
    if court.judge is not None:
        clean = tuple(part[index] for part in court.baseline)
        claimed = reply.success & court.ledger.improves(index, reply)
        reply, taken_back = confirm(court.judge, court.goal, ask, reply, live, clean, claimed)
        court.refused += taken_back
    court.ledger.enter(index, ask, reply, live, court.oracle.repeats)
    if court.note is not None:
        court.note(index, ask, reply)
    return reply


def _opening(attack: Attack[object] | Recipe, oracle: Oracle, goal: Goal, cases: Cases, draws: Draws) -> Reply | None:
    """The clean pass and the first question in one, for an attack that begins with the gradient at the input.

    None where the first question is another one, as one row tells, needs more than the clean pass gives, or is judged
    by a goal that compares with that pass.
    """
    if isinstance(attack, Recipe) or goal.watches or not len(cases) or oracle.repeats > 1:
        return None
    if goal.baseline(Observed(cases.x.new_zeros(1, len(oracle.target.classes)))):
        return None
    one = cases.rows(slice(0, 1))
    ask = attack.ask(attack.start(one, draws), one)
    if ask.x.shape[1] != 1 or ask.loss is None or ask.target is not None or not torch.equal(ask.x[:, 0], one.x):
        return None
    if ask.wants is not None and not bool(ask.wants.all()):
        return None
    return answer(oracle, goal, Ask(cases.x[:, None], ask.loss), cases, ())


def _ruled(x: Tensor, cases: Cases) -> Tensor:
    """The candidates (n, k, *shape) that keep the cases' rules and lie nearest to those proposed."""
    assert cases.rules is not None  # noqa: S101  # the caller looked
    return cases.rules.snap(x.flatten(0, 1), cases.repeated(x.shape[1])).reshape(x.shape)


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
    attack: Attack[object] | Recipe,
    target: Target,
    cases: Cases,
    goal: Goal | None = None,
    *,
    seed: int = 0,
    name: str = "",
    settle: bool = True,
    batch: int = 0,
    width: int | None = None,
    repeats: int | None = None,
    queries: int | None = None,
    grid: int | None = None,
    search: Target | None = None,
    tell: Callable[[int, int], None] | None = None,
    note: Callable[[Tensor, Ask, Reply], None] | None = None,
) -> Verdicts:
    """``drive`` on a frozen target: the model is bit-equal afterwards.

    repeats defaults to 1, or to JUDGE_DRAWS for a stochastic target. search is a faster stand-in (lowering.lower) that
    the attack asks in the target's place; the target judges.
    """
    draws_each = repeats or (JUDGE_DRAWS if target.stochastic else 1)
    goal = goal or losses.Misclassify()
    if hasattr(attack, "ranked"):
        attack, goal = units.choosing(attack, goal, target, cases)
    with frozen(target.model), frozen((search or target).model):
        oracle = Oracle(search or target, batch, draws_each, seed, name)
        return drive(
            attack,
            oracle,
            goal,
            cases,
            Draws(seed, name),
            settle=settle,
            width=width or oracle.batch,
            judge=Oracle(target, batch, draws_each, seed, name) if search is not None else None,
            queries=queries,
            grid=grid,
            tell=tell,
            note=note,
        )


def _close(court: _Court, cases: Cases, grid: int | None) -> Verdicts:
    """Judge every final candidate on a fresh forward of the original model and fill in the verdict.

    A claim that does not hold is refused; a candidate that only a stand-in thought harmless is found.
    """
    ledger, judge, goal, baseline = court.ledger, court.judge or court.oracle, court.goal, court.baseline
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
        decisions, refused = fresh.decided(v.x)
        v.wrong.copy_(_mistaken(decisions.argmax(-1) != cases.y, refused, attacked).float().mean(0))
    else:
        refused = torch.zeros_like(attacked) if judge.target.rejects is None else rejected(judge.observe(v.x))
        v.wrong.copy_(_mistaken(logits.argmax(1) != cases.y, refused, attacked).float())
    # Without a stand-in the witnesses were judged by this very model; they are asked again when its word is in doubt.
    doubted = court.judge is not None or bool(taken_back.any()) or judge.target.stochastic
    for j, norm in enumerate(NORMS_KEPT):
        claimed = torch.nonzero(torch.isfinite(v.smallest[:, j]) & (v.smallest[:, j] > 0)).flatten()
        if len(claimed) and doubted:
            seen = judge.observe(ledger.witness[claimed, j])
            wrong = (seen.logits.argmax(1) != cases.y[claimed]) & torch.isfinite(seen.logits).all(1) & ~rejected(seen)
            v.smallest[claimed[~wrong], j] = torch.inf
        sizes = geometry.distance(v.x[held], cases.x[held], norm, cases.rules)
        wrong = logits[held].argmax(1) != cases.y[held]
        v.smallest[held, j] = torch.where(wrong, torch.minimum(v.smallest[held, j], sizes), v.smallest[held, j])
    on_grid = torch.full_like(v.status, -1)
    found = torch.nonzero(held).flatten()
    if grid is not None and len(found):
        rounded = geometry.gridded(cases.rows(found), v.x[found], grid)
        saved = _look(judge, goal, rounded, cases.rows(found), tuple(part[found] for part in baseline))[1]
        on_grid[found] = (saved > 0).to(on_grid.dtype)
    return replace(v, refused=court.refused + int(taken_back.sum()), on_grid=on_grid, trace=ledger.trace())


def _mistaken(wrong: Tensor, refused: Tensor, attacked: Tensor) -> Tensor:
    """Wrong decisions (..., n): of an attacked row those that are accepted, of an untouched one refusals as well."""
    return torch.where(attacked, wrong & ~refused, wrong | refused)
