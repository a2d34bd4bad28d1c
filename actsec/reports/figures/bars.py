"""Horizontal bars with intervals: accuracy per class, and units forced dead beside noise and plain PGD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from actsec.reports.blocks import Figure
from actsec.reports.figures import svg
from actsec.reports.words import percent

WIDTH, ROW, BAR = 540.0, 15.0, 11.0
NAME = 30
"""Letters of a name drawn."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A share with its interval, where it has one; None draws the words ``not measured``."""

    value: float | None
    low: float | None = None
    high: float | None = None
    struck: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Bars under one name, one for each series; of says of what they are, as in a table."""

    name: str
    bars: tuple[Bar, ...]
    of: str = ""


def bars(title: str, series: Sequence[str], groups: Sequence[Group], caption: str, *, near: bool = False) -> Figure:
    """The figure; the scale runs from 0, or the lowest value below it, to 100 %; ``near``: to the largest drawn."""
    left = 30 + 6.6 * max((len(svg.shorten(g.name, NAME)) for g in groups), default=0)
    names, taken = svg.legend(series, 8, 16, WIDTH - 16)
    top = 12 + taken
    values = [v for g in groups for b in g.bars for v in (b.value, b.low, b.high) if v is not None]
    most = min(1.0, max([0.02, *values])) if near else 1.0
    x = svg.axis(min([0.0, *values]), most, left, WIDTH - 60)
    parts: list[Markup] = [*names]
    height = top + sum(len(g.bars) * ROW + 9 for g in groups)
    for tick in x.ticks:
        parts.append(svg.tag("line", x1=x(tick), x2=x(tick), y1=top, y2=height, class_="grid"))
        parts.append(
            svg.tag("text", percent(tick, 0 if most > 0.04 else 1), x=x(tick), y=height + 16, class_="tick mid")
        )
    at = top + 4
    for group in groups:
        middle = at + len(group.bars) * ROW / 2 + 4
        drawn = [svg.tag("text", svg.shorten(group.name, NAME), x=left - 10, y=middle, class_="tick end")]
        for index, bar in enumerate(group.bars):
            drawn += _bar(bar, index, x, at + index * ROW)
        parts.append(svg.of(group.of, drawn))
        at += len(group.bars) * ROW + 9
    parts.append(svg.tag("line", x1=x(0), x2=x(0), y1=top, y2=height, class_="axis"))
    said = ". ".join(
        f"{g.name}: " + ", ".join(_said(n, b) for n, b in zip(series, g.bars, strict=True)) for g in groups
    )
    return Figure(svg.drawing(WIDTH, height + 26, f"{title}. {said}.", parts), f"{title}. {said}.", caption)


def _bar(bar: Bar, series: int, x: svg.Axis, top: float) -> list[Markup]:
    middle = top + ROW / 2
    if bar.value is None:
        return [svg.tag("text", "not measured", x=x(0) + 6, y=middle + 4, class_="note")]
    left, right = sorted((x(0), x(bar.value)))
    colour = f"s{series % svg.SERIES}"
    parts = [
        svg.tag(
            "rect",
            x=left,
            y=middle - BAR / 2,
            width=max(right - left, 0.8),
            height=BAR,
            rx=1.5,
            class_=f"{colour} bar{' doubtful' if bar.struck else ''}",
        )
    ]
    end = right
    if bar.low is not None and bar.high is not None:
        end = max(end, x(bar.high))
        parts.append(svg.tag("line", x1=x(bar.low), x2=x(bar.high), y1=middle, y2=middle, class_="whisker"))
    style = "value struck" if bar.struck else "value"
    parts.append(svg.tag("text", percent(bar.value), x=end + 6, y=middle + 4, class_=style))
    return parts


def _said(name: str, bar: Bar) -> str:
    if bar.value is None:
        return f"{name} not measured"
    return f"{name} {percent(bar.value)}{' (not believable)' if bar.struck else ''}"
