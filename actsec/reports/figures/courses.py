"""How attacks go on: the median of the best so far against the number of questions, which is drawn by its logarithm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from actsec.reports.blocks import Figure
from actsec.reports.figures import svg
from actsec.reports.words import minus, number
from actsec.result import Course

WIDTH, LEFT, RIGHT = 540.0, 58.0, 16.0
_TICKS = tuple(m * 10**e for e in range(7) for m in (1, 2, 5))


@dataclass(frozen=True, slots=True)
class Run:
    """One attack and its course."""

    name: str
    course: Course


def courses(runs: Sequence[Run], what: Literal["score", "size"], norm: str) -> Figure:
    """The figure of up to ``svg.SERIES`` attacks: their best score, or the smallest change that worked."""
    drawn = [(run.name, _points(run.course, what)) for run in runs]
    values = [value for _, points in drawn for _, value in points]
    low, high = min([0.0, *values]), max([0.0, *values])
    room = (high - low or 1.0) * 0.06
    called = [name for name, _ in drawn]
    names, taken = svg.legend(called, LEFT, 16, WIDTH - LEFT - RIGHT, called)
    top = 16 + taken + 22
    most = max(run.course.questions[-1] for run in runs)
    x = svg.Axis(0.0, math.log10(max(most, 2)), LEFT, WIDTH - RIGHT, tuple(t for t in _TICKS if t <= most))
    y = svg.axis(low - room if low < 0 else 0.0, high + room, top + 200, top, 4)
    title = "best score (median)" if what == "score" else f"smallest success, {norm} (median)"
    parts = [*names, *_grid(x, y, title)]
    if what == "score":
        parts.append(svg.tag("line", x1=x.start, x2=x.end, y1=y(0), y2=y(0), class_="chance"))
        parts.append(svg.tag("text", "fooled above", x=x.end - 4, y=y(0) - 5, class_="note end"))
    for series, (name, points) in reversed(tuple(enumerate(drawn))):
        at = [(x(math.log10(question)), y(value)) for question, value in points]
        colour = series % svg.SERIES
        ends = [svg.mark(series, *at[-1])] if at else []
        parts.append(svg.of(name, (svg.polyline(at, f"s{colour} line d{colour}"), *ends)))
    said = "best score" if what == "score" else f"smallest success in {norm}"
    alt = f"Median {said} against questions. " + " ".join(_said(name, points) for name, points in drawn)
    caption = (
        f"Median over the first {max(run.course.rows for run in runs)} examples at most; one question is one round of "
        "candidates. A line still rising (falling, for sizes) at its end asks for more steps."
    )
    return Figure(svg.drawing(WIDTH, top + 250, alt, parts), alt, caption)


def _points(course: Course, what: Literal["score", "size"]) -> list[tuple[int, float]]:
    values = course.score if what == "score" else course.size
    return [(question, value) for question, value in zip(course.questions, values, strict=True) if value is not None]


def _grid(x: svg.Axis, y: svg.Axis, title: str) -> list[Markup]:
    parts = []
    for value in y.ticks:
        parts.append(svg.tag("line", x1=x.start, x2=x.end, y1=y(value), y2=y(value), class_="grid"))
        parts.append(svg.tag("text", minus(f"{value:g}"), x=x.start - 8, y=y(value) + 4, class_="tick end"))
    for count in x.ticks:
        at = x(math.log10(count))
        parts.append(svg.tag("line", x1=at, x2=at, y1=y.start, y2=y.start + 4, class_="axis"))
        parts.append(svg.tag("text", f"{count:g}", x=at, y=y.start + 18, class_="tick mid"))
    parts.append(svg.tag("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    parts.append(svg.tag("text", "questions", x=(x.start + x.end) / 2, y=y.start + 37, class_="title mid"))
    parts.append(svg.tag("text", title, x=x.start - 44, y=y.end - 14, class_="title"))
    return parts


def _said(name: str, points: Sequence[tuple[int, float]]) -> str:
    if not points:
        return f"{name}: none."
    (first, start), (last, end) = points[0], points[-1]
    return f"{name}: {number(start)} after {first}, {number(end)} after {last}."
