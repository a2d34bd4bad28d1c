"""Signs, targets and goals."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from actsec.activations.regions import regions
from actsec.errors import ThreatError
from actsec.forcing.aim import DeadCount
from actsec.losses import CrossEntropy, Kill, Margin, Misclassify, margin
from actsec.types import Cases, Observed, SiteValues

Z = torch.tensor([[2.0, 1.0, -1.0], [0.0, 3.0, 1.0], [1.0, 1.0, 1.0]])


def cases(target=-1, y=(0, 0, 0)):
    n = len(y)
    empty = torch.zeros(n, 1)
    return Cases(torch.arange(n), empty, torch.tensor(y), torch.full((n,), target), torch.ones(n).double(), "linf")


def test_margin_is_positive_exactly_when_the_goal_is_reached():
    assert margin(Z, cases()).tolist() == [-1.0, 3.0, 0.0]
    assert margin(Z, cases(target=1)).tolist() == [-1.0, 2.0, 0.0]
    assert margin(Z[:, :2], cases()).tolist() == [-1.0, 3.0, 0.0]


def test_cross_entropy_rises_away_from_the_label_and_towards_the_target():
    loss = F.cross_entropy(Z, torch.zeros(3, dtype=torch.int64), reduction="none")
    assert torch.equal(CrossEntropy()(Observed(Z), cases()), loss)
    assert torch.equal(CrossEntropy()(Observed(Z), cases(target=0)), -loss)
    assert torch.equal(Margin()(Observed(Z), cases()), margin(Z, cases()))


def test_misclassification_never_succeeds_on_what_is_not_finite():
    broken = torch.tensor([[0.0, torch.nan], [0.0, torch.inf], [-torch.inf, 1.0]])
    assert (Misclassify().score(Observed(broken), (), cases()) == -torch.inf).all()


def test_confidence_raises_the_bar():
    assert Misclassify(2.5).score(Observed(Z), (), cases()).tolist() == [-3.5, 0.5, -2.5]


def site(pre, kind="relu"):
    return SiteValues("act", kind, torch.tensor(pre), regions(kind, ()))


def test_kill_counts_the_net_rise_of_dead_units_over_sites_that_can_die():
    before = Observed(Z[:1], (site([[1.0, -1.0, 2.0, 3.0]]), site([[-1.0]], "gelu")))
    after = Observed(Z[:1], (site([[-1.0, 1.0, 0.0, 3.0]]), site([[-9.0]], "gelu")))
    lost = Observed(Z[:1], (site([[-1.0, -1.0, -1.0, float("nan")]]), site([[-9.0]], "gelu")))
    goal, one = Kill(), cases(y=(0,))
    assert goal.score(after, goal.baseline(before), one).tolist() == [0.25]
    assert goal.score(lost, goal.baseline(before), one).tolist() == [-1]  # NaN is neither dead nor alive: it never wins
    with pytest.raises(ThreatError, match="gelu cannot be killed"):
        goal.baseline(Observed(Z[:1], (site([[1.0]], "gelu"),)))
    with pytest.raises(ThreatError, match="no activation"):
        goal.baseline(Observed(Z[:1]))


def test_dead_count_rises_as_units_die_and_ignores_the_others():
    one = cases(y=(0,))
    count = [DeadCount()(Observed(Z[:1], (site([[a, 1.0, -1.0]]),)), one).item() for a in (1.0, 0.1, -1.0)]
    assert count == sorted(count)
    assert DeadCount()(Observed(Z[:1], (site([[1.0]], "tanh"),)), one) == 0
    both = Observed(Z[:1], (site([[1.0, -1.0]]), site([[5.0]], "tanh")))
    assert DeadCount()(both, one) == DeadCount()(replace(both, sites=both.sites[:1]), one)
