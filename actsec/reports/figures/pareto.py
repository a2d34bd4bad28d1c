"""Fixes compared: clean accuracy against robust accuracy, both with intervals; up and to the right is better.

Colour is the ECE and area the latency, each beside its words in the table; a point that must not be believed is hollow
and struck out. The dashed line joins what nothing tried beats on both. Labels never cover one another.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from actsec.reports.blocks import Figure
from actsec.reports.figures import svg
from actsec.reports.words import clean, percent
from actsec.result import Share

WIDTH, HEIGHT, LEFT, RIGHT = 700.0, 330.0, 62.0, 22.0
LEVELS = (0.02, 0.05, 0.1, 0.2)
"""Upper ends of the colours of the ECE; the last is for what lies above. The style sheet gives ``.e0`` to ``.e4``."""
NAME, LETTER, LINE = 26, 6.7, 15.0
"""Letters of a name drawn, and the size of one."""
BESIDE = 8.0
"""Pixels between a mark and its name above which a line leads from one to the other."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
Line = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Point:
    """The variant of an id; number is its row in the table. ece and latency (a ratio) are None if not measured."""

    of: str
    number: int
    name: str
    clean: Share
    robust: Share
    believable: bool
    ece: float | None
    latency: float | None


def pareto(points: Sequence[Point], threat: str) -> Figure:
    """The figure, with a legend of its colours and sizes."""
    top = 84.0
    lowest, highest = min(p.clean.low for p in points), max(p.robust.high for p in points)
    start, most = max(0.0, math.floor(lowest * 50 - 0.5) / 50), min(1.0, math.ceil(highest * 10 + 0.5) / 10)
    x = svg.axis(start, 1, LEFT, WIDTH - RIGHT)
    y = svg.axis(0, most, top + HEIGHT, top, 5)
    parts = [*_legend(points), *svg.grid(x, y, "clean accuracy", f"robust accuracy at {threat}", percent_x=True)]
    places = [(x(p.clean.value), y(p.robust.value)) for p in points]
    best = sorted(places[i] for i in front(points))
    if len(best) > 1:
        parts.append(svg.polyline(tuple(_stairs(best)), "front"))
    parts += [svg.of(point.of, _bars(point, x, y)) for point in points]
    order = sorted(range(len(points)), key=lambda i: -radius(points[i].latency))  # none hides under a larger one
    parts += [svg.of(points[i].of, _mark(points[i], *places[i])) for i in order]
    texts = [f"{p.number}  {_called(p.name)}" for p in points]
    radii = [radius(p.latency) for p in points]
    inside = (LEFT + 2, top - 2, WIDTH - 2, top + HEIGHT - 2)
    boxes = placed(texts, places, radii, [_reach(p, x, y) for p in points], inside)
    for point, text, place, reach, box in zip(points, texts, places, radii, boxes, strict=True):
        parts.append(svg.of(point.of, _label(text, place, reach, box)))
    return Figure(
        svg.drawing(WIDTH, top + HEIGHT + 46, _alt(points, threat), parts), _alt(points, threat), _caption(points)
    )


def _called(name: str) -> str:
    """The beginning of a name: a defense is told by it, and by its first option."""
    name = clean(name)
    return name if len(name) <= NAME else f"{name[: NAME - 1]}\N{HORIZONTAL ELLIPSIS}"


def front(points: Sequence[Point]) -> list[int]:
    """The believable points that no other believable one beats on one accuracy and equals on the other."""

    def at(i: int) -> tuple[float, float]:
        return points[i].clean.value, points[i].robust.value

    held = [i for i, p in enumerate(points) if p.believable]
    return [
        i
        for i in held
        if not any(at(j) != at(i) and all(a >= b for a, b in zip(at(j), at(i), strict=True)) for j in held)
    ]


def colour(ece: float | None) -> str:
    """The class of an ECE: e0 to e4, or none."""
    return "unknown" if ece is None else f"e{sum(ece > level for level in LEVELS)}"


def radius(latency: float | None) -> float:
    """Pixels: the area grows with the latency, up to nine times the first model's."""
    return 5.5 * math.sqrt(min(max(1.0 if latency is None else latency, 0.4), 9.0))


def placed(
    texts: Sequence[str],
    places: Sequence[tuple[float, float]],
    radii: Sequence[float],
    bars: Sequence[tuple[Box, Box]],
    inside: Box,
) -> list[Box]:
    """A box for each text, near its place: clear of every mark, other box and leader where there is room at all.

    It may cross a bar where that keeps it near.
    """
    marks = [(x - r, y - r, x + r, y + r) for (x, y), r in zip(places, radii, strict=True)]
    crossed = [bar for both in bars for bar in both]
    found: dict[int, Box] = {}
    led: dict[int, Line | None] = {}

    def cost(i: int, gap: float, box: Box) -> tuple[float, float]:
        others = [other for j, other in found.items() if j != i]
        covered = sum(_overlap(box, other) for other in (*marks, *others)) + 4 * _outside(box, inside)
        own = _leader(places[i], radii[i], box)
        tangled = sum(_crosses(own, other) for other in others)
        tangled += sum(_crosses(line, box) for j, line in led.items() if j != i)
        return covered, gap + 25 * sum(_overlap(box, bar) > 0 for bar in crossed) + 200 * tangled

    # The first text takes the best place and may shut in the last: each chooses anew once all have one.
    for i in [*range(len(texts))] * 2:
        around = _around(places[i], radii[i], len(texts[i]) * LETTER)
        found[i] = min(around, key=lambda one: cost(i, *one))[1]
        led[i] = _leader(places[i], radii[i], found[i])
    return list(found.values())


def _around(place: tuple[float, float], reach: float, width: float) -> Iterator[tuple[float, Box]]:
    """Boxes around a place with their distance, near ones first; to the right before the left."""
    x, y = place
    for gap, angle in itertools.product((5, 14, 26, 40, 56, 74, 94, 116, 140), range(0, 360, 15)):
        # From the middle outwards the box is anchored on the side that faces the mark.
        across, down = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        middle_x, middle_y = x + across * (reach + gap + width / 2), y + down * (reach + gap + LINE / 2)
        box = (middle_x - width / 2, middle_y - LINE / 2, middle_x + width / 2, middle_y + LINE / 2)
        yield gap + (0 if across > 0.5 else 3), box


def _leader(place: tuple[float, float], reach: float, box: Box) -> Line | None:
    """The line from a mark to a box that is not beside it."""
    near = min(max(place[0], box[0]), box[2]), min(max(place[1], box[1]), box[3])
    return (place, near) if math.dist(near, place) > reach + BESIDE else None


def _crosses(line: Line | None, box: Box) -> bool:
    """Whether a line runs through a box (Liang and Barsky 1984)."""
    if line is None:
        return False
    enters, leaves = 0.0, 1.0
    for start, end, low, high in zip(*line, box[:2], box[2:], strict=True):
        if start == end:
            if not low < start < high:
                return False
            continue
        first, last = sorted(((low - start) / (end - start), (high - start) / (end - start)))
        enters, leaves = max(enters, first), min(leaves, last)
    return enters < leaves


def _overlap(a: Box, b: Box) -> float:
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return across * down if across > 0 and down > 0 else 0.0


def _outside(a: Box, inside: Box) -> float:
    return (a[2] - a[0]) * (a[3] - a[1]) - _overlap(a, inside)


def _stairs(best: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Pixel points from left to right, with a corner between each two: better on neither side of it was tried."""
    for (x, y), (_, below) in itertools.pairwise(best):
        yield x, y
        yield x, below
    yield best[-1]


def _reach(point: Point, x: svg.Axis, y: svg.Axis) -> tuple[Box, Box]:
    """The boxes of a point's two bars."""
    at, height = x(point.clean.value), y(point.robust.value)
    across = (x(point.clean.low), height - 1, x(point.clean.high), height + 1)
    return across, (at - 1, y(point.robust.high), at + 1, y(point.robust.low))


def _bars(point: Point, x: svg.Axis, y: svg.Axis) -> list[Markup]:
    at, height, class_ = x(point.clean.value), y(point.robust.value), f"{colour(point.ece)} error"
    return [
        svg.tag("line", x1=x(point.clean.low), x2=x(point.clean.high), y1=height, y2=height, class_=class_),
        svg.tag("line", x1=at, x2=at, y1=y(point.robust.low), y2=y(point.robust.high), class_=class_),
    ]


def _mark(point: Point, at: float, height: float) -> list[Markup]:
    r = radius(point.latency)
    hollow = "" if point.believable else " open"
    parts = [svg.tag("circle", cx=at, cy=height, r=r, class_=f"{colour(point.ece)} mark{hollow}")]
    if not point.believable:
        reach = r + 4
        parts += [
            svg.tag(
                "line", x1=at - reach, x2=at + reach, y1=height - reach * s, y2=height + reach * s, class_="refuted"
            )
            for s in (1, -1)
        ]
    return parts


def _label(text: str, place: tuple[float, float], reach: float, box: Box) -> list[Markup]:
    parts = []
    if (line := _leader(place, reach, box)) is not None:
        (x1, y1), (x2, y2) = line
        parts.append(svg.tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="leader"))
    return [*parts, svg.tag("text", text, x=box[0], y=box[3] - 3.5, class_="value haloed")]


def _legend(points: Sequence[Point]) -> Iterator[Markup]:
    """Colours in the first line; sizes, and what marks what, in the second."""
    yield svg.tag("text", "ECE", x=LEFT, y=14, class_="legend")
    names = [f"up to {level:g}" for level in LEVELS] + [f"above {LEVELS[-1]:g}"]
    classes = [f"e{i}" for i in range(len(names))]
    if any(p.ece is None for p in points):
        names, classes = [*names, "not measured"], [*classes, "unknown"]
    at = LEFT + 40
    for name, class_ in zip(names, classes, strict=True):
        yield svg.tag("circle", cx=at, cy=10, r=5.5, class_=f"{class_} mark")
        yield svg.tag("text", name, x=at + 10, y=14, class_="legend")
        at += 26 + len(name) * 6.6
    yield svg.tag("text", "latency", x=LEFT, y=38, class_="legend")
    at = LEFT + 62
    for ratio in (1, 2, 4):
        yield svg.tag("circle", cx=at, cy=34, r=radius(ratio), class_="unknown mark open")
        yield svg.tag("text", f"{ratio}x", x=at + radius(ratio) + 5, y=38, class_="legend")
        at += 2 * radius(ratio) + 34
    if len(front(points)) > 1:
        yield svg.polyline(((at, 34), (at + 26, 34)), "front")
        yield svg.tag("text", "nothing tried beats these on both", x=at + 34, y=38, class_="legend")


def _alt(points: Sequence[Point], threat: str) -> str:
    return f"Clean accuracy against robust accuracy at {threat}. " + " ".join(
        f"{p.number}, {p.name}: {percent(p.clean.value)} clean, {percent(p.robust.value)} robust"
        f"{'' if p.ece is None else f', ECE {p.ece:.3f}'}{'' if p.latency is None else f', latency {p.latency:.2f}x'}"
        f"{'' if p.believable else ' (not believable)'}."
        for p in points
    )


def _caption(points: Sequence[Point]) -> str:
    void = "" if all(p.believable for p in points) else " A hollow point struck out must not be believed."
    return (
        "Up and to the right is better. Numbers name rows of the table; crosses are 95 % intervals over all images; "
        f"colour is the ECE untouched, area the latency.{void}"
    )
