"""Confidence far outside the box: mean confidence at alpha times a noise image, alpha drawn by its logarithm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from actsec.reports.blocks import Figure
from actsec.reports.figures import svg
from actsec.reports.words import number, percent
from actsec.result import FarField

WIDTH, LEFT, RIGHT, HIGH = 540.0, 58.0, 22.0, 190.0


@dataclass(frozen=True, slots=True)
class Line:
    """One model's confidence at each alpha."""

    name: str
    far: FarField


def rays(models: Sequence[Line], chance: float) -> Figure:
    """The figure of up to ``svg.SERIES`` models: the first, and those that differ most from the ones chosen."""
    lines = _chosen(models)
    names, taken = svg.legend([line.name for line in lines], LEFT, 16, WIDTH - LEFT - RIGHT)
    top = 16 + taken + 22
    alphas = lines[0].far.alphas
    x = svg.Axis(math.log10(alphas[0]), math.log10(alphas[-1]), LEFT + 8, WIDTH - RIGHT, ())
    y = svg.axis(0, 1, top + HIGH, top, 4)
    parts: list[Markup] = [*names, *svg.grid(x, y, "times a noise image (alpha)", "mean confidence")]
    for alpha in alphas:
        at = x(math.log10(alpha))
        parts.append(svg.tag("line", x1=at, x2=at, y1=y.start, y2=y.start + 4, class_="axis"))
        parts.append(svg.tag("text", number(int(alpha)), x=at, y=y.start + 18, class_="tick mid"))
    parts.append(svg.tag("line", x1=x.start, x2=x.end, y1=y(chance), y2=y(chance), class_="chance"))
    parts.append(svg.tag("text", f"chance {percent(chance)}", x=x.end - 4, y=y(chance) - 5, class_="note end"))
    for series, line in reversed(tuple(enumerate(lines))):
        points = [(x(math.log10(a)), y(value)) for a, value in zip(alphas, line.far.confidence, strict=True)]
        colour = series % svg.SERIES
        parts.append(svg.polyline(points, f"s{colour} line d{colour}"))
        parts += [svg.mark(series, *at, 3.6) for at in points]
    alt = f"Mean confidence against alpha, along {lines[0].far.limited.n} rays. " + " ".join(map(_said, lines))
    caption = (
        f"Means over {lines[0].far.limited.n} noise images, multiplied by alpha. A line that ends at 100 % is a model "
        "that is certain of nothing in particular; one that ends below has bounded activations."
        + (f" {len(lines)} of {len(models)} models, those that differ most." if len(lines) < len(models) else "")
    )
    return Figure(svg.drawing(WIDTH, top + HIGH + 50, alt, parts), alt, caption)


def _chosen(models: Sequence[Line]) -> list[Line]:
    """As many as can be told apart, in the order given: each next one is the furthest from all before it."""
    picked = [0]
    while len(picked) < min(len(models), svg.SERIES):
        gaps = [min(_gap(model, models[i]) for i in picked) for model in models]
        picked.append(max((i for i in range(len(models)) if i not in picked), key=lambda i: (gaps[i], -i)))
    return [models[i] for i in sorted(picked)]


def _gap(one: Line, other: Line) -> float:
    return max(abs(a - b) for a, b in zip(one.far.confidence, other.far.confidence, strict=True))


def _said(line: Line) -> str:
    return f"{line.name}: {percent(line.far.confidence[0])} inside, {percent(line.far.confidence[-1])} far away."
