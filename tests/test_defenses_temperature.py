"""Temperature scaling against closed forms and independent implementations."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.optimize import brentq
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from test_defenses import answers, digits, everything, material, plain_pgd, trained
from torch import nn
from torch.nn import functional as F

from actsec import registry
from actsec.defenses import Temperature
from actsec.defenses.temperature import HIGHEST, LOWEST, best_temperature, nll
from actsec.errors import ModelError
from actsec.spec import parse
from actsec.types import Split, Target, Threat


class Head(nn.Module):
    """Hands its input on as logits, in the form asked for."""

    def __init__(self, form="matrix"):
        super().__init__()
        self.form = form

    def forward(self, x):
        forms = {
            "matrix": lambda: x,
            "vector": lambda: x[:, 0],
            "column": lambda: x[:, :1],
            "dict": lambda: {"features": x * 7, "logits": x},
            "field": lambda: {"logits": x * 7, "mine": x},
            "tuple": lambda: (x, None),
        }
        return forms[self.form]()


def sampled(n=4000, classes=5, k=1.0, seed=0):
    """Logits (n, classes) float64 and labels drawn from their own softmax: calibrated at k = 1."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, classes, generator=g, dtype=torch.float64) * 2
    return z * k, torch.multinomial(z.softmax(1), 1, generator=g)[:, 0]


def fitted(z, y, form="matrix", **fields):
    target = Target(Head(form), tuple(z.shape[1:]), fields.pop("classes", tuple("abcde")[: z.shape[1]]), **fields)
    wrapped = Temperature().wrap(target)
    return wrapped, Temperature().fit(wrapped, material(calibration=Split(z, y, torch.arange(len(y)))))


def root(z, y):
    """1/T as the root of the likelihood's derivative, sum of z_y - E_p[z]: another way to the same number."""

    def slope(b):
        return float((z.gather(1, y[:, None])[:, 0] - ((b * z).softmax(1) * z).sum(1)).sum())

    return 1 / brentq(slope, 1e-3, 1e3, xtol=1e-14, rtol=1e-14)


def test_a_calibrated_model_has_a_temperature_of_one_within_its_standard_error():
    z, y = sampled(n=20000)
    p = z.softmax(1)
    information = float(((p * z**2).sum(1) - (p * z).sum(1) ** 2).sum())
    assert abs(1 / best_temperature(z[None], y) - 1) < 4 / math.sqrt(information)


@pytest.mark.parametrize("k", [0.1, 0.5, 3.0, 20.0])
def test_logits_times_k_have_k_times_the_temperature(k):
    z, y = sampled()
    assert best_temperature(z[None] * k, y) == pytest.approx(k * root(z, y), rel=1e-6)
    _, found = fitted((z * k).float(), y)
    assert found.numbers["temperature"] == pytest.approx(k * root(z, y), rel=1e-5)
    assert found.numbers["nll_after"] < found.numbers["nll_before"]
    assert not found.numbers["at_bound"]
    assert found.numbers["nll_before"] == pytest.approx(float(F.cross_entropy((z * k).float().double(), y)), rel=1e-12)


class _Passed(ClassifierMixin, BaseEstimator):
    """Tells scikit-learn that the inputs are the logits."""

    def fit(self, x, y):
        self.classes_, self.is_fitted_ = np.unique(y), True
        return self

    def decision_function(self, x):
        return x

    def predict(self, x):
        return self.classes_[x.argmax(1)]


def test_it_agrees_with_scikit_learn_and_lowers_the_ece_that_torchmetrics_computes():
    from torchmetrics.functional.classification import multiclass_calibration_error

    z, y = sampled(k=4.0)
    fresh, labels = sampled(k=4.0, seed=1)
    wrapped, found = fitted(z.float(), y)
    oracle = CalibratedClassifierCV(FrozenEstimator(_Passed().fit(z.numpy(), y.numpy())), method="temperature", cv=2)
    oracle.fit(z.float().numpy(), y.numpy())
    betas = [each.calibrators[0].beta_ for each in oracle.calibrated_classifiers_]
    assert found.numbers["temperature"] == pytest.approx(1 / float(np.mean(betas)), rel=0.03)
    for part in oracle.calibrated_classifiers_:  # a frozen estimator is calibrated on all rows
        assert found.numbers["temperature"] == pytest.approx(1 / float(part.calibrators[0].beta_), rel=1e-4)

    def ece(logits):
        return float(multiclass_calibration_error(logits.softmax(1), labels, num_classes=5, n_bins=15))

    # the labels were drawn from fresh / 4, whose own ECE is what chance leaves: nine tenths of the rest must go
    before, after, own = ece(fresh.float()), ece(wrapped.logits(fresh.float())), ece(fresh.float() / 4)
    assert before - own > 0.1
    assert abs(after - own) < 0.1 * (before - own)


def test_no_label_changes_clean_or_adversarial():
    target, given = trained(), everything()
    wrapped = Temperature().wrap(target)
    Temperature().fit(wrapped, given)
    assert float(wrapped.model.temperature) != 1.0
    test = digits()[2]
    for attacked in (target, wrapped):
        found = plain_pgd(attacked, test.x, test.y, test.id, parse("pgd(steps=5)"), Threat("linf", 0.1), 0)
        before, after = (t.decide(t.logits(found)) for t in (target, wrapped))
        assert torch.equal(before, after)
        assert float((before == test.y).float().mean()) < 0.9
    assert torch.equal(target.decide(target.logits(test.x)), wrapped.decide(wrapped.logits(test.x)))


@settings(max_examples=200, deadline=None)
@given(
    z=st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=6),
    temperature=st.floats(2**-6, 64, width=32),
)
def test_the_winner_is_never_overtaken(z, temperature):
    logits = torch.tensor([z], dtype=torch.float32)
    wrapped = Temperature().wrap(Target(Head(), (len(z),), tuple("abcdef")[: len(z)]))
    wrapped.model.temperature.fill_(temperature)
    scaled = wrapped.logits(logits)
    assert scaled[0, logits.argmax()] == scaled.max()


@pytest.mark.parametrize("form", ["matrix", "vector", "column"])
@pytest.mark.parametrize("threshold", [0.03, 0.3, 0.5, 0.9])
def test_a_threshold_still_decides_the_same(form, threshold):
    g = torch.Generator().manual_seed(3)
    d = torch.randn(3000, generator=g) * 4
    z = torch.stack([torch.zeros_like(d), d], 1) if form == "matrix" else d[:, None]
    y = (torch.rand(3000, generator=g) < torch.sigmoid(d * 0.4)).long()
    wrapped, found = fitted(z, y, form, classes=("no", "yes"), threshold=threshold)
    target = Target(Head(form), tuple(z.shape[1:]), ("no", "yes"), threshold=threshold)
    log_odds = math.log(threshold / (1 - threshold))
    about = d.double() - log_odds
    best = brentq(lambda b: float(((y - torch.sigmoid(b * about + log_odds)) * about).sum()), 1e-2, 1e2, xtol=1e-12)
    assert found.numbers["temperature"] == pytest.approx(1 / best, rel=1e-5)
    assert found.numbers["nll_after"] < found.numbers["nll_before"]
    assert torch.equal(wrapped.decide(wrapped.logits(z)), target.decide(target.logits(z)))
    plain = target.decide(target.logits(z) / found.numbers["temperature"])
    assert torch.equal(plain, target.decide(target.logits(z))) == (threshold == 0.5)
    assert (threshold != 0.5) == any("threshold" in note for note in found.notes)
    expected = (d - log_odds) / found.numbers["temperature"] + log_odds
    two = wrapped.logits(z)
    assert torch.allclose(two[:, 1] - two[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize("form", ["vector", "column"])
def test_one_logit_is_two_with_a_zero(form):
    g = torch.Generator().manual_seed(4)
    d = torch.randn(500, 1, generator=g) * 6
    y = (torch.rand(500, generator=g) < torch.sigmoid(d[:, 0] / 3)).long()
    wrapped, found = fitted(d, y, form, classes=("no", "yes"))
    _, reference = fitted(torch.cat([torch.zeros_like(d), d], 1), y, classes=("no", "yes"))
    assert found.numbers["temperature"] == reference.numbers["temperature"]
    assert wrapped.model(d).shape == ((500,) if form == "vector" else (500, 1))


@pytest.mark.parametrize(("form", "field"), [("dict", None), ("tuple", None), ("field", "mine")])
def test_it_reads_the_head_as_the_target_does(form, field):
    z, y = sampled(n=500, k=3.0)
    wrapped, found = fitted(z.float(), y, form, output=field)
    _, reference = fitted(z.float(), y)
    assert found == reference
    assert torch.equal(wrapped.logits(z.float()), z.float() / wrapped.model.temperature)


def test_wrapping_alone_changes_no_logit_and_gradients_are_divided():
    target = trained()
    wrapped = Temperature().wrap(target)
    assert torch.equal(answers(wrapped), answers(target))
    wrapped.model.temperature.fill_(4.0)
    x = digits()[2].x[:8].clone().requires_grad_(True)
    one, other = (torch.autograd.grad(t.logits(x)[:, 3].sum(), x)[0] for t in (target, wrapped))
    assert torch.equal(one / 4, other)
    assert other.abs().max() > 0


def test_a_split_without_a_mistake_leaves_the_temperature_at_one_and_says_so():
    z, _ = sampled(n=200)
    _, found = fitted(z.float(), z.argmax(1))
    assert found.numbers["temperature"] == 1.0
    assert not found.numbers["determined"]
    assert "does not determine" in found.notes[0]


def test_logits_that_are_far_too_small_stop_at_the_bound_and_say_so():
    z, y = sampled(n=200)
    _, found = fitted(z.float() / 1e5, y)
    assert found.numbers["at_bound"]
    assert found.numbers["temperature"] == pytest.approx(LOWEST)
    assert "does not determine" in found.notes[0]


def test_worse_than_chance_confidence_stops_at_the_other_bound():
    z, _ = sampled(n=200)
    _, found = fitted(z.float(), z.argmin(1))
    assert found.numbers["temperature"] == HIGHEST
    assert found.numbers["at_bound"]


def test_logits_that_say_nothing_keep_a_temperature_of_one():
    _, found = fitted(torch.zeros(50, 3), torch.arange(50) % 3)
    assert found.numbers["temperature"] == 1.0
    assert not found.numbers["at_bound"]
    assert found.numbers["nll_after"] == pytest.approx(math.log(3))


def test_logits_that_are_not_finite_are_refused():
    z, y = sampled(n=50)
    z[7, 2] = math.inf
    with pytest.raises(ModelError, match="not finite"):
        fitted(z.float(), y)


def test_it_is_not_fitted_to_a_model_it_has_not_wrapped():
    with pytest.raises(ModelError, match="has not wrapped"):
        Temperature().fit(trained(), everything())


def test_fitting_twice_is_fitting_once():
    z, y = sampled(n=300, k=5.0)
    wrapped, found = fitted(z.float(), y)
    again = Temperature().fit(wrapped, material(calibration=Split(z.float(), y, torch.arange(300))))
    assert again == found


def test_the_likelihood_over_draws_is_that_of_the_mean_probability():
    draws = torch.stack([sampled(n=400, seed=s)[0] for s in range(3)])
    y = sampled(n=400)[1]
    mean = (draws / 1.7).softmax(-1).mean(0)
    assert nll(draws, y, 1.7) == pytest.approx(float(F.nll_loss(mean.log(), y)), rel=1e-12)


def test_a_stochastic_target_is_asked_twenty_times():
    noisy = registry.build("defenses", "noisy_inference(std=0.2)").wrap(trained())
    wrapped = Temperature().wrap(noisy)
    given = everything()
    found = Temperature().fit(wrapped, given)
    assert found.numbers["forwards"] == 20 * len(given.calibration.y)
    assert wrapped.stochastic
