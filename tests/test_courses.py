"""The course of an attack, from the referee's trace to the figure: medians, None where there is none, and small."""

import json
import math

import numpy as np
import torch
from attack_models import digits

import actsec
from actsec.registry import build
from actsec.reports.figures.courses import Run, courses
from actsec.reports.sections.convergence import _settled
from actsec.result import Course
from actsec.search.referee import attack_target, cases_of
from actsec.verdict.courses import POINTS, course

NAN = math.nan


def table(*rows):
    """A trace of these rows of (score, size) pairs."""
    return np.array([[(NAN, *point) for point in row] for row in rows])


def test_a_row_that_ended_keeps_its_last_and_a_size_needs_a_success():
    trace = table(
        [(-3.0, 0.5), (-1.0, 0.6), (2.0, 0.4), (2.0, 0.3)],
        [(-5.0, 0.5), (1.0, 0.7), (NAN, NAN), (NAN, NAN)],
        [(-9.0, 0.1), (-8.0, 0.1), (-7.0, 0.1), (3.0, 0.2)],
        [(NAN, NAN)] * 4,  # wrong already: never asked about
    )
    found = course(trace)
    assert found == Course(3, (1, 2, 3, 4), (-5.0, -1.0, 1.0, 2.0), (None, None, 0.7, 0.3))


def test_nothing_admissible_yet_is_none_and_not_infinity():
    found = course(table([(-math.inf, 0.0), (-math.inf, 0.0), (-1.0, 0.2)]))
    assert found is not None
    assert found.score == (None, None, -1.0)
    json.dumps([found.score, found.size], allow_nan=False)


def test_single_steps_and_nothing_have_no_course():
    assert course(np.zeros((0, 0, 3))) is None
    assert course(table([(-1.0, 0.1), (1.0, 0.1)])) is None
    assert course(table([(NAN, NAN)] * 5)) is None


def test_long_courses_are_thinned_and_keep_their_ends():
    line = [(float(i), 0.1) for i in range(5000)]
    found = course(table(line, line))
    assert found is not None
    assert len(found.questions) == POINTS
    assert (found.questions[0], found.questions[-1]) == (1, 5000)
    assert found.score[-1] == 4999.0


def test_the_course_of_a_real_attack_ends_where_its_verdicts_are():
    target, x, y = digits()
    verdicts = attack_target(
        build("attacks", "minimal_l2(steps=20)"), target, cases_of(target, x[:16], y[:16], "l2", None)
    )
    found = course(verdicts.trace.numpy())
    assert found is not None
    sizes = verdicts.size[verdicts.status == 1]
    assert found.rows == len(sizes)
    assert abs(found.size[-1] - float(np.median(sizes.numpy()))) < 1e-6
    assert all(
        b <= a + 1e-9 for a, b in zip(found.size, found.size[1:], strict=False) if a is not None and b is not None
    )
    scores = course(actsec.attack(target, x[:16], y[:16], "pgd(steps=10)", eps=0.1).verdicts.trace.numpy()).score
    assert list(scores) == sorted(scores)
    assert torch.isfinite(torch.tensor(scores)).all()


def test_the_figure_draws_each_attack_and_says_it_in_words():
    first = Course(16, (1, 2, 10, 100), (-4.0, -2.0, 1.0, 1.5), (None, None, 0.4, 0.3))
    second = Course(12, (1, 2, 3), (-4.0, -3.9, -3.8), (None, None, None))
    made = courses([Run("pgd<b>", first), Run("square", second)], "score", "linf")
    assert made.svg.count("<polyline") == 2
    assert "pgd&lt;b&gt;" in made.svg
    assert "fooled above" in made.svg
    assert "square: \N{MINUS SIGN}4 after 1, \N{MINUS SIGN}3.800 after 3." in made.alt
    sizes = courses([Run("a", first), Run("b", second)], "size", "l2")
    assert "b: none." in sizes.alt
    assert "nan" not in sizes.svg.lower()


def test_a_median_that_moves_to_the_end_has_not_settled():
    still = Course(9, (1, 2, 3, 4), (-9.0, 1.0, 1.0, 1.0), (None,) * 4)
    moving = Course(9, (1, 2, 3, 4), (-9.0, -5.0, -3.0, 1.0), (None,) * 4)
    assert _settled(still, "score") == "2"
    assert _settled(moving, "score") == "still moving at the end"
    assert _settled(Course(1, (1, 2, 3), (None, None, 1.0), (None,) * 3), "size") == "\N{EN DASH}"
