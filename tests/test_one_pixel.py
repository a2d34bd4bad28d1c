"""All one-pixel changes of a digit on its grid are 64 x 17: the truth is small enough to enumerate."""

from functools import cache

import pytest
import torch
from attack_models import CLASSES, digits
from torch import nn

from actsec import geometry
from actsec.attacks import OnePixel
from actsec.ledger import ALREADY_WRONG, FOUND
from actsec.referee import attack_target, cases_of
from actsec.types import Target


@cache
def truth():
    """Which of the images some one-pixel change on the 17 levels fools, by plain enumeration."""
    target, x, y = digits()
    exists = []
    with torch.no_grad():
        for image, label in zip(x, y, strict=True):
            tries = image.expand(64, 17, 1, 8, 8).clone()
            for pixel in range(64):
                tries[pixel, :, 0, pixel // 8, pixel % 8] = torch.arange(17) / 16
            exists.append(bool((target.model(tries.flatten(0, 1)).argmax(1) != label).any()))
    return target, x, y, torch.tensor(exists)


def test_exhaustive_finds_all_that_exists_and_nothing_else():
    target, x, y, exists = truth()
    verdicts = attack_target(OnePixel(levels=17), target, cases_of(target, x, y, "l0", 1))
    clean = verdicts.status == ALREADY_WRONG
    assert 5 <= (exists & ~clean).sum() < len(x) - 5
    assert torch.equal(verdicts.status == FOUND, exists & ~clean)
    assert (geometry.distance(verdicts.x, x, "l0") <= 1).all()
    assert verdicts.forwards.max() <= 64 * 17 + 9


def test_evolution_on_the_grid_finds_most_and_invents_nothing():
    target, x, y, exists = truth()
    attack = OnePixel(mode="paper", levels=17, population=100, generations=15)
    verdicts = attack_target(attack, target, cases_of(target, x, y, "l0", 1))
    exists = exists & (verdicts.status != ALREADY_WRONG)
    found = verdicts.status == FOUND
    assert not (found & ~exists).any()
    assert found.sum() >= 0.9 * exists.sum()
    changed = verdicts.x != x
    assert torch.equal((verdicts.x * 16)[changed], (verdicts.x * 16).round()[changed])


@pytest.mark.parametrize("mode", ["exhaustive", "paper"])
def test_colour_images_and_feature_vectors(mode):
    torch.manual_seed(0)
    for shape, size in (((3, 4, 5), 60), ((9,), 9)):
        model = nn.Sequential(nn.Flatten(), nn.Linear(size, 3))
        target = Target(model, shape, CLASSES[:3])
        x = torch.rand(8, *shape)
        y = target.decide(target.logits(x))
        attack = OnePixel(mode=mode, population=60, generations=5)
        verdicts = attack_target(attack, target, cases_of(target, x, y, "l0", 1))
        assert verdicts.rejected.sum() == 0
        assert (geometry.distance(verdicts.x, x, "l0") <= 1).all()
        assert (verdicts.status == FOUND).any()


def test_exhaustive_tries_every_corner_of_every_colour_pixel_once():
    from actsec.draws import Draws

    target = Target(nn.Identity(), (3, 2, 3), CLASSES)
    x = torch.full((1, 3, 2, 3), 0.5)
    cases, attack = cases_of(target, x, torch.zeros(1, dtype=torch.int64), "l0", 1), OnePixel()
    tried = attack.ask(attack.start(cases, Draws(0)), cases).x[0]
    assert len(tried) == 2 * 3 * 8
    assert len(tried.flatten(1).unique(dim=0)) == 48
    assert (geometry.size(tried - x, "l0") == 1).all()


def test_several_pixels_need_the_budget():
    target, x, y, _ = truth()
    attack = OnePixel(mode="paper", pixels=3, population=40, generations=2)
    three = attack_target(attack, target, cases_of(target, x[:16], y[:16], "l0", 3))
    assert three.rejected.sum() == 0
    one = attack_target(attack, target, cases_of(target, x[:16], y[:16], "l0", 1))
    assert one.rejected.sum() > 0
    assert (geometry.distance(one.x, x[:16], "l0") <= 1).all()
