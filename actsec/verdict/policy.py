"""The verdict: findings and the exit code.

Exit codes: 0 gates met, 1 a gate failed, 3 no verdict. A masked number fails no gate by itself but passes none either:
masking only flatters, so it voids passes and never failures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from actsec import registry
from actsec.data import Overlap
from actsec.planning.plan import Plan
from actsec.result import GateResult, Problem, Variant
from actsec.taxonomy import taxa
from actsec.types import Outcome
from actsec.verdict.activity import WATCHED, of_sites
from actsec.verdict.gathering import Gathered


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
        found += _leaking(g.probe, variant.id)
        found += _of_variant(variant)
        found += _evaded(variant) if variant.audited else []
    order = ("high", "medium", "low")
    named = (dataclasses.replace(p, taxa=taxa(p.rule)) for p in found)
    return tuple(sorted(named, key=lambda p: (order.index(p.severity), p.rule, p.variant)))


def _leaking(probed: Outcome | None, variant: str) -> list[Problem]:
    """ACT-E03: the model holds more after every call."""
    kept = None if probed is None else probed.numbers.get("probe", {}).get("kept_by_call")
    if not kept:
        return []
    each = f"The model holds {kept:,} bytes more after each of a few calls with two inputs"
    claim = f"{each}: if that goes on, a long search ends where memory does"
    advice = "Keep nothing of inputs and outputs in the model; --shard with fewer images makes searches shorter."
    return [Problem("ACT-E03", "medium", variant, claim, advice)]


def _evaded(variant: Variant) -> list[Problem]:
    """ACT-V01: crafted inputs mislead the model, detectably more than random noise of the same size does.

    high where the whole interval lies below half of the untouched accuracy, else medium.
    """
    found = []
    for threat in variant.threats:
        noise = next((a for a in threat.attacks if a.baseline and a.n and a.error is None), None)
        worst, clean = threat.worst_case, variant.clean.accuracy
        without = noise.still_correct if noise else clean
        if threat.goal != "misclassify" or threat.eps is None or not worst.n or worst.high >= without.low:
            continue
        beside = f"{without.k} of {without.n} under {'random noise of the same size' if noise else 'no attack'}"
        found.append(
            Problem(
                "ACT-V01",
                "high" if worst.high < clean.value / 2 else "medium",
                variant.id,
                f"At {threat.threat} {worst.k} of {worst.n} are still classified correctly, {beside}",
                f"See what helps; hold it with a gate: robust_accuracy@{threat.threat}>=LIMIT.",
            )
        )
    return found


def _of_variant(variant: Variant) -> list[Problem]:
    found = []
    chance = 1 / max(len(variant.clean.per_class), 2)
    if variant.clean.per_class and variant.clean.accuracy.low <= chance:
        claim = f"Clean accuracy {variant.clean.accuracy.value:.3f} cannot be told from chance ({chance:.3f})"
        advice = "Check labels, preprocessing and weights: a model at chance has no robustness to measure."
        found.append(Problem("ACT-M00", "high", variant.id, claim, advice))
    watched = of_sites(variant.sites, variant.unresolved, variant.clean.accuracy, WATCHED)
    found += [dataclasses.replace(problem, variant=variant.id) for problem in watched]
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
