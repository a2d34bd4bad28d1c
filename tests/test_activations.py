"""The catalogue: what each activation is, computed here a second way."""

import inspect
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import erf, expit

from actsec.activations import activation, formula, make, names
from actsec.errors import BadOption, SpecError, UnknownName
from actsec.spec import Spec

# every function of the catalogue written again in numpy, from the papers
REFERENCE = {
    "relu": lambda z: np.maximum(z, 0),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
    "prelu": lambda z: np.where(z > 0, z, 0.25 * z),
    "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    "celu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    "selu": lambda z: (
        1.0507009873554804934193349852946
        * np.where(z > 0, z, 1.6732632423543772848170429916717 * np.expm1(np.minimum(z, 0)))
    ),
    "gelu": lambda z: z * 0.5 * (1 + erf(z / math.sqrt(2))),
    "silu": lambda z: z * expit(z),
    "mish": lambda z: z * np.tanh(np.logaddexp(0, z)),
    "hardswish": lambda z: z * np.clip(z + 3, 0, 6) / 6,
    "tanh": np.tanh,
    "hardtanh": lambda z: np.clip(z, -1, 1),
    "sigmoid": expit,
    "hardsigmoid": lambda z: np.clip(z + 3, 0, 6) / 6,
    "softplus": lambda z: np.logaddexp(0, z),
    "relu6": lambda z: np.clip(z, 0, 6),
    "identity": lambda z: z,
}


def test_listing_and_formulas_import_no_torch():
    code = (
        "import sys; from actsec import activations as a; "
        "[(a.formula(n), a.activation(n).spec) for n in a.names()]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_issues_activations_are_all_there():
    asked = {"relu", "leaky_relu", "prelu", "elu", "gelu", "silu", "tanh", "sigmoid", "softplus", "relu6", "identity"}
    assert asked < set(names())
    assert set(REFERENCE) | {"kwta"} == set(names())
    assert all(formula(name) for name in names())


@pytest.mark.parametrize("name", REFERENCE)
@settings(max_examples=60, deadline=None)
@given(z=st.lists(st.floats(-40, 40), min_size=1, max_size=20))
def test_values_agree_with_numpy(name, z):
    given_z = np.array(z)
    ours = activation(name)(torch.tensor(z, dtype=torch.float64)).numpy()
    # torch's softplus is linear above 20 (an error of 2e-9) and its hard sigmoid multiplies by a rounded 1/6
    np.testing.assert_allclose(ours, REFERENCE[name](given_z), rtol=1e-7, atol=2.1e-9 if name == "softplus" else 1e-12)


@pytest.mark.parametrize("name", REFERENCE)
@settings(max_examples=30, deadline=None)
@given(z=st.floats(-8, 8))
def test_derivatives_agree_with_differences(name, z):
    h = 1e-6
    if any(abs(z - kink) < 10 * h for kink in (-3, -1, 0, 1, 3, 6)):
        return
    slope = float(activation(name).derivative(torch.tensor([z], dtype=torch.float64)))
    f = REFERENCE[name]
    difference = float(f(np.array(z + h)) - f(np.array(z - h))) / (2 * h)
    assert slope == pytest.approx(difference, abs=2e-7)


def test_options_change_the_function():
    z = torch.tensor([-2.0, 3.0])
    assert torch.equal(activation("leaky_relu(slope=0.5)")(z), torch.tensor([-1.0, 3.0]))
    assert torch.equal(activation("prelu(init=0.5)")(z), torch.tensor([-1.0, 3.0]))
    assert torch.equal(activation("hardtanh(lower=-1.5, upper=2)")(z), torch.tensor([-1.5, 2.0]))
    assert float(activation("elu(alpha=2)")(z)[0]) == pytest.approx(2 * math.expm1(-2))
    assert float(activation("celu(alpha=2)")(z)[0]) == pytest.approx(2 * math.expm1(-1))
    assert float(activation("softplus(beta=3)")(z)[1]) == pytest.approx(math.log1p(math.exp(9)) / 3)
    exact, tanh = activation("gelu"), activation("gelu(approximate=tanh)")
    grid = torch.linspace(-5, 5, 10001, dtype=torch.float64)
    assert 4e-4 < float((exact(grid) - tanh(grid)).abs().max()) < 5e-4


@pytest.mark.parametrize("text", ["leaky_relu(slope=0.1)", "kwta(fraction=0.2)", "gelu(approximate=tanh)", "relu"])
def test_specs_round_trip(text):
    made = activation(text)
    assert activation(str(made.spec)) == made == activation(made.spec) == activation(made)
    assert activation(Spec("leaky_relu", (("slope", 0.3),))).options.slope == 0.3


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("leakyrelu", UnknownName, "leaky_relu"),
        ("geluu", UnknownName, "gelu"),
        ("leaky_relu(alpha=0.1)", UnknownName, "slope"),
        ("relu(slope=0.1)", UnknownName, "slope"),
        ("kwta(fraction=0)", BadOption, "fraction"),
        ("kwta(fraction=1.5)", BadOption, "fraction"),
        ("softplus(beta=0)", BadOption, "beta"),
        ("elu(alpha=-1)", BadOption, "alpha"),
        ("celu(alpha=0)", BadOption, "alpha"),
        ("leaky_relu(slope=inf)", BadOption, "slope"),
        ("prelu(init=inf)", BadOption, "init"),
        ("hardtanh(lower=2)", BadOption, "lower"),
        ("gelu(approximate=fast)", BadOption, "tanh"),
        ("leaky_relu(slope=yes)", BadOption, "slope"),
        ("relu(", SpecError, "relu("),
    ],
)
def test_nothing_falls_back(text, error, says):
    with pytest.raises(error, match=says.replace("(", r"\(")):
        make(text)


def test_modules_are_torchs_own_where_it_has_them():
    assert isinstance(make("relu"), torch.nn.ReLU)
    assert make("leaky_relu(slope=0.3)").negative_slope == 0.3
    assert [p.shape for p in make("prelu").parameters()] == [(1,)]
    assert make("prelu") is not make("prelu")
    assert not any(list(make(name).parameters()) for name in names() if not activation(name).learnable)
    assert repr(make("kwta(fraction=0.2)")) == "KWTA(fraction=0.2)"


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 4),
    units=st.integers(1, 40),
    fraction=st.floats(0.01, 1.0),
    seed=st.integers(0, 99),
    ties=st.booleans(),
)
def test_kwta_keeps_each_examples_largest(rows, units, fraction, seed, ties):
    z = torch.randn(rows, units, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    z = z.round() if ties else z
    out = make(f"kwta(fraction={fraction})")(z).flatten(1)
    k = max(1, round(fraction * 2 * units))
    for row, kept in zip(z.flatten(1).tolist(), out.tolist(), strict=True):
        bar = sorted(row, reverse=True)[k - 1]
        assert kept == [value if value >= bar else 0.0 for value in row]
        assert ties or sum(value >= bar for value in row) == k


def test_kwta_passes_the_gradient_of_winners_alone_and_rows_do_not_meet():
    z = torch.tensor([[1.0, -2.0, 3.0, 0.5], [-1.0, -2.0, -3.0, -4.0]], requires_grad=True)
    out = make("kwta(fraction=0.25)")(z)
    assert out.tolist() == [[0, 0, 3, 0], [-1, 0, 0, 0]]
    (slope,) = torch.autograd.grad((out * torch.tensor([[2.0], [5.0]])).sum(), z)
    assert slope.tolist() == [[0, 0, 2, 0], [5, 0, 0, 0]]
    assert make("kwta(fraction=0.25)")(z[0].detach()).tolist() == [0, 0, 3, 0]


# name: range, largest slope, monotone, bounded, dies below, saturates at both ends
TRUTH = {
    "relu": (0, math.inf, 1, True, 0.0, False),
    "leaky_relu": (-math.inf, math.inf, 1, True, None, False),
    "prelu": (-math.inf, math.inf, 1, True, None, False),
    "elu": (-1, math.inf, 1, True, None, False),
    "celu": (-1, math.inf, 1, True, None, False),
    "selu": (-1.7580993408473766, math.inf, 1.7580993408473766, True, None, False),
    "tanh": (-1, 1, 1, True, None, True),
    "hardtanh": (-1, 1, 1, True, None, True),
    "sigmoid": (0, 1, 0.25, True, None, True),
    "hardsigmoid": (0, 1, 1 / 6, True, -3.0, True),
    "hardswish": (-0.375, math.inf, 1.5, False, -3.0, False),
    "softplus": (0, math.inf, 1, True, None, False),
    "relu6": (0, 6, 1, True, 0.0, True),
    "identity": (-math.inf, math.inf, 1, True, None, False),
}


@pytest.mark.parametrize("name", TRUTH)
def test_properties_against_known_truths(name):
    lower, upper, slope, monotone, dead_below, saturates = TRUTH[name]
    p = activation(name).properties
    assert (p.lower, p.upper) == pytest.approx((lower, upper), abs=1e-12)
    # the grid's step is 2^-12: hardswish's largest slope is approached at the kink, never met
    assert p.max_slope == pytest.approx(slope, abs=1e-4)
    assert p.lipschitz == p.max_slope
    assert p.bounded == (math.isfinite(lower) and math.isfinite(upper))
    assert (p.monotone, p.dead_below, p.can_die, p.saturates) == (
        monotone,
        dead_below,
        dead_below is not None,
        saturates,
    )


@pytest.mark.parametrize(("name", "start"), [("silu", -1.3), ("gelu", -0.8), ("mish", -1.2), ("hardswish", -1.4)])
def test_minima_against_an_optimiser(name, start):
    found = minimize_scalar(REFERENCE[name], bracket=(start - 0.5, start, start + 0.5), options={"xtol": 1e-12})
    p = activation(name).properties
    assert p.lower == pytest.approx(found.fun, abs=1e-7)
    assert p.argmin == pytest.approx(found.x, abs=2**-12)
    assert not p.monotone
    assert not p.saturates


def test_the_seeds_wrong_range_of_silu_is_not_repeated():
    p = activation("silu").properties
    assert (round(p.lower, 5), round(p.argmin, 4), p.can_die) == (-0.27846, -1.2786, False)
    assert p.upper == math.inf


def test_leaky_relu_without_a_slope_dies_like_relu():
    assert activation("leaky_relu(slope=0)").properties == activation("relu").properties
    assert activation("prelu(init=0)").properties.can_die
    assert not activation("leaky_relu(slope=0.001)").properties.can_die


def test_a_tail_that_rounds_to_zero_is_not_death():
    z = torch.tensor([-12.0], dtype=torch.float64)
    tanh = activation("gelu(approximate=tanh)")
    assert float(tanh(z)) == 0 == float(tanh.derivative(z))
    assert not tanh.properties.can_die


def test_mean_output_and_centring():
    for name in ("tanh", "hardtanh", "identity", "selu"):
        assert activation(name).properties.zero_centred
    assert activation("relu").properties.mean_output == pytest.approx(1 / math.sqrt(2 * math.pi), abs=1e-7)
    assert activation("sigmoid").properties.mean_output == pytest.approx(0.5)
    assert activation("leaky_relu").properties.mean_output == pytest.approx(0.99 / math.sqrt(2 * math.pi), abs=1e-7)
    assert not activation("relu").properties.zero_centred


def test_saturation_begins_where_the_slope_falls_below_a_twentieth():
    # the slope of tanh is 1 - tanh^2, to be 0.05; that of the sigmoid s (1 - s), to be 0.0125
    tanh, sigmoid = math.atanh(math.sqrt(0.95)), math.log((1 + math.sqrt(0.95)) / (1 - math.sqrt(0.95)))
    for name, edge in (("tanh", tanh), ("sigmoid", sigmoid)):
        p = activation(name).properties
        assert (-p.saturated_below, p.saturated_above) == pytest.approx((edge, edge), abs=2**-11)
        z = torch.tensor([0.0, edge - 1e-3, edge + 1e-3, -edge - 1e-3])
        assert activation(name).saturated(z).tolist() == [False, False, True, True]
    assert activation("relu").properties.saturated_above is None


def test_kwta_is_a_competition():
    kwta = activation("kwta")
    p = kwta.properties
    assert not kwta.elementwise
    assert p.lipschitz == math.inf
    assert not p.can_die
    # among 99 others at the normal's percentiles, a unit is on from the tenth largest, the 0.90 quantile, upwards
    assert p.saturated_below == pytest.approx(1.2816, abs=1e-3)


def test_derivative_works_without_gradients_and_leaves_no_trace():
    z = torch.tensor([1.0], requires_grad=True)
    with torch.inference_mode():
        assert activation("tanh").derivative(z).item() == pytest.approx(1 - math.tanh(1) ** 2)
    assert z.grad is None


def test_every_option_is_explained():
    from actsec import spec

    for name in names():
        options = type(activation(name).options)
        assert all(meaning for *_, meaning in spec.table(options))
        assert inspect.getdoc(options)
