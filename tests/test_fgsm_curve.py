"""FGSM at many sizes from one gradient, at the smallest that works, and where the cross-entropy is flat."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attack_models import digits, linear, optimum
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import actsec
from actsec.attacks import FGSM
from actsec.attacks.fgsm import GRID, SlopingCrossEntropy
from actsec.errors import BadOption, ThreatError
from actsec.losses import CrossEntropy, Margin
from actsec.search.ledger import ALREADY_WRONG, FOUND
from actsec.search.referee import attack_target, cases_of
from actsec.types import Ask, Observed, Target

EPS = (2 / 255, 8 / 255, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7)


class Scaled(nn.Module):
    def __init__(self, inner, by):
        super().__init__()
        self.inner, self.by = inner, by

    def forward(self, x):
        return self.by * self.inner(x)


def five_lines(model, x, y, eps):
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    return (x + eps * gradient.sign()).clamp(0, 1)


def test_a_curve_is_the_five_lines_at_every_eps():
    target, x, y = digits()
    found = actsec.curve(target, x, y, eps=EPS)
    right = target.decide(target.logits(x)) == y
    for i, eps in enumerate(EPS):
        fooled = target.decide(target.logits(five_lines(target.model, x, y, eps))) != y
        assert np.array_equal(found.success[i], (fooled & right).numpy()), eps
        assert found.still_correct[i].k == int((~fooled & right).sum())
        assert found.still_correct[i].n == len(x)
        alone = actsec.attack(target, x, y, "fgsm", eps=eps)
        assert np.array_equal(alone.success, found.success[i])
    least = np.where(found.success, np.array(EPS)[:, None], np.inf).min(0)
    assert np.array_equal(found.smallest, np.where(right.numpy(), least, 0))
    assert found.still_correct[0].k > found.still_correct[-1].k
    assert found.sentence.startswith(f"64 tested, {int(right.sum())} correct before; still correct in linf: ")


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_images_of_a_curve_are_those_of_single_runs_bit_for_bit(norm):
    target, x, y = digits()
    eps = [value * {"linf": 1, "l2": 6, "l1": 30}[norm] for value in EPS]
    seen = []

    def keep(index, ask, reply):
        if ask.loss is None:
            seen.append(ask.x)

    cases = cases_of(target, x, y, norm, None)
    whole = attack_target(FGSM(sizes=tuple(eps)), target, cases, note=keep)
    tried = whole.status != ALREADY_WRONG
    assert [len(part) for part in seen] == [int(tried.sum())]
    for i, value in enumerate(eps):
        attack_target(FGSM(), target, cases_of(target, x, y, norm, value), note=keep, settle=False)
        assert torch.equal(seen.pop()[:, 0], seen[0][:, i]), value


def test_a_curve_costs_one_gradient_and_a_forward_for_each_eps():
    target, x, y = digits()
    cases = cases_of(target, x, y, "linf", None)
    verdicts = attack_target(FGSM(sizes=EPS), target, cases)
    asked = verdicts.status != ALREADY_WRONG
    assert verdicts.forwards[asked].unique().tolist() == [1 + len(EPS)]
    assert verdicts.backwards[asked].unique().tolist() == [1]
    assert verdicts.forwards[~asked].unique().tolist() == [0]


def test_other_attacks_are_run_once_for_each_eps():
    target, x, y = digits()
    found = actsec.curve(target, x[:16], y[:16], "pgd(steps=3)", eps=[0.05, 0.2], seed=4)
    for i, eps in enumerate((0.05, 0.2)):
        alone = actsec.attack(target, x[:16], y[:16], "pgd(steps=3)", eps=eps, seed=4)
        assert np.array_equal(found.success[i], alone.success)
    noisy = target.having(stochastic=True)
    assert actsec.curve(noisy, x[:8], y[:8], eps=[0.3]).success.shape == (1, 8)
    with pytest.raises(BadOption, match="eps=\\[\\]"):
        actsec.curve(target, x, y, eps=[])
    with pytest.raises(BadOption, match="above 0"):
        actsec.curve(target, x, y, eps=[0.1, 0])


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_on_a_linear_model_the_smallest_step_is_the_optimum(norm):
    target, x, y, w, b = linear(40)
    need = x.double() @ w.double() + b.double()
    truth = optimum(x, w, need, "linf" if norm == "linf" else "l2")
    verdicts = attack_target(FGSM(), target, cases_of(target, x, y, norm, None))
    found = verdicts.status == FOUND
    assert found.sum() > 30
    if norm == "l1":  # coordinates are filled by falling gradient: the fractional knapsack, which is the optimum in l1
        gain = torch.where(need[:, None] * w < 0, 1 - x, x) * w.abs()
        order = w.abs().argsort(descending=True)
        for i in torch.nonzero(found).flatten().tolist():
            left, size = abs(float(need[i])), 0.0
            for j in order.tolist():
                share = min(1.0, left / max(float(gain[i, j]), 1e-12))
                size += share * float(gain[i, j] / w[j].abs())
                left -= share * float(gain[i, j])
            assert size * (1 - 1e-5) <= verdicts.size[i] <= size * 1.003
        return
    assert torch.equal(found, torch.isfinite(truth) & (truth > 0))
    assert (verdicts.size[found] >= truth[found] * (1 - 1e-5)).all()
    assert (verdicts.size[found] <= truth[found] * 1.003).all()


def test_the_smallest_step_works_and_the_sizes_just_below_it_do_not():
    target, x, y = digits()
    verdicts = attack_target(FGSM(), target, cases_of(target, x, y, "linf", None))
    found = verdicts.status == FOUND
    assert found.sum() > 55
    asked = verdicts.status != ALREADY_WRONG
    assert verdicts.forwards[asked].unique().tolist() == [1 + GRID + 3 * 8]
    size = verdicts.size[found]
    again = five_lines(target.model, x[found], y[found], 1.0)
    direction = torch.sign(again - x[found])
    for factor, wrong in ((1.0, True), (0.997, False)):
        moved = (x[found] + direction * (size * factor)[:, None, None, None].float()).clamp(0, 1)
        decided = target.decide(target.logits(moved)) != y[found]
        assert decided.float().mean() > 0.95 if wrong else decided.float().mean() < 0.05
    finer = attack_target(FGSM(refine=5), target, cases_of(target, x, y, "linf", None))
    assert (finer.size[found] <= size).all()
    assert (finer.size[found] >= size * 0.997).all()


class Islands(nn.Module):
    """Two classes of one number: class 1 on [0.30, 0.32] and from 0.9 on, else class 0. The slope is always up."""

    def forward(self, x):
        z = x.flatten(1).sum(1)
        inside = ((z >= 0.30) & (z <= 0.32)) | (z >= 0.9)
        return torch.stack([torch.zeros_like(z), torch.where(inside, 1.0, -1.0).detach() + 0.1 * z - 0.1], 1)


def test_where_success_is_not_monotone_the_first_crossing_of_the_grid_is_refined():
    target = Target(Islands(), (1,), ("a", "b"))
    x, y = torch.tensor([[0.0], [0.06], [0.07]]), torch.zeros(3, dtype=torch.int64)
    verdicts = attack_target(FGSM(refine=4), target, cases_of(target, x, y, "linf", None))
    # From 0.07 a quarter of the way lands on the island; from the others the far shore is all that the grid shows.
    assert (verdicts.status == FOUND).all()
    least = [0.9, 0.9, 0.9]
    tries = [1.0 * 0.5**i for i in range(GRID)]
    for i, value in enumerate(x.flatten().tolist()):
        widest = max(1 - value, value)
        if any(0.30 <= value + t * widest <= 0.32 for t in tries):
            least[i] = 0.30
    assert torch.allclose(verdicts.size, torch.tensor(least).double() - x.flatten().double(), atol=2e-4)


def test_a_row_that_no_size_of_the_grid_fools_spends_its_questions_between_them():
    class Comb(nn.Module):
        def forward(self, x):
            z = x.flatten(1).sum(1)
            inside = (z > 0.66) & (z < 0.72)
            return torch.stack([torch.zeros_like(z), torch.where(inside, 1.0, -1.0).detach() + 0.1 * z - 0.1], 1)

    target = Target(Comb(), (1,), ("a", "b"))
    cases = cases_of(target, torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), "linf", None)
    coarse, fine = (attack_target(FGSM(refine=r), target, cases) for r in (0, 4))
    assert (coarse.status != FOUND).all()
    assert (fine.status == FOUND).all()
    assert (fine.size < 0.672).all()


@given(
    logits=st.lists(st.lists(st.floats(-60, 60, width=32), min_size=4, max_size=4), min_size=1, max_size=5),
    aim=st.integers(-1, 3),
)
@settings(max_examples=60, deadline=None)
def test_the_loss_is_the_cross_entropy_unless_its_gradient_is_gone(logits, aim):
    z = torch.tensor(logits).requires_grad_(True)
    n = len(logits)
    target = Target(nn.Identity(), (4,), tuple("abcd"), bounds=(-100.0, 100.0))
    cases = cases_of(target, z.detach(), torch.arange(n) % 4, "linf", 1.0)
    cases = replace(cases, target=torch.full((n,), aim))
    slopes = {}
    for loss in (SlopingCrossEntropy(), CrossEntropy(), Margin()):
        (slopes[type(loss)],) = torch.autograd.grad(loss(Observed(z), cases).sum(), z)
    flat = slopes[CrossEntropy].abs().sum(1) < 1e-12
    assert torch.equal(SlopingCrossEntropy().flat(z.detach(), cases), flat)
    expected = torch.where(flat[:, None], slopes[Margin], slopes[CrossEntropy])
    assert torch.equal(slopes[SlopingCrossEntropy], expected)


def test_a_saturated_model_is_climbed_by_its_margin_and_that_is_said():
    target, x, y = digits()
    sharp = Target(Scaled(target.model, 1e4).eval(), target.shape, target.classes)
    right = target.decide(target.logits(x)) == y
    blind = (target.decide(target.logits(five_lines(sharp.model, x, y, 0.2))) != y) & right
    found = actsec.attack(sharp, x, y, "fgsm", eps=0.2)
    plain = actsec.attack(target, x, y, "fgsm(loss=margin)", eps=0.2)
    assert found.success.sum() > blind.sum()
    flat = SlopingCrossEntropy().flat(sharp.logits(x), cases_of(sharp, x, y, "linf", 0.2)) & right
    assert flat.sum() > 0
    assert np.array_equal(found.x[flat], plain.x[flat])
    assert found.sentence.endswith(f"; {int(flat.sum())} climbed the margin, their cross-entropy being flat")
    assert "flat" not in actsec.attack(target, x, y, "fgsm", eps=0.2).sentence
    assert "flat" not in actsec.attack(sharp, x, y, "fgsm(loss=margin)", eps=0.2).sentence


def test_mixed_steps_of_rows_change_no_candidate():
    """Rows that join late are asked beside older ones; what is asked of each stays what it is."""
    target, x, y = digits()
    attack = FGSM()
    cases = cases_of(target, x[:6], y[:6], "linf", None)
    from actsec import rows
    from actsec.draws import Draws
    from actsec.losses import Misclassify
    from actsec.search.answering import answer
    from actsec.search.oracle import Oracle

    draws, old, young = Draws(0), cases.rows(torch.arange(3)), cases.rows(torch.arange(3, 6))
    state = attack.start(old, draws)
    ask = attack.ask(state, old)
    state = attack.tell(state, answer(Oracle(target), Misclassify(), ask, old, ()), old, draws)
    mixed = attack.ask(rows.join(state, attack.start(young, draws)), cases)
    alone = attack.ask(state, old)
    assert isinstance(mixed, Ask)
    assert mixed.x.shape[1] == GRID
    assert torch.equal(mixed.x[:3], alone.x)
    assert torch.equal(mixed.x[3:], young.x[:, None].expand(-1, GRID, -1, -1, -1))
    assert mixed.wants is not None
    assert mixed.wants.tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize("text", ["fgsm(sizes=[0])", "fgsm(sizes=[inf])", "fgsm(refine=-1)", "fgsm(candidates=0)"])
def test_bad_options_are_named(text):
    with pytest.raises(BadOption, match="fgsm"):
        actsec.attack(*digits(), text, threat="linf")


def test_impossible_threats_are_refused():
    target, x, y = digits()
    with pytest.raises(ThreatError, match="takes no eps"):
        actsec.attack(target, x, y, "fgsm(sizes=[0.1])", threat="linf:0.1")
    with pytest.raises(ThreatError, match="needs an eps"):
        actsec.attack(target, x, y, "fgsm")
    some = replace(cases_of(target, x, y, "linf", 0.1), eps=torch.tensor([0.1, torch.inf] * 32).double())
    with pytest.raises(ThreatError, match="some examples only"):
        attack_target(FGSM(), target, some)
