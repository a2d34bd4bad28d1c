"""Findings about the model, its data and the audit itself, the most severe first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from actsec.reports import lookup
from actsec.reports.blocks import Block, Chip, Content, Fold, Heading, Paragraph, Table, Tone, code, joined, strong
from actsec.reports.load import Report
from actsec.result import Problem
from actsec.taxonomy import SCHEMES, VERSION

_SEVERITY: dict[str, tuple[int, Tone]] = {"high": (0, "bad"), "medium": (1, "warn"), "low": (2, "neutral")}


def section(report: Report) -> Iterator[Block]:
    """One row a finding: what, where, and the mend."""
    result = report.result
    yield Heading("Findings")
    if not result.problems:
        yield Paragraph("None. That nothing was found does not mean that nothing is there: see what was not done.")
        return
    ordered = sorted(result.problems, key=lambda p: _SEVERITY[p.severity][0])
    named = any(p.taxa for p in ordered)
    causes = any(p.cause for p in ordered)
    rows: list[tuple[Content, ...]] = [
        (
            code(p.rule),
            Chip(p.severity, _SEVERITY[p.severity][1]),
            lookup.title(result, p.variant) or "\N{EN DASH}",
            p.claim,
            *((_why(p),) if causes else ()),
            p.advice or "\N{EN DASH}",
            *((_known(p),) if named else ()),
        )
        for p in ordered
    ]
    columns = ("rule", "severity", "about", "finding", *(("cause, and the evidence",) if causes else ()), "what to do")
    columns += ("known as",) if named else ()
    yield Table("Findings, most severe first", columns, tuple(rows))
    if named:
        yield _catalogs(ordered)


def _known(problem: Problem) -> Content:
    """The ids that catalogs give it."""
    return joined(code(taxon.id) for taxon in problem.taxa) or "\N{EN DASH}"


def _catalogs(found: Sequence[Problem]) -> Block:
    """What the ids stand for, and where that was read."""
    every = dict.fromkeys(taxon for p in found for taxon in p.taxa)
    rows: list[tuple[Content, ...]] = [
        (code(t.id), t.name, f"{SCHEMES[t.scheme].title} {t.edition}", t.url) for t in every
    ]
    caption = f"The ids, as their catalogs name them (table of {VERSION})"
    return Fold(caption, (Table(caption, ("id", "name", "catalog", "source"), tuple(rows)),))


def _why(problem: Problem) -> Content:
    """The cause first."""
    if not problem.cause:
        return "\N{EN DASH}"
    return (strong(problem.cause), f": {problem.evidence}" if problem.evidence else "")
