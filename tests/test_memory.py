"""Calls that do not fit: bounded beforehand, halved when memory runs out all the same, and the result is the same."""

import dataclasses
import gc
import types
import weakref

import numpy as np
import pytest
import torch
from attack_models import digits
from runs import inside
from torch import nn

import actsec
from actsec import losses
from actsec.attacks import PGD, Square
from actsec.errors import BadOption, ModelError
from actsec.running import restoring
from actsec.search import oracle
from actsec.search.oracle import PAD, Oracle, filling, frozen, rows_within
from actsec.search.referee import attack_target, cases_of
from actsec.types import BATCH, Target


class Narrow(nn.Module):
    """Holds at most ``most`` rows; more raise what an allocator says."""

    def __init__(self, model, most, message="DefaultCPUAllocator: can't allocate memory"):
        super().__init__()
        self.model, self.most, self.message = model, most, message

    def forward(self, x):
        if len(x) > self.most:
            raise RuntimeError(self.message)
        return self.model(x)


@pytest.mark.parametrize("attack", [PGD(5), Square(10)])
def test_running_out_of_memory_halves_the_call_and_changes_nothing(attack):
    target, x, y = digits()
    narrow = dataclasses.replace(target, model=Narrow(target.model, 40))
    whole, halved = (attack_target(attack, t, cases_of(t, x, y, "linf", 0.1), batch=128) for t in (target, narrow))
    assert torch.equal(whole.x, halved.x)
    assert torch.equal(whole.status, halved.status)
    assert torch.equal(whole.forwards, halved.forwards)
    asking = Oracle(narrow, 128)
    with frozen(narrow.model):
        asking.observe(x)
    assert asking.batch == PAD


def test_a_model_that_fits_not_even_one_call_is_said_to():
    target, x, _ = digits()
    narrow = dataclasses.replace(target, model=Narrow(target.model, 8), name="huge")
    with frozen(narrow.model), pytest.raises(ModelError, match="huge runs out of memory on 32 inputs"):
        Oracle(narrow).observe(x)


def test_other_errors_of_a_model_are_its_own():
    target, x, _ = digits()
    broken = dataclasses.replace(target, model=Narrow(target.model, 8, "shapes cannot be multiplied"))
    with frozen(broken.model), pytest.raises(RuntimeError, match="shapes cannot"):
        Oracle(broken).observe(x)


def test_the_rows_of_a_call_follow_from_what_a_backward_keeps():
    # Per row: the input of 1,000 floats, and three outputs of 10,000 that the two ReLUs and the last layer keep.
    wide = nn.Sequential(nn.Linear(1000, 10_000), nn.ReLU(), nn.Linear(10_000, 10_000), nn.ReLU(), nn.Linear(10_000, 2))
    target = Target(wide.eval(), (1000,), ("a", "b"))
    x = torch.zeros(3, 1000)
    assert rows_within(target, x, memory=1 << 20) == BATCH
    assert [rows_within(target, x, memory=most) for most in (0, 1, 4)] == [1, 1, 1]  # none, 4 to 6, 17 to 25 would fit
    # 21,000 to 31,000 floats a row, twice: 168 to 248 kB; 20 MiB hold 84 to 124 rows.
    assert rows_within(target, x, memory=20) in (64, 96)
    assert all(p.requires_grad for p in wide.parameters())


def test_what_was_measured_is_let_go():
    """A graph that holds itself would keep the weights of every target a run restores, job after job."""
    weights = []
    for _ in range(3):
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.Sigmoid(), nn.Linear(16, 2)).eval()
        weights += [weakref.ref(parameter) for parameter in model.parameters()]
        rows_within(Target(model, (8,), ("a", "b")), torch.zeros(1, 8), memory=1)
        del model
    gc.collect()
    assert [ref() for ref in weights] == [None] * len(weights)


def test_a_run_lets_go_of_every_target_it_restored(tiny, tmp_path, monkeypatch):
    """What each job kept, a long run would hold at its end as many times as it has jobs."""
    made, base_target = [], restoring.base_target

    def watched(*asked):
        target = base_target(*asked)
        made.extend(weakref.ref(parameter) for parameter in target.model.parameters())
        return target

    monkeypatch.setattr(restoring, "base_target", watched)
    assert inside("audit", tiny, "--out", tmp_path / "run", "--executor", "serial", "--quiet").code == 0
    gc.collect()
    alive = sum(ref() is not None for ref in made)
    assert len(made) > 40
    assert alive <= 4  # of the last stand-in, which is kept for the next job: two layers


def test_an_accelerator_gets_as_many_rows_as_fit(monkeypatch):
    monkeypatch.setattr(oracle, "kept_by_row", lambda *_: 1 << 19)
    there = types.SimpleNamespace(device=torch.device("cuda"))
    assert [rows_within(there, torch.zeros(1, 2), memory) for memory in (1, 5, 31, 32, 70)] == [1, 4, 16, 32, 64]


@pytest.mark.parametrize(("most", "fills"), [(0, 1), (1, 1), (2, 2), (7, 4), (31, 16), (32, 32), (100, 96), (256, 256)])
def test_a_call_is_filled_by_multiples_of_32_or_powers_of_2(most, fills):
    assert filling(most) == fills


class Counting(nn.Module):
    """Notes how many rows each call had."""

    def __init__(self, model):
        super().__init__()
        self.model, self.rows = model, []

    def forward(self, x):
        self.rows.append(len(x))
        return self.model(x)


def test_one_attack_keeps_to_the_memory_it_is_given_as_an_audit_does(monkeypatch):
    monkeypatch.setattr(oracle, "kept_by_row", lambda *_: 1 << 14)  # 32 rows a MiB, for each is counted twice
    target, x, y = digits()
    counting = Counting(target.model)
    counted = target.having(model=counting)
    whole = actsec.attack(counted, x, y, "pgd(steps=3)", eps=0.1)
    assert max(counting.rows) > PAD
    counting.rows.clear()
    held = actsec.attack(counted, x, y, "pgd(steps=3)", eps=0.1, memory=1)
    assert max(counting.rows) == PAD
    assert np.array_equal(held.x, whole.x)
    counting.rows.clear()
    monkeypatch.setattr(oracle, "kept_by_row", lambda *_: 1 << 20)
    actsec.attack(counted, x[:5], y[:5], "pgd(steps=3)", eps=0.1, memory=1)
    assert set(counting.rows) == {1}


def test_a_memory_of_nothing_is_refused():
    target, x, y = digits()
    with pytest.raises(BadOption, match="memory = 0"):
        actsec.attack(target, x, y, "fgsm", eps=0.1, memory=0)


def test_a_surrogate_keeps_to_the_memory_too(monkeypatch):
    monkeypatch.setattr(oracle, "kept_by_row", lambda *_: 1 << 20)
    target, x, y = digits()
    counting = Counting(target.model)
    source = target.having(model=counting)
    actsec.attack(target, x, y, "transfer(attack='fgsm')", eps=0.1, source=source, memory=1)
    assert set(counting.rows) == {1}


@pytest.mark.parametrize("batch", [1, 4, 16])
@pytest.mark.parametrize(("repeats", "draws"), [(1, 1), (3, 1), (20, 1), (1, 4)])
def test_calls_below_32_rows_have_one_size_whoever_shares_them(batch, repeats, draws):
    """Then no row's numbers rest on the rows beside it: one kernel, picked by the size, answers every call."""
    target, x, y = digits()
    counting = Counting(target.model)
    small = target.having(model=counting, batch=batch, draws=draws, stochastic=repeats > 1)
    cases = cases_of(small, x[:37], y[:37], "linf", 0.1)

    def asked(rows: slice):
        asking = Oracle(small, repeats=repeats)
        with frozen(counting):
            observed, _, gradient = asking.differentiate(x[rows], cases.rows(rows), losses.CrossEntropy(), False)
        return observed.logits, gradient

    together = [asked(slice(0, 37)), asked(slice(0, 5)), asked(slice(3, 4))]
    assert len(set(counting.rows)) == 1
    assert counting.rows[0] % batch == 0
    assert counting.rows[0] >= min(batch, repeats)
    for logits, gradient in together[1:2]:
        assert torch.equal(logits, together[0][0][:5])
        assert torch.equal(gradient, together[0][1][:5])
    assert torch.equal(together[2][0], together[0][0][3:4])
    assert torch.equal(together[2][1], together[0][1][3:4])
