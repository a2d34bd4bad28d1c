"""Heat strip: one column a site in the order of the network, one row a fraction, stronger colour is more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from actsec.reports.blocks import Figure
from actsec.reports.figures import svg
from actsec.reports.words import percent

WIDTH, LEFT, RIGHT, ROW = 760.0, 150.0, 10.0, 30.0
_ROOM_FOR_VALUE = 34.0


@dataclass(frozen=True, slots=True)
class Row:
    """A fraction of every site; None where the kind of activation cannot have it."""

    name: str
    values: tuple[float | None, ...]


def strip(title: str, rows: Sequence[Row], caption: str) -> Figure:
    """The figure. A crossed cell says that this activation cannot have the condition."""
    count = max((len(r.values) for r in rows), default=0)
    wide = min((WIDTH - LEFT - RIGHT) / max(count, 1), 74.0)
    width = max(LEFT + count * wide + RIGHT, 420.0)
    parts: list[Markup] = []
    for index, row in enumerate(rows):
        top = 6 + index * (ROW + 4)
        parts.append(svg.tag("text", row.name, x=LEFT - 10, y=top + ROW / 2 + 4, class_="tick end"))
        for at, value in enumerate(row.values):
            parts += _cell(value, LEFT + at * wide, top, wide)
    foot = 6 + len(rows) * (ROW + 4) + 13
    every = max(1, round(22 / wide))
    for at in range(0, count, every):
        parts.append(svg.tag("text", str(at + 1), x=LEFT + (at + 0.5) * wide, y=foot, class_="tick mid"))
    parts.append(svg.tag("text", "site", x=LEFT - 10, y=foot, class_="tick end"))
    said = ". ".join(f"{r.name}: {', '.join(_said(v) for v in r.values)}" for r in rows)
    return Figure(svg.drawing(width, foot + 8, f"{title}. {said}.", parts), f"{title}. {said}.", caption)


def _cell(value: float | None, left: float, top: float, wide: float) -> list[Markup]:
    gap = 2.0 if wide > 8 else 0.5  # narrow cells need every pixel
    box = {"x": left + gap / 2, "y": top, "width": wide - gap, "height": ROW}
    if value is None:
        right, bottom = left + wide - gap / 2, top + ROW
        return [
            svg.tag("rect", **box, class_="cell none"),
            svg.tag("line", x1=left + gap / 2, y1=bottom, x2=right, y2=top, class_="grid"),
        ]
    level = min(int(value * 10 + 0.999), 10) if value > 0 else 0
    parts = [svg.tag("rect", **box, class_="cell"), svg.tag("rect", **box, class_=f"heat h{level}")]
    if wide >= _ROOM_FOR_VALUE:
        style = "value mid" + (" onheat" if level > 6 else "")  # dark cells need light text
        text = percent(value, 0 if wide < 52 else 1)  # width of "12.3 %"
        parts.append(svg.tag("text", text, x=left + wide / 2, y=top + ROW / 2 + 4, class_=style))
    return parts


def _said(value: float | None) -> str:
    return "cannot" if value is None else percent(value)
