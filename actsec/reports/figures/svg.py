"""Enough SVG to draw a chart: escaped elements, linear axes, series marks that differ by shape as well as colour."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from actsec.reports.words import clean

SERIES = 6
"""Colours and marks before they repeat; the style sheet gives ``.s0`` to ``.s5``."""


def tag(name: str, *inside: Markup | str, **attributes: str | float) -> Markup:
    """An element. Texts and attributes are cleaned and escaped; ``class_`` is class, ``stroke_width`` stroke-width."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"' for key, value in attributes.items())
    body = "".join(item if isinstance(item, Markup) else escape(clean(item)) for item in inside)
    # Every text in it is escaped one line above; names of elements and attributes are ours.
    return Markup(f"<{name}{written}>{body}</{name}>" if inside else f"<{name}{written}/>")  # noqa: S704  # nosec B704


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return escape(clean(value))
    return f"{value:.2f}".rstrip("0").rstrip(".")


def drawing(width: float, height: float, alt: str, parts: Iterable[Markup]) -> Markup:
    """The whole picture: scales with the page, read aloud as ``alt``."""
    return tag(
        "svg", Markup("\n").join(parts), width=width, height=height, viewBox=f"0 0 {width:g} {height:g}",
        role="img", aria_label=alt, class_="chart",
    )  # fmt: skip


def of(what: str, parts: Iterable[Markup]) -> Markup:
    """Parts that show one thing (a variant, an attack): where scripts run they light up with its rows in tables."""
    inside = Markup("").join(parts)
    return tag("g", inside, data_of=what) if what else inside


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear scale from data (low, high) to pixels (start, end), with its ticks."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """The pixel of a value, held inside the axis."""
        at = min(max(value, self.low), self.high)
        return self.start + (at - self.low) / (self.high - self.low) * (self.end - self.start)


def steps(low: float, high: float, about: int = 5) -> tuple[float, ...]:
    """Round tick values from low to high, about this many."""
    raw = (high - low) / about
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= raw * 0.999)
    start = math.ceil(low / step - 1e-9)
    return tuple(round(step * i, 12) for i in range(start, math.floor(high / step + 1e-9) + 1))


def axis(low: float, high: float, start: float, end: float, about: int = 5) -> Axis:
    """An axis with round ticks."""
    return Axis(low, high, start, end, steps(low, high, about))


def grid(x: Axis, y: Axis, x_title: str, y_title: str, *, percent_x: bool = False) -> list[Markup]:
    """Grid lines, tick labels and titles; y is a share."""
    parts = []
    for value in y.ticks:
        parts.append(tag("line", x1=x.start, x2=x.end, y1=y(value), y2=y(value), class_="grid"))
        parts.append(tag("text", f"{value * 100:g} %", x=x.start - 8, y=y(value) + 4, class_="tick end"))
    for value in x.ticks:
        label = f"{value * 100:g} %" if percent_x else f"{value:g}"
        parts.append(tag("line", x1=x(value), x2=x(value), y1=y.start, y2=y.start + 4, class_="axis"))
        parts.append(tag("text", label, x=x(value), y=y.start + 18, class_="tick mid"))
    parts.append(tag("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    parts.append(tag("text", x_title, x=(x.start + x.end) / 2, y=y.start + 37, class_="title mid"))
    parts.append(tag("text", y_title, x=x.start - 44, y=y.end - 14, class_="title"))
    return parts


def polyline(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """A line through pixel points."""
    return tag("polyline", points=" ".join(f"{_value(x)},{_value(y)}" for x, y in points), class_=class_)


def band(points: Sequence[tuple[float, float, float]], class_: str) -> Markup:
    """The area between (x, low) and (x, high), in pixels."""
    outline = [(x, low) for x, low, _ in points] + [(x, high) for x, _, high in reversed(points)]
    return tag("polygon", points=" ".join(f"{_value(x)},{_value(y)}" for x, y in outline), class_=class_)


def mark(series: int, x: float, y: float, size: float = 4.5) -> Markup:
    """The mark of a series: circle, square, diamond, triangle, plus, cross."""
    shape, class_ = series % SERIES, f"s{series % SERIES} mark"
    if shape == 0:
        return tag("circle", cx=x, cy=y, r=size, class_=class_)
    if shape == 1:
        return tag("rect", x=x - size * 0.9, y=y - size * 0.9, width=size * 1.8, height=size * 1.8, class_=class_)
    corners = {
        2: ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
        3: ((0, -1.2), (1.2, 0.9), (-1.2, 0.9)),
        4: ((-1.1, 0), (1.1, 0), (0, 0), (0, -1.1), (0, 1.1), (0, 0)),
        5: ((-1, -1), (1, 1), (0, 0), (-1, 1), (1, -1), (0, 0)),
    }[shape]
    points = " ".join(f"{_value(x + dx * size)},{_value(y + dy * size)}" for dx, dy in corners)
    return tag("polygon", points=points, class_=class_ + (" open" if shape > 3 else ""))  # plus, cross


def legend(
    names: Sequence[str], x: float, y: float, width: float, what: Sequence[str] = ()
) -> tuple[list[Markup], float]:
    """Names with their marks, wrapped to the width; also the height it took. what says of what each series is."""
    parts, at, row = [], x, 0
    for series, (name, shown) in enumerate(zip(names, what or ("",) * len(names), strict=True)):
        text = shorten(name, 34)
        need = 30 + len(text) * 7
        if at > x and at + need > x + width:
            at, row = x, row + 1
        top = y + row * 19
        line = tag("text", text, x=at + 17, y=top, class_="legend")
        parts.append(of(shown, (mark(series, at + 6, top - 4), line)))
        at += need
    return parts, (row + 1) * 19.0 if names else 0.0


def shorten(text: str, most: int) -> str:
    """The text, cut in the middle where it is too long to draw."""
    text = clean(text)
    if len(text) <= most:
        return text
    return text[: most // 2] + "\N{HORIZONTAL ELLIPSIS}" + text[-(most - most // 2 - 1) :]
