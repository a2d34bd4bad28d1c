"""Models that misbehave part-way: each is flagged, and no robustness is believed on the strength of it."""

import dataclasses

import numpy as np
import pytest
import torch
from attack_models import digits
from torch import nn

import actsec
from actsec.diagnostics.company import Company
from actsec.diagnostics.unanswered import Unanswered
from actsec.running.probe import probe
from actsec.types import Evidence, Threat


class Batchwise(nn.Module):
    """Subtracts the batch's mean: what batch norm in training mode does."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x - 0.2 * x.mean(0))


class Branching(nn.Module):
    """Control flow that looks at the whole batch."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        z = self.model(x)
        return z.flip(1) if bool(x[:, :, 0, 0].sum() > 0) else z


class Silent(nn.Module):
    """Answers NaN to what lies beside the data's own grid: to attacked images only."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        off_grid = ((x * 16 - (x * 16).round()).abs() > 1e-3).flatten(1).any(1)
        z = self.model(x)
        return torch.where(off_grid[:, None], torch.full_like(z, torch.nan), z)


def evidence(numbers, unanswered=None):
    ones = np.ones(10, dtype=bool)
    return Evidence(Threat("linf", 0.1), ones, {}, numbers, 10, False, unanswered)


@pytest.mark.parametrize(("wrapper", "status"), [(None, "ok"), (Batchwise, "red"), (Branching, "red")])
def test_rows_that_depend_on_each_other_are_found(wrapper, status):
    target, x, y = digits()
    x = x.clone()
    x[3, :, 0, 0] = 1.0  # what the branching model looks at
    if wrapper is not None:
        target = dataclasses.replace(target, model=wrapper(target.model))
    numbers = probe(target, x, y, 0.1, "linf")
    (found,) = Company()(evidence(numbers))
    assert found.status == status
    assert found.voids == (status == "red")
    assert found.numbers["n"] == 8


@pytest.mark.parametrize(("count", "status"), [(None, "not_done"), (0, "ok"), (3, "red")])
def test_robust_images_without_an_answer_void_the_number(count, status):
    (found,) = Unanswered()(evidence({}, count))
    assert found.status == status


def test_a_model_that_goes_silent_under_attack_is_not_called_robust(tmp_path):
    target, x, y = digits()
    silent = dataclasses.replace(target, model=Silent(target.model))
    run = actsec.audit(
        silent, (x.numpy(), y.numpy()), out=tmp_path, samples=20, eps=0.1, attacks=("pgd(steps=4)",), defenses=()
    )
    (threat,) = (t for t in run.result.variants[0].threats if t.threat == "linf:0.1")
    assert threat.worst_case.k > 10
    assert not threat.believable
    assert "ACT-M15" in threat.why
