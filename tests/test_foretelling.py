"""What trainings would take: which of a plan are told, by which count and which clock, and the time left of a run."""

from __future__ import annotations

import itertools

import pytest
import torch

from actsec import registry
from actsec.planning import foretelling, pricing
from actsec.planning.foretelling import Training, lines, per_pass, trainings
from actsec.planning.plan import Plan
from actsec.running import clock, preparing, restoring, scene, timing
from actsec.running.tasks import perturb
from actsec.spec import parse
from actsec.types import Material, Split

TRAINS = "adversarial_training(inner=pgd(steps=2), epochs=3, eps=0.1)"
PLAN = Plan(
    model="reference:mlp(width=[8])",
    activations=("relu",),
    samples=10,
    attacks=(),
    defenses=("temperature", "swap(to=silu)", TRAINS, f"swap(to=silu, finetune=1) | {TRAINS} | temperature"),
)


@pytest.fixture(scope="module")
def prepared():
    return preparing.prepare(PLAN)


def ticking(monkeypatch, per_pass=0.25, trial=7.0):
    """A clock that a trial moves on by so many seconds, and a model whose plain passes take so long."""
    ticks = itertools.count()
    monkeypatch.setattr(timing, "clock", lambda: lambda: trial * next(ticks))
    monkeypatch.setattr(timing, "seconds_per_pass", lambda *_: per_pass)


def test_each_training_of_a_plan_is_told_and_nothing_else(prepared, monkeypatch):
    ticking(monkeypatch, per_pass=1e9)  # too slow to try anything
    rows = len(prepared.scene.splits.train)
    found = {t.variant: t for t in trainings(prepared)}
    alone, chained = (pricing.price(parse(text), rows) for text in (TRAINS, "swap(to=silu, finetune=1)"))
    base = 3 * 20 * rows
    assert {name: t.passes for name, t in found.items()} == {
        "relu": base,
        f"relu | {TRAINS}": alone,
        f"relu | swap(to=silu, finetune=1) | {TRAINS} | temperature": alone + chained,
    }
    assert all(t.seconds == pytest.approx(1e9 * t.passes) for t in found.values())


def test_a_pass_costs_what_its_own_first_epoch_took_for_each_pass_it_counted(prepared, monkeypatch):
    target = restoring.base_target(prepared.scene, scene.Scene.variant(prepared.scene, "relu"))
    before = {name: value.clone() for name, value in target.model.state_dict().items()}
    train = scene.as_split(prepared.scene.splits.train, "cpu")
    few = Split(train.x[:256], train.y[:256], train.id[:256])
    spec = parse(TRAINS)
    once = registry.build("defenses", spec.having(epochs=1))
    numbers = once.fit(once.wrap(target), Material(few, few, 0, perturb, lambda *_: None)).numbers
    ticking(monkeypatch, per_pass=1e-6)
    found = per_pass(prepared.scene, target, spec, train)
    assert found == pytest.approx(7.0 / (numbers["forwards"] + 2 * numbers["backwards"]))
    assert all(torch.equal(before[name], value) for name, value in target.model.state_dict().items())
    # As slow as that a batch of it would take longer than a trial may.
    ticking(monkeypatch, per_pass=foretelling.TRIAL)
    assert per_pass(prepared.scene, target, spec, train) == foretelling.TRIAL


def test_in_words():
    assert list(lines(())) == []
    one = Training("model | trades", 1_000_000, 120.0)
    assert list(lines((one,)))[1:] == ["  model | trades: about 2 min (1,000,000 passes of one image)"]
    assert list(lines((one, one)))[-1] == "  together about 4 min"


def test_the_work_of_a_training_is_its_price(prepared):
    jobs = [job for job in prepared.jobs if job.kind == "defend" and TRAINS in job.label]
    price = pricing.price(parse(TRAINS), len(prepared.scene.splits.train))
    (alone,) = (job for job in jobs if "swap" not in job.label)
    assert clock.estimate(prepared, alone) == 1000 + price
    (base,) = (job for job in prepared.jobs if job.kind == "base")
    assert clock.estimate(prepared, base) == 3 * 20 * len(prepared.scene.splits.train)


def test_the_time_left_waits_for_work_that_tells(prepared):
    waiting = sorted(prepared.jobs, key=lambda job: clock.estimate(prepared, job))
    told_by = clock.Clock(prepared, waiting)
    done = 0.0
    for job in waiting:
        told_by.finished(job)
        done += clock.estimate(prepared, job)
        told = told_by.left() is not None
        assert told == (done >= clock.FORETELLS * told_by.all_work or job is waiting[-1])
