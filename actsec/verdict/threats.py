"""What one variant shows under one threat: single attacks, the worst case, the curve, the sanity panel."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsec import registry
from actsec.goals import words as wording
from actsec.planning.jobs import EXPERIMENTS, rows_tested
from actsec.planning.plan import Plan
from actsec.result import AttackResult, Check, CurvePoint, Share, Smallest, ThreatResult
from actsec.spec import parse
from actsec.types import Threat
from actsec.verdict import statistics
from actsec.verdict.calibration import confidence
from actsec.verdict.courses import course
from actsec.verdict.evidence import checks
from actsec.verdict.gathering import ALREADY_WRONG, FOUND, Gathered, Tried
from actsec.verdict.sanity import state

Array = NDArray[Any]
NOISES = {"noise", "noise_curve", "kill_noise", "miscalibrate_noise"}
NOTHING = Share(0, 0, 0.0, 0.0, 0.0)
"""The share of no examples at all."""


def threat_result(
    g: Gathered,
    plan: Plan,
    threat: Threat,
    y: Array,
    classes: tuple[str, ...],
    echo: str,
    base: Gathered | None = None,
) -> ThreatResult:
    """Everything about a variant under a threat, from its outcomes; base is the same model without its defenses."""
    n = rows_tested(plan, g.variant.name, threat)
    counted = g.counted(threat, n)
    wrong, labels = g.wrong_under(threat, n)[counted], y[:n][counted]
    panel = checks(g, plan, threat, n, base)
    masked, why = _believed(panel)
    if not any(tried.trial.role not in NOISES for tried in g.under(threat)):
        masked, why = True, "no attack has finished"
    return ThreatResult(
        threat=str(threat),
        norm=threat.norm,
        eps=threat.eps,
        echo="; ".join(filter(None, (echo, wording(threat.goal)))),
        worst_case=mean_share(1 - wrong),
        per_class=statistics.per_class(wrong < 0.5, labels, classes),
        attacks=tuple(
            attack_result(g, tried)
            for tried in g.tried
            if tried.threat == threat and tried.trial.role not in EXPERIMENTS and tried.threat.goal == threat.goal
        ),
        curve=_curve(g, threat, n),
        checks=panel,
        state=state(tuple(_finding(check) for check in panel), g.stochastic) if panel else "unchecked",
        believable=not masked,
        why=why,
        goal=threat.goal,
        left_out=int(n - counted.sum()),
        saved=_saved(g, threat, n),
        smallest=_smallest(g, threat, n),
    )


def _smallest(g: Gathered, threat: Threat, n: int) -> Smallest | None:
    """The median over everything that was found; None under a bound, of models that draw, and where it is infinite."""
    if threat.eps is not None or threat.goal != "misclassify" or g.stochastic:
        return None
    # Rows that one attack was not run on have what the others found there.
    least = g.distance(threat.norm, n, g.under(threat))[g.clean_wrong[:n] < 0.5]
    if not len(least) or not np.isfinite(np.median(least)):
        return None
    low, high = statistics.median_ends(least)
    return Smallest(float(np.median(least)), low, high if np.isfinite(high) else None, len(least))


def _saved(g: Gathered, threat: Threat, n: int) -> Share | None:
    """Of the examples some attack fooled, those that some attack fools as saved; None where it was not asked."""
    found, held = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    for tried in g.under(threat):
        on_grid = tried.arrays["on_grid"][:n]
        found[: len(on_grid)] |= on_grid >= 0
        held[: len(on_grid)] |= on_grid == 1
    return statistics.share(int(held.sum()), int(found.sum())) if found.any() else None


def mean_share(correct: Array) -> Share:
    """The share of correct examples; a stochastic target's per-example shares are summed and rounded to a count."""
    return statistics.share(round(float(np.sum(correct))), len(correct)) if len(correct) else NOTHING


def attack_result(g: Gathered, tried: Tried) -> AttackResult:
    """One attack alone. Its still-correct share is an upper bound: other attacks may break what it left."""
    trial, name = tried.trial, parse(tried.trial.attack).name
    brief = str(registry.brief("attacks", parse(trial.attack)))
    role = trial.role
    if not tried.usable:
        reason = tried.error or tried.reason or "not finished"
        noise = role in NOISES
        return AttackResult(
            brief, name, role, 0, NOTHING, NOTHING, None, "", None, 0.0, 0.0, 0, 0, noise, counts=False, error=reason
        )
    n = len(tried.arrays["status"])
    counted = g.counted(tried.threat, n) & tried.arrays.get("counted", np.ones(n, dtype=bool))
    arrays = {key: rows if key == "trace" else rows[counted] for key, rows in tried.arrays.items()}
    n, status, wrong = int(counted.sum()), arrays["status"], tried.wrong[counted]
    before = g.clean_wrong[: len(counted)][counted]
    if tried.threat.goal != "misclassify" and tried.threat.region is None:
        before, wrong = (status == ALREADY_WRONG) * 1.0, np.isin(status, (ALREADY_WRONG, FOUND)) * 1.0
    after = np.maximum(before, wrong)
    right = before < 0.5
    found = right & (status == FOUND)
    size, reason = _median_size(arrays["size"], right, found) if tried.threat.eps is None else (None, "")
    fooled = found & (wrong > 0.5)
    confident = float(confidence(arrays["logits"][fooled], g.threshold).mean()) if fooled.any() else None
    success = statistics.share(int(np.sum(right & (after > 0.5))), int(right.sum())) if right.any() else NOTHING
    return AttackResult(
        attack=brief,
        name=name,
        role=role,
        n=n,
        still_correct=mean_share(1 - after),
        success=success,
        median_size=size,
        size_reason=reason,
        confidence_when_fooled=confident,
        forwards=float(arrays["forwards"].mean()) if n else 0.0,
        backwards=float(arrays["backwards"].mean()) if n else 0.0,
        refused=sum(int(numbers["refused"]) for numbers in tried.numbers),
        rejected=int(arrays["rejected"].sum()),
        baseline=role in NOISES,
        counts=True,
        flat=sum(int(numbers.get("flat", 0)) for numbers in tried.numbers),
        search=_searched(tried),
        saved=_kept(arrays["on_grid"][found]),
        course=None if role in NOISES else course(arrays["trace"]),
    )


def _kept(on_grid: Array) -> Share | None:
    """Of what was found, how much still succeeds as saved; None where it was not asked."""
    asked = on_grid[on_grid >= 0]
    return statistics.share_of(asked == 1) if len(asked) else None


def _searched(tried: Tried) -> str:
    """Which stand-in an attack searched on, in words; every shard has the same."""
    made = tried.numbers[0].get("search") if tried.numbers else None
    return f"{', '.join(made['what'])}: {made['agreement']}" if made and made["what"] else ""


def _median_size(size: Array, right: Array, found: Array) -> tuple[float | None, str]:
    """Median over the clean-correct examples, failures as infinity."""
    if not right.any():
        return None, "no example was classified correctly before"
    sizes = np.where(found, size, np.inf)[right]
    median = float(np.median(sizes))
    return (median, "") if np.isfinite(median) else (None, "more than half of the searches found nothing")


def _curve(g: Gathered, threat: Threat, n: int) -> tuple[CurvePoint, ...]:
    """Robust accuracy over eps, from every candidate that fits; noise beside it where noise was tried at that eps."""
    if n == 0 or g.stochastic or threat.goal != "misclassify" or threat.norm not in ("linf", "l2"):
        return ()
    rows = [t for t in g.tried if t.usable and t.threat.norm == threat.norm and t.threat.goal == "misclassify"]
    if threat.eps is None:
        least = g.distance(threat.norm, n, rows)
        finite = least[np.isfinite(least) & (least > 0)]
        steps = np.linspace(0, float(np.quantile(finite, 0.98)), 13) if len(finite) else np.zeros(1)
        return tuple(CurvePoint(float(e), statistics.share_of(least > e), None) for e in steps)
    grid = sorted({t.threat.eps for t in rows if t.threat.eps and t.trial.role != "unbounded"})
    points = [CurvePoint(0.0, mean_share(1 - g.clean_wrong[:n]), mean_share(1 - g.clean_wrong[:n]))]
    noise = [t for t in rows if t.trial.role in NOISES]
    for eps in grid:
        at = Threat(threat.norm, eps)
        # A row that nothing attacked at this eps is not tested there.
        attacked = _most(t for t in rows if t.threat == at and t not in noise)
        noised = _most(t for t in noise if t.threat == at)
        if attacked:
            noisy = mean_share(1 - g.wrong_under(at, min(n, noised), noise)) if noised else None
            points.append(CurvePoint(float(eps), mean_share(1 - g.wrong_under(at, min(n, attacked))), noisy))
    return tuple(points)


def _most(trials: Iterable[Tried]) -> int:
    return max((len(t.arrays["status"]) for t in trials), default=0)


def _believed(panel: tuple[Check, ...]) -> tuple[bool, str]:
    voiding = [check for check in panel if check.voids and check.status != "ok"]
    return bool(voiding), "; ".join(f"{check.rule} {check.claim}" for check in voiding)


def _finding(check: Check) -> Any:
    from actsec.types import Finding

    return Finding(**dataclasses.asdict(check))
