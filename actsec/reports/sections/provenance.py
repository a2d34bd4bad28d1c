"""Where this came from and how to make it again: the command, the plan, hashes, versions, hardware and time."""

from __future__ import annotations

import json
from collections.abc import Iterator

from actsec.reports import words
from actsec.reports.blocks import Block, Code, Content, Fold, Heading, Paragraph, Table, code
from actsec.reports.load import Report
from actsec.reports.next_command import placed, runs
from actsec.result import Result


def section(report: Report) -> Iterator[Block]:
    """The exact command first."""
    result = report.result
    yield Heading("Provenance")
    told = placed(result.command)
    yield Code(told, f"Run this to reproduce the result {runs(told)}".strip())
    rows: list[tuple[Content, ...]] = [
        ("plan", code(result.plan_id)),
        ("actsec", result.actsec),
        ("schema", str(result.schema)),
        ("status", result.status),
    ]
    rows += [(key, words.value(value)) for key, value in report.environment.items()]
    yield Table("This run", ("what", "value"), tuple(rows))
    yield from _executed(result)
    plan = json.dumps(result.plan, indent=2, ensure_ascii=True)
    yield Fold("The plan in full", (Code(plan),))
    yield Paragraph("The result is a function of the plan alone; times and hardware are kept apart from it.")


def _executed(result: Result) -> Iterator[Block]:
    """Plug-ins and factories are programs: whose ran."""
    if result.executed is None:
        return  # a report from before this was recorded
    if not result.executed:
        yield Paragraph("No code was executed but actsec's and that of what it is installed with.")
        return
    rows: list[tuple[Content, ...]] = [
        (each.what, each.origin, code(each.sha256 or "no file")) for each in result.executed
    ]
    yield Table("Code of others that was executed", ("what", "whose", "sha256 of its file"), tuple(rows))
