"""Studies: gradients over depth have the reference signs, comparisons find what is there and nothing else."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from runs import ENVIRONMENT, inside
from torch import nn

from actsec import models
from actsec.activations import activation, names
from actsec.activations.cards import card, cost, gain, interval, turns
from actsec.errors import BadOption, UnknownName
from actsec.study import activations, comparing, depth, telling


def test_gradient_norms_are_those_of_backward():
    model = models.build("mlp(activation=tanh, width=[8], depth=3)", (5,), 3, 0)
    x, y = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)), torch.arange(7) % 3
    found = depth.gradient_norms(model, x, y)
    assert all(p.grad is None for p in model.parameters())
    nn.functional.cross_entropy(model(x), y).backward()
    assert found == pytest.approx([float(m.weight.grad.norm()) for m in model if isinstance(m, nn.Linear)], rel=1e-6)


def test_a_linear_chain_has_the_product_rule():
    """One unit a layer without activation: dL/dw_i is the rest of the product, so the norms are known by hand."""
    model = nn.Sequential(*[nn.Linear(1, 1, bias=False) for _ in range(4)], nn.Linear(1, 2, bias=False))
    for layer in list(model)[:4]:
        nn.init.constant_(layer.weight, 0.25)
    with torch.no_grad():
        model[4].weight.copy_(torch.tensor([[1.0], [-1.0]]))
    first, *_, fourth, last = depth.gradient_norms(model, torch.ones(1, 1), torch.zeros(1, dtype=torch.int64))
    p = 1 / (1 + math.exp(2 * 0.25**4))  # of the wrong class
    assert first == pytest.approx(2 * p * 0.25**3, rel=1e-5)
    assert fourth == pytest.approx(2 * p * 0.25**3, rel=1e-5)
    assert last == pytest.approx(math.sqrt(2) * p * 0.25**4, rel=1e-5)


def test_decay_and_explosion_by_the_chain_rule():
    ten = math.prod([activation("sigmoid").properties.max_slope] * 10)
    assert ten == pytest.approx(9.5e-7, rel=0.01)
    steep = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    z = steep
    for _ in range(50):
        z = 2 * z
    z.backward()
    assert steep.grad.item() == 1125899906842624


def test_the_reference_signs_of_depth():
    """The notes' table: sigmoid vanishes from depth 10 on at Glorot's and He's, tanh and relu stay near 1."""
    found = depth.cells(depth.run(("sigmoid", "tanh", "relu"), (3, 10, 20), ("glorot", "he"), 5))
    verdicts = {(cell.activation, cell.init, cell.depth): cell for cell in found}
    for init in ("glorot", "he"):
        ratios = [verdicts["sigmoid", init, layers].ratio for layers in (3, 10, 20)]
        assert ratios[0] > 1e-2
        assert 1e-3 > ratios[1] > ratios[2]
        for kind in ("tanh", "relu"):
            assert all(0.1 < verdicts[kind, init, layers].ratio < 10 for layers in (3, 10, 20))
            assert verdicts[kind, init, 20].verdict == "flowing"
        assert verdicts["sigmoid", init, 20].verdict == "vanishing"


def test_the_table_of_the_notes_is_met_on_digits():
    """G of sigmoid at Glorot, geometric mean of 5 seeds: 1.1e-1, 4.7e-3, 4.8e-6 and 1.7e-12, each within 4 times."""
    found = depth.cells(depth.run(("sigmoid",), (3, 5, 10, 20), ("glorot",), 5, source="digits"))
    for cell, known in zip(found, (1.1e-1, 4.7e-3, 4.8e-6, 1.7e-12), strict=True):
        assert 1 / 4 < cell.ratio / known < 4, cell


def test_cells_are_what_their_networks_say():
    one, two = (depth.Norms("relu", "he", 3, seed, norms, norms[0] / norms[-1]) for seed, norms in
                enumerate([(1.0, 2.0, 4.0), (8.0, 2.0, 2.0)]))  # fmt: skip
    (cell,) = depth.cells([one, two])
    assert (cell.mean, cell.least, cell.most) == (pytest.approx((7 / 3 + 4) / 2), 1.5, 6.0)
    assert cell.std == pytest.approx((np.std([1, 2, 4]) + np.std([8, 2, 2])) / 2)
    assert (cell.ratio, cell.ratio_low, cell.ratio_high, cell.seeds) == (pytest.approx(1.0), 0.25, 4.0, 2)


def test_a_network_born_dead_has_gradients_that_vanish():
    """2 units a layer, 20 deep: every gradient is exactly 0, which explodes nothing."""
    networks = depth.run(("relu",), (20,), ("he",), 2, 2)
    assert all(set(network.norms) == {0.0} for network in networks)
    assert [network.ratio for network in networks] == [0.0, 0.0]
    assert depth.cells(networks)[0].verdict == "vanishing"


@pytest.mark.parametrize("given", [{"depths": (1,)}, {"seeds": 0}, {"width": 0}])
def test_depth_says_what_it_cannot_do(given):
    with pytest.raises(BadOption):
        depth.run(("relu",), **{"depths": (3,), **given})


def rows(seeds, n, share, seed):
    draws = np.random.default_rng(seed)
    return [(draws.random(n) < share).astype(float) for _ in range(seeds)]


def mean(values):
    return float(np.mean(values))


def test_a_difference_that_is_there_is_found():
    found = {"good": rows(4, 400, 0.95, 1), "bad": rows(4, 400, 0.6, 2), "alike": rows(4, 400, 0.95, 3)}
    pairs = comparing.compare(found, mean)
    assert {frozenset((p.first, p.second)) for p in pairs if p.detected} == {
        frozenset(("good", "bad")),
        frozenset(("bad", "alike")),
    }
    said = comparing.verdict(pairs, "accuracy")
    assert "good above bad" in said
    assert "No detectable difference in 1 of 3 pairs" in said


def test_where_there_is_no_difference_few_are_found():
    """100 comparisons of 4 alike: at most 5 % of them may find any pair; 12 is the 99.5 % point of that."""
    said = 0
    for seed in range(100):
        found = {str(k): rows(3, 60, 0.9, 10 * seed + k) for k in range(4)}
        said += any(pair.detected for pair in comparing.compare(found, mean, seed=seed))
    assert said <= 12


def test_the_interval_holds_what_it_says():
    """Networks whose share varies by seed, and whose rows vary: 95 % of 200 intervals hold the truth, at least 90 %."""
    draws, held = np.random.default_rng(0), 0
    for turn in range(200):
        hard = draws.normal(0, 1, 100)  # the rows are shared by the seeds
        each = [(hard + draws.normal(0, 0.5, 100) + draws.normal(0, 0.2) < 0.5).astype(float) for _ in range(4)]
        truth = 0.5 * (1 + math.erf(0.5 / math.sqrt(2 * (1 + 0.25 + 0.04))))
        found = comparing.estimate(each, mean, seed=turn)
        held += found.low <= truth <= found.high
    assert held >= 180


def test_equal_networks_differ_by_nothing():
    same = rows(3, 50, 0.9, 0)
    (pair,) = comparing.compare({"a": same, "b": [each.copy() for each in same]}, mean)
    assert (pair.difference, pair.p, pair.detected) == (0.0, 1.0, False)
    assert "no detectable difference between any two activations" in comparing.verdict([pair], "accuracy")


def test_the_same_gap_in_three_seeds_is_no_certainty():
    """One number a network, 60 against 59 each time: what the signs of 3 seeds can show is p = 1/4, not 0."""
    (pair,) = comparing.compare({"a": [np.array([60.0])] * 3, "b": [np.array([59.0])] * 3}, mean)
    assert (pair.difference, pair.low, pair.high) == (1.0, -math.inf, math.inf)
    assert (pair.p, pair.detected) == (0.25, False)
    many = comparing.compare({"a": [np.array([60.0])] * 7, "b": [np.array([59.0])] * 7}, mean)
    assert many[0].detected


def test_what_is_infinite_is_no_difference():
    median = telling.statistic("median smallest change, minimal_l2")
    never = [np.full(9, np.inf)] * 3
    (pair,) = comparing.compare({"a": never, "b": [np.ones(9)] * 3}, median)
    assert not pair.detected
    assert comparing.estimate(never, median).low == -math.inf


def test_too_few_seeds_are_refused():
    with pytest.raises(BadOption, match="2 seeds tell nothing"):
        comparing.compare({"a": rows(2, 9, 0.5, 0), "b": rows(2, 9, 0.5, 1)}, mean)
    with pytest.raises(BadOption, match="seeds = 2"):
        activations.Settings(seeds=2)
    with pytest.raises(UnknownName):
        activations.Settings(activations=("rleu",))


def test_moons_are_two_half_circles():
    splits = activations.two_moons(n=200, noise=0.0)
    x = np.concatenate([part.x for part in (splits.train, splits.calibration, splits.test)])
    assert x.shape == (200, 2)
    assert x.mean(0) == pytest.approx([0, 0], abs=1e-6)
    assert x.std(0) == pytest.approx([1, 1], rel=1e-5)
    assert np.bincount(splits.test.y).min() > 20


@pytest.fixture(scope="module")
def trained():
    settings = activations.Settings(("relu", "tanh"), (16,), (1, 3), 3, 15, ("fgsm", "minimal_l2"), 0.1, 8)
    splits = activations.two_moons(n=160)
    return activations.run(splits, settings), settings, splits


def test_networks_are_measured_as_the_data_says(trained):
    networks, _, splits = trained
    assert len(networks) == 2 * 2 * 3
    for network in networks:
        with torch.no_grad():
            right = network.model.eval()(torch.from_numpy(splits.test.x)).argmax(1).numpy() == splits.test.y
        assert network.rows["accuracy"].tolist() == right.tolist()
        assert network.rows["robust accuracy, fgsm"].sum() <= right[:8].sum()
        assert len(network.validation_loss) == 15
        assert network.converged == int(np.argmin(network.validation_loss)) + 1
        assert (network.dead is None) == (network.activation == "tanh")
        size = network.rows["median smallest change, minimal_l2"]
        assert (size[~right[:8]] == 0).all()
        assert (size[right[:8]] > 0).all()
    assert len({network.rows["loss"].tobytes() for network in networks}) == 12


def test_the_report_says_what_the_numbers_say(trained):
    networks, settings, _ = trained
    text = "\n".join(telling.lines("moons", (1, 2, 3), networks, settings))
    found = telling.metrics([network for network in networks if network.depth == 1])
    accuracy = next(metric for metric in found if metric.name == "accuracy")
    for kind in ("relu", "tanh"):
        values = [n.rows["accuracy"].mean() for n in networks if (n.activation, n.depth) == (kind, 1)]
        assert accuracy.estimates[kind].value == pytest.approx(np.mean(values))
        assert f"{np.mean(values):.3g} [" in text
    assert "### 3 hidden layers" in text
    assert "### Deep against shallow" in text
    assert "smooth (tanh) against kinked" in text
    assert text.count("no detectable difference") >= 1


def test_a_training_that_breaks_is_told(trained):
    networks, settings, _ = trained
    broke = [*networks]
    for at, network in enumerate(broke):
        if (network.activation, network.depth, network.seed) == ("relu", 1, 0):
            broke[at] = activations.Trained("relu", 1, 0, 0, 0, (), (), (), (), None, {}, network.model, "it diverged")
    text = "\n".join(telling.lines("moons", (1, 2, 3), broke, settings))
    assert "relu, seed 0: not measured, it diverged." in text
    assert "relu" not in telling.metrics([n for n in broke if n.depth == 1])[0].estimates


def test_the_commands_write_report_numbers_and_plots(tmp_path):
    out = tmp_path / "depth"
    said = inside("study", "depth", "--activations", "relu", "--activations", "sigmoid", "--depths", "3,10",
                  "--seeds", 2, "--out", out, "--quiet")  # fmt: skip
    assert said.code == 0, said.err
    assert "| relu | glorot | 3 |" in said.out
    assert f"Report: {out / 'report.html'}" in said.out
    assert "vanishing: sigmoid (glorot, depth 10)" in said.out
    found = json.loads((out / "report.json").read_text())
    assert len(found["networks"]) == 2 * 2 * 2 * 2
    assert (out / "depth.png").read_bytes().startswith(b"\x89PNG")
    assert "![](depth.png)" in (out / "report.md").read_text()
    said = inside("study", "depth", "--out", out)
    assert said.code == 2
    assert "exists already" in said.err

    out = tmp_path / "activations"
    options = ["--data", "moons", "--activations", "relu", "--activations", "gelu", "--epochs", 3, "--width", "8",
               "--depths", "1", "--attacks", "none"]  # fmt: skip
    said = inside("study", "activations", *options, "--out", out, "--quiet")
    assert said.code == 0, said.err
    assert "accuracy: no detectable difference" in said.out
    for name in ("moons_training", "moons_boundaries"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((out / "report.json").read_text())
    assert len(found["data"]["moons"]["networks"]) == 6
    assert {m["name"] for m in found["data"]["moons"]["metrics"]["1"]} >= {"accuracy", "loss", "ECE"}

    out = tmp_path / "curves"
    assert inside("study", "curves", "--activations", "silu", "--out", out).code == 0
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "slope is 0 at: -1.2785" in (out / "report.md").read_text()
    shown = (out / "report.html").read_text()
    assert shown.count("<pre><code>silu: z * sigmoid(z)\nderivative: ") == 1
    assert "```" not in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("depth", "--depths", "3,x"), "--depths 3,x"),
        (("depth", "--activations", "rleu"), "Did you mean 'relu'"),
        (("activations", "--seeds", "2"), "3 or more"),
        (("activations", "--data", "irsi"), "Did you mean"),
        (("curves", "--reach", "-1", "--out", "x"), "--reach"),
    ],
)
def test_mistakes(arguments, words):
    said = inside("study", *arguments, "--quiet") if arguments[0] != "curves" else inside("study", *arguments)
    assert said.code == 2, said.err
    assert words in said.err


def test_help_needs_no_torch():
    code = "import sys, actsec.command_line.cli as c\ntry:\n c.cli(['study', '--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_cards_are_computed():
    """The notes' figures that the wrong claims miss: swish has a lowest value and a zero slope, gelu's tail is flat."""
    assert turns(activation("silu")) == pytest.approx([-1.2784645], abs=1e-6)
    assert activation("silu").properties.lower == pytest.approx(-0.2784645, abs=1e-6)
    assert turns(activation("tanh")) == ()
    assert gain(activation("relu")) == pytest.approx(math.sqrt(2), rel=1e-3)
    assert gain(activation("identity")) == pytest.approx(1, rel=1e-6)
    assert gain(activation("leaky_relu(slope=0.5)")) == pytest.approx(math.sqrt(2 / 1.25), rel=1e-3)
    slopes = next(line for line in card(activation("silu")) if "slope at -10" in line)
    assert "-0.000409" in slopes


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("relu", "[0, inf)"),
        ("sigmoid", "(0, 1)"),
        ("tanh", "(-1, 1)"),
        ("relu6", "[0, 6]"),
        ("hardtanh(lower=-2, upper=20)", "[-2, 20]"),
        ("elu", "(-1, inf)"),
        ("softplus", "(0, inf)"),
        ("silu", "[-0.278465, inf)"),
        ("identity", "(-inf, inf)"),
        ("step", "[0, 1]"),
    ],
)
def test_open_and_closed_ends(name, expected):
    assert interval(activation(name)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("relu", (0, 0, 1)), ("sigmoid", (1, 3, 0)), ("silu", (1, 1, 0)), ("identity", (0, 0, 0)), ("kwta", None),
     ("leaky_relu", (0, 1, 1)), ("mish", (3, 2, 0))],
)  # fmt: skip
def test_cost_is_counted_in_the_formula(name, expected):
    assert cost(activation(name)) == expected


@pytest.mark.parametrize("name", names())
def test_every_card_has_advice_that_follows_from_its_numbers(name):
    made = activation(name)
    text = "\n".join(card(made))
    for heading in ("Use:", "Avoid:", "Security lens:"):
        after = text.partition(f"{heading}\n")[2]
        assert after.startswith("  - "), heading
    assert ("dead-ReLU forcing applies" in text) == made.properties.can_die
    assert ("bounded: confidence" in text) == (made.properties.bounded and name != "identity")
    assert ("smooth:" in text) == (math.isfinite(made.properties.curvature) and name != "identity")
