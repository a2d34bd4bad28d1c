"""What a model keeps of each call: closed forms in bytes."""

import pytest
import torch
from torch import nn

from actsec.running.leaking import kept_by_call
from actsec.search.oracle import frozen
from actsec.types import Target


class Keeping(nn.Module):
    """Answers as a linear model does, and keeps of each call what it is told to."""

    def __init__(self, what):
        super().__init__()
        self.inner, self.what, self.kept = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Tanh()), what, []

    def forward(self, x):
        z = self.inner(x)
        what = self.what
        if what == "graph":
            self.kept.append(z)
        elif what == "output":
            self.kept.append(z.detach())
        elif what == "input":
            self.kept.append(x)
        elif what == "numpy":
            self.kept.append(z.detach().numpy())
        elif what == "last":
            self.kept = [z]
        elif what == "window":
            self.kept = [*self.kept[-2:], z]
        elif what == "cycle":
            circle = [z]
            circle.append(circle)
        return z


class Raising(nn.Module):
    def forward(self, x):
        raise RuntimeError("not today")


@pytest.mark.parametrize(
    ("what", "bytes_"),
    [
        *(("nothing", 0), ("last", 0), ("window", 0), ("cycle", 0)),
        *(("output", 24), ("numpy", 24), ("input", 96)),
        # The output, and the input that its graph leads to.
        ("graph", 24 + 96),
    ],
)
def test_what_a_model_keeps_of_each_call(what, bytes_):
    target = Target(Keeping(what).eval(), (3, 2, 2), ("a", "b", "c"))
    with frozen(target.model):
        assert kept_by_call(target, torch.rand(2, 3, 2, 2)) == bytes_


def test_calls_that_cannot_be_followed_say_nothing():
    target = Target(Raising().eval(), (3, 2, 2), ("a", "b", "c"))
    with frozen(target.model):
        assert kept_by_call(target, torch.rand(2, 3, 2, 2)) is None
