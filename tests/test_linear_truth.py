"""On a linear model the optimum inside the box is known: no attack may miss it by 2 %, none may beat it."""

from dataclasses import replace

import pytest
import torch
from attack_models import linear, optimum

from actsec import registry
from actsec.search.ledger import FOUND
from actsec.search.referee import attack_target, cases_of


def truth(norm):
    target, x, y, w, b = linear()
    value = x.double() @ w.double() + b.double()
    best = optimum(x, w, value, norm)
    keep = torch.isfinite(best)
    assert keep.sum() >= 10
    return target, x[keep], y[keep], best[keep]


@pytest.mark.parametrize("spec", ["minimal_l2", "minimal_l2(steps=30)", "carlini_wagner"])
def test_minimal_attacks_are_within_two_percent_of_the_optimum_and_never_below_it(spec):
    target, x, y, best = truth("l2")
    verdicts = attack_target(registry.build("attacks", spec), target, cases_of(target, x, y, "l2", None))
    assert (verdicts.status == FOUND).all()
    ratio = verdicts.size / best
    assert ratio.max() <= 1.02
    assert ratio.min() >= 1 - 1e-5  # float32 logits decide a tie up to rounding


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    "spec",
    ["fgsm", "fgsm(loss=margin)", "pgd", "pgd(loss=margin)", "pgd(restarts=2, steps=20)", "pgd(random_start=false)"],
)
def test_success_exactly_when_the_budget_allows_it(spec, norm):
    target, x, y, best = truth(norm)
    attack = registry.build("attacks", spec)
    above = attack_target(attack, target, cases_of(target, x, y, norm, best * 1.02))
    below = attack_target(attack, target, cases_of(target, x, y, norm, best * 0.98))
    assert (above.status == FOUND).all()
    assert (below.status != FOUND).all()
    assert above.rejected.sum() == below.rejected.sum() == 0


@pytest.mark.parametrize("spec", ["fgsm", "minimal_l2", "carlini_wagner(search_steps=5, c=0.1)"])
def test_targeted_rows_reach_their_class(spec):
    target, x, y, best = truth("l2")
    eps = best * 1.02 if spec == "fgsm" else None
    cases = replace(cases_of(target, x, y, "l2", eps), target=1 - y)
    verdicts = attack_target(registry.build("attacks", spec), target, cases)
    assert (verdicts.status == FOUND).all()
    assert (target.decide(verdicts.logits) == 1 - y).all()
    assert (verdicts.size <= best * 1.0201).all()
