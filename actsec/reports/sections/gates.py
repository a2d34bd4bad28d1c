"""Gates: what was asked, what was measured, and what the exit code said."""

from __future__ import annotations

from collections.abc import Iterator

from actsec.reports import lookup, words
from actsec.reports.blocks import Block, Chip, Content, Heading, Paragraph, Table, Tone, code, joined, muted
from actsec.reports.load import Report
from actsec.result import GateResult

_TONE: dict[str, Tone] = {"passed": "good", "failed": "bad", "no verdict": "warn"}


def section(report: Report) -> Iterator[Block]:
    """The gates, or that there was none."""
    result = report.result
    yield Heading("Gates")
    said = words.exit_meaning(result.exit_code, gates=bool(result.gates))
    yield Paragraph(f"{said}.")
    if result.gates:
        rows: list[tuple[Content, ...]] = [
            (
                code(g.gate),
                lookup.title(result, g.variant),
                _measured(g),
                words.number(g.limit),
                Chip(g.outcome, _TONE[g.outcome]),
                g.why,
            )
            for g in result.gates
        ]
        columns = ("gate", "variant", "measured", "limit", "outcome", "why")
        bare = any(g.value is not None and g.low is None for g in result.gates)
        by = "Gates, decided by the 95 % interval" + ", where there is none by the value" * bare
        yield Table(by, columns, tuple(rows), numeric=(3,))
    if result.accepted:
        tones: dict[str, Tone] = {"accepted": "warn", "expired": "bad", "nothing found": "neutral"}
        yield Table(
            "Findings that the plan accepts: they stay in this report and, until their day, out of the gates",
            ("finding", "until", "state", "reason"),
            tuple((code(a.finding), a.until, Chip(a.state, tones[a.state]), a.reason) for a in result.accepted),
        )


def _measured(gate: GateResult) -> Content:
    if gate.value is None:
        return "no number that can be believed"
    if gate.low is None or gate.high is None:
        return words.number(gate.value)
    return joined((words.number(gate.value), muted(f"[{words.number(gate.low)}, {words.number(gate.high)}]")))
