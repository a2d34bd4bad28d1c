"""What this report is not, and what was not done."""

from __future__ import annotations

from collections.abc import Iterator

from actsec.reports import words
from actsec.reports.blocks import Block, Chip, Heading, Items, Paragraph, joined
from actsec.reports.load import Report


def section(report: Report) -> Iterator[Block]:
    """Limits that always hold, those of this run, and the list of what is not done."""
    result = report.result
    yield Heading("Limits")
    yield Paragraph(
        "This is not a certificate. Every robustness number is an upper bound found by search: a stronger attack can "
        f"only lower it. What still stands is not refuted {words.budget(result.plan)}, and no more than that. "
        "It speaks of these examples, these threats and this model alone."
    )
    if result.limits:
        yield Items(result.limits)
    yield Heading("Not done", 3)
    if result.not_done:
        yield Items(tuple(joined((Chip("not done"), text)) for text in result.not_done))
    else:
        yield Paragraph("Everything in the plan was done.")
