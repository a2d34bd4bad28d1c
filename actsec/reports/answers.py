"""The five questions that a reader comes with, answered with the numbers of a result and nothing else.

How easily is it fooled; can that number be believed; can its confidence be trusted; are the activations a cause; what
helps, at what cost, and what was not tested. Each is one claim and the numbers it rests on; what was not measured says
so. The headline of a result is these answers as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from actsec.reports import lookup, words
from actsec.reports.next_command import next_command
from actsec.result import Comparison, Kill, Result, SecondOpinion, SiteHealth, ThreatResult, Variant

QUESTIONS = (
    "How easily is it fooled?",
    "Can that number be believed?",
    "Can its confidence be trusted?",
    "Are the activations a cause?",
    "What helps, and what was not tested?",
)
FORCED = {
    "saturate": ("Saturation forcing", "saturated"),
    "zero_tail": ("Forcing into zero tails", "numerically zero"),
}
"""What a goal about units is called and what becomes of them; dead-ReLU forcing unless named here."""
MOST = 3
"""Names of one kind in a sentence; the rest are counted."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One question, what the numbers say to it, and the numbers. void: the claim is that there is no number."""

    question: str
    claim: str
    rest: tuple[str, ...] = ()
    void: bool = False
    command: str = ""

    @property
    def text(self) -> str:
        """Claim and numbers as running text, the next command last."""
        told = [self.claim, *(words.sentence(part) for part in self.rest)]
        return ". ".join(part.rstrip(".") for part in told) + "." + (f" Next: {self.command}" if self.command else "")


def answers(result: Result) -> tuple[Answer, ...]:
    """The five answers; none where the audited model was not attacked or nothing of it finished."""
    variant = lookup.first(result)
    threat = variant.threats[0] if variant and variant.threats else None
    if variant is None or threat is None or threat.worst_case.n == 0:
        return ()
    many = "rows" if result.data.columns else "images"
    made = (
        _fooled(result, variant, threat, many),
        _believed(result, threat),
        _confidence(result, variant),
        _activations(result, variant, threat),
        _help(result, variant, threat),
    )
    return tuple(
        Answer(question, each.claim, tuple(part for part in each.rest if part), each.void, each.command)
        for question, each in zip(QUESTIONS, made, strict=True)
    )


def headline(result: Result) -> tuple[str, ...]:
    """The verdict in plain sentences, most important first; what a partial run and acceptance add stands around it."""
    lines = [] if result.status == "complete" else ["This run is not finished: every number below is partial."]
    found = answers(result)
    if not found:
        variant = lookup.first(result)
        why = "; ".join(variant.notes) if variant else ""
        return (*lines, f"{variant.title if variant else 'The model'} could not be audited: {why or _NOTHING}.")
    return (*lines, *(each.text for each in found))


def beyond(result: Result, found: Sequence[Answer]) -> tuple[str, ...]:
    """What the headline says besides its answers: accepted findings, a detector. Nothing of an older run's headline."""
    ours = [line for line in result.headline if line.startswith(tuple(each.claim for each in found))]
    after = result.headline[result.headline.index(ours[-1]) + 1 :] if ours else ()
    return tuple(after)


_NOTHING = "nothing finished"


@dataclass(frozen=True, slots=True)
class Said:
    """An answer without its question; empty texts in rest are left out."""

    claim: str
    rest: tuple[str, ...]
    void: bool = False
    command: str = ""


def _fooled(result: Result, variant: Variant, threat: ThreatResult, many: str) -> Said:
    worst, before = threat.worst_case, variant.clean.accuracy
    stand = "still classified correctly" if threat.goal == "misclassify" else "not driven there"
    claim = f"{words.percent(worst.value)} of {worst.n} {many} are {stand} in the worst case at {threat.threat}"
    size = f"{threat.threat} is {threat.echo}; " if threat.echo else ""
    if threat.eps is None and (least := _least(threat)) is not None:
        claim = (
            f"Half of the {many} are fooled by a change of {threat.norm} size {least:.3g} or less ({worst.n} tested)"
        )
    claim = f"Not to be believed: {claim}" if words.doubt(threat) else claim
    noise = next((a for a in threat.attacks if a.baseline and a.n), None)
    beside = "" if threat.eps is None else f"{worst.k} of {worst.n}, {words.interval(worst)}; {size}"
    beside += f"untouched accuracy is {words.percent(before.value)} of {before.n}"
    beside += (
        f", under random noise of the same size {words.percent(noise.still_correct.value)}"
        if noise
        else (", random noise was not tried")
    )
    weakest = words.weakest(threat.per_class) if threat.goal == "misclassify" and threat.eps is not None else None
    if weakest is not None:
        beside += f"; the weakest class, {weakest.name}, keeps {words.of(weakest.share)}"
    others = [text for each in variant.threats[1:] if (text := _other(each, many))]
    if len(others) > MOST:
        others[MOST:] = [f"{words.plural(len(others) - MOST, 'more threat')} below"]
    return Said(claim, (beside, "; ".join(others), _missed(result, variant, threat), *_gates(result)))


def _least(threat: ThreatResult) -> float | None:
    return min((a.median_size for a in threat.attacks if a.median_size is not None), default=None)


def _other(threat: ThreatResult, many: str) -> str:
    """What another threat came to, in a few words."""
    fell = threat.worst_case.n - threat.worst_case.k
    if threat.worst_case.n == 0:
        return f"{threat.threat}: not done"
    if threat.goal != "misclassify":
        return f"{threat.threat}: reached on {fell} of {threat.worst_case.n} {many} ({threat.echo})"
    if threat.eps is None:
        least = _least(threat)
        return (
            ""
            if least is None
            else f"half of the {many} are fooled by a change of {threat.norm} size {least:.3g} or less"
        )
    if threat.norm == "l0":
        what = words.plural(int(threat.eps), "feature" if many == "rows" else "pixel")
        return f"changing {what} fools {fell} of {threat.worst_case.n} (untouched errors included)"
    return f"at {threat.threat} {words.of(threat.worst_case)} stand"


def _missed(result: Result, variant: Variant, threat: ThreatResult) -> str:
    if threat.missed is None or variant.clean.missed is None:
        return ""
    clean, attacked = variant.clean.missed, threat.missed
    return (
        f"miss rate of {result.plan.get('positive')}: {words.percent(clean.value)} untouched ({words.of(clean)}), at "
        f"least {words.percent(attacked.value)} attacked ({words.of(attacked)}, {words.interval(attacked)})"
    )


def _gates(result: Result) -> Iterator[str]:
    if not result.gates:
        means = (
            ": exit code 0 means finished, not safe" if result.status == "complete" else ", and the run is not finished"
        )
        yield f"no gate was set{means}"
    for gate in result.gates[:MOST]:
        yield f"gate {gate.gate}: {gate.outcome} ({gate.why})"
    if len(result.gates) > MOST:
        rest = result.gates[MOST:]
        failed = sum(gate.outcome == "failed" for gate in rest)
        yield f"{words.plural(len(rest), 'more gate')}, {failed or 'none'} of them failed"


def _believed(result: Result, threat: ThreatResult) -> Said:
    asked = [c for c in threat.checks if c.status != "not_applicable"]
    made = [c for c in asked if c.status not in ("not_done", "error")]
    green, missing = sum(c.status == "ok" for c in made), len(asked) - len(made)
    counts = f"{len(made)} sanity checks made, {green} green, {missing} not done"
    odd = [c for c in threat.checks if c.status in ("red", "error", "warn")]
    told = ", ".join(f"{c.rule} {words.check(c.status).text}: {c.claim.rstrip('.')}" for c in odd[:MOST])
    why, rest = words.doubt(threat), (told, second(result.second_opinions), _judged(result, threat))
    if why:
        return Said(f"Do not believe that number: {why.rstrip('.')}", (counts, *rest), void=True)
    claim = f"Not refuted {words.budget(result.plan)}: {counts}"
    return Said(claim, (*rest, "it is an upper bound, not a certificate"))


def second(found: Sequence[SecondOpinion]) -> str:
    """What ART's counterparts broke and ours did not, and the other way round."""
    done = [o for o in found if o.error is None]
    if not done:
        return "no second opinion was asked (--second-opinion)"
    missed = len({(o.threat, row) for o in done for row in o.missed})
    theirs, ours = (
        sum(len(rows) for rows in every) for every in ([o.only_theirs for o in done], [o.only_ours for o in done])
    )
    return (
        f"second opinion: on {max(o.n for o in done)} images ART's counterparts broke {theirs} that the attack beside "
        f"them did not, {missed or 'none'} of them broken by no attack of ours; the other way round: {ours}"
    )


def _judged(result: Result, threat: ThreatResult) -> str:
    if threat.saved is None:
        return "what was found was judged again in float32; as saved whole numbers it was not"
    return f"judged again in float32, and {words.saved(threat.saved, result.data.grid)}"


def _confidence(result: Result, variant: Variant) -> Said:
    clean, attacked = lookup.condition(variant, clean=True), lookup.condition(variant, clean=False)
    sure = attacked.confidence_when_wrong if attacked else None
    if sure is not None:
        claim = f"When fooled it is {words.percent(sure)} confident in its wrong answer, on average"
    else:
        claim = "Its confidence when fooled was not measured"
    ece = ""
    if clean is not None:
        side = "above" if clean.ece > clean.null_p95 else "within"
        ece = (
            f"untouched ECE {clean.ece:.3f} ({clean.bins} bins, n {clean.n}), {side} the {clean.null_p95:.3f} that a "
            "perfectly calibrated model may show"
        )
    moved = next(iter(variant.miscalibrations), None)
    attack = (
        f"with every label kept, an attack at {moved.threat} moves mean confidence from "
        f"{words.percent(moved.before.mean_confidence)} to {words.percent(moved.after.mean_confidence)} and ECE from "
        f"{moved.before.ece:.3f} to {moved.after.ece:.3f}"
        if moved
        else ""
    )
    nonsense = variant.nonsense
    sure_of = (
        f"of {nonsense.n} nonsense inputs {words.percent(nonsense.above_90.value)} are answered with more than 90 %"
        if nonsense and nonsense.n
        else ""
    )
    return Said(claim, ("; ".join(filter(None, (ece, sure_of))), attack, _temperature(result)))


def _temperature(result: Result) -> str:
    chains = {v.id: v.chain for v in result.variants}
    found = next((c for c in result.comparisons if c.metric == "ece" and chains.get(c.variant) == "temperature"), None)
    if found is None:
        return "temperature scaling was not tested; it can mend calibration and never a label"
    change = f"takes ECE from {found.before:.3f} to {found.after:.3f}"
    return f"temperature scaling {change}; it changes no label, so it stops no attack"


def _activations(result: Result, variant: Variant, threat: ThreatResult) -> Said:
    swaps = [c for c in _of_swaps(result) if c.metric == f"robust_accuracy@{threat.threat}"]
    better = [c for c in swaps if c.verdict == "better"]
    kills = [k for k in variant.kills if k.applicable and k.net is not None]
    working = [k for k in kills if not _no_more(k) and k.label_changed is not None and k.label_changed.k > 0]
    if better:
        claim = f"They are part of it: {_swapped(result, better[0])}"
    elif working:
        claim = "They can be attacked themselves: forcing units changes labels, and more than its controls do"
    elif swaps or kills:
        claim = "Nothing here shows that they are a cause"
    else:
        claim = "Not tested: no activation was swapped and no unit was forced"
    rest = [_watched(variant.sites)]
    rest += [forced(kill) for kill in variant.kills[:1]]
    rest += [_swapped(result, c) for c in swaps[:1] if c not in better[:1]]
    if swaps or len(lookup.undefended(result)) > 1:
        rest.append("one training seed each: this speaks of these models, not of activations")
    return Said(claim, tuple(rest))


def _of_swaps(result: Result) -> list[Comparison]:
    """Comparisons of a swap alone with its base: those that were trained besides, first."""
    chains = {v.id: v.chain for v in result.variants}
    found = [
        c for c in result.comparisons if chains.get(c.variant, "").startswith("swap") and "|" not in chains[c.variant]
    ]
    return sorted(found, key=lambda c: "finetune" not in c.variant)


def _swapped(result: Result, found: Comparison) -> str:
    return f"with {lookup.chain(result, found.variant)} robust accuracy {_change(found)}, {found.verdict}"


def _watched(sites: tuple[SiteHealth, ...]) -> str:
    if not sites:
        return "no activation call was watched"
    units = sum(s.units for s in sites)
    mortal = [s for s in sites if s.dead is not None]
    said = f"{words.plural(len(sites), 'activation call')} watched, {words.number(units)} units"
    if mortal:
        count = sum(s.units for s in mortal)
        dead = sum((s.dead or 0.0) * s.units for s in mortal) / count
        always = sum((s.permanently_dead or 0.0) * s.units for s in mortal) / count
        said += f": {words.percent(dead)} dead on an average image, {words.percent(always)} on all"
    return said


def forced(kill: Kill) -> str:
    """What forcing units came to: how many went, and what happened to the labels."""
    named, gone = FORCED.get(kill.threat.rpartition(":")[2], ("Dead-ReLU forcing", "dead"))
    if not kill.applicable:
        return f"{named}: not applicable: {kill.reason}"
    what = f"{named} by {kill.attack}" if "aim" in kill.attack or "site" in kill.attack else named
    line = (
        f"{what} raises the {gone} share of units by {words.minus(f'{kill.net or 0:+.3f}')} net "
        f"(noise {_or_not_done(kill.noise_net)}, PGD {_or_not_done(kill.pgd_net)})"
    )
    effect, changed = kill.effect, kill.label_changed
    if effect is not None and effect.critical_killed is not None:
        noise, pgd = (
            "not done" if x is None else words.percent(x)
            for x in (effect.noise_critical_killed, effect.pgd_critical_killed)
        )
        line += f"; it kills {words.percent(effect.critical_killed)} of the critical units (noise {noise}, PGD {pgd})"
    if _no_more(kill):
        line += "; a control does as much, so it counts as no attack"
    if changed is not None:
        line += f"; the label changed on {changed.k} of {changed.n} images"
    return line


def _no_more(kill: Kill) -> bool:
    """Whether a control reaches both its net rise and, where that was measured, its critical units."""
    pairs = [(kill.net, (kill.noise_net, kill.pgd_net))]
    if (effect := kill.effect) is not None and effect.critical_killed is not None:
        pairs.append((effect.critical_killed, (effect.noise_critical_killed, effect.pgd_critical_killed)))
    return all(own is not None and any(other is not None and own <= other for other in others) for own, others in pairs)


def _or_not_done(net: float | None) -> str:
    """A control that was not measured is not a control at 0."""
    return "not done" if net is None else words.minus(f"{net:+.3f}")


def _help(result: Result, variant: Variant, threat: ThreatResult) -> Said:
    tried = [a for a in result.advice if a.label != "not tested"]
    good = [a for a in tried if a.label == "recommended"]
    rest: list[str] = []
    if good:
        best, also = good[0], good[1:]
        name = lookup.chain(result, best.variant)
        robust, clean = (
            next((c for c in best.effects if c.metric == metric), None)
            for metric in (f"robust_accuracy@{threat.threat}", "clean_accuracy")
        )
        gain = "" if robust is None else f": robust accuracy {_change(robust)}"
        claim = f"{name} helps most{gain}"
        costs = [] if clean is None else [f"clean accuracy {_change(clean)}"]
        costs += [] if best.passes is None else [f"{words.number(best.passes)} passes of one image to fit"]
        rest.append(f"its cost: {', '.join(costs)}" if costs else "its cost was not measured")
        rest.append(f"also recommended: {_listed([lookup.chain(result, a.variant) for a in also])}" if also else "")
    elif tried:
        claim = f"Nothing that was tested helps: {words.plural(len(tried), 'defense')} compared, none recommended"
    else:
        claim = "No defense was tested"
    untried = [a.variant for a in result.advice if a.label == "not tested"]
    rest.append(f"not tested: {_listed([lookup.chain(result, name) for name in untried])}" if untried else "")
    rest.append(f"not done in this run: {_listed(list(result.not_done))}" if result.not_done else "")
    return Said(claim, tuple(rest), command=next_command(result, variant, threat))


def _change(found: Comparison) -> str:
    """``+29.3 points [+20.0, +40.0]``."""
    return f"{words.points(found.difference)} [{words.signed(found.low)}, {words.signed(found.high)}]"


def _listed(names: list[str]) -> str:
    rest = len(names) - MOST
    return ", ".join(names[:MOST]) + (f" and {rest} more" if rest > 0 else "")
