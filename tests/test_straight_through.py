"""A stand-in with a mended graph: the same answers, other gradients, and successes that are the model's own."""

from __future__ import annotations

import pytest
import torch
from attack_models import digits
from torch import nn

import actsec
from actsec.attacks import BPDA
from actsec.describing import fingerprint
from actsec.errors import BadOption, ModelError, UnknownName
from actsec.search.straight_through import stand_in
from actsec.types import Target

EPS = 0.1


class Before(nn.Module):
    """A step before the model."""

    def __init__(self, step, model):
        super().__init__()
        self.step, self.model = step, model

    def forward(self, x):
        return self.model(self.step(x))


class Ungraded(nn.Module):
    def forward(self, x):
        with torch.no_grad():
            return (x - 0.3) / 0.5 * 0.5 + 0.3


class Numpy(nn.Module):
    def forward(self, x):
        return torch.from_numpy((8 * x.detach().numpy()).round() / 8)


class Step(nn.Module):
    def forward(self, x):
        return (x > 0.5).float()


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def guarded(step):
    target, x, y = digits()
    return Target(Before(step, target.model), target.shape, target.classes), x[:32], y[:32]


BROKEN = {
    "rounded": (Function(lambda x: (8 * x).round() / 8), ()),
    "detached": (Function(lambda x: x.detach()), ()),
    "data": (Function(lambda x: x.data), ()),
    "no_grad": (Ungraded(), ()),
    "numpy": (Numpy(), ("step",)),
    "step": (Step(), ("step",)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_outputs_are_the_models_own_and_the_gradient_is_that_of_the_identity(name):
    step, around = BROKEN[name]
    target, x, _ = guarded(step)
    before = fingerprint(target)
    made = stand_in(target, around)
    torch.testing.assert_close(made.logits(x), target.logits(x), rtol=1e-5, atol=1e-5)
    leaf = x.clone().requires_grad_(True)
    (mended,) = torch.autograd.grad(made.logits(leaf).logsumexp(1).sum(), leaf)
    seen = step(x).detach().requires_grad_(True)
    (expected,) = torch.autograd.grad(target.model.model(seen).logsumexp(1).sum(), seen)
    torch.testing.assert_close(mended, expected, rtol=1e-4, atol=1e-5)
    assert fingerprint(target) == before


def test_an_honest_model_keeps_its_gradient():
    target, x, _ = digits()
    leaf = x[:8].clone().requires_grad_(True)
    slopes = [torch.autograd.grad(t.logits(leaf).square().sum(), leaf)[0] for t in (target, stand_in(target))]
    assert torch.equal(*slopes)


def test_measured_slopes_are_those_of_a_linear_step_and_do_not_depend_on_the_other_rows():
    torch.manual_seed(0)
    weight = torch.randn(3, 4)
    target = Target(Before(Function(lambda x: (x @ weight.T).detach()), nn.Identity()), (4,), ("a", "b", "c"))
    made = stand_in(target, ("step",), directions=4000)
    x = torch.rand(3, 4)

    def slopes(rows):
        leaf = rows.clone().requires_grad_(True)
        return torch.autograd.grad(made.logits(leaf)[:, 1].sum(), leaf)[0]

    together = slopes(x)
    torch.testing.assert_close(together, weight[1].expand(3, -1), rtol=0, atol=0.25)
    torch.testing.assert_close(slopes(x[1:2]), together[1:2], rtol=1e-5, atol=1e-5)


def test_bpda_breaks_what_pgd_cannot_see():
    target, x, y = guarded(Ungraded())
    blind = actsec.attack(target, x, y, "pgd(steps=20, loss=margin)", eps=EPS)
    seeing = actsec.attack(target, x, y, BPDA(steps=20, restarts=1), eps=EPS)
    honest = actsec.attack(digits()[0], x, y, "pgd(steps=20, loss=margin)", eps=EPS)
    assert blind.success.sum() <= 2
    assert abs(int(seeing.success.sum()) - int(honest.success.sum())) <= 3
    assert seeing.success.sum() > 10
    wrong = target.decide(target.logits(torch.from_numpy(seeing.x))) != y
    assert wrong[torch.from_numpy(seeing.success)].all()


def test_what_cannot_be_mended_says_how_to_go_on():
    target, x, y = guarded(Numpy())
    with pytest.raises(ModelError, match="stays broken"):
        actsec.attack(target, x, y, "bpda", eps=EPS)
    with pytest.raises(UnknownName, match="step"):
        actsec.attack(target, x, y, "bpda(around=[stepp])", eps=EPS)
    with pytest.raises(BadOption, match="bpda"):
        BPDA(steps=0)
