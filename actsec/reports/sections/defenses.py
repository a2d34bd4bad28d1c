"""What helps and what it costs: every fix labelled by rule, its effects in one table, and the trade-off drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from actsec.reports import fixes, lookup, words
from actsec.reports.blocks import (
    Block,
    Chip,
    Content,
    Figures,
    Fold,
    Heading,
    Items,
    Note,
    Paragraph,
    Table,
    joined,
    muted,
    strong,
)
from actsec.reports.figures.pareto import Point, pareto
from actsec.reports.load import Report
from actsec.result import Advice, Result, ThreatResult, Variant


def section(report: Report) -> Iterator[Block]:
    """The ranking, the trade-off, its table with a row a fix, the variants as they stand, and the paired tests."""
    result = report.result
    yield Heading("Defenses")
    tried = fixes.tried(result)
    if tried:
        yield Paragraph(fixes.rule(tried))
        yield Items(tuple(_advice(report, advice) for advice in tried))
    untested = tuple(_advice(report, advice) for advice in result.advice if advice not in tried)
    if untested:
        yield Fold(f"Not tested: {words.plural(len(untested), 'defense')}", (Items(untested),), open=not tried)
    ranked = [v for a in tried for v in result.variants if v.id == a.variant]
    defended = ranked + [v for v in result.variants if v.chain and v not in ranked]
    if not defended:
        yield Paragraph("Not done: no defense was tried.")
        return
    first = lookup.first(result)
    compared = ([first] if first and not first.chain else []) + defended
    threat = next((t.threat for v in compared if (t := lookup.main_threat(v))), None)
    yield from _tradeoff(report, compared, threat)
    if apart := fixes.unequal(result, tried):
        yield Note("These trainings are not alike:", apart, "warn")
    yield from _effects(report)
    yield from _as_they_stand(compared, threat)
    yield from _comparisons(result)


def _advice(report: Report, advice: Advice) -> Content:
    time = report.environment.get("estimates", {}).get(advice.variant)
    parts: list[Content] = [Chip(advice.label, fixes.tone(advice.label)), advice.sentence]
    if advice.estimate:
        parts.append(muted(advice.estimate))
    if time:
        parts.append(muted(f"On the machine of this run: {time}."))
    return joined(parts)


def _tradeoff(report: Report, variants: list[Variant], threat: str | None) -> Iterator[Block]:
    """The figure, of the variants that were measured under the threat."""
    times = report.environment.get("fixes", {})
    points = []
    for number, variant in enumerate(variants):
        found = lookup.threat(variant, threat) if threat else None
        if found is None or not found.worst_case.n or not words.measured(variant):
            continue
        untouched = lookup.condition(variant, clean=True)
        ratio = times.get(variant.id, {}).get("latency_ratio") if variant.chain else 1.0
        points.append(
            Point(
                variant.id,
                number,
                variant.chain or f"{variant.title}, as it is",
                variant.clean.accuracy,
                found.worst_case,
                _held(found),
                untouched.ece if untouched else None,
                ratio,
            )
        )
    if threat and points:
        yield Figures((pareto(points, threat),))


def _held(threat: ThreatResult) -> bool:
    return not words.doubt(threat) and threat.state not in ("masked", "unchecked")


def _effects(report: Report) -> Iterator[Block]:
    """A row a fix: its accuracies, what else it changes, and what it costs; one table each, since none is that wide."""
    tried = fixes.tried(report.result)
    if not any(advice.effects for advice in tried):
        return
    named = [f"{number}  {lookup.chain(report.result, a.variant)}" for number, a in enumerate(tried, 1)]
    of, metrics = tuple(a.variant for a in tried), fixes.metrics(tried)
    accuracies = tuple(m for m in metrics if m.partition("@")[0] in _ACCURACIES)
    rest = tuple(m for m in metrics if m not in accuracies)
    labelled = [joined((name, Chip(a.label, fixes.tone(a.label)))) for name, a in zip(named, tried, strict=True)]
    yield Table(
        "What each fix changes, with 95 % paired intervals: accuracies on the images that confirm, sizes on all",
        ("fix", *map(fixes.title, accuracies)),
        _rows(labelled, tried, accuracies),
        of=of,
    )
    if rest:
        yield Table(
            "What else each fix changes, on all images, with 95 % paired intervals",
            ("fix", *map(fixes.title, rest)),
            _rows(named, tried, rest),
            of=of,
        )
    yield Table(
        "What each fix costs: latency and seconds on the machine of this run",
        ("fix", *(name for name, _ in fixes.COSTS)),
        tuple((name, *(cost(report, a) for _, cost in fixes.COSTS)) for name, a in zip(named, tried, strict=True)),
        of=of,
    )


_ACCURACIES = ("robust_accuracy", "smallest_change", "clean_accuracy")


def _rows(
    names: Sequence[Content], tried: tuple[Advice, ...], metrics: tuple[str, ...]
) -> tuple[tuple[Content, ...], ...]:
    return tuple((name, *(fixes.cell(a, m) for m in metrics)) for name, a in zip(names, tried, strict=True))


def _as_they_stand(variants: list[Variant], threat: str | None) -> Iterator[Block]:
    """Each variant's own numbers, on all images, and what it claims."""
    rows: list[tuple[Content, ...]] = []
    for number, variant in enumerate(variants):
        found = lookup.threat(variant, threat) if threat else None
        rows.append(
            (
                f"{number}  {variant.title}",
                _kind(variant),
                words.untouched_cell(variant),
                _stands(found) if found else "not done",
                words.ece_cell(lookup.condition(variant, clean=True)),
            )
        )
    yield Table(
        f"The variants as they stand, on all images, under {threat or 'no threat'}",
        ("variant", "for", "untouched", "worst case", "ECE, untouched"),
        tuple(rows),
        of=tuple(variant.id for variant in variants),
    )
    claims = tuple(joined((strong(f"{number}  {v.title}:"), v.claims)) for number, v in enumerate(variants) if v.claims)
    if claims:
        yield Fold("What each can and cannot do", (Items(claims),), open=True)


def _stands(threat: ThreatResult) -> Content:
    """The worst case, and beside it that it was not checked where that is so."""
    cell = words.worst_cell(threat)
    unchecked = threat.state == "unchecked" and not words.doubt(threat)
    return joined((cell, words.state(threat))) if unchecked else cell


def _kind(variant: Variant) -> str:
    if not variant.chain:
        return "no defense"
    return "calibration only" if variant.kind == "calibration" else variant.kind


def _comparisons(result: Result) -> Iterator[Block]:
    if not result.comparisons:
        yield Paragraph("Paired tests: not done.")
        return
    rows: list[tuple[Content, ...]] = [
        (
            f"{lookup.title(result, c.variant)}",
            fixes.title(c.metric),
            fixes.amount(c.metric, c.before),
            fixes.amount(c.metric, c.after),
            f"{fixes.change(c)} {fixes.bounds(c)}",
            words.number(c.n),
            "not tested" if c.p is None else "<\N{NO-BREAK SPACE}0.001" if c.p < 0.001 else f"{c.p:.3f}",  # shown so
            fixes.verdict(c),
        )
        for c in result.comparisons
    ]
    table = Table(
        "Each defense against its own model on the same examples: 95 % paired bootstrap, exact McNemar p",
        ("variant", "metric", "before", "after", "difference", "n", "p", "verdict"),
        tuple(rows),
        numeric=(2, 3, 4, 5, 6),
        of=tuple(c.variant for c in result.comparisons),
    )
    yield Fold("Paired tests on all images", (table,))
