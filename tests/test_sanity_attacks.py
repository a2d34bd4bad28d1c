"""The attacks that the checks rest on: averaged differences and shrinking noise, against what is known."""

from __future__ import annotations

import pytest
import torch
from attack_models import digits, linear, optimum
from frauds import CLASSES, KWTA, train
from frauds import digits as rows

from actsec.attacks import PGD, AveragedDifferences, MinimalL2, Noise
from actsec.errors import BadOption, ThreatError
from actsec.search.ledger import ALREADY_WRONG, FOUND
from actsec.search.referee import attack_target, cases_of
from actsec.types import Target


def needed(x, w, b):
    return x.double() @ w.double() + b.double()


def test_on_a_linear_model_the_slope_is_the_weights_and_the_corner_is_reached():
    target, x, y, w, b = linear(n=12, d=12)
    eps = 0.05
    verdicts = attack_target(AveragedDifferences(20, directions=40), target, cases_of(target, x, y, "linf", eps))
    best = attack_target(PGD(20, loss="margin"), target, cases_of(target, x, y, "linf", eps))
    assert torch.equal(verdicts.status == FOUND, best.status == FOUND)
    stood = best.status == 2
    assert stood.sum() >= 3
    start = needed(x, w, b).abs()
    gained = [(v.score[stood].double() + start[stood]) for v in (verdicts, best)]
    assert (gained[0] >= 0.9 * gained[1]).all()
    assert (verdicts.backwards == 0).all()


@pytest.mark.parametrize(("attack", "factor"), [(AveragedDifferences(60, directions=20), 1.3), (Noise(300), 6.0)])
def test_the_smallest_change_is_never_below_the_truth_and_within_a_factor(attack, factor):
    target, x, y, w, b = linear(n=12, d=12)
    verdicts = attack_target(attack, target, cases_of(target, x, y, "l2", None))
    truth = optimum(x, w, needed(x, w, b), "l2")
    asked = (verdicts.status != ALREADY_WRONG) & torch.isfinite(truth)
    assert (verdicts.status[asked] == FOUND).float().mean() > 0.7
    hit = asked & (verdicts.status == FOUND)
    assert (verdicts.size[hit] >= truth[hit] * (1 - 1e-5)).all()
    assert (verdicts.size[hit] / truth[hit]).median() < factor


def test_jumping_functions_hide_their_gradient_and_not_their_scores():
    model = train(KWTA, epochs=25)
    _, _, x, y = rows()
    target = Target(model, (64,), CLASSES)
    x, y = x[:30], y[:30]
    followed = attack_target(PGD(40, restarts=2, loss="margin"), target, cases_of(target, x, y, "linf", 0.1))
    averaged = attack_target(AveragedDifferences(40, directions=20), target, cases_of(target, x, y, "linf", 0.1))
    assert (averaged.status == FOUND).sum() >= (followed.status == FOUND).sum() + 3
    smallest = attack_target(MinimalL2(), target, cases_of(target, x, y, "l2", None))
    nearer = attack_target(AveragedDifferences(), target, cases_of(target, x, y, "l2", None))
    assert (nearer.size < 0.9 * smallest.size)[(smallest.status == FOUND) & (nearer.status == FOUND)].sum() >= 4


def test_on_an_honest_model_neither_comes_nearer_than_the_gradient():
    target, x, y = digits()
    cases = cases_of(target, x[:24], y[:24], "l2", None)
    gradient, averaged, noise = (
        attack_target(a, target, cases) for a in (MinimalL2(), AveragedDifferences(30, directions=5), Noise(20))
    )
    for other in (averaged, noise):
        assert not (other.smallest[:, 1] < 0.98 * gradient.smallest[:, 1]).any()


def test_what_has_no_sense_is_refused():
    target, x, y = digits()
    for norm, attack in (("linf", AveragedDifferences()), ("linf", Noise()), ("l0", Noise())):
        with pytest.raises(ThreatError, match="budget"):
            attack_target(attack, target, cases_of(target, x[:4], y[:4], norm, None))
    for options in ({"steps": 0}, {"directions": 0}, {"smoothing": 0.0}, {"momentum": 1.0}):
        with pytest.raises(BadOption, match="averaged_differences"):
            AveragedDifferences(**options)
