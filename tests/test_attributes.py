"""What a forward pass writes into its model's plain attributes can be put back, bit for bit."""

from collections import deque

import torch
from torch import nn

import actsec
from actsec.describing import fingerprint
from actsec.search import attributes
from actsec.types import Target


class Writing(nn.Module):
    """A linear model that notes what it is asked in every way there is."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
        self.calls, self.history, self.sizes = 0, [], {"first": None}
        self.recent, self.seen, self.said, self._private = deque(maxlen=2), set(), "nothing", 0

    def forward(self, x):
        z = self.inner(x)
        self.calls += 1
        self.history.append(z)
        self.sizes |= {"first": tuple(x.shape), len(self.sizes): 1}
        self.recent.append(z)
        self.seen.add(len(x))
        self.said = f"asked {len(x)}"
        self.hw = tuple(x.shape[2:])
        self.last = z
        self._private += 1
        return z


def test_plain_attributes_are_those_of_before():
    model = Writing().eval()
    target, history = Target(model, (3, 2, 2), ("a", "b", "c")), model.history
    before = fingerprint(target)
    with attributes.untouched(model), torch.no_grad():
        for rows in (1, 2):
            target.logits(torch.rand(rows, 3, 2, 2))
        assert (model.calls, len(model.history), model.hw) == (2, 2, (2, 2))
        assert fingerprint(target) != before
    assert fingerprint(target) == before
    assert (model.calls, model.history, model.sizes, list(model.recent)) == (0, [], {"first": None}, [])
    assert (model.seen, model.said) == (set(), "nothing")
    assert model.history is history
    assert model.recent.maxlen == 2
    assert not hasattr(model, "hw")
    # What is its own, and tensors, are left alone.
    assert model._private == 2
    assert model.last.shape == (2, 3)


def test_what_is_not_written_stays():
    model = Writing().eval()
    model.inner.scale, model.calls, model.history = [1, 2], 7, [torch.ones(1)]
    kept = model.history[0]
    with attributes.untouched(model):
        model(torch.rand(1, 3, 2, 2))
    assert model.inner.scale == [1, 2]
    assert model.calls == 7
    assert len(model.history) == 1
    assert model.history[0] is kept


def test_a_users_own_counter_counts():
    model = Writing().eval()
    target = Target(model, (3, 2, 2), ("a", "b", "c"))
    actsec.attack(target, torch.rand(4, 3, 2, 2), torch.zeros(4, dtype=torch.int64), "pgd(steps=3)", eps=0.1)
    assert model.calls > 3
