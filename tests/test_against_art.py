"""The Adversarial Robustness Toolbox on the same model and the same examples: ours is as strong or stronger."""

import warnings
from functools import cache

import numpy as np
import pytest
import torch
from attack_models import digits
from torch import nn

from actsec import geometry
from actsec.attacks import FGSM, PGD, CarliniWagner, MinimalL2, OnePixel
from actsec.search.ledger import ALREADY_WRONG, FOUND
from actsec.search.referee import attack_target, cases_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what ART's own imports deprecate is not ours
    from art.attacks.evasion import CarliniL2Method, FastGradientMethod, PixelAttack, ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::RuntimeWarning")


@cache
def setting():
    target, x, y = digits()
    keep = target.decide(target.logits(x)) == y
    classifier = PyTorchClassifier(
        target.model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1), device_type="cpu"
    )
    return target, classifier, x[keep], y[keep]


def theirs(attack, x, y):
    """Which rows ART fools, and how far it went."""
    target, _, _, _ = setting()
    made = torch.tensor(np.asarray(attack.generate(x.numpy(), np.eye(10, dtype=np.float32)[y.numpy()])))
    target.model.zero_grad()
    return made, target.decide(target.logits(made)) != y


def ours(attack, norm, eps, x, y):
    target, _, _, _ = setting()
    verdicts = attack_target(attack, target, cases_of(target, x, y, norm, eps))
    assert (verdicts.status != ALREADY_WRONG).all()
    return verdicts, verdicts.status == FOUND


@pytest.mark.parametrize("eps", [0.05, 0.1, 0.2])
def test_fast_gradient_method(eps):
    _, classifier, x, y = setting()
    _, fooled = theirs(FastGradientMethod(classifier, eps=eps, batch_size=64), x, y)
    _, found = ours(FGSM(), "linf", eps, x, y)
    assert torch.equal(found, fooled)
    assert found.any()


@pytest.mark.parametrize("eps", [0.3, 0.6])
def test_fast_gradient_method_l2(eps):
    _, classifier, x, y = setting()
    _, fooled = theirs(FastGradientMethod(classifier, norm=2, eps=eps, batch_size=64), x, y)
    _, found = ours(FGSM(), "l2", eps, x, y)
    assert found.sum() >= fooled.sum() > 0


@pytest.mark.parametrize(("norm", "order", "eps"), [("linf", np.inf, 0.05), ("linf", np.inf, 0.1), ("l2", 2, 0.5)])
def test_projected_gradient_descent(norm, order, eps):
    _, classifier, x, y = setting()
    attack = ProjectedGradientDescent(
        classifier, norm=order, eps=eps, eps_step=2.5 * eps / 20, max_iter=20, batch_size=64, verbose=False
    )
    _, fooled = theirs(attack, x, y)
    _, found = ours(PGD(20, random_start=False), norm, eps, x, y)
    assert found.sum() >= fooled.sum() > 0


def test_carlini_wagner_l2():
    _, classifier, x, y = setting()
    x, y = x[:12], y[:12]
    made, fooled = theirs(CarliniL2Method(classifier, max_iter=10, batch_size=12, verbose=False), x, y)
    size = torch.where(fooled, geometry.distance(made, x, "l2"), torch.inf)
    for attack in (CarliniWagner(steps=200, search_steps=6, c=0.1), MinimalL2()):
        verdicts, found = ours(attack, "l2", None, x, y)
        assert found.sum() >= fooled.sum()
        assert verdicts.size[found].median() <= size.median()


def test_pixel_attack():
    _, classifier, x, y = setting()
    x, y = x[:8], y[:8]
    made, fooled = theirs(PixelAttack(classifier, th=1, es=1, max_iter=5, verbose=False), x, y)
    assert (geometry.distance(made, x, "l0") <= 1).all()
    for attack in (OnePixel(), OnePixel(mode="paper", generations=20)):
        _, found = ours(attack, "l0", 1, x, y)
        assert found.sum() >= fooled.sum()
