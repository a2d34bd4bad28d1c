"""What helps and what it costs: every defense on the same examples, with paired differences."""

from __future__ import annotations

from collections.abc import Iterator

from actsec.reports import lookup, words
from actsec.reports.blocks import Block, Chip, Content, Figures, Heading, Items, Paragraph, Table, Tone, joined, muted
from actsec.reports.figures.scatter import Point, scatter
from actsec.reports.load import Report
from actsec.result import Comparison, Result, Variant

_ADVICE: dict[str, Tone] = {
    "recommended": "good",
    "looks better, is masking": "bad",
    "costs more than it gives": "warn",
}
_VERDICT: dict[str, Tone] = {"better": "good", "worse": "bad"}


def section(report: Report) -> Iterator[Block]:
    """The ranking, the trade-off figure, the table it numbers, and the paired tests."""
    result = report.result
    yield Heading("Defenses")
    if result.advice:
        yield Items(tuple(_advice(report, i) for i in range(len(result.advice))))
    defended = [v for v in result.variants if v.chain]
    if not defended:
        yield Paragraph("Not done: no defense was tried.")
        return
    first = lookup.first(result)
    compared = ([first] if first and not first.chain else []) + defended
    yield from _tradeoff(compared)
    yield from _comparisons(result)


def _advice(report: Report, index: int) -> Content:
    result = report.result
    advice = result.advice[index]
    time = report.environment.get("estimates", {}).get(advice.variant)
    parts: list[Content] = [Chip(advice.label, _ADVICE.get(advice.label, "neutral"))]
    named = advice.variant in advice.sentence
    parts.append(advice.sentence if named else f"{lookup.title(result, advice.variant)}: {advice.sentence}")
    if advice.estimate:
        parts.append(muted(advice.estimate))
    if time:
        parts.append(muted(f"On the machine of this run: {time}."))
    return joined(parts)


def _tradeoff(variants: list[Variant]) -> Iterator[Block]:
    kinds = list(dict.fromkeys(_kind(v) for v in variants))
    threat = next((t.threat for v in variants if (t := lookup.main_threat(v))), None)
    points: list[Point] = []
    rows: list[tuple[Content, ...]] = []
    for number, variant in enumerate(variants, 1):
        found = lookup.threat(variant, threat) if threat else None
        untouched = lookup.condition(variant, clean=True)
        if found and found.worst_case.n and words.measured(variant):
            kind = kinds.index(_kind(variant))
            clean = variant.clean.accuracy
            points.append(Point(number, variant.title, kind, clean, found.worst_case, not words.doubt(found)))
        rows.append(
            (
                f"{number}  {variant.title}",
                _kind(variant),
                words.untouched_cell(variant),
                words.worst_cell(found) if found else "not done",
                words.ece_cell(untouched),
                variant.claims or "\N{EN DASH}",
            )
        )
    if threat and points:
        yield Figures((scatter(kinds, points, threat),))
    yield Table(
        f"Defenses under {threat or 'no threat'}",
        ("variant", "for", "untouched", "worst case", "ECE, untouched", "what it can and cannot do"),
        tuple(rows),
    )


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
            c.metric,
            _amount(c, c.before),
            _amount(c, c.after),
            _difference(c),
            words.number(c.n),
            "not tested" if c.p is None else "<\N{NO-BREAK SPACE}0.001" if c.p < 0.001 else f"{c.p:.3f}",  # shown so
            Chip(c.verdict, _VERDICT.get(c.verdict, "neutral")),
        )
        for c in result.comparisons
    ]
    yield Table(
        "Each defense against its own model on the same examples: 95 % paired bootstrap, exact McNemar p",
        ("variant", "metric", "before", "after", "difference", "n", "p", "verdict"),
        tuple(rows),
        numeric=(2, 3, 5, 6),
    )


def _amount(comparison: Comparison, amount: float) -> str:
    return words.percent(amount) if "accuracy" in comparison.metric else f"{amount:.3f}"


def _difference(comparison: Comparison) -> Content:
    if "accuracy" in comparison.metric:
        bounds = f" [{comparison.low * 100:+.1f}, {comparison.high * 100:+.1f}]"
        return words.points(comparison.difference) + bounds.replace("-", "\N{MINUS SIGN}")
    text = f"{comparison.difference:+.3f} [{comparison.low:+.3f}, {comparison.high:+.3f}]"
    return text.replace("-", "\N{MINUS SIGN}")
