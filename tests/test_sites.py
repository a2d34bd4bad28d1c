"""Activation calls: found, watched and replaced one by one, functional and module alike."""

import copy
import io
import os
import pickle
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from actsec.activations import Swapped, activation, find, make, names, replace, watch
from actsec.errors import BadOption, ModelError, UnknownName

SHARED = Path(os.environ.get("ACTSEC_SHARED", Path(__file__).parents[2] / "shared"))


class Block(nn.Module):
    """One in-place ReLU module called twice, as in torchvision's ResNets."""

    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        h = self.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        h += x
        return self.relu(h)


class Net(nn.Module):
    """Module, functional, in-place and method calls, squeeze-and-excitation, a constant site and auxiliary head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.block = Block(4)
        self.squeeze, self.excite = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.bias = nn.Linear(1, 8)
        self.head = nn.Sequential(nn.Linear(4, 8), nn.ReLU6(), nn.Linear(8, 3))
        self.aux = nn.Sequential(nn.Linear(4, 3), nn.Tanh())

    def forward(self, x):
        h = F.relu(self.stem(x), inplace=True)
        h = self.block(h)
        s = F.adaptive_avg_pool2d(h, 1)
        s = torch.sigmoid(self.excite(self.squeeze(s).relu_())).flatten(1)
        h = s.view(len(x), 4, 1, 1).expand_as(h) * h
        h = h.mean((2, 3))
        out = self.head(h)
        table = F.elu(self.bias(torch.ones(1, 1, dtype=x.dtype)))
        out = out + table[:, :3]
        return out + self.aux(h) if self.training else out


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = Net()
    net(torch.rand(8, 3, 6, 6))  # so that batch norm is not the identity
    return net.eval()


@pytest.fixture
def x():
    return torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def fingerprint(model):
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), m.training) for m in model.modules()
    ]
    values = {key: value.clone() for key, value in model.state_dict().items()}
    flags = [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    return hooks, values, flags, [list(vars(m)) for m in model.modules()], torch.random.get_rng_state()


def assert_untouched(model, before):
    hooks, values, flags, attributes, rng = fingerprint(model)
    assert hooks == before[0]
    assert values.keys() == before[1].keys()
    assert all(torch.equal(values[key], before[1][key]) for key in values)
    assert str(flags) == str(before[2])
    assert attributes == before[3]
    assert torch.equal(rng, before[4])
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks


# --- find ---------------------------------------------------------------------------------------------------------


def test_every_call_is_found_under_its_own_name(net, x):
    assert [(s.name, s.kind, s.functional, s.shape, s.role, s.constant) for s in find(net, x)] == [
        ("relu", "relu", True, (4, 6, 6), "activation", False),
        ("block.relu", "relu", False, (4, 6, 6), "activation", False),
        ("block.relu:2", "relu", False, (4, 6, 6), "activation", False),
        ("relu:2", "relu", True, (2, 1, 1), "activation", False),
        ("sigmoid", "sigmoid", True, (4, 1, 1), "gate", False),
        ("head.1", "relu6", False, (8,), "activation", False),
        ("elu", "elu", True, (1, 8), "activation", True),
    ]
    assert [s.name for s in find(net, x).active] == ["relu", "block.relu", "block.relu:2", "relu:2", "head.1"]
    assert [s.index for s in find(net, x)] == list(range(7))
    assert find(net, x).unresolved == ()


def test_finding_leaves_the_model_as_it_was(net, x):
    net.train()
    net.head.eval()
    before = fingerprint(net)
    find(net, x)
    assert_untouched(net, before)
    assert net.training
    assert not net.head.training


def test_finding_leaves_the_model_as_it_was_when_the_pass_fails(net):
    net.train()
    before = fingerprint(net)
    with pytest.raises(ModelError, match=r"\(2, 5, 6, 6\)"):
        find(net, torch.zeros(2, 5, 6, 6))
    assert_untouched(net, before)


FORMS = {
    "F.relu": (F.relu, "relu", ()),
    "F.relu inplace": (lambda z: F.relu(z, inplace=True), "relu", ()),
    "F.relu positional": (lambda z: F.relu(z, True), "relu", ()),
    "torch.relu": (torch.relu, "relu", ()),
    "torch.relu_": (torch.relu_, "relu", ()),
    "z.relu": (lambda z: z.relu(), "relu", ()),
    "z.relu_": (lambda z: z.relu_(), "relu", ()),
    "aten": (torch.ops.aten.relu.default, "relu", ()),
    "aten in place": (torch.ops.aten.relu_.default, "relu", ()),
    "nn.ReLU": (nn.ReLU(), "relu", ()),
    "nn.ReLU inplace": (nn.ReLU(inplace=True), "relu", ()),
    "nn.ReLU6": (nn.ReLU6(inplace=True), "relu6", ()),
    "F.relu6": (F.relu6, "relu6", ()),
    "hardtanh 0 6": (lambda z: F.hardtanh(z, 0, 6), "relu6", ()),
    "hardtanh_ 0 6": (lambda z: F.hardtanh_(z, 0.0, 6.0), "relu6", ()),
    "nn.Hardtanh": (nn.Hardtanh(-2, 1), "hardtanh", (("lower", -2), ("upper", 1))),
    "leaky": (lambda z: F.leaky_relu(z, 0.2), "leaky_relu", (("slope", 0.2),)),
    "leaky_": (lambda z: F.leaky_relu_(z, 0.2), "leaky_relu", (("slope", 0.2),)),
    "leaky keyword": (lambda z: F.leaky_relu(z, negative_slope=0.3), "leaky_relu", (("slope", 0.3),)),
    "nn.PReLU": (nn.PReLU(), "prelu", ()),
    "F.prelu": (lambda z: F.prelu(z, torch.tensor([0.1])), "prelu", ()),
    "F.elu": (lambda z: F.elu(z, 0.5, inplace=True), "elu", (("alpha", 0.5),)),
    "F.celu": (lambda z: F.celu(z, 0.5), "celu", (("alpha", 0.5),)),
    "F.selu": (F.selu, "selu", ()),
    "gelu": (F.gelu, "gelu", (("approximate", "none"),)),
    "gelu tanh": (lambda z: F.gelu(z, approximate="tanh"), "gelu", (("approximate", "tanh"),)),
    "F.silu": (lambda z: F.silu(z, inplace=True), "silu", ()),
    "F.mish": (F.mish, "mish", ()),
    "F.hardswish": (F.hardswish, "hardswish", ()),
    "F.hardsigmoid": (F.hardsigmoid, "hardsigmoid", ()),
    "torch.tanh": (torch.tanh, "tanh", ()),
    "z.tanh_": (lambda z: z.tanh_(), "tanh", ()),
    "F.tanh": (F.tanh, "tanh", ()),
    "torch.sigmoid": (torch.sigmoid, "sigmoid", ()),
    "z.sigmoid": (lambda z: z.sigmoid(), "sigmoid", ()),
    "expit": (torch.special.expit, "sigmoid", ()),
    "softplus": (lambda z: F.softplus(z, 2.0), "softplus", (("beta", 2.0),)),
    "tanh out": (lambda z: torch.tanh(z, out=torch.empty(2, 5)), "tanh", ()),
}


class One(nn.Module):
    def __init__(self, act, pieces=1):
        super().__init__()
        self.fc1, self.fc2, self.act = nn.Linear(4, 5 * pieces), nn.Linear(5, 3), act

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


@pytest.mark.parametrize("form", FORMS)
def test_every_way_to_call_an_activation(form):
    torch.manual_seed(0)
    act, kind, options = FORMS[form]
    model, x = One(act).eval(), torch.randn(2, 4)
    (site,) = find(model, x)
    assert (site.kind, site.options, site.shape, site.role) == (kind, options, (5,), "activation")
    assert site.name == ("act" if isinstance(act, nn.Module) else kind)
    assert site.functional == (not isinstance(act, nn.Module))
    with torch.no_grad():
        plain, z = model(x), model.fc1(x)
        with watch(model) as seen:
            assert torch.equal(model(x), plain)
        assert torch.equal(seen.calls[0].pre, z)
        assert torch.equal(seen.calls[0].post, act(z.clone()))
        swapped = replace(model, "softplus(beta=3)", example=x)
        assert torch.equal(swapped(x), model.fc2(F.softplus(z, 3)))


@pytest.mark.parametrize("name", names())
def test_every_activation_of_the_catalogue_is_a_site_and_a_target(name):
    torch.manual_seed(0)
    x = torch.randn(3, 4)
    pieces = activation(name).pieces
    model = One(make(name), pieces).eval()
    (site,) = find(model, x)
    assert (site.name, site.kind, site.functional) == ("act", name, False)
    assert site.activation == activation(name)
    if pieces > 1:
        with pytest.raises(BadOption, match="fits in no other's place"):
            replace(model, name, example=x)
        assert torch.equal(replace(model, "silu", example=x).stands["act"](x), F.silu(x))
        return
    with torch.no_grad():
        assert torch.equal(replace(model, name, example=x)(x), model(x))
        z = model.fc1(x)
        assert torch.equal(activation(name)(z), model.act(z))


class Odd(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.part = nn.Linear(4, 4)
        self.act = act

    def forward(self, x):
        return self.act(self.part(x)) @ torch.ones(4, 2)


def masked(z, where):
    """z with 0 written into it."""
    out = z.clone()
    out[where] = 0
    return out


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda z: z.clamp(min=0), "clamp at exactly 0"),
        (lambda z: z.clamp(0, 6), "clamp at exactly 0"),
        (lambda z: torch.clamp_min(z, 0), "clamp_min at exactly 0"),
        (lambda z: z.clamp_(min=0.0), "clamp at exactly 0"),
        (lambda z: torch.clip(z, torch.tensor(0.0)), "clip at exactly 0"),
        (lambda z: torch.maximum(z, torch.zeros(4)), "maximum with 0"),
        (lambda z: torch.max(torch.zeros_like(z), z), "max with 0"),
        (lambda z: F.threshold(z, 0, 0), "threshold at 0"),
        (lambda z: masked(z, z < 0), "negative values set to 0"),
        (lambda z: masked(z, z <= 0), "negative values set to 0"),
        (lambda z: z * torch.sigmoid(z) ** 2, "z times a function of sigmoid(z)"),
        (lambda z: z * (1 + torch.tanh(z)), "z times a function of tanh(z)"),
        (lambda z: F.glu(torch.cat([z, z], 1)), "gated linear unit"),
        (F.logsigmoid, "log-sigmoid"),
        (F.rrelu, "randomized"),
    ],
)
def test_disguises_are_reported(act, says):
    sites = find(Odd(act), torch.randn(2, 4))
    assert [says in u.reason for u in sites.unresolved] == [True]
    assert not sites.active


@pytest.mark.parametrize(
    "act",
    [
        lambda z: z.clamp(min=1e-6),
        lambda z: z.clamp(max=0),
        lambda z: torch.maximum(z, torch.ones(4)),
        lambda z: masked(z, z > 1),
        lambda z: masked(z, (slice(None), 0)),
        lambda z: z.max(1, keepdim=True).values + z,
        lambda z: F.threshold(z, 0.1, 20),
        lambda z: z + torch.randn(4).clamp(min=0),
        lambda z: z[:, torch.tensor([0, 1, 2, -3]).clamp(min=0)],
    ],
)
def test_what_is_no_relu_is_not_reported(act):
    assert find(Odd(act), torch.randn(2, 4)).unresolved == ()


@pytest.mark.parametrize(
    ("act", "roles"),
    [
        (lambda z: torch.sigmoid(z) * z.mean(1, keepdim=True), ["gate"]),
        (lambda z: torch.sigmoid(z) * torch.tanh(z + 1), ["gate", "activation"]),
        (lambda z: F.hardsigmoid(z)[:, :, None].squeeze(2).mul(z + 1), ["gate"]),
        (lambda z: z.flip(0) * (F.relu6(z + 3) / 6), ["gate"]),
        (lambda z: z.flip(0) * torch.clamp(z / 6 + 0.5, -1, 1), []),
        (lambda z: F.relu6(z) * (z + 1), ["activation"]),
        (lambda z: 0.5 * torch.sigmoid(z), ["activation"]),
        (lambda z: torch.sigmoid(z) * torch.ones(4), ["activation"]),
        (lambda z: torch.sigmoid(z) @ torch.ones(4, 4), ["activation"]),
    ],
)
def test_gates_multiply_something_that_sees_the_input(act, roles):
    assert [site.role for site in find(Odd(act), torch.randn(2, 4))] == roles


def test_the_models_own_output_is_no_hidden_activation():
    x = torch.randn(2, 4)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1), nn.Sigmoid(), nn.Flatten(0))
    assert [(s.name, s.role) for s in find(model, x)] == [("1", "activation"), ("3", "output")]
    swapped = replace(model, "identity", example=x)
    assert torch.equal(swapped(x), torch.sigmoid(model[2](model[0](x))).flatten())


def test_sites_after_numpy_are_not_taken_for_constants():
    sites = find(Odd(lambda z: F.relu(torch.from_numpy(z.detach().numpy() + 1))), torch.randn(2, 4))
    assert [(s.constant, s.role) for s in sites] == [(False, "activation")]


def test_a_blank_example_does_not_make_constants():
    act = lambda z: F.relu(torch.from_numpy(z.detach().numpy() + 1))  # noqa: E731
    assert not any(site.constant for site in find(Odd(act), torch.zeros(2, 4)))


def test_windows_in_the_batch_dimension_are_units_of_one_example():
    class Windows(nn.Module):
        def forward(self, x):
            return F.gelu(x.reshape(len(x) * 2, -1)).reshape(len(x), -1)

    assert find(nn.Sequential(Windows(), nn.Linear(6, 2)), torch.randn(5, 6)).sites[0].shape == (2, 3)


def test_attention_is_named_and_its_activation_found():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    model, x = nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 2)).eval(), torch.rand(2, 3, 8)
    sites = find(model, x)
    assert [s.name for s in sites] == ["0.relu"]
    assert sites.fused == ("0", "0.self_attn")
    with torch.no_grad():
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            plain = model(x)
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
        assert torch.equal(replace(model, "relu", example=x)(x), plain)


def test_exported_programs_are_followed_as_well():
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)).eval(), torch.randn(2, 4)
    program = torch.export.export(model, (x,)).module()
    assert [s.kind for s in find_in_eval(program, x)] == ["relu"]


def find_in_eval(program, x):
    with watch(program) as seen, torch.no_grad():
        program(x)
    return seen.calls


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
def test_compiled_modules_are_refused():
    model = torch.jit.trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.rand(1, 4))
    with pytest.raises(ModelError, match="compiled"):
        find(model, torch.rand(1, 4))


# --- watch --------------------------------------------------------------------------------------------------------


def test_watching_changes_nothing_and_sees_what_find_found(net, x):
    before, plain = fingerprint(net), net(x)
    with watch(net) as seen:
        assert torch.equal(net(x), plain)
        assert [c.name for c in seen.calls] == [s.name for s in find(net, x)]
        assert torch.equal(net(x), plain)
        assert len(seen.calls) == 7  # refilled by the second pass, not appended to
    assert_untouched(net, before)
    net(x)
    assert len(seen.calls) == 7


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_pre_activations_equal_a_forward_by_hand(net, x, guard):
    with guard():
        with watch(net) as seen:
            net(x)
        z = {call.name: call.pre for call in seen.calls}
        z0 = net.stem(x)
        assert torch.equal(z["relu"], z0)
        h0, b = z0.clamp(min=0), net.block
        z1 = b.bn1(b.conv1(h0))
        assert torch.equal(z["block.relu"], z1)
        z2 = b.bn2(b.conv2(z1.clamp(min=0))) + h0
        assert torch.equal(z["block.relu:2"], z2)
        assert (z["relu"] < 0).any(), "an in-place ReLU has overwritten what was kept"
        for call in seen.calls:
            assert torch.equal(call.post, call.activation(call.pre))


def test_gradients_through_pre_and_post_equal_autograd_by_hand():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    x = torch.randn(7, 4, requires_grad=True)
    with watch(model) as seen:
        logits = model(x)
    first, second = seen.calls
    w1, w2, w3 = model[0].weight, model[2].weight, model[4].weight
    (slope,) = torch.autograd.grad(torch.sigmoid(first.pre).sum(), x, retain_graph=True)
    z1 = model[0](x)
    s = torch.sigmoid(z1)
    torch.testing.assert_close(slope, (s * (1 - s)) @ w1)
    (slope,) = torch.autograd.grad(second.pre.sum(), x, retain_graph=True)
    torch.testing.assert_close(slope, (torch.ones(7, 6) @ w2 * (z1 > 0)) @ w1)
    # and the output in both: a' d logit / d a is what makes a unit critical
    by_post, by_pre = torch.autograd.grad(logits[:, 1].sum(), [first.post, first.pre], retain_graph=True)
    a2 = torch.tanh(model[2](torch.relu(z1)))
    expected = (w3[1] * (1 - a2**2)) @ w2
    torch.testing.assert_close(by_post, expected)
    torch.testing.assert_close(by_pre, expected * (z1 > 0))


def test_gradients_of_the_output_are_bit_equal_when_watched(net, x):
    def slopes():
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(net(leaf).square().sum(), [leaf, *net.parameters()], allow_unused=True)

    plain = slopes()
    with watch(net):
        watched = slopes()
    assert all(torch.equal(a, b) if a is not None else b is None for a, b in zip(plain, watched, strict=True))


def test_what_the_model_overwrites_later_is_kept():
    class Later(nn.Module):
        def forward(self, x):
            z = x * 2
            a = torch.tanh(z)
            z[:, 0] += 100
            z.view(-1).mul_(3)
            a.add_(7)
            return F.relu(z, inplace=True) + a

    x = torch.tensor([[1.0, -2.0]])
    with watch(Later()) as seen:
        out = Later.forward(None, x)
        model = Later()
    with watch(model) as seen:
        assert torch.equal(model(x), out)
    tanh, relu = seen.calls
    assert torch.equal(tanh.pre, 2 * x)
    assert torch.equal(tanh.post, torch.tanh(2 * x))
    assert relu.pre.tolist() == [[306.0, -12.0]]


class Aliased(nn.Module):
    """A shortcut taken before an in-place ReLU: it carries the ReLU's output, and must go on doing so."""

    def __init__(self, inplace=True):
        super().__init__()
        self.fc, self.relu = nn.Linear(4, 4), nn.ReLU(inplace=inplace)

    def forward(self, x):
        z = self.fc(x)
        return self.fc(self.relu(z)) + z


def test_in_place_calls_still_overwrite_what_others_hold():
    torch.manual_seed(0)
    model, x = Aliased(), torch.randn(3, 4)
    plain = model(x)
    assert not torch.equal(plain, copy.deepcopy(model).apply(lambda m: setattr(m, "inplace", False))(x))
    with watch(model):
        assert torch.equal(model(x), plain)
    assert torch.equal(replace(model, "relu", example=x)(x), plain)
    z = model.fc(x)
    assert torch.equal(replace(model, "leaky_relu", example=x)(x), model.fc(F.leaky_relu(z)) + F.leaky_relu(z))
    slope = torch.autograd.grad(replace(model, "silu", example=x)(x).sum(), model.fc.weight, allow_unused=True)
    assert slope == (None,)  # the copy has parameters of its own, and its backward pass runs


def test_only_the_asked_sites_are_recorded(net, x):
    with watch(net, only=["block.relu:2", "head.1"], post=False) as seen:
        plain = net(x)
    assert [(c.name, c.post) for c in seen.calls] == [("block.relu:2", None), ("head.1", None)]
    assert torch.equal(plain, net(x))


def test_calls_outside_the_model_are_not_recorded(net, x):
    with watch(net) as seen:
        net(x)
        torch.relu(x)
        net.head(torch.rand(2, 4))
        assert len(seen.calls) == 7


def test_a_failing_pass_leaves_the_watch_working(net, x):
    before = fingerprint(net)
    with watch(net) as seen:
        with pytest.raises(RuntimeError):
            net(torch.zeros(2, 5, 6, 6))
        net(x)
        assert len(seen.calls) == 7
    assert_untouched(net, before)


# --- replace ------------------------------------------------------------------------------------------------------


def test_replacing_by_hand_gives_the_same(net, x, monkeypatch):
    swapped = replace(net, "silu", example=x)
    by_hand = copy.deepcopy(net)
    by_hand.head[1] = nn.SiLU()
    by_hand.block.relu = nn.SiLU()
    monkeypatch.setattr(F, "relu", lambda z, inplace: F.silu(z))
    monkeypatch.setattr(torch.Tensor, "relu_", F.silu)
    expected = by_hand(x)
    monkeypatch.undo()
    assert torch.equal(swapped(x), expected)
    with watch(swapped) as seen:
        swapped(x)
    assert [(c.name, c.kind) for c in seen.calls] == [
        ("relu", "silu"),
        ("block.relu", "silu"),
        ("block.relu:2", "silu"),
        ("relu:2", "silu"),
        ("sigmoid", "sigmoid"),
        ("head.1", "silu"),
        ("elu", "elu"),
    ]
    assert [s.name for s in find(swapped, x)] == [s.name for s in find(net, x)]


def test_relu_by_relu_is_bit_equal_in_eval_and_train(net, x):
    net.head[1] = nn.ReLU()
    net.aux[1] = nn.ReLU()
    before = fingerprint(net)
    swapped = replace(net, "relu", example=x)
    assert_untouched(net, before)
    twin = copy.deepcopy(net)
    for mode in (False, True):
        twin.train(mode)
        swapped.train(mode)
        slopes = []
        for model in (twin, swapped):
            leaf = x.clone().requires_grad_()
            out = model(leaf)
            slopes.append([out, *torch.autograd.grad(out.square().sum(), [leaf, model_of(model).stem.weight])])
        assert all(map(torch.equal, *slopes))
    # batch norm learned the same statistics
    assert all(map(torch.equal, twin.state_dict().values(), swapped.model.state_dict().values()))


def model_of(model):
    return model.model if isinstance(model, Swapped) else model


def test_a_learnable_replacement_has_its_own_parameter_per_site(net, x):
    swapped = replace(net, "prelu(init=0.1)", example=x)
    own = {key: value for key, value in swapped.state_dict().items() if not key.startswith("model.")}
    assert {key: value.tolist() for key, value in own.items()} == {
        f"stands.{site}.weight": [pytest.approx(0.1)]
        for site in ("relu", "block/relu", "block/relu:2", "relu:2", "head/1", "aux/1")
    }
    assert {key.removeprefix("model.") for key in swapped.state_dict() if key.startswith("model.")} == set(
        net.state_dict()
    )
    swapped.train()(x).square().sum().backward()
    slopes = [stand.weight.grad.item() for stand in swapped.stands.values()]
    assert len({*slopes}) == 6
    assert 0 not in slopes
    with torch.no_grad():
        swapped.eval()
        before = swapped(x)
        swapped.stands["block/relu:2"].weight.fill_(0.9)
        assert not torch.equal(swapped(x), before)
        swapped.stands["block/relu:2"].weight.fill_(0.1)
        assert torch.equal(swapped(x), before)


def test_only_the_named_sites_are_replaced(net, x):
    swapped = replace(net, "tanh", only="block.*", example=x)
    assert list(swapped.stands) == ["block/relu", "block/relu:2"]
    swapped = replace(net, "tanh", only=["block.relu", "head.*"], example=x)
    with watch(swapped) as seen:
        swapped(x)
    assert [c.name for c in seen.calls if c.kind == "tanh"] == ["block.relu", "head.1"]
    assert [c.name for c in seen.calls] == [s.name for s in find(net, x)]
    with pytest.raises(UnknownName, match=r"block\.relu"):
        replace(net, "tanh", only=["block.relux"], example=x)
    with pytest.raises(UnknownName):  # a gate is no target
        replace(net, "tanh", only=["sigmoid"], example=x)


@pytest.mark.parametrize("to", ["prelu", "kwta(fraction=0.3)", "silu"])
def test_a_swapped_model_copies_pickles_saves_and_loads(net, x, to):
    swapped = replace(net, to, example=x)
    with torch.no_grad():
        for p in swapped.stands.parameters():
            p.uniform_(0.05, 0.5)
        plain = swapped(x)
        assert torch.equal(copy.deepcopy(swapped)(x), plain)
        assert torch.equal(pickle.loads(pickle.dumps(swapped))(x), plain)
        file = io.BytesIO()
        torch.save(swapped.state_dict(), file)
        file.seek(0)
        fresh = replace(Net().eval(), to, example=x)
        assert not torch.equal(fresh(x), plain)
        fresh.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(fresh(x), plain)


def test_replacing_twice_replaces_the_replacement(net, x):
    twice = replace(replace(net, "prelu", example=x), "gelu", only="block.*", example=x)
    with watch(twice) as seen:
        out = twice(x)
    kinds = {c.name: c.kind for c in seen.calls}
    assert (kinds["relu"], kinds["block.relu"], kinds["block.relu:2"], kinds["head.1"]) == (
        "prelu",
        "gelu",
        "gelu",
        "prelu",
    )
    assert out.shape == (2, 3)


def test_the_dtype_and_the_flags_of_the_model_are_kept(net, x):
    net.stem.weight.requires_grad_(False)
    net.train()
    net.block.bn1.eval()
    swapped = replace(net.double(), "prelu", example=x.double())
    assert {p.dtype for p in swapped.parameters()} == {torch.float64}
    assert not swapped.model.stem.weight.requires_grad
    assert [m.training for m in swapped.model.modules()] == [m.training for m in net.modules()]
    assert swapped.training


def test_a_call_nobody_has_seen_is_an_error():
    class Fork(nn.Module):
        def forward(self, x):
            return F.relu(x).sum(1) if x.mean() < 10 else torch.tanh(x).sum(1)

    swapped = replace(Fork(), "gelu", example=torch.rand(2, 4))
    with pytest.raises(ModelError, match="'tanh'"):
        swapped(torch.full((2, 4), 11.0))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_calls_are_refused(reentrant):
    class Saving(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            run = lambda z: F.relu(self.fc(z))  # noqa: E731
            return checkpoint(run, x, use_reentrant=reentrant) if x.requires_grad else run(x)

    model = nn.Sequential(Saving(), nn.Linear(4, 2))
    swapped = replace(model, "silu", example=torch.rand(2, 4))
    with pytest.raises(ModelError, match="memory_efficient"):
        swapped(torch.rand(2, 4, requires_grad=True))


def test_nothing_to_replace_is_said():
    with pytest.raises(ModelError, match="no activation call"):
        replace(nn.Linear(4, 2), "relu", example=torch.rand(1, 4))
    with pytest.raises(UnknownName, match="leaky_relu"):
        replace(nn.ReLU(), "leakyrelu", example=torch.rand(1, 4))


# --- the trained models of the shared folder ------------------------------------------------------------------------


@pytest.mark.skipif(not (SHARED / "data/models.py").exists(), reason="the shared models are absent")
def test_the_functional_resnet20():
    safetensors = pytest.importorskip("safetensors.torch")
    sys.path.insert(0, str(SHARED / "data"))
    try:
        import models
    finally:
        sys.path.pop(0)
    net = models.cifar10_resnet20().eval()
    net.load_state_dict(safetensors.load_file(SHARED / "data/cifar10_resnet20.safetensors"))
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    sites = find(net, x)
    assert len(sites) == 19
    assert [s.name for s in sites][:4] == ["relu", "layer1.0.relu", "layer1.0.relu:2", "layer1.1.relu"]
    assert all(s.functional and not s.constant and s.role == "activation" for s in sites)
    with torch.no_grad():
        plain = net(x)
        assert torch.equal(replace(net, "relu", example=x)(x), plain)
        with watch(net) as seen:
            assert torch.equal(net(x), plain)
        assert torch.equal(net.linear(F.avg_pool2d(seen.calls[-1].post, 8).flatten(1)), plain)
    assert len(list(replace(net, "prelu", example=x).stands.parameters())) == 19
