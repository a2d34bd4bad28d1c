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
from actsec.errors import BadOption, ModelError, SpecError, UnknownName
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
    "swish": lambda z: z * expit(z),
    "swish(beta=2.5)": lambda z: z * expit(2.5 * z),
    "pswish(init=0.5)": lambda z: z * expit(0.5 * z),
    "gelu(approximate=tanh)": lambda z: z / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
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
    asked |= {"step", "hardtanh", "selu", "celu", "swish", "mish", "hardswish", "maxout"}
    assert asked < set(names())
    alone = {"kwta", "step", "maxout"}  # they compete, jump or shrink, and have tests of their own
    assert {activation(text).name for text in REFERENCE} | alone == set(names())
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


FACTS = {
    **{name: getattr(math, name) for name in ("exp", "log", "tanh", "sqrt", "pi")},
    "sigmoid": lambda u: float(expit(u)),
    "Phi": lambda u: (1 + math.erf(u / math.sqrt(2))) / 2,
    "phi": lambda u: math.exp(-u * u / 2) / math.sqrt(2 * math.pi),
}
WRITTEN = [*REFERENCE, "step", "leaky_relu(slope=0.3)", "elu(alpha=2)", "celu(alpha=2)", "step(window=0.7)"]
WRITTEN += ["hardtanh(lower=-2, upper=0.5)", "softplus(beta=3)", "prelu(init=0.4)"]


@pytest.mark.parametrize("text", WRITTEN)
def test_the_written_formulas_are_the_functions(text):
    """Formula and derivative as printed, evaluated as Python, beside f and autograd."""
    made = activation(text)
    options = dict(made.spec.options)
    options |= {"a": options.get("init"), "b": options.get("init")}
    for z in (-3.7, -2.2, -0.61, -0.2, 0.0, 0.13, 0.45, 1.7, 5.5, 7.1):
        given = torch.tensor([z], dtype=torch.float64)
        u = math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
        say = lambda words: eval(words.partition(";")[0], {**FACTS, **options, "z": z, "u": u})  # noqa: B023, E731, S307  # our own text, used at once
        assert float(made(given)) == pytest.approx(say(made.formula), abs=1e-7)
        if z != 0 or made.name in ("silu", "gelu", "tanh", "step"):
            assert float(made.derivative(given)) == pytest.approx(say(made.slope), abs=1e-7)


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


@pytest.mark.parametrize(
    "text",
    [
        "leaky_relu(slope=0.1)",
        "kwta(fraction=0.2)",
        "gelu(approximate=tanh)",
        "relu",
        "swish(beta=2)",
        "maxout(pieces=3)",
    ],
)
def test_specs_round_trip(text):
    made = activation(text)
    assert activation(str(made.spec)) == made == activation(made.spec) == activation(made)
    assert activation(Spec("leaky_relu", (("slope", 0.3),))).options.slope == 0.3
    assert activation("gelu(approximate=none)") == activation("gelu")


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
        ("swish(beta=0)", BadOption, "beta"),
        ("pswish(init=-1)", BadOption, "init"),
        ("step(window=0)", BadOption, "window"),
        ("step(window=inf)", BadOption, "window"),
        ("maxout(pieces=1)", BadOption, "pieces"),
        ("maxout(pieces=2.5)", BadOption, "pieces"),
        ("swsh", UnknownName, "swish"),
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
    assert [p.tolist() for p in make("pswish(init=0.5)").parameters()] == [[0.5]]
    assert {name for name in names() if activation(name).learnable} == {"prelu", "pswish"}
    assert not any(list(make(name).parameters()) for name in names() if not activation(name).learnable)
    assert repr(make("kwta(fraction=0.2)")) == "KWTA(fraction=0.2)"
    assert repr(make("swish(beta=2)")) == "Swish(beta=2.0)"
    assert repr(make("step")) == "Step(window=1.0)"
    assert repr(make("maxout(pieces=4)")) == "Maxout(pieces=4)"


def test_a_learnable_activation_has_a_fixed_twin_of_the_same_values():
    z = torch.linspace(-4, 4, 81, dtype=torch.float64)
    for text, twin in (("prelu(init=0.3)", "leaky_relu(slope=0.3)"), ("pswish(init=1.5)", "swish(beta=1.5)")):
        made = activation(text)
        assert made.fixed == activation(twin)
        assert not made.fixed.learnable
        assert torch.allclose(made.fixed(z), made(z), rtol=0, atol=1e-7)  # the parameter is made in float32
    assert activation("gelu").fixed == activation("gelu")


def test_pswish_learns_the_slope_of_z_sigmoid_by_beta():
    """d/d beta of z sigmoid(beta z) is z^2 s (1 - s); one gradient step goes where it says."""
    made = make("pswish(init=0.5)").double()
    z = torch.tensor([-2.0, 0.5, 3.0], dtype=torch.float64)
    made(z).sum().backward()
    s = expit(0.5 * z.numpy())
    assert float(made.beta.grad) == pytest.approx(float((z.numpy() ** 2 * s * (1 - s)).sum()), rel=1e-9)
    with torch.no_grad():
        made.beta.fill_(9.0)
    made.reset_parameters()
    assert made.beta.tolist() == [0.5]


def test_step_is_a_step_with_a_straight_through_gradient():
    z = torch.tensor([-1.5, -1.0, -0.25, 0.0, 0.25, 1.0, 1.5, math.inf, -math.inf], requires_grad=True)
    out = make("step")(z)
    assert out.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 0]
    (slope,) = torch.autograd.grad((out * torch.arange(1.0, 10.0)).sum(), z)
    assert slope.tolist() == [0, 2, 3, 4, 5, 6, 0, 0, 0]
    assert make("step")(torch.tensor([math.nan])).isnan().all()  # a NaN is neither on nor off
    p = activation("step").properties
    assert (p.lower, p.upper, p.monotone, p.bounded, p.estimated_slope) == (0, 1, True, True, True)
    assert p.lipschitz == p.curvature == math.inf
    assert not any(activation(name).properties.estimated_slope for name in names() if name != "step")


def test_a_step_does_and_and_or_and_no_line_does_xor():
    """The seeds' perceptron: with a 1 at and above 0. XOR is not linearly separable: no weights of a grid do it."""
    x = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    unit = lambda w, b: make("step")(x @ torch.tensor(w) + b).tolist()  # noqa: E731
    assert unit([1.0, 1.0], -1.5) == [0, 0, 0, 1]
    assert unit([1.0, 1.0], -0.5) == [0, 1, 1, 1]
    grid = [i / 4 for i in range(-8, 9)]
    assert not any(unit([a, b], c) == [0, 1, 1, 0] for a in grid for b in grid for c in grid)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 3), groups=st.integers(1, 5), pieces=st.integers(2, 4), side=st.integers(1, 3))
def test_maxout_is_the_largest_of_each_group_and_one_gets_the_gradient(rows, groups, pieces, side):
    z = torch.randn(rows, groups * pieces, side, generator=torch.Generator().manual_seed(rows + groups)).round()
    z.requires_grad_()
    out = make(f"maxout(pieces={pieces})")(z)
    assert out.shape == (rows, groups, side)
    grouped = z.detach().numpy().reshape(rows, groups, pieces, side)
    assert np.array_equal(out.detach().numpy(), grouped.max(2))
    (slope,) = torch.autograd.grad(out.sum(), z)
    taken = slope.numpy().reshape(rows, groups, pieces, side)
    assert (taken.sum(2) == 1).all()
    assert ((taken * grouped).sum(2) == grouped.max(2)).all()


def test_maxout_says_what_does_not_fit():
    assert make("maxout")(torch.tensor([1.0, 5.0, -2.0, -3.0])).tolist() == [5, -2]
    with pytest.raises(ModelError, match="5 channels"):
        make("maxout")(torch.zeros(2, 5))
    assert activation("maxout(pieces=3)").pieces == 3
    assert {activation(name).pieces for name in names() if name != "maxout"} == {1}
    p = activation("maxout").properties
    assert (p.lower, p.upper, p.max_slope, p.can_die) == (0, math.inf, 1, False)


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


@pytest.mark.parametrize(
    ("name", "start"),
    [("silu", -1.3), ("gelu", -0.8), ("mish", -1.2), ("hardswish", -1.4), ("swish(beta=2.5)", -0.5)],
)
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


CURVATURE = {  # the largest |f''| in closed form; at a kink there is none
    "tanh": 4 / (3 * math.sqrt(3)),
    "sigmoid": 1 / (6 * math.sqrt(3)),
    "softplus": 1 / 4,
    "softplus(beta=3)": 3 / 4,
    "silu": 1 / 2,
    "swish(beta=2)": 1,
    "gelu": 2 / math.sqrt(2 * math.pi),
    "elu": 1,
    "celu(alpha=2)": 1 / 2,
    "elu(alpha=2)": math.inf,
    "identity": 0,
    "relu": math.inf,
    "leaky_relu(slope=0.999)": math.inf,
    "hardswish": math.inf,
    "selu": math.inf,
}


@pytest.mark.parametrize("text", CURVATURE)
def test_curvature_is_the_largest_second_derivative(text):
    assert activation(text).properties.curvature == pytest.approx(CURVATURE[text], rel=2**-11)


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


@pytest.mark.parametrize("name", names())
def test_every_activation_has_its_page(name):
    """`actsec explain NAME` shows the formula, the derivative's and every computed property."""
    from dataclasses import fields

    from click.testing import CliRunner

    from actsec.activations import Properties
    from actsec.activations.cards import shown
    from actsec.command_line.cli import cli

    page = CliRunner().invoke(cli, ["explain", name], standalone_mode=False).output
    made = activation(name)
    assert page.startswith(f"{name}: {made.formula}\nderivative: {made.slope}\n")
    for field in fields(Properties):
        assert f"  {field.name.replace('_', ' ')}: {shown(getattr(made.properties, field.name))}\n" in page


def test_a_card_shows_six_digits_and_words():
    from actsec.activations.cards import shown

    assert [shown(v) for v in (0.398942278419865, -1.0, math.inf, 1e-9, 0.0)] == ["0.398942", "-1", "inf", "1e-09", "0"]
    assert [shown(v) for v in (None, True, False)] == ["none", "yes", "no"]


def test_every_option_is_explained():
    from actsec import spec

    for name in names():
        options = type(activation(name).options)
        assert all(meaning for *_, meaning in spec.table(options))
        assert inspect.getdoc(options)
