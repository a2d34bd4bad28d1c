"""Small truths of the course notes the project grew from, and the wrong statements there, checked by computing.

The notes' layers are y = f(Wx + b) with W of shape (outputs, inputs); where the notes disagree with themselves or with
the function, the function is what is tested.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from actsec import models, training
from actsec.activations import activation, names
from actsec.activations.functions import Identity, Step
from actsec.errors import UnknownName

CORNERS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
SEEDS = Path(os.environ.get("ACTSEC_SHARED", Path(__file__).parents[1] / ".." / "shared")) / "seeds"
LAYERS = {
    "toy": ([1, 2], [[1, -1], [0, 2], [3, 1]], [0, 1, -1], [-1, 5, 4], [0, 5, 4]),
    "homework A": ([2, -1], [[1, 3], [-2, 4]], [1, 0], [0, -8], [0, 0]),
    "homework B": ([1, 0, 2], [[2, -1, 0], [1, 3, -2]], [0, 1], [2, -2], [2, 0]),
    "homework C": ([-1, 4], [[0, 2], [3, -1], [1, 1]], [1, -2, 0], [9, -9, 3], [9, 0, 3]),
}


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_computed_by_hand(name):
    x, weight, bias, before, after = map(tensor, LAYERS[name])
    layer = nn.Linear(*weight.shape[::-1], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
        z = layer(x)
    assert torch.equal(z, before)
    assert torch.equal(activation("relu")(z), after)


@pytest.mark.parametrize("name", LAYERS)
def test_they_are_the_layers_of_the_notes(name):
    if not SEEDS.is_dir():
        pytest.skip("the notes are not here")
    (file,) = SEEDS.glob("001_*.txt")
    text = file.read_text()
    found = [[float(v) for v in re.findall(r"-?\d+", part)] for part in re.findall(r"bmatrix\}(.*?)\\end", text)]
    x, weight, bias, *_ = LAYERS[name]
    flat = [float(value) for row in weight for value in row]
    places = [at for at in range(len(found) - 2) if found[at : at + 3] == [x, flat, bias]]
    assert places, name


def test_homework_a_is_a_dead_layer():
    x, weight, bias, *_ = map(tensor, LAYERS["homework A"])
    z = F.linear(x, weight, bias).requires_grad_()
    out = activation("relu")(z)
    (gradient,) = torch.autograd.grad(out.sum(), z)
    assert not out.any()
    assert not gradient.any()


def boolean(rows):
    return torch.tensor(rows)


AND, OR, XOR = boolean([0, 0, 0, 1]), boolean([0, 1, 1, 1]), boolean([0, 1, 1, 0])


@pytest.mark.parametrize(("truth", "bias"), [(AND, -1.5), (OR, -0.5)])
def test_one_step_unit_does_and_and_or(truth, bias):
    unit = nn.Sequential(nn.Linear(2, 1), Step())
    with torch.no_grad():
        unit[0].weight.fill_(1.0)
        unit[0].bias.fill_(bias)
        assert torch.equal(unit(CORNERS).flatten().long(), truth)


def test_no_step_unit_does_xor():
    """Linear programming over every weight: w.x + b >= 0 where it is 1, and < 0 where it is 0, has no solution."""
    from scipy.optimize import linprog

    def feasible(truth):
        sign = torch.where(truth == 1, -1.0, 1.0)[:, None]
        rows = sign * torch.cat([CORNERS, torch.ones(4, 1)], 1)
        limits = torch.where(truth == 1, 0.0, -1.0)  # any margin can be scaled to 1
        free = [(None, None)] * 3
        return linprog([0, 0, 0], A_ub=rows.numpy(), b_ub=limits.numpy(), bounds=free, method="highs").status

    assert feasible(AND) == feasible(OR) == 0
    assert feasible(XOR) == 2


def test_perceptron_learning_finds_and_and_or():
    """Rosenblatt's rule on the step unit: right on all four corners within 20 passes."""
    for truth in (AND, OR):
        weights = torch.zeros(3)
        for x, y in [*zip(torch.cat([CORNERS, torch.ones(4, 1)], 1), truth, strict=True)] * 20:
            weights += (y - activation("step")(weights @ x)) * x
        said = activation("step")(torch.cat([CORNERS, torch.ones(4, 1)], 1) @ weights)
        assert torch.equal(said.long(), truth)


def test_tanh_and_sigmoid_solve_xor():
    """By hand: tanh(x + y - .5) less tanh(x + y - 1.5), steep, is the band in the middle."""
    hidden, out = nn.Linear(2, 2), nn.Linear(2, 1)
    with torch.no_grad():
        hidden.weight.fill_(20.0)
        hidden.bias.copy_(torch.tensor([-10.0, -30.0]))
        out.weight.copy_(torch.tensor([[10.0, -10.0]]))
        out.bias.fill_(-10.0)
        said = torch.sigmoid(out(torch.tanh(hidden(CORNERS)))).flatten()
    assert torch.equal((said > 0.5).long(), XOR)
    assert float((said - XOR).abs().max()) < 1e-4


def test_four_tanh_units_learn_xor():
    """The notes' network, 4 tanh units and a sigmoid, trained: accuracy 1.0 for every one of 3 seeds."""
    for seed in range(3):
        model = models.build("mlp(activation=tanh, width=[4])", (2,), 2, seed)
        recipe = training.Recipe(epochs=300, batch_size=4, learning_rate=0.05, schedule="constant", seed=seed)
        training.fit(model, CORNERS, XOR, recipe)
        assert training.accuracy(model, CORNERS, XOR) == 1.0


def test_a_network_of_identities_cannot_learn_xor():
    model = models.build("mlp(activation=identity, width=[8, 8])", (2,), 2, 0)
    training.fit(model, CORNERS, XOR, training.Recipe(epochs=200, batch_size=4, learning_rate=0.05))
    assert training.accuracy(model, CORNERS, XOR) < 1.0


def test_identity_layers_are_one_linear_layer():
    layers = [nn.Linear(a, b).double() for a, b in itertools.pairwise([7, 9, 5, 3])]
    model = nn.Sequential(*itertools.chain.from_iterable((layer, Identity()) for layer in layers))
    weight, bias = torch.eye(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)
    for layer in layers:
        weight, bias = layer.weight @ weight, layer.weight @ bias + layer.bias
    x = torch.randn(50, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(model(x), F.linear(x, weight, bias), rtol=0, atol=1e-12)


# the statements of the notes that are wrong or contradict each other


def test_swish_is_bounded_below_and_its_slope_vanishes():
    made = activation("silu")
    assert made.properties.lower == pytest.approx(-0.27846, abs=1e-5)
    assert made.properties.argmin == pytest.approx(-1.2785, abs=1e-3)
    assert abs(made.derivative(tensor([-1.2784645])).item()) < 1e-7
    assert made.derivative(tensor([-10.0])).item() == pytest.approx(-4.1e-4, rel=0.01)
    assert abs(activation("gelu").derivative(tensor([-10.0])).item()) < 1e-20


def test_leaky_relu_is_a_maximum_only_below_slope_one():
    z = torch.linspace(-5, 5, 101, dtype=torch.float64)
    for slope, equal in ((0.01, True), (1.0, True), (2.0, False)):
        leaky = activation(f"leaky_relu(slope={slope})")(z)
        assert torch.equal(leaky, torch.maximum(slope * z, z)) == equal


def test_ranges_that_are_open_are_not_closed():
    for name in ("sigmoid", "tanh"):
        made = activation(name)
        inside = made(torch.linspace(-8, 8, 1001, dtype=torch.float64))
        assert made.properties.lower < inside.min()
        assert inside.max() < made.properties.upper


def test_unknown_names_raise_and_known_ones_are_themselves():
    for name in ("rleu", "linear", "", "sofplus"):
        with pytest.raises(UnknownName):
            activation(name or "nothing")
    z = torch.linspace(-3, 3, 61, dtype=torch.float64)
    for name in ("gelu", "softplus"):
        assert not torch.allclose(activation(name)(z), activation("relu")(z))
    assert len(names()) == len(set(names()))


def test_xavier_is_not_he():
    """sqrt(2 / fan_in) is He's; Xavier's is sqrt(2 / (fan_in + fan_out)): as they are drawn here."""
    wide = {"he": math.sqrt(2 / 400), "glorot": math.sqrt(2 / (400 + 100))}
    for init, std in wide.items():
        model = models.build(f"mlp(activation=relu, width=[100], init={init})", (400,), 2, 0)
        assert model[1].weight.std().item() == pytest.approx(std, rel=0.03)


def test_gelu_and_its_tanh_form_are_near():
    z = torch.linspace(-8, 8, 160001, dtype=torch.float64)
    apart = (activation("gelu")(z) - activation("gelu(approximate=tanh)")(z)).abs().max().item()
    assert apart == pytest.approx(4.7e-4, rel=0.02)


def test_slopes_of_the_notes():
    assert activation("sigmoid").properties.max_slope == pytest.approx(0.25)
    assert activation("sigmoid").derivative(tensor([10.0])).item() == pytest.approx(4.54e-5, rel=1e-3)
    assert activation("tanh").properties.max_slope == pytest.approx(1.0)
    assert activation("relu").derivative(tensor([0.0])).item() == 0.0


def test_both_forms_of_tanh_agree():
    z = torch.linspace(-20, 20, 401, dtype=torch.float64)
    other = 2 / (1 + torch.exp(-2 * z)) - 1
    assert torch.allclose(activation("tanh")(z), other, rtol=0, atol=1e-14)


def test_softplus_needs_no_guard():
    z = tensor([-1000.0, 0.0, 20.0, 1000.0])
    assert activation("softplus")(z).tolist() == pytest.approx([0.0, math.log(2), 20 + math.exp(-20), 1000.0])
