"""Reliability diagram: accuracy in each confidence bin beside honest confidence, and how many are in a bin."""

from __future__ import annotations

from markupsafe import Markup

from actsec.reports.blocks import Figure
from actsec.reports.figures import svg
from actsec.reports.words import ece, percent
from actsec.result import Calibration

WIDTH, LEFT, RIGHT, TOP, PLOT, COUNTS = 340.0, 58.0, 12.0, 44.0, 210.0, 46.0


def reliability(title: str, found: Calibration) -> Figure:
    """The figure of one condition."""
    x, y = svg.axis(0, 1, LEFT, WIDTH - RIGHT, 4), svg.axis(0, 1, TOP + PLOT, TOP, 4)
    floor = y.start + 50 + COUNTS
    parts: list[Markup] = [
        svg.tag("text", svg.shorten(title, 44), x=LEFT - 44, y=14, class_="heading"),
        *svg.grid(x, y, "confidence of the model", "correct", percent_x=True),
    ]
    most = max((b.n for b in found.reliability), default=1)
    filled = [b for b in found.reliability if b.n]
    for row in filled:
        left, wide = x(row.low) + 0.7, x(row.high) - x(row.low) - 1.4
        low, high = sorted((row.accuracy, row.confidence))
        parts.append(
            svg.tag("rect", x=left, width=wide, y=y(row.accuracy), height=y(0) - y(row.accuracy), class_="bar s0")
        )
        gap = "gap over" if row.confidence > row.accuracy else "gap under"
        parts.append(svg.tag("rect", x=left, width=wide, y=y(high), height=y(low) - y(high), class_=gap))
        tall = max(COUNTS * row.n / most, 0.8)
        parts.append(svg.tag("rect", x=left, width=wide, y=floor - tall, height=tall, class_="count"))
    parts.append(svg.tag("line", x1=x(0), y1=y(0), x2=x(1), y2=y(1), class_="diagonal"))
    parts.append(svg.tag("line", x1=x.start, x2=x.end, y1=floor, y2=floor, class_="axis"))
    parts.append(svg.tag("text", f"inputs in the bin (most: {most})", x=x.start, y=floor + 15, class_="note"))
    alt = f"{title}: {ece(found)}. " + "; ".join(
        f"confidence {percent(b.confidence, 0)}, correct {percent(b.accuracy, 0)}, n {b.n}" for b in filled
    )
    caption = f"{ece(found)}. Mean confidence {percent(found.mean_confidence)}."
    return Figure(svg.drawing(WIDTH, floor + 24, alt, parts), alt, caption)
