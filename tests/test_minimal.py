"""The two attacks that look for the smallest L2 change: nearest class, masks, confidence, where they begin."""

from dataclasses import replace

import pytest
import torch
from attack_models import digits, linear, optimum
from torch import nn

from actsec import registry
from actsec.attacks import CarliniWagner, MinimalL2
from actsec.errors import BadOption
from actsec.losses import Confident, Misclassify
from actsec.search.ledger import ALREADY_WRONG, FOUND
from actsec.search.referee import attack_target, cases_of
from actsec.types import Target


def test_the_nearest_class_is_found_although_every_gradient_away_from_the_label_points_elsewhere():
    """Class 1 has the larger logit but a flat slope; class 2 is nearer. Away from the label leads to class 1."""

    class Fork(nn.Module):
        def forward(self, x):
            return torch.stack([torch.zeros_like(x[:, 0]), 0.2 * x[:, 0] - 0.1, 4 * x[:, 1] - 1.2], 1)

    target = Target(Fork(), (2,), ("a", "b", "c"))
    x, y = torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)
    cases = cases_of(target, x, y, "l2", None)
    seen = attack_target(MinimalL2(), target, cases)
    assert (seen.status == FOUND).all()
    # To class 1 it is 0.1 / 0.2 = 0.5, to class 2 it is 1.2 / 4 = 0.3.
    torch.testing.assert_close(seen.size, torch.full((3,), 0.3).double(), rtol=2e-3, atol=0)
    blind = attack_target(MinimalL2(targets=1, scouts=1), target, cases)
    torch.testing.assert_close(blind.size, torch.full((3,), 0.5).double(), rtol=2e-3, atol=0)


def test_the_cost_is_what_the_page_says():
    target, x, y = digits()
    attack = MinimalL2(steps=10, walks=2, targets=4, scouts=2, refine=3)
    verdicts = attack_target(attack, target, cases_of(target, x[:12], y[:12], "l2", None))
    tried = verdicts.status != ALREADY_WRONG
    assert verdicts.backwards[tried].max() <= 4 + 8 * 2 + 2 * 10
    assert verdicts.backwards[tried].min() >= 4 + 8 + 10
    assert (verdicts.forwards - verdicts.backwards)[tried].eq(3).all()


class Winners(nn.Module):
    """k-winners-take-all: its gradient jumps wherever the k-th largest unit changes."""

    def forward(self, z):
        flat = z.flatten(1)
        least = flat.topk(flat.shape[1] // 5, 1).values[:, -1:]
        return torch.where(flat >= least, flat, 0.0).reshape(z.shape)


def test_rows_that_still_gain_ground_walk_again_and_the_others_do_not():
    target, x, y = digits()
    layers = [Winners() if isinstance(layer, nn.ReLU) else layer for layer in target.model]
    jumping = replace(target, model=nn.Sequential(*layers))
    spent, sizes = {}, {}
    for name, model in (("relu", target), ("kwta", jumping)):
        y = model.decide(model.logits(x))
        for walks in (1, 4):
            found = attack_target(MinimalL2(walks=walks), model, cases_of(model, x, y, "l2", None))
            assert (found.status == FOUND).all()
            spent[name, walks], sizes[name, walks] = found.backwards.double().mean(), found.size.mean()
    assert sizes["kwta", 4] < 0.97 * sizes["kwta", 1]
    assert sizes["relu", 4] <= sizes["relu", 1] * 1.001
    extra = {name: spent[name, 4] - spent[name, 1] for name in ("relu", "kwta")}
    assert extra["relu"] < extra["kwta"]


@pytest.mark.parametrize("text", ["minimal_l2", "carlini_wagner"])
def test_coordinates_that_may_not_change_do_not(text):
    target, x, y, w, b = linear()
    held = torch.arange(12) % 3 == 0
    low, high = torch.where(held, x, torch.zeros_like(x)), torch.where(held, x, torch.ones_like(x))
    free = torch.where(held, torch.zeros_like(w), w)
    best = optimum(x, free, x.double() @ w.double() + b.double(), "l2")
    keep = torch.isfinite(best)
    assert keep.sum() >= 6
    cases = replace(cases_of(target, x, y, "l2", None), low=low, high=high).rows(keep)
    verdicts = attack_target(registry.build("attacks", text), target, cases)
    assert (verdicts.status == FOUND).all()
    assert torch.equal(verdicts.x[:, held], x[keep][:, held])
    assert verdicts.rejected.sum() == 0
    ratio = verdicts.size / best[keep]
    assert ratio.min() >= 1 - 1e-5
    assert ratio.max() <= 1.02


@pytest.mark.parametrize("goal", [Misclassify(3.0), Confident(0.99)])
def test_what_confidence_costs_is_found_at_its_own_boundary(goal):
    target, x, y = digits()
    cases = cases_of(target, x[:16], y[:16], "l2", None)
    plain, sure = (attack_target(MinimalL2(), target, cases, g) for g in (Misclassify(), goal))
    both = (plain.status == FOUND) & (sure.status == FOUND)
    assert both.sum() >= 14
    assert (sure.size > plain.size)[both].all()
    shorter = (x[:16] + (sure.x - x[:16]) * 0.995)[both]
    with torch.no_grad():
        logits = target.logits(shorter)
    if isinstance(goal, Confident):
        wrong = logits.softmax(1).scatter(1, y[:16][both][:, None], 0).amax(1)
        assert (wrong < 0.99).all()
    else:
        gap = (
            logits.scatter(1, y[:16][both][:, None], -torch.inf).amax(1) - logits.gather(1, y[:16][both][:, None])[:, 0]
        )
        assert (gap < 3.0).all()


def test_a_row_without_gradient_or_success_ends_and_says_so():
    target = Target(nn.Sequential(nn.Linear(4, 3)), (4,), ("a", "b", "c"))
    with torch.no_grad():
        target.model[0].weight.zero_()
        target.model[0].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    cases = cases_of(target, torch.rand(3, 4), torch.zeros(3, dtype=torch.int64), "l2", None)
    verdicts = attack_target(MinimalL2(steps=5), target, cases)
    assert not (verdicts.status == FOUND).any()
    assert torch.isfinite(verdicts.x).all()
    assert (verdicts.size > 0).all()


def test_carlini_wagner_begins_at_the_input():
    """Not a thousandth beside it, which on 3,072 pixels is half the distance looked for."""
    target, x, y = digits()
    attack, cases = CarliniWagner(), cases_of(target, x[:4], y[:4], "l2", None)
    asked = attack.ask(attack.start(cases, None), cases).x[:, 0]
    inner = (x[:4] > 0.01) & (x[:4] < 0.99)
    assert (asked - x[:4])[inner].abs().max() < 1e-6
    assert (asked - x[:4]).abs().max() <= 0.5e-3 + 1e-6


def test_carlini_wagner_goes_on_from_what_a_recipe_found():
    target, x, y = digits()
    cases = cases_of(target, x[:4], y[:4], "l2", None)
    found = replace(cases, start=(x[:4] * 0.9 + 0.05))
    begins = [CarliniWagner(start_at=at) for at in ("input", "best")]
    asked = [attack.ask(attack.start(found, None), found).x[:, 0] for attack in begins]
    torch.testing.assert_close(asked[1], found.start, rtol=0, atol=1e-5)
    assert not torch.equal(asked[0], asked[1])


@pytest.mark.parametrize(
    "text", ["minimal_l2(scouts=10)", "minimal_l2(confidence=-1)", "carlini_wagner(start_at=here)"]
)
def test_bad_options_are_named(text):
    with pytest.raises(BadOption, match=text.split("(")[0]):
        registry.build("attacks", text)
