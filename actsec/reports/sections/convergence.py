"""Did the attacks have time enough: the median of their best so far, question by question."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from actsec.reports import lookup, words
from actsec.reports.blocks import Block, Content, Figure, Figures, Heading, Paragraph, Table
from actsec.reports.figures import svg
from actsec.reports.figures.courses import Run, courses
from actsec.reports.load import Report
from actsec.result import AttackResult, Course, ThreatResult

SETTLED = 0.01
"""The median has settled when it moves by less than this share of its whole way."""


def section(report: Report) -> Iterator[Block]:
    """For the audited model, a figure a threat and a table that says when the medians stood still."""
    variant = lookup.first(report.result)
    found = [t for t in (variant.threats if variant else ()) if _followed(t)]
    yield Heading("Convergence")
    if variant is None or not found:
        yield Paragraph("Not shown: no attack that goes on for several questions has finished.")
        return
    yield Paragraph(
        f"How the attacks on {variant.title} went on, over the first examples they were tried on. An attack that was "
        "still gaining when it ended would have found more with more steps, and its number flatters the model."
    )
    for at in range(0, len(found), 2):
        yield Figures(tuple(_figure(threat) for threat in found[at : at + 2]))
    followed = [(threat, attack, course) for threat in found for attack, course in _followed(threat)]
    rows, of = tuple(_row(*one) for one in followed), tuple(attack.attack for _, attack, _ in followed)
    columns = ("attack", "threat", "questions", "median fooled after", "median settled after")
    yield Table("When the median stood still: less than 1 % of its way was left", columns, rows, numeric=(2,), of=of)


def _followed(threat: ThreatResult) -> list[tuple[AttackResult, Course]]:
    return [(a, a.course) for a in threat.attacks if a.course is not None and not a.baseline and a.error is None]


def _what(threat: ThreatResult) -> Literal["score", "size"]:
    return "size" if threat.eps is None else "score"


def _figure(threat: ThreatResult) -> Figure:
    runs = [Run(attack.attack, course) for attack, course in _followed(threat)[: svg.SERIES]]
    made = courses(runs, _what(threat), threat.norm)
    return Figure(made.svg, f"Under {threat.threat}. {made.alt}", f"Under {threat.threat}. {made.caption}")


def _row(threat: ThreatResult, attack: AttackResult, course: Course) -> tuple[Content, ...]:
    first = next((q for q, s in zip(course.questions, course.score, strict=True) if s is not None and s > 0), None)
    return (
        words.spec(attack.attack),
        threat.threat,
        words.number(course.questions[-1]),
        words.number(first) if first is not None else "not fooled",
        _settled(course, _what(threat)),
    )


def _settled(course: Course, what: Literal["score", "size"]) -> Content:
    """The first question after which the median moved no more, or that it still moved at the end."""
    pairs = zip(course.questions, course.score if what == "score" else course.size, strict=True)
    known = [(question, value) for question, value in pairs if value is not None]
    if len(known) < 2:
        return "\N{EN DASH}"
    values = [value for _, value in known]
    end, way = values[-1], max(values) - min(values)
    still = [abs(value - end) <= SETTLED * way for value in values]
    at = len(still) - 1 - next((i for i, near in enumerate(reversed(still)) if not near), len(still)) + 1
    return "still moving at the end" if at >= len(known) - 1 else words.number(known[at][0])
