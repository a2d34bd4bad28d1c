"""Defenses compared: untouched accuracy against worst case, with both intervals; up and to the right is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from actsec.reports.blocks import Figure
from actsec.reports.figures import svg
from actsec.reports.words import percent
from actsec.result import Share

WIDTH, LEFT, RIGHT = 540.0, 58.0, 18.0


@dataclass(frozen=True, slots=True)
class Point:
    """One variant. kind is an index into the kinds of the legend; number is its row in the table beside."""

    number: int
    name: str
    kind: int
    clean: Share
    robust: Share
    believable: bool


def scatter(kinds: Sequence[str], points: Sequence[Point], threat: str) -> Figure:
    """The figure: one mark a kind, one number a variant, a cross over what cannot be believed."""
    names, taken = svg.legend(kinds, LEFT, 16, WIDTH - LEFT - RIGHT)
    top = 16 + taken + 22
    lowest = min((p.clean.low for p in points), default=0.0)
    start = max(0.0, int(lowest * 20 - 0.5) / 20)
    x, y = svg.axis(start, 1, LEFT, WIDTH - RIGHT), svg.axis(0, 1, top + 240, top, 4)
    parts: list[Markup] = [*names, *svg.grid(x, y, "correct, untouched", "still correct, worst case", percent_x=True)]
    placed: list[tuple[float, float]] = []
    for point in points:
        at, height = x(point.clean.value), y(point.robust.value)
        colour = f"s{point.kind % svg.SERIES}"
        across = {"x1": x(point.clean.low), "x2": x(point.clean.high), "y1": height, "y2": height}
        upright = {"x1": at, "x2": at, "y1": y(point.robust.low), "y2": y(point.robust.high)}
        parts += [svg.tag("line", **ends, class_=f"{colour} error") for ends in (across, upright)]
        parts.append(svg.mark(point.kind, at, height, 5.5))
        if not point.believable:
            parts += [
                svg.tag("line", x1=at - 9, x2=at + 9, y1=height - 9 * sign, y2=height + 9 * sign, class_="refuted")
                for sign in (1, -1)
            ]
        label = _free(placed, at + 9, height - 8)
        placed.append(label)
        parts.append(svg.tag("text", str(point.number), x=label[0], y=label[1], class_="value"))
    alt = f"Untouched accuracy against worst case under {threat}. " + " ".join(
        f"{p.number}, {p.name}: {percent(p.clean.value)} untouched, {percent(p.robust.value)} worst case"
        f"{'' if p.believable else ' (not believable)'}."
        for p in points
    )
    caption = (
        f"Up and to the right is better. Numbers name rows of the table; crosses are 95 % intervals; threat {threat}."
        + ("" if all(p.believable for p in points) else " A point struck out must not be believed.")
    )
    return Figure(svg.drawing(WIDTH, top + 290, alt, parts), alt, caption)


def _free(placed: Sequence[tuple[float, float]], x: float, y: float) -> tuple[float, float]:
    """The nearest place to the right where a label covers no other."""
    while any(abs(x - px) < 13 and abs(y - py) < 13 for px, py in placed):  # size of a digit or two
        x += 14
    return x, y
