"""What benchmarks.swaps and benchmarks.stability measure, on cases whose answer is known."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from actsec import models
from actsec.types import Target
from actsec.verdict.statistics import Difference
from benchmarks import stability, swaps


def test_the_gradient_ratio_is_that_of_backpropagation_by_hand():
    model = models.build("mlp(width=[7], activation=tanh)", (1, 8, 8), 10, seed=3).double()
    x, y = torch.rand(20, 1, 8, 8, dtype=torch.float64), torch.arange(20) % 10
    w1, b1, w2, b2 = (p.detach().numpy() for p in model.parameters())
    inputs = x.flatten(1).numpy()
    h = np.tanh(inputs @ w1.T + b1)
    logits = h @ w2.T + b2
    error = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    error[np.arange(20), y.numpy()] -= 1
    last = error.T @ h / 20
    first = ((error @ w2) * (1 - h**2)).T @ inputs / 20
    assert stability.ratio(model, x, y) == pytest.approx(np.linalg.norm(first) / np.linalg.norm(last), rel=1e-9)


def test_sigmoid_vanishes_with_depth_and_tanh_does_not():
    _, x, y = stability.digits()
    found = {
        kind: stability.ratio(stability.built(f"activation={kind}, init=glorot", 10, 0), x[:64], y[:64])
        for kind in ("sigmoid", "tanh", "relu")
    }
    assert found["sigmoid"] < 1e-3
    assert min(found["tanh"], found["relu"]) > 0.1


def test_units_off_on_every_input_are_counted_over_all_layers():
    model = stability.built("activation=relu", 2, 0)
    first, second, _ = (m for m in model if isinstance(m, nn.Linear))
    with torch.no_grad():
        first.bias.fill_(100.0)  # on, whatever the input
        second.bias.fill_(1e6)  # the same, whatever the first layer gives
        first.bias[:16] = -100.0
        second.bias[:5] = -1e6
    assert stability.off_on_every_input(model, torch.rand(9, 1, 8, 8)) == (16 + 5) / 128


def test_every_trial_and_setting_builds():
    for trial in stability.TRIALS:
        assert stability.built(trial.model, 3, 0)(torch.rand(4, 1, 8, 8)).shape == (4, 10)
    for options in stability.SETTINGS.values():
        assert stability.built(f"activation=sigmoid, {options}", 3, 0)(torch.rand(4, 1, 8, 8)).shape == (4, 10)


def test_confidence_far_out_is_computed_in_float64_and_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).requires_grad_(False)
    target, u = Target(model, (1, 8, 8), ("a", "b", "c")), torch.rand(5, 1, 8, 8)
    before = model[1].weight.clone()
    w, b = model[1].weight.double().numpy(), model[1].bias.double().numpy()
    logits = 1e3 * u.flatten(1).double().numpy() @ w.T + b
    expected = 1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1)
    np.testing.assert_allclose(swaps.confidence(target, u, 1e3), expected, rtol=1e-9)
    assert model[1].weight.dtype == torch.float32
    assert torch.equal(model[1].weight, before)


def row(before, after):
    return swaps.Row("mlp", "straight", "elu", "as trained", (1.0, 1.0), np.array(before, bool), np.array(after, bool))


def test_a_row_pairs_images_over_its_seeds():
    before = [[1] * 30 + [0] * 10, [1] * 20 + [0] * 20]
    after = [[1] * 12 + [0] * 28, [1] * 22 + [0] * 18]
    made = row(before, after)
    difference, p = made.found
    assert difference.difference == pytest.approx((-18 + 2) / 80)
    assert difference.low < difference.difference < difference.high < 0
    assert p < 0.01
    assert made.each == pytest.approx([binomtest(0, 18).pvalue, binomtest(2, 2).pvalue])
    same = row(before, before)
    assert same.found[0].difference == 0
    assert same.found[1] == 1.0


@pytest.mark.parametrize(
    ("low", "high", "p", "verdict"),
    [
        (-0.2, -0.1, 0.01, "worse"),
        (0.1, 0.2, 0.01, "better"),
        (0.1, 0.2, 0.06, "no detectable effect"),
        (-0.1, 0.2, 0.01, "no detectable effect"),
    ],
)
def test_a_verdict_needs_both_interval_and_raised_p(low, high, p, verdict):
    line = swaps._line(row([[1, 0]], [[1, 1]]), Difference((low + high) / 2, low, high, None), p)
    assert line.split(" | ")[-1] == f"{verdict} |"
