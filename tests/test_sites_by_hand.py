"""Activations written out by hand, and others in unusual places: one site of the real kind, or unresolved."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from actsec.activations import activation, find, replace, watch

ROOT = math.sqrt(2 / math.pi)


def in_place(z):
    y = z.clone()
    y *= torch.sigmoid(z)
    return y


def overwriting(z):
    s = torch.sigmoid(z)
    return z.mul_(s)


def clamped_hardswish(z):
    return z * (z + 3).clamp(0, 6) / 6


# how it is written -> (kind, options), as the catalogue has them
BY_HAND = {
    "x*sigmoid": (lambda z: z * torch.sigmoid(z), "silu", {}),
    "sigmoid*x": (lambda z: z.sigmoid() * z, "silu", {}),
    "in place on a copy": (in_place, "silu", {}),
    "in place": (overwriting, "silu", {}),
    "torch.mul": (lambda z: torch.mul(z, F.sigmoid(z)), "silu", {}),
    "x/(1+exp(-x))": (lambda z: z / (1 + torch.exp(-z)), "silu", {}),
    "quick gelu": (lambda z: z * torch.sigmoid(1.702 * z), "swish", {"beta": 1.702}),
    "sharp swish": (lambda z: z * torch.sigmoid(z * 4), "swish", {"beta": 4.0}),
    "tanh gelu": (lambda z: 0.5 * z * (1 + torch.tanh(ROOT * (z + 0.044715 * z**3))), "gelu", {"approximate": "tanh"}),
    "tanh gelu, factored": (
        lambda z: z * (0.5 * (1.0 + torch.tanh(z * 0.7978845608 * (1.0 + 0.044715 * z * z)))),
        "gelu",
        {"approximate": "tanh"},
    ),
    "tanh gelu, torch.pow": (
        lambda z: 0.5 * (z * (torch.tanh((z + torch.pow(z, 3.0) * 0.044715) * ROOT) + 1)),
        "gelu",
        {"approximate": "tanh"},
    ),
    "erf gelu": (lambda z: z * 0.5 * (1.0 + torch.erf(z / math.sqrt(2.0))), "gelu", {"approximate": "none"}),
    "hardswish": (lambda z: z * F.relu6(z + 3) / 6, "hardswish", {}),
    "hardswish, divided first": (lambda z: z * (F.relu6(z + 3.0) / 6.0), "hardswish", {}),
    "hardswish, times a sixth": (lambda z: z * F.relu6(z + 3, inplace=True) * (1 / 6), "hardswish", {}),
    "hardswish of a hard sigmoid": (lambda z: z * F.hardsigmoid(z), "hardswish", {}),
    "hardswish of a clamp": (clamped_hardswish, "hardswish", {}),
    "mish": (lambda z: z * torch.tanh(F.softplus(z)), "mish", {}),
    "mish of logs": (lambda z: z * torch.tanh(torch.log1p(torch.exp(z))), "mish", {}),
    "sigmoid of exp": (lambda z: 1 / (1 + torch.exp(-z)), "sigmoid", {}),
    "tanh of a sigmoid": (lambda z: 2 * torch.sigmoid(2 * z) - 1, "tanh", {}),
    "hard sigmoid": (lambda z: F.relu6(z + 3) / 6, "hardsigmoid", {}),
    "softplus of logs": (lambda z: torch.log(1 + torch.exp(z)), "softplus", {"beta": 1.0}),
    "mask": (lambda z: z * (z > 0), "relu", {}),
    "float mask": (lambda z: z * (z > 0).float(), "relu", {}),
    "typed mask": (lambda z: (z >= 0).to(z.dtype) * z, "relu", {}),
    "where": (lambda z: torch.where(z > 0, z, 0.0), "relu", {}),
    "where, zeros": (lambda z: torch.where(z > 0, z, torch.zeros_like(z)), "relu", {}),
    "where, scalar tensor": (lambda z: torch.where(z < 0, torch.tensor(0.0), z), "relu", {}),
    "masked fill": (lambda z: z.masked_fill(z < 0, 0), "relu", {}),
    "half of z plus |z|": (lambda z: (z + z.abs()) / 2, "relu", {}),
    "where, leaky": (lambda z: torch.where(z > 0, z, 0.2 * z), "leaky_relu", {"slope": 0.2}),
    "maximum, leaky": (lambda z: torch.maximum(z, 0.01 * z), "leaky_relu", {"slope": 0.01}),
    "where, elu": (lambda z: torch.where(z > 0, z, 1.5 * (torch.exp(z) - 1)), "elu", {"alpha": 1.5}),
    "minimum of relu": (lambda z: torch.minimum(F.relu(z), torch.tensor(6.0)), "relu", {}),
}
# the operators that are an activation; what is left of a form without any of them is arithmetic
KERNELS = {
    "sigmoid",
    "tanh",
    "softplus",
    "relu",
    "relu6",
    "hardtanh",
    "hardsigmoid",
    "hardswish",
    "gelu",
    "silu",
    "mish",
}
KERNELS |= {"clamp", "clamp_min"}


class Net(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.first, self.second, self.act = nn.Linear(4, 6), nn.Linear(6, 3), act

    def forward(self, x):
        h = self.first(x)
        return self.second(self.act(h))


@pytest.fixture
def x():
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def net(form):
    torch.manual_seed(0)
    return Net(BY_HAND[form][0]).eval()


@pytest.mark.parametrize("form", BY_HAND)
def test_one_site_of_the_real_kind(form, x):
    _, kind, options = BY_HAND[form]
    sites = find(net(form), x)
    (site,) = sites
    assert (site.kind, site.role, site.constant, site.shape) == (kind, "activation", False, (6,))
    assert dict(site.options) == {key: pytest.approx(value) for key, value in options.items()}
    assert site.name == kind
    assert site.functional
    assert sites.unresolved == ()


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("form", BY_HAND)
def test_watching_sees_the_one_call_and_changes_nothing(form, guard, x):
    model = net(form)
    with guard():
        plain, z = model(x), model.first(x)
        with watch(model) as seen:
            assert torch.equal(model(x), plain)
        (call,) = seen.calls
        assert call.name == find(model, x).sites[0].name
        assert torch.equal(call.pre, z)
        assert torch.allclose(call.post, activation(call.activation)(z), atol=1e-5)
        assert torch.equal(model.second(call.post), plain)


@pytest.mark.parametrize("form", BY_HAND)
def test_both_ends_lie_on_the_way_from_input_to_output(form, x):
    model = net(form)
    leaf = x.clone().requires_grad_()
    (truth,) = torch.autograd.grad(model(leaf).sum(), leaf)
    with watch(model) as seen:
        out = model(leaf)
    (call,) = seen.calls
    (z,) = torch.autograd.grad(out.sum(), call.pre, retain_graph=True)
    assert torch.allclose(z @ model.first.weight, truth, atol=1e-6)
    (slope,) = torch.autograd.grad(call.pre.sum(), leaf, retain_graph=True)
    assert torch.allclose(slope, model.first.weight.sum(0).expand_as(slope), atol=1e-6)


@pytest.mark.parametrize(
    "act",
    [
        lambda z: torch.log(torch.sigmoid(z) - 0.5),  # not a number, then minus infinity
        lambda z: torch.log(torch.relu(z)),  # minus infinity where elu has its plateau
        lambda z: 1e-320 * torch.exp(z),  # a softplus of infinite sharpness, by its value at 0
        lambda z: 1e-6 * torch.exp(z / 6),  # within rounding of a hardtanh as flat
        lambda z: z.clamp(2, 2) * 1.0,  # a hardtanh without room
        lambda z: 1 / (1 + torch.exp(z)),  # a swish of negative beta, and a falling sigmoid
        lambda z: 1 / z.clamp_min(1e-320),
    ],
)
def test_values_that_no_option_has_are_another_function(act, x):
    torch.manual_seed(0)
    assert {site.kind for site in find(Net(act).eval(), x)} <= {"sigmoid", "relu"}


def test_limits_far_from_zero_are_no_part_of_the_activation():
    def limited(z):
        c = z.clamp(-20, 20)
        return c * torch.sigmoid(c)

    torch.manual_seed(0)
    model, x = Net(limited).eval(), 1e3 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    with watch(model) as seen, torch.no_grad():
        plain = model(x)
        assert model.first(x).abs().max() > 100
        assert torch.equal(seen.calls[0].pre, model.first(x).clamp(-20, 20))
        assert torch.allclose(replace(model, "silu", example=x)(x), plain, atol=1e-5)


def kernels(model, x):
    with torch.profiler.profile() as seen:
        model(x)
    return [event.name for event in seen.events() if event.name.startswith("aten::")]


@pytest.mark.parametrize("to", ["leaky_relu(slope=0.3)", "celu"])
@pytest.mark.parametrize("form", BY_HAND)
def test_replaced_as_one_with_none_of_the_old_kernels(form, to, x):
    model = net(form)
    swapped = replace(model, to, example=x)
    with torch.no_grad():
        assert torch.equal(swapped(x), model.second(activation(to)(model.first(x))))
        names = kernels(swapped, x)
    assert not set(names) & {f"aten::{kernel}{tail}" for kernel in KERNELS for tail in ("", "_")} - unnamed(form)
    assert torch.equal(copy.deepcopy(swapped)(x), swapped(x))


def unnamed(form):
    """A clamp inside an expression is arithmetic: it runs, and nothing reads it."""
    return {"aten::clamp"} if form == "hardswish of a clamp" else set()


STEPS = {
    "(z > 0).float()": lambda z: (z > 0).float(),
    "(z >= 0).to": lambda z: (z >= 0).to(z.dtype),
    "z.gt(0) * 1.0": lambda z: z.gt(0) * 1.0,
    "where 1, 0": lambda z: torch.where(z > 0, 1.0, 0.0),
    "half of sign plus 1": lambda z: (torch.sign(z) + 1) / 2,
    "1 - (z < 0)": lambda z: 1 - (z < 0).float(),
}


def written(act):
    torch.manual_seed(0)
    return Net(act).eval()


@pytest.mark.parametrize("form", STEPS)
def test_a_step_by_hand_is_a_site(form, x):
    model = written(STEPS[form])
    found = find(model, x)
    (site,) = found
    assert (site.name, site.kind, site.constant, site.role) == ("step", "step", False, "activation")
    assert found.unresolved == ()
    with watch(model) as seen, torch.no_grad():
        out = model(x)
    (call,) = seen.calls
    assert torch.equal(call.pre, model.first(x))
    assert torch.equal(out, model(x))
    with torch.no_grad():
        swapped = replace(copy.deepcopy(model), "relu", example=x)
        assert torch.allclose(swapped(x), model.second(F.relu(model.first(x))), atol=1e-6)


class Threshold(nn.Module):
    """What is compared is held by nobody else."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.last((self.first(x) > 0).float())


def test_a_step_of_a_value_that_nobody_holds_is_a_site(x):
    model = Threshold()
    with watch(model) as seen:
        model(x)
    (call,) = seen.calls
    assert torch.equal(call.pre, model.first(x))
    assert seen.forms._steps == {}, "nothing is held beyond the pass"


OUTSIDE = {
    "sign": (torch.sign, "sign"),
    "softsign": (lambda z: z / (1 + z.abs()), "softsign, z / (1 + |z|)"),
    "softsign, torch": (lambda z: torch.div(z, torch.add(torch.abs(z), 1)), "softsign, z / (1 + |z|)"),
    "log-sigmoid": (lambda z: -torch.log(1 + torch.exp(-z)), "log-sigmoid"),
    "tanh shrinkage": (lambda z: z - torch.tanh(z), "tanh shrinkage"),
    "a threshold elsewhere": (lambda z: (z > 0.4).float(), "a step between 0.375 and 0.5"),
    "sign, then arithmetic": (lambda z: 3 * torch.sign(z) + 1, "sign"),
}


@pytest.mark.parametrize("form", OUTSIDE)
def test_what_the_catalogue_does_not_hold_is_named_once(form, x):
    act, what = OUTSIDE[form]
    found = find(written(act), x)
    assert len(found.unresolved) == 1
    assert found.unresolved[0].reason.startswith(what)
    assert "written by hand" in found.unresolved[0].reason


@pytest.mark.parametrize("act", [lambda z: z.abs(), lambda z: z**2 + 1, lambda z: z * (1 + z.abs()), lambda z: z / 3])
def test_other_arithmetic_is_no_activation(act, x):
    found = find(written(act), x)
    assert len(found) == 0
    assert found.unresolved == ()


def test_a_threshold_on_a_constant_is_nobodys_activation(x):
    found = find(written(lambda z: z * (torch.linspace(-1, 1, 6) > 0).float()), x)
    assert len(found.active) == 0
    assert found.unresolved == ()
