"""Findings about the model, its data and the audit itself, the most severe first."""

from __future__ import annotations

from collections.abc import Iterator

from actsec.reports import lookup
from actsec.reports.blocks import Block, Chip, Content, Heading, Paragraph, Table, Tone, code, strong
from actsec.reports.load import Report
from actsec.result import Problem

_SEVERITY: dict[str, tuple[int, Tone]] = {"high": (0, "bad"), "medium": (1, "warn"), "low": (2, "neutral")}


def section(report: Report) -> Iterator[Block]:
    """One row a finding: what, where, and the mend."""
    result = report.result
    yield Heading("Findings")
    if not result.problems:
        yield Paragraph("None. That nothing was found does not mean that nothing is there: see what was not done.")
        return
    ordered = sorted(result.problems, key=lambda p: _SEVERITY[p.severity][0])
    causes = any(p.cause for p in ordered)
    rows: list[tuple[Content, ...]] = [
        (
            code(p.rule),
            Chip(p.severity, _SEVERITY[p.severity][1]),
            lookup.title(result, p.variant) or "\N{EN DASH}",
            p.claim,
            *((_why(p),) if causes else ()),
            p.advice or "\N{EN DASH}",
        )
        for p in ordered
    ]
    columns = ("rule", "severity", "about", "finding", *(("cause, and the evidence",) if causes else ()), "what to do")
    yield Table("Findings, most severe first", columns, tuple(rows))


def _why(problem: Problem) -> Content:
    """The cause first."""
    if not problem.cause:
        return "\N{EN DASH}"
    return (strong(problem.cause), f": {problem.evidence}" if problem.evidence else "")
