"""Gradients by layer, on a logarithmic scale: the trained model, and the span of fresh weights."""

from __future__ import annotations

import math

from actsec.health.vitals import Flow
from actsec.reports.blocks import Figure
from actsec.reports.figures import svg
from actsec.reports.words import number

WIDTH, LEFT, RIGHT, TALL = 540.0, 58.0, 16.0, 190.0
LEAST = 1e-30
"""Stands for a norm of exactly 0, which has no logarithm: it is drawn at the foot."""


def flow(found: Flow) -> Figure | None:
    """The figure; None where there are not two layers with a gradient."""
    values = [v for layer in found.layers for v in (layer.trained, layer.fresh_low, layer.fresh_high) if v]
    if len(found.layers) < 2 or not values:  # a line needs two points
        return None
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    low, high = (low - 1, high + 1) if low == high else (low, high)
    names, taken = svg.legend(["as it is", *(["fresh weights"] if found.draws else [])], LEFT, 16, WIDTH - LEFT - RIGHT)
    top = 16 + taken + 22
    x = svg.Axis(0, len(found.layers) - 1, LEFT, WIDTH - RIGHT, ())
    step = max(1, math.ceil((high - low) / 6))
    y = svg.Axis(low, high, top + TALL, top, tuple(range(low, high + 1, step)))
    parts = [*names]
    for tick in y.ticks:
        parts.append(svg.tag("line", x1=x.start, x2=x.end, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(svg.tag("text", f"1e{tick:.0f}", x=LEFT - 8, y=y(tick) + 4, class_="tick end"))
    every = max(1, math.ceil(len(found.layers) / 16))
    places = range(0, len(found.layers), every)
    parts += [svg.tag("text", str(at + 1), x=x(at), y=y.start + 18, class_="tick mid") for at in places]
    parts.append(svg.tag("text", "layer", x=(x.start + x.end) / 2, y=y.start + 37, class_="title mid"))
    parts.append(svg.tag("text", "norm of the gradient by its weights", x=14, y=top - 14, class_="title"))
    fresh = [
        (x(at), y(_log(layer.fresh_low)), y(_log(layer.fresh_high)), y(_log(layer.fresh)))
        for at, layer in enumerate(found.layers)
        if layer.fresh is not None and layer.fresh_low is not None and layer.fresh_high is not None
    ]
    if len(fresh) > 1:
        parts.append(svg.band([point[:3] for point in fresh], "s1 band"))
        parts.append(svg.polyline([(point[0], point[3]) for point in fresh], "s1 line d1"))
    mine = [(x(at), y(_log(layer.trained))) for at, layer in enumerate(found.layers) if layer.trained is not None]
    parts.append(svg.polyline(mine, "s0 line"))
    parts += [svg.mark(0, *at, 3.2) for at in mine] if len(mine) <= 24 else []
    first, last = found.layers[0], found.layers[-1]
    alt = f"Gradient norm by layer, {len(found.layers)} layers: {_ends(first.trained, last.trained)} as it is"
    alt += f"; {_ends(first.fresh, last.fresh)} with fresh weights." if found.draws else "."
    caption = "First layer left. Logarithmic; " + (
        f"the band is the span of {found.draws} draws of fresh weights, its line their median."
        if found.draws
        else f"no fresh weights: {found.reason}."
    )
    return Figure(svg.drawing(WIDTH, y.start + 46, alt, parts), alt, caption)


def _log(value: float | None) -> float:
    return math.log10(max(value or 0.0, LEAST))


def _ends(first: float | None, last: float | None) -> str:
    said = ["not measured" if value is None else number(value) for value in (first, last)]
    return f"{said[0]} at the first, {said[1]} at the last"
