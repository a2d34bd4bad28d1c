"""Robust accuracy over eps: one line a model, its Wilson band, random noise, chance, and the untouched point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from actsec.reports.blocks import Figure
from actsec.reports.figures import svg
from actsec.reports.words import percent
from actsec.result import CurvePoint, Share

WIDTH, LEFT, RIGHT = 540.0, 58.0, 16.0


@dataclass(frozen=True, slots=True)
class Line:
    """One model's curve, of the variant of an id. believable False draws it broken: the numbers must not be trusted."""

    of: str
    name: str
    clean: Share
    points: tuple[CurvePoint, ...]
    believable: bool


def curves(lines: Sequence[Line], norm: str, eps: float | None, chance: float, noise_of: int = 0) -> Figure:
    """The figure. Noise is drawn for the line ``noise_of`` alone, so that it can be read."""
    drawn = [replace(line, points=_from_clean(line)) for line in lines]
    furthest = max((p.eps for line in drawn for p in line.points), default=0.0) or 1.0
    shown = [line.of for line in drawn]
    names, height_of_names = svg.legend([line.name for line in drawn], LEFT, 16, WIDTH - LEFT - RIGHT, shown)
    top = 16 + height_of_names + 22
    x, y = svg.axis(0, furthest, LEFT, WIDTH - RIGHT), svg.axis(0, 1, top + 230, top, 4)
    parts: list[Markup] = [*names, *svg.grid(x, y, f"eps ({norm}, input units)", "still correct")]
    parts.append(svg.tag("line", x1=x.start, x2=x.end, y1=y(chance), y2=y(chance), class_="chance"))
    parts.append(svg.tag("text", f"chance {percent(chance)}", x=x.start + 6, y=y(chance) - 5, class_="note"))
    if eps is not None:
        parts.append(svg.tag("line", x1=x(eps), x2=x(eps), y1=y.start, y2=y.end, class_="audited"))
        parts.append(svg.tag("text", f"eps {eps:.4g}", x=x(eps) + 5, y=y.end + 11, class_="note"))
    noise = _noise(drawn[noise_of], x, y) if drawn else []
    parts += noise
    for series in reversed(range(len(drawn))):
        parts.append(svg.of(drawn[series].of, _line(drawn[series], series, x, y)))
    alt = f"Share still correct against eps in {norm}. " + " ".join(_said(line) for line in drawn)
    caption = (
        "Worst case over every attack at each eps; bands are 95 % Wilson intervals; at eps 0, untouched inputs. "
        "The dashed line is chance."
        + (f" The dotted one is random noise of the same size on {drawn[noise_of].name}." if noise else "")
        + (" A broken line must not be believed." if any(not line.believable for line in drawn) else "")
    )
    return Figure(svg.drawing(WIDTH, top + 280, alt, parts), alt, caption)


def _from_clean(line: Line) -> tuple[CurvePoint, ...]:
    """The points with the untouched one in front, where the curve does not begin with it."""
    points = tuple(sorted(line.points, key=lambda p: p.eps))
    if points and points[0].eps == 0:
        return points
    return (CurvePoint(0.0, line.clean, line.clean), *points)


def _line(line: Line, series: int, x: svg.Axis, y: svg.Axis) -> list[Markup]:
    colour = f"s{series % svg.SERIES}"
    points = [(x(p.eps), y(p.share.value)) for p in line.points]
    bounds = [(x(p.eps), y(p.share.low), y(p.share.high)) for p in line.points]
    broken = "" if line.believable else " broken"
    return [
        svg.band(bounds, f"{colour} band"),
        svg.polyline(points, f"{colour} line d{series % svg.SERIES}{broken}"),
        *(svg.mark(series, at, height, 3.6) for at, height in points),
    ]


def _noise(line: Line, x: svg.Axis, y: svg.Axis) -> list[Markup]:
    points = [(x(p.eps), y(p.noise.value)) for p in line.points if p.noise is not None]
    if len(points) < 2:  # a line needs two points
        return []
    at, height = points[-1]
    return [
        svg.polyline(points, "noise"),
        svg.tag("text", "random noise", x=at - 4, y=height + 15, class_="note end"),
    ]


def _said(line: Line) -> str:
    ends = [line.points[0], line.points[-1]]
    said = ", ".join(f"{percent(p.share.value)} at {p.eps:.3g}" for p in ends)
    return f"{line.name}: {said}{'' if line.believable else ' (not believable)'}."
