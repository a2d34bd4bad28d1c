"""A card a site: how many of its units live on how many images, above where its pre-activations lie."""

from __future__ import annotations

from markupsafe import Markup

from actsec.health.vitals import Units
from actsec.reports.blocks import Figure
from actsec.reports.figures import svg
from actsec.reports.words import number, percent

WIDTH, BAR, TALL = 220.0, 16.0, 62.0
LETTERS = 27


def card(units: Units, place: int) -> Figure:
    """The figure of one site, ``place`` its number in call order.

    Above, all its units side by side, those that live on the fewest images first, stronger colour the fewer; below, a
    histogram of the pre-activation with a dashed line where the activation bends or saturates.
    """
    title = svg.shorten(f"{place}. {units.site}", LETTERS)
    parts: list[Markup] = [svg.tag("text", title, x=0, y=12, class_="title")]
    parts += _bar(units, 20)
    parts += _histogram(units, 20 + BAR + 8)
    alt = said(units, place)
    return Figure(svg.drawing(WIDTH, 20 + BAR + 8 + TALL + 20, alt, parts), alt, "")


def said(units: Units, place: int) -> str:
    """The card in words."""
    live = "units of this kind do not die" if units.live is None else f"{lives(units)}"
    if units.quantiles is None:
        return f"Site {place}, {units.site}: {live}; pre-activations are not finite."
    low, middle, high = (number(value) for value in units.quantiles)
    bends = f", bends at {' and '.join(number(mark) for mark in units.marks)}" if units.marks else ""
    return f"Site {place}, {units.site}: {live}; pre-activation {middle}, 90 % within {low} to {high}{bends}."


def lives(units: Units) -> str:
    """How many units live never and always."""
    if units.live is None:
        return "cannot"
    total = max(units.count, 1)
    return f"{percent(units.live[0] / total)} never live, {percent(units.live[-1] / total)} on every image"


def _bar(units: Units, top: float) -> list[Markup]:
    """At most a dozen rectangles, however many units there are."""
    box = {"y": top, "height": BAR}
    if units.live is None:
        outline = svg.tag("rect", x=0.5, width=WIDTH - 1, class_="cell none", **box)
        return [outline, svg.tag("text", "does not die", x=WIDTH / 2, y=top + 12, class_="note mid")]
    parts, left = [svg.tag("rect", x=0, width=WIDTH, class_="cell", **box)], 0.0
    for level, count in enumerate(units.live):
        wide = WIDTH * count / max(units.count, 1)
        if count and wide >= 0.2:  # narrower than a fifth of a pixel is not seen
            strength = max(10 - level, 0)
            parts.append(svg.tag("rect", x=left, width=wide, class_=f"heat h{strength}", **box))
        left += wide
    return parts


def _histogram(units: Units, top: float) -> list[Markup]:
    """Bars by the square root of their count, so that tails can be seen."""
    foot = top + TALL
    if not units.counts:
        return [svg.tag("text", "values are not finite", x=WIDTH / 2, y=top + 30, class_="note mid")]
    x = svg.Axis(units.low, units.high, 0, WIDTH, ())
    each, most = WIDTH / len(units.counts), max(units.counts) or 1
    points = [(0.0, foot)]
    for at, count in enumerate(units.counts):
        height = foot - TALL * (count / most) ** 0.5
        points += [(at * each, height), ((at + 1) * each, height)]
    points.append((WIDTH, foot))
    outline = " ".join(f"{a:.1f},{b:.1f}".replace(".0,", ",").removesuffix(".0") for a, b in points)
    parts = [svg.tag("polygon", points=outline, class_="s0 bar")]
    shown = [x(mark) for mark in units.marks if units.low <= mark <= units.high]
    parts += [svg.tag("line", x1=at, x2=at, y1=top, y2=foot + 4, class_="kink") for at in shown]
    parts.append(svg.tag("line", x1=0, x2=WIDTH, y1=foot, y2=foot, class_="axis"))
    parts.append(svg.tag("text", number(units.low, 2), x=0, y=foot + 15, class_="tick"))
    parts.append(svg.tag("text", number(units.high, 2), x=WIDTH, y=foot + 15, class_="tick end"))
    inside = [mark for mark in units.marks if 0.2 < (x(mark) / WIDTH) < 0.8]
    if inside:
        parts.append(svg.tag("text", number(inside[0]), x=x(inside[0]), y=foot + 15, class_="tick mid"))
    return parts
