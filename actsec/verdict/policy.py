"""The verdict: findings, the sentences a person reads first, and the exit code.

Exit codes: 0 gates met, 1 a gate failed, 3 no verdict. A masked number fails no gate by itself but passes none either:
masking only flatters, so it voids passes and never failures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from actsec import registry
from actsec.data import Overlap
from actsec.plan import Plan
from actsec.result import GateResult, Kill, Problem, Variant
from actsec.verdict.activity import WATCHED, of_sites
from actsec.verdict.gathering import Gathered
from actsec.verdict.miscalibrated import words

_FORCED = {
    "saturate": ("Saturation forcing", "saturated"),
    "zero_tail": ("Forcing into zero tails", "numerically zero"),
}
"""What a goal about units is called and what becomes of them; dead-ReLU forcing unless named here."""


def problems(
    plan: Plan, made: tuple[Variant, ...], gathered: tuple[Gathered, ...], overlaps: Sequence[Overlap]
) -> tuple[Problem, ...]:
    """What is wrong with the model, the data or the audit itself, worst first."""
    found = [
        Problem(
            "ACT-D01",
            "high" if "test" in (o.first, o.second) else "medium",
            "",
            f"{len(o.rows)} examples are in both the {o.first} and the {o.second} data",
            "Remove them from one of the two: numbers on examples a model learned from are too good.",
        )
        for o in overlaps
    ]
    if plan.trust_model:
        claim = "The model's file was opened although opening it executes code (--trust-model)"
        found.append(Problem("ACT-S01", "medium", "", claim, "Convert the weights to safetensors."))
    for g, variant in zip(gathered, made, strict=True):
        found += [
            Problem("ACT-E01", "high", variant.id, f"A job failed: {error}", "Mend the cause and run `actsec resume`.")
            for error in g.errors
        ]
        if g.clean is not None and (broken := g.clean.numbers.get("test_non_finite")):
            claim = f"The model gives NaN or infinity on {broken} of {len(g.clean_wrong)} untouched images"
            found.append(Problem("ACT-A00", "high", variant.id, claim, registry.find("symptoms", "not_finite").mend))
        if drawn := sorted({name for o in (g.clean, g.probe) if o for name in o.numbers.get("drawn_from", ())}):
            claim = f"The model draws from the global generator of {' and '.join(drawn)}"
            advice = "Each job seeds it, so that runs repeat; draws from torch's are also averaged over."
            found.append(Problem("ACT-E02", "medium", variant.id, claim, advice))
        found += _of_variant(variant)
    order = ("high", "medium", "low")
    return tuple(sorted(found, key=lambda p: (order.index(p.severity), p.rule, p.variant)))


def _of_variant(variant: Variant) -> list[Problem]:
    found = []
    chance = 1 / max(len(variant.clean.per_class), 2)
    if variant.clean.per_class and variant.clean.accuracy.low <= chance:
        claim = f"Clean accuracy {variant.clean.accuracy.value:.3f} cannot be told from chance ({chance:.3f})"
        advice = "Check labels, preprocessing and weights: a model at chance has no robustness to measure."
        found.append(Problem("ACT-M00", "high", variant.id, claim, advice))
    watched = of_sites(variant.sites, variant.unresolved, variant.clean.accuracy, WATCHED)
    found += [replace(problem, variant=variant.id) for problem in watched]
    for threat in variant.threats:
        if not threat.believable:
            claim = f"Robust accuracy at {threat.threat} cannot be believed: {threat.why}"
            found.append(Problem("ACT-R01", "high", variant.id, claim, "Look at the sanity panel."))
    return found


def exit_code(
    gates: tuple[GateResult, ...], found: tuple[Problem, ...], made: tuple[Variant, ...], *, complete: bool
) -> int:
    """1 when a gate failed, 3 when there is no verdict, else 0. Nothing tested, chance, NaN or a crash is never 0."""
    if any(gate.outcome == "failed" for gate in gates):
        return 1
    audited = next(v for v in made if v.audited)
    void = {"ACT-E01", "ACT-M00", "ACT-A00", "ACT-R01"}
    blocked = any(p.rule in void and p.variant == audited.id for p in found) or any(
        p.rule == "ACT-D01" and p.severity == "high" for p in found
    )
    untested = not audited.threats or all(t.worst_case.n == 0 for t in audited.threats)
    if not complete or blocked or untested or any(gate.outcome == "no verdict" for gate in gates):
        return 3
    return 0


def heading(made: tuple[Variant, ...]) -> str:
    """What the comparison of activations may claim: with one training seed each, nothing about activations."""
    bases = [v for v in made if not v.chain]
    if len(bases) < 2:
        return ""
    words = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
    count = words.get(len(bases), str(len(bases)))
    return f"{count} models, one seed each: differences are between these models, not between activations"


def headline(
    plan: Plan, made: tuple[Variant, ...], gates: tuple[GateResult, ...], *, complete: bool, table: bool = False
) -> tuple[str, ...]:
    """The verdict in plain sentences: how easily it is fooled, whether to believe that, confidence, gates.

    table says that the examples are rows and features, not images and pixels.
    """
    many, one = ("rows", "feature") if table else ("images", "pixel")
    audited = next(v for v in made if v.audited)
    lines = [] if complete else ["This run is not finished: every number below is partial."]
    if not audited.threats or audited.threats[0].worst_case.n == 0:
        return (*lines, f"{audited.title} could not be audited: {'; '.join(audited.notes) or 'nothing finished'}.")
    first = audited.threats[0]
    worst = first.worst_case
    before = audited.clean.accuracy
    lines.append(
        f"Worst case at {first.threat} ({first.echo}): {worst.k} of {worst.n} {many} are still classified correctly "
        f"({worst.value:.1%}, 95 % interval {worst.low:.1%} to {worst.high:.1%}); "
        f"untouched accuracy is {before.value:.1%} of {before.n}."
    )
    noise = next((a for a in first.attacks if a.baseline), None)
    if noise is not None and noise.n:
        lines.append(f"Random noise of the same size leaves {noise.still_correct.value:.1%} correct.")
    asked = [c for c in first.checks if c.status != "not_applicable"]
    done = [c for c in asked if c.status not in ("not_done", "error")]
    missing = len(asked) - len(done)
    if not first.believable:
        lines.append(f"Do not believe that number: {first.why}.")
    else:
        lines.append(
            f"Not refuted at budget {plan.budget}: {len(done)} sanity checks made, "
            f"{sum(c.status == 'ok' for c in done)} clean, {missing} not done. "
            "It is an upper bound, not a certificate."
        )
    if first.missed is not None and audited.clean.missed is not None:
        clean, attacked = audited.clean.missed, first.missed
        lines.append(
            f"Miss rate of {plan.positive}: {clean.value:.1%} untouched ({clean.k} of {clean.n}), at least "
            f"{attacked.value:.1%} attacked ({attacked.k} of {attacked.n}, 95 % interval {attacked.low:.1%} to "
            f"{attacked.high:.1%})."
        )
    lines += _more(audited, many, one)
    if not gates:
        lines.append("No gate was set: exit code 0 means finished, not safe.")
    else:
        lines += [f"Gate {gate.gate}: {gate.outcome} ({gate.why})." for gate in gates]
    return tuple(lines)


def _more(audited: Variant, many: str, one: str) -> list[str]:
    lines = []
    for threat in audited.threats[1:]:
        sizes = [a for a in threat.attacks if a.median_size is not None]
        if threat.goal != "misclassify":
            reached = threat.worst_case.n - threat.worst_case.k
            lines.append(f"{threat.threat}: reached on {reached} of {threat.worst_case.n} {many} ({threat.echo}).")
        elif threat.eps is None and sizes:
            least = min(a.median_size or 0.0 for a in sizes)
            lines.append(f"Half of the {many} are fooled by a change of {threat.norm} size {least:.3g} or less.")
        elif threat.norm == "l0":
            lines.append(
                f"Changing {int(threat.eps or 1)} {one} fools {threat.worst_case.n - threat.worst_case.k} of "
                f"{threat.worst_case.n} {many} (untouched errors included)."
            )
    clean = next((c for c in audited.calibration if c.condition == "clean"), None)
    attacked = next((c for c in audited.calibration if c.condition != "clean"), None)
    if clean is not None:
        lines.append(
            f"Confidence: ECE {clean.ece:.3f} ({clean.bins} bins, n {clean.n}); "
            f"a perfectly calibrated model would show up to {clean.null_p95:.3f} at this n."
        )
    if attacked is not None and attacked.confidence_when_wrong is not None:
        lines.append(f"When fooled it is {attacked.confidence_when_wrong:.1%} confident in its wrong answer.")
    lines += [f"Labels kept, confidence attacked at {m.threat}: {words(m)}." for m in audited.miscalibrations]
    lines += [_forced(kill) for kill in audited.kills if kill.net is not None or not kill.applicable]
    return lines


def _forced(kill: Kill) -> str:
    """What forcing units came to: how many went, and what happened to the labels."""
    named, gone = _FORCED.get(kill.threat.rpartition(":")[2], ("Dead-ReLU forcing", "dead"))
    if not kill.applicable:
        return f"{named}: not applicable: {kill.reason}."
    what = f"{named} by {kill.attack}" if "aim" in kill.attack or "site" in kill.attack else named
    line = (
        f"{what} raises the {gone} share of units by {kill.net or 0:+.3f} net "
        f"(noise {_or_not_done(kill.noise_net, '+.3f')}, PGD {_or_not_done(kill.pgd_net, '+.3f')})"
    )
    effect, changed = kill.effect, kill.label_changed
    if effect is not None and effect.critical_killed is not None:
        noise, pgd = (_or_not_done(x, ".1%") for x in (effect.noise_critical_killed, effect.pgd_critical_killed))
        beside = f"(noise {noise}, PGD {pgd})"
        line += f"; it kills {effect.critical_killed:.1%} of the critical units {beside}"
    if _no_more(kill):
        line += "; a control does as much, so it counts as no attack"
    if changed is not None:
        line += f"; the label changed on {changed.k} of {changed.n} images"
    return f"{line}."


def _no_more(kill: Kill) -> bool:
    """Whether a control reaches both its net rise and, where that was measured, its critical units."""
    pairs = [(kill.net, (kill.noise_net, kill.pgd_net))]
    if (effect := kill.effect) is not None and effect.critical_killed is not None:
        pairs.append((effect.critical_killed, (effect.noise_critical_killed, effect.pgd_critical_killed)))
    return all(own is not None and any(other is not None and own <= other for other in others) for own, others in pairs)


def _or_not_done(value: float | None, form: str) -> str:
    """A control that was not measured is not a control at 0."""
    return "not done" if value is None else f"{value:{form}}"
