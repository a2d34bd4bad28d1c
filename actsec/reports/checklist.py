"""The evaluation checklist of Carlini et al. 2019 (arXiv 1902.06705, sections 2, 3 and 5), filled in from the record.

A row is done only where the result holds what shows it, and says which attack, threat and count that was; not
applicable where the model or the plan gives no occasion; not done in every other case. Its authors ask not to follow it
mindlessly: it says what was tried, not that it was enough. Items are in our words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from actsec.reports import lookup, words
from actsec.result import AttackResult, Check, ChecklistRow, Result, ThreatResult, Variant

HARD_LABEL = ("HopSkipJump", "BoundaryAttack", "GeoDA", "SignOPTAttack")
"""Attacks that see decisions alone, by the names ART gives them."""
SCORES = ("gradient_free",)
_BLACK_BOX = ("square", "one_pixel", "averaged_differences", "replay")
Found = tuple[str, bool]
"""What shows that it was done, empty where nothing does; and whether it applies at all."""


def checklist(result: Result) -> tuple[ChecklistRow, ...]:
    """Every item, decided for the audited model; none where nothing was attacked."""
    variant = lookup.first(result)
    if variant is None or not variant.threats:
        return ()
    return tuple(_row(number, item, rule(result, variant)) for number, (item, rule) in enumerate(ITEMS.items(), 1))


def _row(number: int, item: str, found: Found) -> ChecklistRow:
    evidence, applies = found
    status = "not applicable" if not applies else "done" if evidence else "not done"
    return ChecklistRow(number, item, status, evidence)  # type: ignore[arg-type]  # one of three words


def _threat_model(_result: Result, variant: Variant) -> Found:
    told = "; ".join(f"{t.threat} ({t.echo})" for t in variant.threats)
    return f"{told}; white box: weights and any defense are known", True


def _adaptive(result: Result, variant: Variant) -> Found:
    """Of every defended variant: its own adaptive attacks, by the check that asks for them."""
    defended = [v for v in result.variants if v.chain] + ([variant] if variant.kind else [])
    found = [(v, c) for v in defended for t in v.threats[:1] for c in t.checks if c.rule == "ACT-M24"]
    asked = [(v, c) for v, c in found if c.status != "not_applicable"]
    if not asked:
        return "", bool(defended) and any(v.threats for v in defended) and not found
    if any(c.status in ("not_done", "error") for _, c in asked):
        return "", True
    return "; ".join(f"{v.title}: {c.claim.rstrip('.')}" for v, c in asked), True


def _clean(_result: Result, variant: Variant) -> Found:
    share = variant.clean.accuracy
    return (f"{words.of(share)} correct untouched, {words.interval(share)}" if words.measured(variant) else ""), True


def _rejections(_result: Result, variant: Variant) -> Found:
    found = variant.clean.rejected
    return (f"its detector refuses {words.of(found)} untouched inputs" if found else ""), found is not None


def _check(rule: str) -> Callable[[Result, Variant], Found]:
    """Done where a check of the battery was made under any threat, whatever it found."""

    def decide(_result: Result, variant: Variant) -> Found:
        found = [(t, c) for t in variant.threats for c in t.checks if c.rule == rule]
        made = [(t, c) for t, c in found if c.status in ("ok", "warn", "red")]
        if made:
            threat, check = made[0]
            return f"{rule} at {threat.threat}, {words.check(check.status).text}: {check.claim.rstrip('.')}", True
        return "", not found or any(c.status != "not_applicable" for _, c in found)

    return decide


def _curve(_result: Result, variant: Variant) -> Found:
    curves = [(t, t.curve) for t in variant.threats if len(t.curve) > 2]
    told = [
        f"{t.threat}: {len(points)} sizes from {points[0].eps:g} to {points[-1].eps:.3g}, where "
        f"{words.of(points[-1].share)} stand"
        for t, points in curves
    ]
    return "; ".join(told), True


def _per_example(_result: Result, variant: Variant) -> Found:
    bounded = [t for t in variant.threats if t.eps is not None and len(_made(t)) > 1 and t.worst_case.n]
    told = [
        f"{t.threat}: {words.of(t.worst_case)} stand against all of {len(_made(t))} attacks together"
        for t in bounded[:1]
    ]
    return "; ".join(told), True


def _made(threat: ThreatResult) -> list[AttackResult]:
    """Attacks that finished; noise is none."""
    return [a for a in threat.attacks if a.error is None and a.n and not a.baseline]


def _attacks(variant: Variant) -> list[tuple[ThreatResult, AttackResult]]:
    return [(t, a) for t in variant.threats for a in _made(t)]


def _told(found: Iterable[tuple[ThreatResult, AttackResult]]) -> str:
    """Each attack with its threat and what it left."""
    told = [f"{a.attack} at {t.threat}: {words.of(a.still_correct)} still correct" for t, a in found]
    return "; ".join(told[:3]) + (f"; and {len(told) - 3} more" if len(told) > 3 else "")


def _parameters(result: Result, variant: Variant) -> Found:
    found = _attacks(variant)
    return (
        f"{len(found)} attacks with every option in the plan below (plan {result.plan_id[:12]})" if found else ""
    ), True


def _gradient_free(_result: Result, variant: Variant) -> Found:
    named = [(t, a) for t, a in _attacks(variant) if a.role in SCORES or a.name in _BLACK_BOX]
    return _told(named), True


def _hard_label(_result: Result, variant: Variant) -> Found:
    return _told((t, a) for t, a in _attacks(variant) if any(name in a.attack for name in HARD_LABEL)), True


def _transfer(_result: Result, variant: Variant) -> Found:
    return _told((t, a) for t, a in _attacks(variant) if a.role == "transfer"), True


def _margin(_result: Result, variant: Variant) -> Found:
    named = [(t, a) for t, a in _attacks(variant) if a.role in ("margin", "iterative")]
    return (_told(named) if {a.role for _, a in named} == {"margin", "iterative"} else ""), True


def _restarts(_result: Result, variant: Variant) -> Found:
    return _told((t, a) for t, a in _attacks(variant) if "restarts=" in a.attack), True


def _norms(_result: Result, variant: Variant) -> Found:
    norms = list(dict.fromkeys(t.norm for t in variant.threats if _made(t)))
    return (f"attacked in {', '.join(norms)}" if len(norms) > 1 else ""), True


def _noise(_result: Result, variant: Variant) -> Found:
    bounded = [t for t in variant.threats if t.eps is not None]
    found = [(t, a) for t in bounded for a in t.attacks if a.baseline and a.n and a.error is None]
    return _told(found), True


def _averaged(result: Result, _variant: Variant) -> Found:
    """Of variants that draw: their draws were averaged over."""
    drawing = [v for v in result.variants for t in v.threats if t.state == "randomised" or _drew(t)]
    if not drawing and not result.model.get("stochastic"):
        return "", False
    told = [f"{v.title}: {_told((v.threats[0], a) for a in _made(v.threats[0]))}" for v in drawing if v.threats]
    return "; ".join(dict.fromkeys(told)), True


def _drew(threat: ThreatResult) -> bool:
    return any(c.rule == "ACT-M11" and c.status in ("warn", "red") for c in threat.checks)


def _straight_through(_result: Result, variant: Variant) -> Found:
    """Needed where gradients are no slopes of the model, or there are none."""
    seen: list[Check] = [
        c for t in variant.threats for c in t.checks if c.rule in ("ACT-M01", "ACT-M09") and c.status in ("warn", "red")
    ]
    used = [(t, a) for t, a in _attacks(variant) if a.name == "bpda" or "straight" in a.search]
    return _told(used), bool(seen or used)


def _ablation(result: Result, _variant: Variant) -> Found:
    """A defended model beside its undefended twin."""
    defended = [v for v in result.variants if v.chain and v.threats]
    told = [
        f"{c.variant}: {words.points(c.difference)} in {c.metric}, n = {c.n}"
        for c in result.comparisons
        if c.metric.startswith("robust_accuracy@")
    ]
    return "; ".join(told[:3]), bool(defended)


def _second(result: Result, _variant: Variant) -> Found:
    done = [o for o in result.second_opinions if o.error is None]
    told = [f"{o.theirs} beside {o.ours}: {len(o.missed)} of {o.n} missed by all of ours" for o in done]
    return "; ".join(told[:3]), True


def _targeted(_result: Result, variant: Variant) -> Found:
    aimed = [t for t in variant.threats if t.goal != "misclassify" and _made(t)]
    told = [f"{t.threat}: {words.of(t.worst_case)} not driven there" for t in aimed]
    return "; ".join(told), True


def _reproducible(result: Result, _variant: Variant) -> Found:
    hashes = [f"{s.name} data sha256 {s.sha256[:12]}" for s in result.data.splits if s.sha256]
    return f"plan {result.plan_id[:12]}, seed {result.plan.get('seed', 'as planned')}, {', '.join(hashes)}", True


def _formal(result: Result, _variant: Variant) -> Found:
    found = [(v, v.certificate) for v in result.variants if v.certificate and v.certificate.radii]
    told = [f"{v.title}: {words.of(c.radii[0].certified)} certified at L2 {c.radii[0].eps:g}" for v, c in found]
    return "; ".join(told), bool([v for v in result.variants if v.certificate])


ITEMS: dict[str, Callable[[Result, Variant], Found]] = {
    "The threat model is stated: goal, size, knowledge": _threat_model,
    "Each defense faced attacks adapted to it": _adaptive,
    "Accuracy without an attack is reported": _clean,
    "A model that may refuse an answer: how often it refuses untouched inputs": _rejections,
    "Sanity: many steps against one": _check("ACT-M03"),
    "Sanity: the attack without a budget": _check("ACT-M05"),
    "Sanity: larger budgets against smaller ones": _check("ACT-M16"),
    "Sanity: gradients against a search without them": _check("ACT-M06"),
    "Sanity: the attack against random noise": _check("ACT-M08"),
    "Random noise of the same size is reported": _noise,
    "Success against size is shown as a curve": _curve,
    "Every example counts by the strongest attack on it, not by the strongest attack on average": _per_example,
    "All attacks and all their options are given": _parameters,
    "More than one loss was climbed": _margin,
    "At least one attack uses no gradient": _gradient_free,
    "At least one attack sees decisions alone": _hard_label,
    "Attacks made on another model were tried": _transfer,
    "Random restarts were used": _restarts,
    "Whether twice the steps change anything was looked at": _check("ACT-M04"),
    "Whether the search had come to rest was looked at": _check("ACT-M17"),
    "A model that draws: gradients averaged over its draws": _averaged,
    "A model without usable gradients: a differentiable stand-in for the step": _straight_through,
    "More than one kind of change was tried": _norms,
    "Attacks on a class of the adversary's choice were tried": _targeted,
    "Each defense stands beside the same model without it": _ablation,
    "Attacks were checked against another implementation": _second,
    "A claim of proof is stated apart from attacks": _formal,
    "What is needed to repeat it is given": _reproducible,
}
"""The items in the order of the report, and the rule of each."""
