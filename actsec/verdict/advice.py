"""Which fix helps, and what it costs: paired comparisons with the audited model, and one line for each defense.

A fix is chosen on one half of the images (even rows) and its effect is reported on the other half, so that choosing the
best of several does not flatter it.
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from actsec import registry
from actsec.costs import price, spelled
from actsec.plan import Plan, headline_threats, tested
from actsec.result import Advice, AdviceLabel, Comparison, Variant
from actsec.verdict import calibration, statistics
from actsec.verdict.gathering import Gathered, compared

Array = NDArray[Any]
COST_LIMIT = 0.5
"""A fix that costs more than this share of its gain in robust accuracy, in clean accuracy, is said to cost too much."""


def compare(base: Gathered, other: Gathered, plan: Plan, y: Array, made: tuple[Variant, ...]) -> tuple[Comparison, ...]:
    """A defended variant against the audited model on the same images: clean and robust accuracy, ECE, confidence."""
    if base.clean is None or other.clean is None:
        return ()
    names = (other.variant.name, base.variant.name)
    rows = [
        statistics.compare(
            *names, "clean_accuracy", *(_shares(1 - g.clean_wrong) for g in (base, other)), seed=plan.seed
        )
    ]
    believable = {v.id: {t.threat: t.believable for t in v.threats} for v in made}
    for threat in headline_threats(plan):
        n = min(tested(plan, name, threat) for name in names)
        if n and base.under(threat) and other.under(threat):
            both = base.counted(threat, n) & other.counted(threat, n)
            trials = compared(base, other)
            pair = (1 - g.wrong_under(threat, n, t)[both] for g, t in zip((base, other), trials, strict=True))
            before, after = (_shares(correct) for correct in pair)
            rows.append(
                statistics.compare(
                    *names,
                    f"robust_accuracy@{threat}",
                    before,
                    after,
                    seed=plan.seed,
                    comparable=all(believable[name].get(str(threat), False) for name in names),
                )
            )
    pairs = [_confidence(g) for g in (base, other)]
    if all(pair is not None for pair in pairs):
        first, second = (pair for pair in pairs if pair is not None)
        found = calibration.paired_ece(first, second, seed=plan.seed)
        eces = [calibration.ece(*pair) for pair in (first, second)]
        rows.append(
            statistics.judged(*names, "ece", eces[0], eces[1], len(y), found, lower_is_better=True),
        )
    return tuple(rows)


def advise(
    gathered: tuple[Gathered, ...], plan: Plan, made: tuple[Variant, ...], rows: int, shape: tuple[int, ...]
) -> tuple[Advice, ...]:
    """One line for each defense, tried ones first, best first; what was not tried is listed with what it would take.

    rows is the size of the training data, 0 where there is none.
    """
    base, threat = gathered[0], headline_threats(plan)[0]
    tried = [
        _judge(base, g, plan, variant)
        for g, variant in zip(gathered, made, strict=True)
        if g.variant.chain and g.clean is not None and base.clean is not None and g.under(threat) and base.under(threat)
    ]
    order = get_args(AdviceLabel)
    ranked = sorted(tried, key=lambda pair: (order.index(pair[0].label), -pair[1]))
    known = {spec.name for g in gathered for spec in g.variant.chain}
    return (*(advice for advice, _ in ranked), *_untried(known, plan, rows, shape))


def _judge(base: Gathered, g: Gathered, plan: Plan, variant: Variant) -> tuple[Advice, float]:
    """The label of a defense and its gain in robust accuracy."""
    threat, name = headline_threats(plan)[0], variant.chain
    n = min(tested(plan, base.variant.name, threat), tested(plan, g.variant.name, threat))
    if n < 2:
        return Advice(name, "no detectable effect", f"{name}: {n} images tested, too few to say.", ""), 0.0
    trials = compared(base, g)
    before, after = (1 - each.wrong_under(threat, n, t) for each, t in zip((base, g), trials, strict=True))
    clean = (1 - base.clean_wrong, 1 - g.clean_wrong)
    even, odd = np.arange(0, n, 2), np.arange(1, n, 2)
    chosen = statistics.paired_mean(before[even], after[even], plan.seed)
    shown = statistics.paired_mean(before[odd], after[odd], plan.seed)
    cost = statistics.paired_mean(clean[0], clean[1], plan.seed)
    believable = next((t.believable and t.state != "masked" for t in variant.threats if t.threat == str(threat)), False)
    gain = _points(shown.difference, shown.low, shown.high)
    robust = f"robust accuracy at {threat} {gain} on the half it was not chosen on"
    price = f"clean accuracy {_points(cost.difference, cost.low, cost.high)}"
    if not believable and chosen.low > 0:
        why = next((t.why or "its gradients are hidden" for t in variant.threats if t.threat == str(threat)), "")
        return Advice(name, "looks better, is masking", f"{name}: {robust}, but the checks void it: {why}", ""), 0.0
    if all(d.kind == "calibration" for d in (registry.build("defenses", spec) for spec in g.variant.chain)):
        return Advice(name, "calibration only", _calibration_sentence(name, base, g, plan, clean), ""), 0.0
    if chosen.low > 0 and shown.low > 0:
        costly = -cost.difference > COST_LIMIT * max(shown.difference, 1e-9) or after.sum() == 0
        label: AdviceLabel = "costs more than it gives" if costly else "recommended"
        return Advice(name, label, f"{name}: {robust}; {price}.", ""), shown.difference
    return Advice(name, "no detectable effect", f"{name}: {robust}; {price}.", ""), chosen.difference


def _calibration_sentence(name: str, base: Gathered, g: Gathered, plan: Plan, clean: tuple[Array, Array]) -> str:
    first, second = _confidence(base), _confidence(g)
    changed = int(np.sum((clean[0] > 0.5) != (clean[1] > 0.5)))
    labels = "no label changed" if changed == 0 else f"{changed} decisions changed"
    if first is None or second is None:
        return f"{name}: {labels}; calibration could not be measured."
    found = calibration.paired_ece(first, second, seed=plan.seed)
    return (
        f"{name}: {labels}, so it is no defense; ECE {calibration.ece(*first):.3f} to {calibration.ece(*second):.3f} "
        f"(change {found.difference:+.3f}, 95 % interval {found.low:+.3f} to {found.high:+.3f})."
    )


def _untried(known: set[str], plan: Plan, rows: int, shape: tuple[int, ...]) -> tuple[Advice, ...]:
    """Defenses nobody asked for, with what they would cost on the training data, or on 10,000 images of it."""
    lines = []
    for name in registry.names("defenses"):
        if name in known or "/" in name:
            continue
        passes = price(name, plan.eps or 0.1, rows or 10_000, shape)
        mend = "" if rows or not passes else "give --train data.npz and "
        on = "" if rows else " for each 10,000 training images"
        cost = f"; it takes about {passes:,} passes of one image{on}" if passes else ""
        how = f"To test it, {mend}add --defenses '{spelled(name, plan.eps or 0.1)}'{cost}."
        lines.append(Advice(name, "not tested", f"{name} was not tested.", how))
    return tuple(lines)


def _points(difference: float, low: float, high: float) -> str:
    return f"{100 * difference:+.1f} points (95 % interval {100 * low:+.1f} to {100 * high:+.1f})"


def _shares(correct: Array) -> Array:
    """Bools where every example is decided, so that McNemar's test applies; shares for a stochastic target."""
    return correct > 0.5 if np.isin(correct, (0.0, 1.0)).all() else correct


def _confidence(g: Gathered) -> tuple[Array, Array] | None:
    """Confidence of the decision and its correctness on untouched images."""
    logits = g.clean.arrays["test_logits"] if g.clean else np.full((1, 1), np.nan)
    if not np.isfinite(logits).all():
        return None
    return calibration.confidence(logits, g.threshold), g.clean_wrong < 0.5
