"""Which fix helps, and what it costs: one label for each defense, by rule, and a sentence with the numbers behind it.

The rule, in this order, on robust accuracy at the first threat. A change is *detected* when its 95 % interval on the
half of the images that the choice did not see excludes 0 and so does its p, corrected for how many fixes were compared
(Holm); a *gain* must show on the half that chooses too.

looks better, is masking   the checks void its number, here or at another threat, and it looks like a gain; or a
                           calibration fix that changed no decision seems to gain, which it cannot
not checked                a gain, and something that could refute it was not done: an essential check, an attack that
                           failed on it alone or has not finished, or images enough
calibration only           a calibration fix whose ECE falls
stability only             a fix that is not for robustness gains, or trained and has fewer dead units: no robustness is
                           credited to it
recommended                a gain, and at most half of it is lost again: in clean accuracy, which is not halved, and
                           at any other threat, in robust accuracy or as a share of the smallest change
costs more than it gives   a gain that costs more, or a detected loss without one, at another threat too
no detectable effect       what is left

A fix that leaves half of the clean accuracy or less says that first, whatever its label; one that costs more than it
gives begins with what it costs, and a recommended one with what it loses at another threat. Of equal gains the one that
keeps more clean accuracy stands first, then the cheaper.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import get_args

import numpy as np

from actsec import registry
from actsec.planning import pricing
from actsec.planning.jobs import headline_threats
from actsec.planning.plan import Plan
from actsec.reports import words
from actsec.result import Advice, AdviceLabel, Comparison, Variant
from actsec.types import Threat
from actsec.verdict import calibration, sanity, statistics
from actsec.verdict.effects import CHOOSING, Pair, effects, robust_correct
from actsec.verdict.gathering import Gathered

COST_LIMIT = 0.5
"""A fix that costs more than this share of its gain in robust accuracy is said to cost too much."""
HALF = 0.5
"""A fix that leaves at most this share of the clean accuracy says so before anything else."""
LEVEL = 1 - statistics.LEVEL
FEWER_DEAD = 0.01
"""Dead units fall by at least this share of all: hundreds of images make also the least change detectable."""
SHOWN = 0.0005
"""What else changed is named when it would not be printed as +0.000, or of shares as +0.0 points."""
_ELSEWHERE = "it is easier to fool elsewhere"
FEWEST = 4
"""Images under a threat, below which the two halves say nothing."""
ENOUGH = 20
"""Images that confirm a gain, below which nothing is recommended: fewer cannot show what it costs either."""
NOTICED, LARGE = 0.02, 0.1
"""Falls of the smallest change, as shares of it, below which searches differ by luck; and that count without a gain."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the rule reads of one fix. p and p_clean are corrected for the ``fixes`` compared.

    kinds are those of its defenses; chosen is the change of robust accuracy on the half that chooses, chosen_low the
    low end of its interval; robust and clean are on the other half; changed counts untouched images decided otherwise,
    trained says that fitting learnt from data.
    void says why the robust number is not held, empty where it is; unchecked what could refute it and was not done;
    inflated that the audited model's own number is void, which is then too high: a gain over it stands, a loss does
    not. refused is the share of untouched inputs that its detector refuses beyond the audited model's.
    """

    name: str
    kinds: frozenset[str]
    chosen: float
    chosen_low: float
    robust: Comparison
    clean: Comparison
    p: float
    p_clean: float
    fixes: int
    changed: int
    trained: bool = True
    void: str = ""
    unchecked: str = ""
    refused: float = 0.0
    inflated: bool = False
    ece: Comparison | None = None
    dead: Comparison | None = None
    besides: tuple[Comparison, ...] = ()
    """Everything else that was compared."""

    @property
    def gained(self) -> bool:
        """Robust accuracy rises on both halves, detectably on the one that did not choose."""
        return self.chosen > 0 and self.robust.low > 0 and self.p < LEVEL and not self.void

    @property
    def lost(self) -> bool:
        """Robust or clean accuracy falls detectably, or another threat shows a loss beyond luck and search."""
        robust = self.robust.high < 0 and self.p < LEVEL and not self.inflated
        far = any(_p(c) * self.fixes < LEVEL if c.p is not None else _fallen(c) >= LARGE for c in self.elsewhere)
        return robust or far or (self.clean.high < 0 and self.p_clean < LEVEL)

    @property
    def elsewhere(self) -> tuple[Comparison, ...]:
        """Losses at other threats, the first of them first."""
        worse = [c for c in self.besides if c.verdict == "worse"]
        sizes = (c for c in worse if c.metric.startswith("smallest_change@") and _fallen(c) >= NOTICED)
        return (*(c for c in worse if c.metric.startswith("robust_accuracy@")), *sizes)

    @property
    def dear(self) -> bool:
        """Clean accuracy falls by too much beside the gain."""
        return -self.clean.difference > COST_LIMIT * self.robust.difference

    @property
    def trades(self) -> bool:
        """Another threat loses too much beside the gain."""
        lost = (_fallen(c) if _sized(c) else -c.difference for c in self.elsewhere)
        return max(lost, default=0.0) > COST_LIMIT * self.robust.difference

    @property
    def halved(self) -> bool:
        """Half of the clean accuracy is gone, or more."""
        return self.clean.before > 0 and self.clean.after <= HALF * self.clean.before


def label_of(seen: Seen) -> AdviceLabel:
    """The label of a fix, by the rule at the top of this file."""
    calibrates = seen.kinds == {"calibration"}
    if (seen.void and seen.chosen_low > 0) or (calibrates and seen.gained and not seen.changed):
        return "looks better, is masking"
    credited = "robustness" in seen.kinds
    if seen.unchecked and seen.gained:
        return "not checked"
    if credited and seen.gained:
        return "costs more than it gives" if seen.halved or seen.dear or seen.trades else "recommended"
    worse = calibrates and seen.ece is not None and seen.ece.verdict == "worse"
    if seen.lost or worse:
        return "costs more than it gives"
    if calibrates:
        return "calibration only" if seen.ece and seen.ece.verdict == "better" else "no detectable effect"
    # A swap changes by definition which units can die: that is no effect of it until weights are trained.
    healthier = seen.trained and seen.dead is not None and seen.dead.verdict == "better"
    healthier = healthier and seen.dead is not None and -seen.dead.difference >= FEWER_DEAD
    return "stability only" if not credited and (healthier or seen.gained) else "no detectable effect"


def sentence_of(seen: Seen, label: AdviceLabel) -> str:
    """The label's numbers in one sentence; what costs half the clean accuracy says so first."""
    parts = [_robust(seen), f"clean accuracy {_change(seen.clean)}"]
    if seen.halved:
        parts = [f"it costs half of the clean accuracy or more, {_change(seen.clean)}", _robust(seen)]
    elif label == "costs more than it gives" or (label == "recommended" and seen.elsewhere):
        parts = _price(seen)
    if label == "looks better, is masking" and not seen.void:
        parts.append("it changed no decision on untouched images, so the attacks missed what it seems to gain")
    elif seen.void:
        parts.append(f"the checks void that: {seen.void.rstrip('.')}")
    elif seen.inflated:
        parts.append("the audited model's own number is void, and too high")
    parts = _doubted(seen, parts)
    if seen.kinds == {"calibration"}:
        labels = "no decision changed" if not seen.changed else f"{seen.changed} decisions changed"
        ece = "calibration was not measured" if seen.ece is None else f"ECE {_numbers(seen.ece)}"
        said = [ece, f"{labels}, so it is no defense" if not seen.changed else labels]
        plain = label in ("calibration only", "no detectable effect") and not seen.halved
        parts = [*said, *(parts[:1] if plain and seen.changed else () if plain else parts)]
    elif "robustness" not in seen.kinds:
        untrained = "no weight was trained" if not seen.trained else "it is for training"
        parts.append(f"{untrained}, so no robustness is credited to it")
        if seen.dead is not None:
            parts.append(f"dead units {_change(seen.dead)}")
    told = seen.elsewhere if any(_ELSEWHERE in part for part in parts) else ()
    parts += [
        f"also {which}: {', '.join(named)}" for which in ("worse", "better") if (named := _named(seen, which, told))
    ]
    return f"{seen.name}: {'; '.join(parts)}."


def _doubted(seen: Seen, parts: list[str]) -> list[str]:
    """The same behind what speaks against relying on a gain, and before what a detector refuses."""
    if seen.unchecked and seen.gained:
        parts = [*parts]
        parts.insert(1 if seen.halved else 0, f"not to be relied on: {seen.unchecked.rstrip('.')}")
    refused = f"it refuses {words.percent(seen.refused)} more of the untouched inputs, which count as wrong"
    return [*parts, *([refused] if seen.refused > 0 else [])]


def _price(seen: Seen) -> list[str]:
    """What a fix costs before what it gives: clean accuracy where that is the price, else the threat that falls."""
    clean, robust = f"clean accuracy {_change(seen.clean)}", _robust(seen)
    dear = seen.dear if seen.gained else seen.clean.high < 0 and seen.p_clean < LEVEL
    if dear or not seen.elsewhere:
        lost = not dear and seen.robust.high < 0
        return [robust, clean] if lost else [clean, robust]
    which = [f"{_title(c)} {_numbers(c) if _sized(c) else _change(c)}" for c in seen.elsewhere]
    return [f"{_ELSEWHERE}: {', '.join(which)}", robust, clean]


def _title(c: Comparison) -> str:
    return c.metric.replace("_above_90", " above 0.9").replace("_", " ").replace("@", " at ")


def _sized(c: Comparison) -> bool:
    """Whether a number is no share."""
    return c.metric.startswith(("smallest_change@", "ece"))


def _fallen(c: Comparison) -> float:
    """By what share of itself a number fell."""
    return -c.difference / c.before if c.before > 0 else 0.0


def _named(seen: Seen, verdict: str, but: tuple[Comparison, ...] = ()) -> list[str]:
    """What else was detected, so that no label hides a price or a gain of another kind; ``but`` is said already."""
    told = {"calibration": {"ece"}, "stability": {"dead_units"}}
    said = set().union(*(told.get(kind, set()) for kind in seen.kinds)) if len(seen.kinds) == 1 else set()
    new = (c for c in seen.besides if c.verdict == verdict and c.metric not in said and c not in but)
    return [_short(c) for c in new if abs(c.difference) >= SHOWN]


def _short(c: Comparison) -> str:
    """``dead units +13.9 points``."""
    return f"{_title(c)} {words.minus(f'{c.difference:+.3f}') if _sized(c) else words.points(c.difference)}"


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
        p=_p(robust),
        p_clean=_p(clean),
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


def _p(comparison: Comparison) -> float:
    return 1.0 if comparison.p is None else comparison.p


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


def _robust(seen: Seen) -> str:
    threat = seen.robust.metric.partition("@")[2]
    p = "p < 0.001" if seen.p < 0.001 else f"p = {seen.p:.3f}"
    corrected = f", {p} corrected for {seen.fixes} fixes" if seen.fixes > 1 else f", {p}"
    return f"robust accuracy at {threat} {_change(seen.robust, corrected)} on {seen.robust.n} images kept to confirm it"


def _change(c: Comparison, more: str = "") -> str:
    """``+29.3 points (50.0 to 79.3 %, 95 % interval +20.0 to +38.7)``."""
    return (
        f"{words.points(c.difference)} ({100 * c.before:.1f} to {100 * c.after:.1f} %, 95 % interval "
        f"{words.signed(c.low)} to {words.signed(c.high)}{more})"
    )


def _numbers(c: Comparison) -> str:
    change, low, high = (words.minus(f"{value:+.3f}") for value in (c.difference, c.low, c.high))
    return f"{c.before:.3f} to {c.after:.3f} (change {change}, 95 % interval {low} to {high})"
