"""A detector that abstains: an adversary must be wrong and accepted; an untouched input it refuses is not correct."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attack_models import digits, linear
from torch import nn

import actsec
from actsec.attacks import PGD, AveragedDifferences, Square
from actsec.losses import Margin, margin
from actsec.running.probe import probe
from actsec.search.ledger import ALREADY_WRONG, FOUND
from actsec.search.referee import attack_target, cases_of
from actsec.types import Observed

EPS = 0.1


def off_grid(x):
    """How far inputs lie from the sixteen levels of the data, less what is allowed: every careless attack is seen."""
    return ((x * 16 - (x * 16).round()).abs().flatten(1).mean(1) - 0.05) * 20


def brightness(x):
    """A detector that a determined adversary can pass: the image's mean must stay what it was, near 0.3."""
    return (x.flatten(1).mean(1) - 0.3).abs() * 100 - 6


def found(attack, rejects, n=40):
    target, x, y = digits()
    target = replace(target, rejects=rejects)
    return target, x[:n], y[:n], attack_target(attack, target, cases_of(target, x[:n], y[:n], "linf", EPS))


def test_success_is_wrong_and_accepted_and_a_refused_input_is_not_correct():
    target, x, y, verdicts = found(PGD(20, loss="margin"), brightness)
    clean_wrong, refused = target.decide(target.logits(x)) != y, brightness(x) > 0
    assert 0 < refused.sum() < len(x) / 2
    assert torch.equal(verdicts.status == ALREADY_WRONG, clean_wrong | refused)
    assert verdicts.wrong[verdicts.status == ALREADY_WRONG].eq(1).all()
    hit = verdicts.status == FOUND
    assert hit.sum() > 5
    assert (brightness(verdicts.x[hit]) <= 0).all()
    assert (target.decide(target.logits(verdicts.x[hit])) != y[hit]).all()
    assert torch.equal(verdicts.wrong == 1, hit | clean_wrong | refused)


def test_what_is_rejected_counts_in_no_norm():
    verdicts = found(PGD(10), lambda x: torch.ones(len(x), dtype=torch.bool))[3]
    assert (verdicts.status == ALREADY_WRONG).all()
    assert (verdicts.smallest == 0).all()
    accepts_untouched = {row.numpy().tobytes() for row in digits()[1]}

    def strangers(x):
        return torch.tensor([row.numpy().tobytes() not in accepts_untouched for row in x.detach()])

    verdicts = found(PGD(10), strangers)[3]
    stood = verdicts.status != ALREADY_WRONG
    assert stood.sum() > 30
    assert not (verdicts.status == FOUND).any()
    assert torch.isinf(verdicts.smallest[stood]).all()
    assert (verdicts.wrong[stood] == 0).all()


def wired(x):
    """Watches the outermost columns, which digits leave empty and attacks on the class do not."""
    return (x[..., 0].sum((1, 2)) + x[..., -1].sum((1, 2)) - 0.05) * 20


def test_an_attack_blind_to_the_detector_finds_nothing_and_one_that_sees_it_does():
    blind, aware = (found(PGD(60, loss=loss), wired)[3] for loss in ("cross_entropy", "margin"))
    stood = blind.status != ALREADY_WRONG
    assert stood.sum() > 20
    assert (blind.status == FOUND).sum() == 0
    assert (aware.status == FOUND).sum() >= stood.sum() / 4
    assert (wired(aware.x[aware.status == FOUND]) <= 0).all()


def test_the_margin_loss_is_the_lesser_of_margin_and_what_the_detector_allows():
    target, x, y, _, _ = linear()
    cases = cases_of(target, x, y, "linf", EPS)
    logits = target.logits(x).detach()
    score = torch.linspace(-1, 1, len(x)).requires_grad_()
    expected = torch.minimum(margin(logits, cases), -score)
    assert torch.equal(Margin()(Observed(logits, (), score), cases), expected)
    # Without a gradient of the detector there is nothing to climb, and the margin alone is left.
    assert torch.equal(Margin()(Observed(logits, (), score.detach()), cases), margin(logits, cases))


@pytest.mark.parametrize("attack", [Square(60), AveragedDifferences(6, directions=5)], ids=["square", "averaged"])
def test_searches_by_score_see_a_detector_that_says_yes_or_no(attack):
    verdicts = found(attack, lambda x: off_grid(x) > 0, 24)[3]
    hit = verdicts.status == FOUND
    assert not (off_grid(verdicts.x[hit]) > 0).any()


def test_without_a_detector_nothing_changes():
    target, x, y = digits()
    plain, idle = (
        attack_target(PGD(8), t, cases_of(t, x[:20], y[:20], "linf", EPS))
        for t in (target, replace(target, rejects=lambda x: torch.zeros(len(x), dtype=torch.bool)))
    )
    for name in ("status", "x", "wrong", "smallest", "forwards"):
        assert torch.equal(getattr(plain, name), getattr(idle, name)), name


class Guarded(nn.Module):
    """A model that brings its detector along."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)

    def rejects(self, x):
        return brightness(x)


def test_an_audit_reads_the_detector_of_a_model_and_says_what_it_refuses(tmp_path):
    target, x, y = digits()
    guarded = actsec.load(Guarded(target.model), input_shape=(1, 8, 8), classes=10)
    assert guarded.rejects is not None
    data = (x.numpy(), y.numpy())
    options = {"samples": 12, "eps": EPS, "attacks": ("pgd(steps=4)",), "defenses": ("swap(to=silu)",)}
    run = actsec.audit(guarded, data, out=tmp_path, **options)
    clean = run.result.variants[0].clean
    assert clean.rejected is not None
    assert clean.rejected.k > 0
    wrong = target.decide(target.logits(x)) != y
    assert clean.accuracy.n - clean.accuracy.k <= int((wrong | (brightness(x) > 0)).sum())
    assert any("detector refuses" in line for line in run.result.headline)
    # Behind a defense it refuses the same, and was attacked as a detector.
    defended = run.result.variants[1]
    assert (defended.chain, defended.clean.rejected) == ("swap(to=silu)", clean.rejected)
    assert any("detector goes with it" in note for note in defended.notes)
    watched = next(c for c in defended.threats[0].checks if c.rule == "ACT-M25")
    assert watched.status in ("ok", "warn", "red")


def flags(rejects, n=24):
    target, x, y = digits()
    return probe(replace(target, rejects=rejects), x[:n], y[:n], EPS, "linf")


def test_the_probe_asks_the_detector_too():
    """One that draws, one that looks at its neighbours, one that optimises: each is seen as a model's own would be."""

    def optimises(x):
        leaf = x.detach().clone().requires_grad_(True)
        with torch.enable_grad():
            torch.autograd.grad(leaf.sum(), leaf)
        return torch.zeros(len(x), dtype=torch.bool)

    honest = flags(brightness)
    assert honest["repeatable"]
    assert honest["company_difference"] < 1e-4
    assert honest["autograd_inside"] == 0
    assert honest["detector_gradient"]
    assert not flags(lambda x: torch.rand(len(x)) > 0.5)["repeatable"]
    assert flags(lambda x: (x.mean() + torch.arange(len(x))) > 3)["company_difference"] == 1
    assert flags(optimises)["autograd_inside"] > 0
    assert not flags(lambda x: (x.flatten(1).mean(1) > 2).float())["detector_gradient"]
    assert not flags(lambda x: x.flatten(1).mean(1) * torch.nan - 1)["detector_gradient"]


def test_a_slope_that_leads_nowhere_does_not_make_a_detector_believable(tmp_path):
    """Yes or no with a gradient of a billionth: all that stands rests on rejections, and nobody got past them."""
    net = digits()[0].model

    class Hiding(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = net

        def forward(self, x):
            return self.model(x)

        def rejects(self, x):
            off = (off_grid(x) > 0).float() * 2 - 1
            return off.detach() + 1e-9 * x.flatten(1).sum(1)

    _, x, y = digits()
    gates = ("robust_accuracy@linf:0.1>=0.5",)
    run = actsec.audit(Hiding(), (x[:40], y[:40]), out=tmp_path, eps=EPS, defenses=(), gates=gates)
    threat = next(t for t in run.result.variants[0].threats if t.threat == "linf:0.1")
    assert threat.worst_case.value > 0.5
    assert not threat.believable
    assert "ACT-M25" in threat.why
    assert run.result.exit_code == 3
