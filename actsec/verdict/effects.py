"""What a fix does, number by number: a defended variant against the audited model, paired on the same images.

A fix is chosen on the even rows and its effect is reported on the odd ones, so that choosing the best of several does
not flatter it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsec.planning.jobs import headline_threats, rows_tested
from actsec.planning.plan import Plan
from actsec.result import Comparison, Variant
from actsec.types import Threat
from actsec.verdict import calibration, nonsense, statistics
from actsec.verdict.gathering import Gathered, Tried, compared
from actsec.verdict.statistics import Difference

Array = NDArray[Any]
ALL, CHOOSING, REPORTED = slice(None), slice(0, None, 2), slice(1, None, 2)
FEWEST_WRONG = 10
"""Fewer wrong answers than this say nothing about how confident they are: a resample may hold none of them."""
ASIDE = ("noise", "unbounded", "second_opinion")
"""Roles of trials that are not taken for the attack that a model meets."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A model and what a fix made of it, over the labels y of the test data. void: threats whose number is not held."""

    base: Gathered
    other: Gathered
    plan: Plan
    y: Array
    void: frozenset[str]

    @property
    def sides(self) -> tuple[Gathered, Gathered]:
        return self.base, self.other


def pair(base: Gathered, other: Gathered, plan: Plan, y: Array, made: tuple[Variant, ...]) -> Pair | None:
    """The two variants paired; None while one of them is not measured."""
    if base.clean is None or other.clean is None:
        return None
    names = (base.variant.name, other.variant.name)
    void = {t.threat for v in made if v.id in names for t in v.threats if not t.believable or t.state == "masked"}
    return Pair(base, other, plan, y, frozenset(void))


def compare(both: Pair) -> tuple[Comparison, ...]:
    """Every number of a fix that was measured beside its base's, on all images that both faced."""
    rows = [clean(both), *robust(both), *everything_else(both)]
    return tuple(row for row in rows if row is not None)


def effects(both: Pair) -> tuple[Comparison, ...]:
    """The same with the accuracies on the half of the images that the choice did not see."""
    rows = [*robust(both, REPORTED), clean(both, REPORTED), *everything_else(both)]
    return tuple(row for row in rows if row is not None)


def everything_else(both: Pair) -> Iterator[Comparison | None]:
    """What no choice rests on."""
    threats = headline_threats(both.plan)
    yield from (smallest(both, t) for t in threats if t.eps is None and t.goal == "misclassify")
    yield ece(both)
    if threats:
        yield confidence_when_wrong(both, threats[0])
    yield nonsense_above(both)
    yield dead_units(both)


def clean(both: Pair, half: slice = ALL) -> Comparison | None:
    """Clean accuracy."""
    before, after = (1 - g.clean_wrong[half] for g in both.sides)
    return _shares(both, "clean_accuracy", before, after)


def robust(both: Pair, half: slice = ALL) -> Iterator[Comparison | None]:
    """Robust accuracy under every headline threat of a stated size, the first of them first."""
    for threat in headline_threats(both.plan):
        if threat.eps is None:
            continue
        correct = robust_correct(both, threat, half)
        if correct is not None:
            yield _shares(both, f"robust_accuracy@{threat}", *correct, comparable=str(threat) not in both.void)


def robust_correct(both: Pair, threat: Threat, half: slice) -> tuple[Array, Array] | None:
    """Shares still correct (m,) of the two at the worst case of what both faced; None where one did not face it."""
    n = min(rows_tested(both.plan, g.variant.name, threat) for g in both.sides)
    if not n or not all(g.under(threat) for g in both.sides):
        return None
    counted = both.base.counted(threat, n) & both.other.counted(threat, n)
    rows = np.arange(n)[half]
    rows = rows[counted[rows]]
    trials = compared(both.base, both.other)
    before, after = (1 - g.wrong_under(threat, n, t)[rows] for g, t in zip(both.sides, trials, strict=True))
    return before, after


def smallest(both: Pair, threat: Threat) -> Comparison | None:
    """The median smallest change that works, over the images that both classify correctly untouched.

    None for a model that draws at inference: whether an input fools it is itself random.
    """
    n = min(rows_tested(both.plan, g.variant.name, threat) for g in both.sides)
    right = (both.base.clean_wrong[:n] < 0.5) & (both.other.clean_wrong[:n] < 0.5)
    if not right.any() or not all(g.under(threat) and not g.stochastic for g in both.sides):
        return None
    sizes = [
        g.distance(threat.norm, n, [t for t in trials if t.usable])[right]
        for g, trials in zip(both.sides, compared(both.base, both.other), strict=True)
    ]
    found = statistics.paired_median(sizes[0], sizes[1], both.plan.seed)
    if found is None:
        return None
    medians = [float(np.median(each)) for each in sizes]
    comparable = str(threat) not in both.void
    return _judged(both, f"smallest_change@{threat}", medians, int(right.sum()), found, comparable=comparable)


def ece(both: Pair) -> Comparison | None:
    """Expected calibration error on untouched images."""
    sides = [confidence(g) for g in both.sides]
    if sides[0] is None or sides[1] is None:
        return None
    found = calibration.paired_ece(sides[0], sides[1], seed=both.plan.seed)
    eces = [calibration.ece(*side) for side in (sides[0], sides[1])]
    return _judged(both, "ece", eces, len(sides[0][0]), found, lower_is_better=True)


def confidence(g: Gathered) -> tuple[Array, Array] | None:
    """Confidence of the decision and its correctness on untouched images; None where a logit is not finite."""
    if g.clean is None or not np.isfinite(g.clean.arrays["test_logits"]).all():
        return None
    return calibration.confidence(g.clean.arrays["test_logits"], g.threshold), g.clean_wrong < 0.5


def confidence_when_wrong(both: Pair, threat: Threat) -> Comparison | None:
    """Mean confidence in wrong answers, on what one attack left of each: the strongest on the base that both faced.

    The same attack, since one that stops at its first success leaves the model less sure than one that goes on.
    """
    faced, trials = compared(both.base, both.other)
    first = strongest(both.base, threat, faced)
    if first is None:
        return None
    second = next(t for t in trials if t.usable and (t.trial.attack, t.threat) == (first.trial.attack, threat))
    n = min(len(first.arrays["logits"]), len(second.arrays["logits"]))
    sides = [_wrongly(g, tried, both.y[:n]) for g, tried in zip(both.sides, (first, second), strict=True)]
    if any(side is None or side[1].sum() < FEWEST_WRONG for side in sides):
        return None
    before, after = (side for side in sides if side is not None)
    found = statistics.paired_weighted(before, after, both.plan.seed)
    means = [float(np.average(values, weights=weights)) for values, weights in (before, after)]
    return _judged(both, f"confidence_when_wrong@{threat}", means, n, found, lower_is_better=True)


def strongest(g: Gathered, threat: Threat, trials: tuple[Tried, ...] | None = None) -> Tried | None:
    """The one attack under a threat that leaves the fewest answers right, of these trials or of all."""
    faced = g.tried if trials is None else trials
    tried = [t for t in faced if t.usable and t.threat == threat and t.trial.role not in ASIDE]
    return max(tried, key=lambda t: float(t.wrong.mean()), default=None)


def _wrongly(g: Gathered, tried: Tried, y: Array) -> tuple[Array, Array] | None:
    """Confidence (n,) on what an attack left, and 1 where the decision is wrong; None where a logit is not finite."""
    logits = tried.arrays["logits"][: len(y)]
    if not np.isfinite(logits).all():
        return None
    decided = calibration.decided(calibration.softmax(logits), g.threshold)
    return calibration.confidence(logits, g.threshold), (decided != y) * 1.0


def nonsense_above(both: Pair) -> Comparison | None:
    """The share of nonsense inputs that get a confidence above 0.9."""
    if both.base.nonsense is None or both.other.nonsense is None:
        return None
    before, after = (nonsense.share_above(o, 0.9) for o in (both.base.nonsense, both.other.nonsense))
    return _shares(both, "nonsense_above_90", before, after, lower_is_better=True)


def dead_units(both: Pair) -> Comparison | None:
    """The share of all units that are dead on an untouched image; units that cannot die never are."""
    sides = [g.probe.arrays.get("dead") if g.probe else None for g in both.sides]
    if sides[0] is None or sides[1] is None:
        return None
    found = statistics.paired_mean(sides[0], sides[1], both.plan.seed)
    means = [float(np.mean(side)) for side in (sides[0], sides[1])]
    return _judged(both, "dead_units", means, len(sides[0]), found, lower_is_better=True)


def _shares(
    both: Pair, metric: str, before: Array, after: Array, *, lower_is_better: bool = False, comparable: bool = True
) -> Comparison | None:
    """A comparison of shares (n,); None of no images."""
    if not len(before):
        return None
    found = statistics.paired_shares(before, after, both.plan.seed)
    means = [float(np.mean(before)), float(np.mean(after))]
    return _judged(both, metric, means, len(before), found, lower_is_better=lower_is_better, comparable=comparable)


def _judged(
    both: Pair,
    metric: str,
    values: list[float],
    n: int,
    found: Difference,
    *,
    lower_is_better: bool = False,
    comparable: bool = True,
) -> Comparison:
    return statistics.judged(
        both.other.variant.name,
        both.base.variant.name,
        metric,
        values[0],
        values[1],
        n,
        found,
        lower_is_better=lower_is_better,
        comparable=comparable,
    )
