"""Which fix helps, and what it costs: one label for each defense, by rule, and a sentence with the numbers behind it.

The rule is in ``labels``, the sentences in ``advice_words``.

Of equal gains the one that keeps more clean accuracy stands first, then the cheaper.
"""

from __future__ import annotations

import dataclasses
from typing import get_args

import numpy as np

from actsec import registry
from actsec.planning import pricing
from actsec.planning.jobs import headline_threats
from actsec.planning.plan import Plan
from actsec.result import Advice, AdviceLabel, Comparison, Variant
from actsec.types import Threat
from actsec.verdict import calibration, sanity, statistics
from actsec.verdict.advice_words import sentence_of
from actsec.verdict.effects import CHOOSING, Pair, effects, robust_correct
from actsec.verdict.gathering import Gathered
from actsec.verdict.labels import Seen, label_of, p_of

FEWEST = 4
"""Images under a threat, below which the two halves say nothing."""
ENOUGH = 20
"""Images that confirm a gain, below which nothing is recommended: fewer cannot show what it costs either."""


def advise(
    pairs: tuple[Pair | None, ...], gathered: tuple[Gathered, ...], plan: Plan, made: tuple[Variant, ...], rows: int
) -> tuple[Advice, ...]:
    """One line for each defense, tried ones first, best first; what was not tried is listed with what it would take.

    pairs, gathered and made run over the same variants. rows is the size of the training data, 0 where there is none.
    """
    defended = [(b, g, v) for b, g, v in zip(pairs, gathered, made, strict=True) if g.variant.chain]
    shown = {v.id: effects(both) for both, _, v in defended if both is not None}
    found = {v.id: _seen(both, v, shown[v.id]) for both, _, v in defended if both is not None}
    seen = {name: each for name, each in found.items() if each is not None}
    # All fixes that were compared count, also those that no label could credit with anything.
    robust = statistics.holm([s.p for s in seen.values()])
    clean = statistics.holm([s.p_clean for s in seen.values()])
    corrected = dict(zip(seen, zip(robust, clean, strict=True), strict=True))
    ranked, unjudged = [], []
    for both, g, variant in defended:
        if both is None or variant.id not in seen:
            unjudged.append(_unjudged(g, variant))
            continue
        p, p_clean = corrected[variant.id]
        whole = dataclasses.replace(seen[variant.id], p=p, p_clean=p_clean, fixes=len(seen))
        label = label_of(whole)
        added = variant.parameters - made[0].parameters
        told = sentence_of(whole, label)
        line = Advice(variant.id, label, told, "", shown[variant.id], p, fitting_passes(g), added)
        ranked.append(((get_args(AdviceLabel).index(label), -whole.chosen, -whole.clean.after, line.passes or 0), line))
    ranked.sort(key=lambda each: each[0])
    known = {spec.name for g in gathered for spec in g.variant.defenses}
    return (*(advice for _, advice in ranked), *unjudged, *untried(known, plan, rows))


def _seen(both: Pair, variant: Variant, shown: tuple[Comparison, ...]) -> Seen | None:
    """What the rule reads, its two p not yet corrected; None where too little was tested."""
    threats = headline_threats(both.plan)
    found = {c.metric: c for c in shown}
    if not threats or f"robust_accuracy@{threats[0]}" not in found or "clean_accuracy" not in found:
        return None
    robust, clean = found[f"robust_accuracy@{threats[0]}"], found["clean_accuracy"]
    choosing = robust_correct(both, threats[0], CHOOSING)
    if choosing is None or len(choosing[0]) + robust.n < FEWEST:
        return None
    chosen = statistics.paired_shares(*choosing, both.plan.seed)
    void = _void(variant)
    defenses = [registry.build("defenses", spec) for spec in both.other.variant.chain]
    return Seen(
        name=variant.chain,
        kinds=frozenset(d.kind for d in defenses),
        chosen=chosen.difference,
        chosen_low=chosen.low,
        robust=robust,
        clean=clean,
        p=p_of(robust),
        p_clean=p_of(clean),
        fixes=1,
        changed=_changed(both),
        trained=_learnt(both.other),
        void=void,
        unchecked=_unchecked(both, variant, threats[0], robust.n),
        refused=_refused(both),
        inflated=not void and str(threats[0]) in both.void,
        ece=found.get("ece"),
        dead=found.get("dead_units"),
        besides=tuple(c for c in shown if c not in (robust, clean)),
    )


def _void(variant: Variant) -> str:
    """Why the checks do not hold a variant's numbers, at the first threat that they void; empty where they do."""
    for at, t in enumerate(variant.threats):
        if t.goal == "misclassify" and (not t.believable or t.state == "masked"):
            why = t.why or "its gradients are hidden"
            return why if not at else f"at {t.threat} {why}"
    return ""


def _unchecked(both: Pair, variant: Variant, threat: Threat, n: int) -> str:
    """What could refute a gain under the first threat and was not done; empty where all was."""
    held = next((t for t in variant.threats if t.threat == str(threat)), None)
    if held is None:
        return "no check was made"
    if rules := sanity.undone(held.checks):
        return f"these checks were not made: {', '.join(dict.fromkeys(rules))}"
    if held.state == "unchecked":
        return "not every check was made"
    if missing := [t.trial.attack for t in both.other.tried if t.threat == threat and not t.usable and not t.reason]:
        return f"these attacks failed or did not finish: {', '.join(dict.fromkeys(missing))}"
    return f"{n} images are too few to recommend anything on" if n < ENOUGH else ""


def _refused(both: Pair) -> float:
    """The share of untouched inputs that the fix refuses beyond the audited model; 0 where it refuses no more."""
    shares = [
        float(g.clean.arrays["test_rejected"].mean()) if g.clean and "test_rejected" in g.clean.arrays else 0.0
        for g in both.sides
    ]
    return max(shares[1] - shares[0], 0.0)


def _changed(both: Pair) -> int:
    """How many untouched images the two decide otherwise; as far as right and wrong tell, where one draws."""
    if any(g.stochastic or not g.clean or not np.isfinite(g.clean.arrays["test_logits"]).all() for g in both.sides):
        return int(np.sum((both.base.clean_wrong > 0.5) != (both.other.clean_wrong > 0.5)))
    labels = [
        calibration.decided(calibration.softmax(g.clean.arrays["test_logits"]), g.threshold)
        for g in both.sides
        if g.clean
    ]
    return int(np.sum(labels[0] != labels[1]))


def fitting_passes(g: Gathered) -> int | None:
    """Passes of one image that fitting a chain took, a backward counting as two; None where a part did not count."""
    parts = list((g.fit.numbers.get("fit") or {}).values()) if g.fit else []
    if not parts or not all({"forwards", "backwards"} <= set(part) for part in parts):
        return None
    return sum(int(part["forwards"]) + 2 * int(part["backwards"]) for part in parts)


def _learnt(g: Gathered) -> bool:
    """Whether fitting went backwards through the model: to recalibrate is not to train. True where nobody counted."""
    parts = list((g.fit.numbers.get("fit") or {}).values()) if g.fit else []
    return not parts or any(part.get("backwards", 1) for part in parts)


def _unjudged(g: Gathered, variant: Variant) -> Advice:
    why = g.errors[0] if g.errors else "not everything it takes has finished, or too few images were tested"
    return Advice(variant.id, "not tested", f"{variant.chain} could not be judged: {why}.", "")


def untried(known: set[str], plan: Plan, rows: int) -> tuple[Advice, ...]:
    """Defenses nobody asked for, with what they would cost on the training data, or on 10,000 images of it."""
    lines = []
    for name in registry.names("defenses"):
        if name in known or "/" in name:
            continue
        spec = pricing.spelled(name, plan.eps or 0.1)
        passes = None if spec is None else pricing.price(spec, rows or 10_000)
        mend = "" if rows or not passes else "give --train data.npz and "
        on = "" if rows else " for each 10,000 training images"
        cost = f"; fitting takes about {passes:,} passes of one image{on}" if passes else ""
        how = f"see `actsec explain {name}`" if spec is None else f"{mend}add --defenses '{spec}'"
        lines.append(Advice(name, "not tested", f"{name} was not tested.", f"To test it, {how}{cost}.", passes=passes))
    return tuple(lines)
