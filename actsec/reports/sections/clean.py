"""Accuracy on untouched inputs, overall and by class."""

from __future__ import annotations

from collections.abc import Iterator

from actsec.reports import lookup, words
from actsec.reports.blocks import Block, Content, Heading, Paragraph, Table
from actsec.reports.figures.bars import Bar, Group, bars
from actsec.reports.load import Report
from actsec.result import ThreatResult, Variant

MOST_CLASSES = 30
"""Beyond this many classes a figure shows the weakest alone."""


def section(report: Report) -> Iterator[Block]:
    """Every variant in a table; the audited one by class, beside its worst case under the main threat."""
    result = report.result
    yield Heading("Untouched inputs")
    if not result.variants:
        yield Paragraph("Not done.")
        return
    rows: list[tuple[Content, ...]] = [
        (
            words.name_of(v),
            words.untouched_cell(v),
            words.percent(v.clean.balanced) if words.measured(v) else "not done",
            v.clean.worst_class if words.measured(v) else "not done",
            _worst(v),
        )
        for v in result.variants
    ]
    yield Table(
        "Accuracy on untouched inputs, with 95 % Wilson intervals",
        ("variant", "accuracy", "balanced over classes", "weakest class", "its accuracy"),
        tuple(rows),
        numeric=(2,),
        of=tuple(v.id for v in result.variants),
    )
    first = lookup.first(result)
    if first and first.clean.per_class:
        yield _classes(first, lookup.main_threat(first))


def _worst(variant: Variant) -> Content:
    found = next((c.share for c in variant.clean.per_class if c.name == variant.clean.worst_class), None)
    return words.share_cell(found) if found else "not done"


def _classes(variant: Variant, threat: ThreatResult | None) -> Block:
    after = {c.name: c.share for c in threat.per_class} if threat else {}
    weakest = sorted(variant.clean.per_class, key=lambda c: (after.get(c.name, c.share).value, c.share.value))
    chosen = variant.clean.per_class if len(weakest) <= MOST_CLASSES else tuple(weakest[:MOST_CLASSES])
    series = ["untouched"]
    if threat and after:
        series.append(f"worst case, {threat.threat}")
    groups = []
    for row in chosen:
        drawn = [Bar(row.share.value, row.share.low, row.share.high) if row.share.n else Bar(None)]
        if threat and after:
            share = after.get(row.name)
            drawn.append(
                Bar(share.value, share.low, share.high, bool(words.doubt(threat))) if share and share.n else Bar(None)
            )
        groups.append(Group(row.name, tuple(drawn)))
    some = "" if len(chosen) == len(weakest) else f" The {len(chosen)} weakest of {len(weakest)} classes."
    caption = f"{variant.title}, by class; whiskers are 95 % Wilson intervals.{some}"
    return bars(f"Accuracy by class of {variant.title}", series, groups, caption)
