"""The evaluation checklist of Carlini et al. 2019, filled in from the record: done, not done, not applicable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from actsec.reports.blocks import Block, Chip, Content, Heading, Paragraph, Table, Tone
from actsec.reports.checklist import checklist
from actsec.reports.load import Report

_TONE: dict[str, Tone] = {"done": "good", "not done": "warn", "not applicable": "neutral"}


def section(report: Report) -> Iterator[Block]:
    """Every item with what decided it."""
    result = report.result
    yield Heading("Evaluation checklist")
    rows = result.checklist or checklist(result)
    if not rows:
        yield Paragraph("Not done: nothing was attacked.")
        return
    count = Counter(row.status for row in rows)
    yield Paragraph(
        f"{count['done']} done, {count['not done']} not done, {count['not applicable']} not applicable. After On "
        "Evaluating Adversarial Robustness (Carlini et al. 2019, arXiv 1902.06705), in our words; decided by rule from "
        "this record alone. Its authors ask not to follow it mindlessly: a list that is done is no proof."
    )
    table: list[tuple[Content, ...]] = [
        (f"{row.number}", row.item, Chip(row.status, _TONE[row.status]), row.evidence or "\N{EN DASH}") for row in rows
    ]
    yield Table("What was done, and what shows it", ("no", "item", "status", "evidence"), tuple(table))
