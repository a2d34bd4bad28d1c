"""What a run is evidence for, requirement by requirement: measured, with the number, or not done. Never more.

EDITION is the day the table was last checked against its sources. Requirements are referred to, in our words, and
never quoted. Nothing here says that a system meets one: that is for people who know its purpose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from actsec.reports import lookup, words
from actsec.result import EvidenceRow, Result, Variant

EDITION = "2026-11-22"
AI_ACT = "EU AI Act (Regulation (EU) 2024/1689)"
_ACT = "https://eur-lex.europa.eu/eli/reg/2024/1689/oj"
_RMF, _RMF_URL = "NIST AI RMF 1.0", "https://doi.org/10.6028/NIST.AI.100-1"
_ISO = "ISO/IEC TR 24029-1:2021"
_ISO_URL = (
    "https://standards.iteh.ai/catalog/standards/iso/7a36bb39-85ec-4209-b7f8-ffa2931e172f/iso-iec-tr-24029-1-2021"
)


@dataclass(frozen=True, slots=True)
class Requirement:
    """A place in a document, what it is about in our words, and what of a result is evidence for it."""

    framework: str
    reference: str
    about: str
    url: str
    evidence: Callable[[Result, Variant], str]


def evidence(result: Result) -> tuple[EvidenceRow, ...]:
    """Every requirement of the table, for the audited model."""
    variant = lookup.first(result)
    return tuple(_row(each, each.evidence(result, variant) if variant else "") for each in REQUIREMENTS)


def _row(each: Requirement, found: str) -> EvidenceRow:
    status = "measured" if found else "not done"
    return EvidenceRow(each.framework, each.reference, each.about, each.url, status, found)  # type: ignore[arg-type]  # two words


def _accuracy(_result: Result, variant: Variant) -> str:
    share = variant.clean.accuracy
    if not words.measured(variant):
        return ""
    apart = f"{len(variant.clean.per_class)} classes apart"
    return f"{words.percent(share.value)}, {words.of(share)}, {words.interval(share)}; {apart}"


def _attacked(_result: Result, variant: Variant) -> str:
    tested = [t for t in variant.threats if t.worst_case.n and t.eps is not None]
    told = [
        f"{t.threat}: {words.percent(t.worst_case.value)}, {words.of(t.worst_case)}, {words.interval(t.worst_case)}"
        + (f" (not to be believed: {why})" if (why := words.doubt(t)) else "")
        for t in tested[:3]
    ]
    return "; ".join(told)


def _corrupted(_result: Result, variant: Variant) -> str:
    rows = variant.corruptions.rows if variant.corruptions else ()
    if not rows:
        return ""
    worst = min(rows, key=lambda row: row.accuracy.value)
    least = f"the worst, {worst.kind} at severity {worst.severity}, leaves {words.of(worst.accuracy)}"
    return f"{len(rows)} corruptions; {least}"


def _poisoned(_result: Result, _variant: Variant) -> str:
    return ""  # an audit attacks inputs; `actsec study poison` is a study of twins and no part of it


def _confidence(_result: Result, variant: Variant) -> str:
    found = lookup.condition(variant, clean=True)
    return words.ece(found) if found else ""


def _tested(result: Result, variant: Variant) -> str:
    splits = ", ".join(f"{s.name} {s.n} (sha256 {s.sha256[:12]})" for s in result.data.splits)
    attacks = sum(len(t.attacks) for t in variant.threats)
    return f"plan {result.plan_id[:12]}; data: {splits}; {attacks} attacks, every option in the plan" if attacks else ""


def _signed(_result: Result, _variant: Variant) -> str:
    """A signature is for people: the report only has the lines."""
    return ""


def _limits(_result: Result, variant: Variant) -> str:
    weakest = words.weakest(variant.clean.per_class)
    return f"per class, the weakest untouched: {weakest.name}, {words.of(weakest.share)}" if weakest else ""


def _statistical(result: Result, variant: Variant) -> str:
    return f"shares with 95 % Wilson intervals: {_attacked(result, variant)}" if _attacked(result, variant) else ""


def _formal(result: Result, _variant: Variant) -> str:
    found = [(v, v.certificate) for v in result.variants if v.certificate and v.certificate.radii]
    told = [
        f"{v.title}: randomised smoothing certifies {words.of(c.radii[0].certified)} at L2 {c.radii[0].eps:g}, "
        f"wrong with probability at most {c.alpha:g} each"
        for v, c in found
    ]
    return "; ".join(told)


def _believed(_result: Result, variant: Variant) -> str:
    first = next(iter(variant.threats), None)
    made = [c for c in first.checks if c.status in ("ok", "warn", "red")] if first else []
    green = sum(c.status == "ok" for c in made)
    return f"{len(made)} checks that attacks failed for no wrong reason, {green} green" if made else ""


REQUIREMENTS: tuple[Requirement, ...] = (
    Requirement(AI_ACT, "Article 15(1)", "an appropriate level of accuracy", _ACT, _accuracy),
    Requirement(AI_ACT, "Article 15(1)", "an appropriate level of robustness and cybersecurity", _ACT, _attacked),
    Requirement(AI_ACT, "Article 15(3)", "accuracy and its metrics, as they would be declared", _ACT, _accuracy),
    Requirement(AI_ACT, "Article 15(4)", "resilience to faults and inconsistencies of the inputs", _ACT, _corrupted),
    Requirement(AI_ACT, "Article 15(5)", "inputs made to mislead the model", _ACT, _attacked),
    Requirement(AI_ACT, "Article 15(5)", "manipulated training data", _ACT, _poisoned),
    Requirement(AI_ACT, "Annex IV, point 2(g)", "test procedures, test data and metrics", _ACT, _tested),
    Requirement(AI_ACT, "Annex IV, point 2(g)", "reports dated and signed by those responsible", _ACT, _signed),
    Requirement(AI_ACT, "Annex IV, point 3", "limits of performance, group by group", _ACT, _limits),
    Requirement(_RMF, "MEASURE 2.7", "security and resilience, evaluated and documented", _RMF_URL, _attacked),
    Requirement(_RMF, "MEASURE 2.7", "whether the evaluation itself can be relied on", _RMF_URL, _believed),
    Requirement(
        _ISO, "statistical methods (clause 5)", "robustness by statistics over test data", _ISO_URL, _statistical
    ),
    Requirement(_ISO, "formal methods (clause 6)", "robustness by proof", _ISO_URL, _formal),
    Requirement(_ISO, "empirical methods (clause 7)", "robustness by trial under chance changes", _ISO_URL, _corrupted),
)
