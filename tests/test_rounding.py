"""How many decisions rounding may move, and that it moves none beyond the tolerance."""

import numpy as np
import pytest
import torch
from attack_models import digits

from actsec.hardening.chains import threads
from actsec.planning.jobs import VariantPlan
from actsec.search.oracle import Oracle, frozen
from actsec.types import Outcome
from actsec.verdict.gathering import Gathered
from actsec.verdict.rounding import TOLERANCE, rounding


def gathered(logits, threshold=None):
    clean = Outcome("clean", {}, {"test_logits": np.array(logits, np.float32)})
    fit = Outcome("fit", {"threshold": threshold}, {})
    return Gathered(VariantPlan("net", "net"), clean, None, fit, (), ())


@pytest.mark.parametrize(
    ("logits", "threshold", "near"),
    [
        ([[5, 1, 0], [5, 4.9996, 0], [5, 4.99, 0]], None, "1 of 3"),
        ([[0, 0, 0]], None, "1 of 1"),
        ([[1, np.nan, 0], [9, 1, 1]], None, "0 of 1"),
        ([[0, 1.0986], [0, 3]], 0.75, "1 of 2"),
        ([[0, 1.0986], [2, 2]], None, "1 of 2"),
    ],
)
def test_images_beside_a_boundary_are_counted(logits, threshold, near):
    assert f"{near} untouched images of net" in rounding(gathered(logits, threshold))


def test_nothing_is_said_where_nothing_was_measured():
    assert rounding(Gathered(VariantPlan("net", "net"), None, None, None, (), ())) == ""


def test_another_number_of_threads_moves_logits_by_less_than_the_tolerance():
    target, x, _ = digits()
    found = []
    for count in (1, 2):
        with threads(count), frozen(target.model):
            found.append(Oracle(target).observe(x).logits)
    size = found[0].abs().amax(1)
    assert bool(((found[0] - found[1]).abs().amax(1) <= TOLERANCE / 2 * size).all())
    assert torch.get_num_threads() == 1
