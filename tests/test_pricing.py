"""Prices of untested defenses: what a trial on toys predicts against what fitting real models counts; times."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from actsec import models, registry
from actsec.health import tally
from actsec.planning import pricing
from actsec.running import timing
from actsec.running.tasks import perturb
from actsec.spec import parse
from actsec.types import Material, Split, Target

ROWS = 300


@pytest.fixture(scope="module")
def digits():
    from actsec import data

    loaded = data.load("digits", seed=0)
    train = loaded.train
    split = Split(*(torch.from_numpy(part[:ROWS]) for part in (train.x, train.y, train.ids.view("int64"))))
    network = models.build("reference:mlp(width=[16])", (1, 8, 8), 10, 0)
    return Target(network.eval(), (1, 8, 8), tuple(map(str, range(10)))), split


def real(spec, digits):
    target, split = digits
    defense = registry.build("defenses", spec)
    fitted = defense.fit(defense.wrap(target), Material(split, split, 0, perturb, lambda *_: None))
    return fitted.numbers["forwards"] + 2 * fitted.numbers["backwards"], fitted.numbers.get("stopped", "finished")


def own():
    return [name for name in registry.names("defenses") if "/" not in name]


@pytest.mark.parametrize("name", own())
def test_a_price_is_within_thirty_percent_of_what_fitting_counts(name, digits):
    spec = pricing.spelled(name, 0.1)
    assert spec is not None
    if any(f.name == "epochs" for f in dataclasses.fields(registry.find("defenses", name))):
        spec = spec.having(epochs=4)
    price = pricing.price(spec, ROWS)
    assert price is not None
    if registry.build("defenses", spec).needs != "train":
        assert price == 0
        return
    counted, stopped = real(spec, digits)
    assert counted <= 1.3 * price
    if stopped == "finished":
        assert counted >= 0.7 * price


@pytest.mark.parametrize("text", ["adversarial_training(eps=0.1, inner=pgd(steps=3), epochs=3, mix=0.5)"])
def test_the_inner_attack_and_its_share_are_counted(text, digits):
    counted, _ = real(parse(text), digits)
    assert pricing.price(parse(text), ROWS) == pytest.approx(counted, rel=0.3)


def test_prices_grow_with_rows_and_epochs():
    few, many = (pricing.price(parse(f"training_noise(epochs={k})"), 1000) for k in (2, 20))
    assert many == 10 * few == 20 * 1000 * 3
    assert pricing.price(parse("training_noise"), 50_000) == 50 * pricing.price(parse("training_noise"), 1000)


def test_what_cannot_be_tried_out_has_no_price(monkeypatch):
    class Broken:
        needs = "train"
        epochs = 3

        def wrap(self, target):
            raise RuntimeError("not for toys")

    monkeypatch.setattr(pricing.registry, "build", lambda *_: Broken())
    assert pricing.price(parse("training_noise(epochs=77)"), 10) is None


def test_pricing_and_timing_leave_the_random_state_and_the_models_as_they_were(digits):
    target, split = digits
    before = {key: value.clone() for key, value in target.model.state_dict().items()}
    state = torch.get_rng_state()
    pricing.price(parse("training_noise(epochs=9)"), 123)
    other = Target(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval(), (1, 8, 8), target.classes)
    torch.set_rng_state(state)
    assert timing.latency_ratio(target, other, split.x[:8]) > 0
    assert timing.seconds_per_pass(target, split.x[:8], split.y[:8]) > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in target.model.state_dict().items())
    assert all(p.grad is None for p in target.model.parameters())


def test_dead_units_of_each_row_by_hand():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[0].bias.zero_()
    target = Target(model.eval(), (2,), ("a", "b"), bounds=(-1.0, 1.0))
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 0.0]])
    # Two units that can die and two that cannot.
    assert tally.dead_share(target, x).tolist() == [0.0, 0.25, 0.5]
    assert tally.dead_share(Target(nn.Linear(2, 2), (2,), ("a", "b")), x) is None
    x[0, 0] = torch.nan
    assert tally.dead_share(target, x) is None
