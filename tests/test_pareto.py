"""The trade-off figure: what is drawn where, what is struck out, and that no label covers another."""

from __future__ import annotations

import itertools
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_result import share

from actsec.reports.figures import pareto
from actsec.reports.figures.pareto import Point

counts = st.integers(0, 200)
points = st.lists(
    st.builds(
        lambda clean, robust, held, ece, latency, name: Point(
            name, 0, name, share(clean, 200), share(min(robust, clean), 200), held, ece, latency
        ),
        counts,
        counts,
        st.booleans(),
        st.none() | st.floats(0, 0.5),
        st.none() | st.floats(0.3, 20),
        st.text("abcdefgh(=)_", min_size=3, max_size=60),
    ),
    min_size=1,
    max_size=12,
)


def overlap(a, b):
    return min(a[2], b[2]) > max(a[0], b[0]) + 1e-9 and min(a[3], b[3]) > max(a[1], b[1]) + 1e-9


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(70, 670), st.floats(90, 400)), min_size=1, max_size=11), st.booleans(), st.data())
def test_no_label_covers_another_nor_a_mark(places, pile, data):
    """Eleven at most, as in the default audit; also when all lie at one spot."""
    places = [places[0]] * len(places) if pile else places
    texts = [data.draw(st.text("abcdef", min_size=3, max_size=30)) for _ in places]
    inside = (64.0, 82.0, 698.0, 412.0)
    radii = [5.5] * len(places)
    boxes = pareto.placed(texts, places, radii, [], inside)
    assert not any(overlap(a, b) for a, b in itertools.combinations(boxes, 2))
    marks = [(x - 5.5, y - 5.5, x + 5.5, y + 5.5) for x, y in places]
    assert not any(overlap(box, each) for box in boxes for each in marks)
    for box, text in zip(boxes, texts, strict=True):
        assert box[2] - box[0] == pytest.approx(len(text) * pareto.LETTER)
        assert box[0] >= inside[0] - 1e-6
        assert box[2] <= inside[2] + 1e-6


@pytest.mark.parametrize("at", [(467, 366), (300, 200), (640, 300)])
def test_no_line_to_a_name_crosses_another_name(at):
    """Seven fixes that change next to nothing, and their model: the pile every audit of weak defenses draws."""
    x, y = at
    places = [(x, y), (x, y), (x - 12, y + 1), (x, y + 2), (x + 14, y + 8), (x - 100, y + 16), (x - 6, y), (x + 3, y)]
    texts = [f"{n}  {'a name of a fix'[: 9 + n % 3 * 3]}" for n in range(len(places))]
    radii = [5.5, 5.7, 7.6, 7.5, 5.5, 5.8, 5.5, 5.5]
    bars = [((x - 110, y - 1, x + 90, y + 1), (x - 1, y - 30, x + 1, y + 28)) for x, y in places]
    boxes = pareto.placed(texts, places, radii, bars, (64.0, 82.0, 698.0, 412.0))
    assert not any(overlap(a, b) for a, b in itertools.combinations(boxes, 2))
    for i, box in enumerate(boxes):
        (px, py), near = places[i], (min(max(places[i][0], box[0]), box[2]), min(max(places[i][1], box[1]), box[3]))
        if math.dist((px, py), near) <= radii[i] + pareto.BESIDE:
            continue  # beside its mark, without a line
        line = [(px + t * (near[0] - px), py + t * (near[1] - py)) for t in (step / 50 for step in range(51))]
        others = boxes[:i] + boxes[i + 1 :]
        assert not any(b[0] < u < b[2] and b[1] < v < b[3] for u, v in line for b in others), texts[i]


@given(points)
def test_the_front_is_what_nothing_held_beats(found):
    at = [(p.clean.value, p.robust.value) for p in found]
    for i, point in enumerate(found):
        beaten = any(
            q.believable and at[j][0] >= at[i][0] and at[j][1] >= at[i][1] and at[j] != at[i]
            for j, q in enumerate(found)
        )
        assert (i in pareto.front(found)) == (point.believable and not beaten)


@settings(max_examples=25, deadline=None)
@given(points)
def test_the_figure_is_whole_and_says_every_number(found):
    figure = pareto.pareto(found, "linf:0.1")
    svg = str(figure.svg)
    assert "nan" not in svg.lower().replace("\N{NO-BREAK SPACE}", "")
    assert svg.count("refuted") == 2 * sum(not p.believable for p in found)
    marks = re.findall(r'class="(\S+) mark( open)?"', svg)
    legend = len(pareto.LEVELS) + 1 + 3 + any(p.ece is None for p in found)
    assert len(marks) == len(found) + legend
    assert sum(hollow != "" for _, hollow in marks) == 3 + sum(not p.believable for p in found)
    assert svg.count(' error"') == 2 * len(found)
    assert figure.alt.count("(not believable)") == sum(not p.believable for p in found)


def test_colours_and_sizes():
    assert [pareto.colour(e) for e in (None, 0.0, 0.02, 0.021, 0.06, 0.15, 0.3)] == [
        "unknown",
        "e0",
        "e0",
        "e1",
        "e2",
        "e3",
        "e4",
    ]
    assert pareto.radius(4) == pytest.approx(2 * pareto.radius(1))
    assert pareto.radius(None) == pareto.radius(1)
    assert pareto.radius(100) == pareto.radius(9)
