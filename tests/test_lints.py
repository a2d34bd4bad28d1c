"""Lints: each fires on the networks it is about and on no others, and measures what it says."""

from __future__ import annotations

import math

import pytest
import torch
from runs import inside
from torch import nn
from torch.nn import functional as F

import actsec
from actsec import models, registry
from actsec.health.wiring import wiring
from actsec.lints.initialisation import factors
from actsec.verdict.activity import lint


def looked(model, shape=(1, 8, 8), classes=10, *, fresh=True, labels=None):
    target = actsec.load(model.eval(), input_shape=shape, classes=classes)
    x = torch.rand(32, *shape, generator=torch.Generator().manual_seed(0))
    return wiring(target, x, fresh=fresh, classes=labels)


def rules(model, **given):
    return {problem.rule: problem for problem in lint(looked(model, **given))}


def reference(options, shape=(1, 8, 8)):
    return models.build(options, shape, 10, 0)


class Shared(nn.Module):
    def __init__(self, same):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(64, 20), nn.Linear(20, 20), nn.Linear(20, 10)
        self.act = nn.PReLU()
        self.other = self.act if same else nn.PReLU()

    def forward(self, x):
        return self.last(self.other(self.second(self.act(self.first(x.flatten(1))))))


class Attention(nn.Module):
    """Softmax as it is meant, beside one that is not."""

    def __init__(self, wrong=False):
        super().__init__()
        self.queries, self.values, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(64, 10)
        self.wrong = wrong

    def forward(self, x):
        x = x.squeeze(1)
        weights = torch.softmax(self.queries(x) @ x.transpose(1, 2), -1)
        mixed = torch.relu(self.values(weights @ x)).flatten(1)
        return self.last(mixed.softmax(1) if self.wrong else mixed)


def net(*layers):
    return nn.Sequential(nn.Flatten(), *layers)


def two(act, *end):
    return net(nn.Linear(64, 16), act, nn.Linear(16, 10), *end)


GUILTY = [
    ("ACT-L01", reference("mlp(activation=sigmoid)"), "low"),
    ("ACT-L01", reference("mlp(activation=sigmoid, width=[16], depth=6)"), "medium"),
    ("ACT-L02", two(nn.ReLU(), nn.ReLU()), "medium"),
    ("ACT-L02", two(nn.ReLU(), nn.ReLU6(), nn.Dropout()), "medium"),
    ("ACT-L03", reference("mlp(activation=step)"), "medium"),
    ("ACT-L03", two(nn.Softmax(1)), "low"),
    ("ACT-L03", Attention(wrong=True), "low"),
    ("ACT-L04", two(nn.ReLU(), nn.Tanh()), "medium"),
    ("ACT-L04", two(nn.ReLU(), nn.Sigmoid()), "medium"),
    ("ACT-L05", two(nn.ReLU(), nn.Softmax(1)), "high"),
    ("ACT-L06", reference("mlp(activation=identity)"), "medium"),
    ("ACT-L06", net(nn.Linear(64, 30), nn.Identity(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(),
                    nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 10)), "low"),
    ("ACT-L07", reference("mlp(activation=relu, init=torch, width=[32], depth=20)"), "medium"),
    ("ACT-L07", reference("mlp(activation=sigmoid, init=he, width=[32], depth=10)"), "medium"),
    ("ACT-L08", Shared(same=True), "low"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "model", "severity"), GUILTY)
def test_each_lint_fires_on_what_it_is_about(rule, model, severity):
    assert rules(model)[rule].severity == severity


@pytest.mark.parametrize(
    "model",
    [
        reference("mlp"),
        reference("cnn(activation=gelu)"),
        reference("cnn(activation=prelu)"),
        reference("mlp(activation=tanh, width=[32], depth=20, init=glorot)"),
        reference("mlp(activation=relu, width=[32], depth=20, init=he)"),
        Attention(),
        Shared(same=False),
        net(nn.Linear(64, 16), nn.Sigmoid(), nn.Linear(16, 10)),  # one sigmoid starves nothing
        net(nn.Linear(64, 4), nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 10)),  # a factorised layer
        two(nn.ReLU(), nn.LogSoftmax(1)),  # the softmax of it is the softmax
    ],
)
def test_sound_networks_are_left_in_peace(model):
    assert rules(model) == {}


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_the_zoo_is_called_what_it_is(name):
    """SqueezeNet does rectify its scores (Iandola et al. 2016: relu after conv10); the others have no such thing."""
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.get_model(name, weights=None, num_classes=10)
    found = rules(model, shape=(3, 64, 64))
    assert set(found) == ({"ACT-L02"} if name == "squeezenet1_1" else set())


def test_every_lint_has_a_rule_of_its_own_and_a_case():
    found = {registry.find("lints", name).rule: name for name in registry.names("lints")}
    assert sorted(found) == [f"ACT-L0{number}" for number in range(1, 10)]
    assert {rule for rule, *_ in GUILTY} == set(found) - {"ACT-L09"}
    for rule, name in found.items():
        assert registry.page("lints", name).startswith(rule)
        assert inside("explain", rule).out == inside("explain", name).out


def test_a_disguised_relu_is_told():
    class Disguised(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(64, 16), nn.Linear(16, 10)

        def forward(self, x):
            return self.last(torch.where(self.first(x.flatten(1)).sum(1, keepdim=True) > 0, 1.0, 1.0)
                             * F.softsign(self.first(x.flatten(1))))  # fmt: skip

    assert "softsign" in rules(Disguised())["ACT-L09"].claim


def test_outputs_and_labels():
    too_few = rules(two(nn.ReLU()), labels=12)["ACT-L04"]
    assert (too_few.severity, too_few.claim) == ("high", "10 outputs are too few for 12 labels")
    too_many = rules(two(nn.ReLU()), labels=7)["ACT-L04"]
    assert (too_many.severity, "3 can never be right" in too_many.claim) == ("low", True)
    one = net(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 1))
    assert rules(one, classes=2) == {}
    assert rules(net(*one[1:], nn.Sigmoid()), classes=2)["ACT-L05"].severity == "high"
    assert rules(one, classes=2, labels=3)["ACT-L04"].severity == "high"


@pytest.mark.parametrize(("act", "span"), [(nn.Tanh(), 2.0), (nn.Sigmoid(), 1.0), (nn.Hardtanh(-3.0, 3.0), 6.0)])
def test_the_highest_confidence_is_that_of_the_softmax(act, span):
    """The cap in words is the confidence of the best scores the activation can give."""
    best = act(torch.tensor([1e4, *[-1e4] * 9])).softmax(0).max().item()
    assert best == pytest.approx(1 / (1 + 9 * math.exp(-span)), rel=1e-6)
    assert f"exceeds {best:.3f}" in rules(two(nn.ReLU(), act))["ACT-L04"].claim


@pytest.mark.parametrize("kind", ["relu", "tanh", "sigmoid", "softplus", "gelu", "identity"])
@pytest.mark.parametrize("init", ["he", "glorot"])
def test_the_factors_are_the_gradients_own(kind, init):
    """Against autograd: the gradient by the first pre-activation over that by the last, within 3 times."""
    model = reference(f"mlp(activation={kind}, init={init}, width=[256], depth=7)").eval()
    if kind == "identity":  # the catalogue's identity is no layer's end for the lint: nothing follows an activation
        assert factors(looked(model)) == []
        return
    (run,) = [run for run in factors(looked(model)) if len(run) == 7]
    kept = []
    for module in model:
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda _m, _i, out: kept.append(out) or out.retain_grad())
    x = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    logits = model(x)
    logits.backward(torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)))
    measured = float(kept[0].grad.norm() / kept[-1].grad.norm())
    assert 1 / 3 < math.prod(run) / measured < 3


def test_trained_weights_say_nothing_of_the_initialisation():
    model = reference("mlp(activation=relu, init=torch, width=[32], depth=20)")
    assert "ACT-L07" in rules(model)
    assert "ACT-L07" not in rules(model, fresh=False)


def test_a_collapsing_pair_computes_one_layer():
    first, second = nn.Linear(9, 7).double(), nn.Linear(7, 5).double()
    x = torch.rand(20, 9, dtype=torch.float64)
    weight, bias = second.weight @ first.weight, second.weight @ first.bias + second.bias
    assert torch.allclose(second(first(x)), F.linear(x, weight, bias), rtol=0, atol=1e-12)


def test_looking_changes_nothing():
    model = reference("mlp(activation=prelu, norm=batch)").train()
    state, before = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    target = actsec.load(model, input_shape=(1, 8, 8), classes=10)
    wiring(target, torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), fresh=True)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


def test_the_command_lints_before_any_training(tmp_path):
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 10), nn.Softmax(1))\n"
    )
    said = inside("diagnose", "--architecture", "--model", f"{tmp_path / 'nets.py'}:make", "--quiet")
    assert said.code == 0, said.err
    assert "2 layers, hidden activations: 1 sigmoid" in said.out
    assert "ACT-L05 high: the model returns probabilities (4: softmax)" in said.out
    said = inside("diagnose", "--architecture", "--model", "reference:mlp(activation=sigmoid)", "--quiet")
    assert "ACT-L01 low" in said.out
    said = inside("diagnose", "--architecture", "--gate", "dead<=0.1", "--quiet")
    assert said.code == 2
    assert "--architecture prints" in said.err


def test_diagnose_lints_the_trained_model_too():
    spec = "reference:mlp(activation=identity, width=[16, 16])"
    said = inside("diagnose", "--model", spec, "--samples", 50, "--quiet")
    assert "ACT-L06 medium: 1 and 3 collapse to one linear layer" in said.out


def test_the_gates_of_an_lstm_are_told():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.last = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 10)

        def forward(self, x):
            return self.last(self.lstm(x.squeeze(1))[0][:, -1])

    assert "LSTM" in rules(Recurrent())["ACT-L09"].claim


class ByHand(nn.Module):
    def __init__(self, act, *, end=False):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)
        self.act, self.end = act, end

    def forward(self, x):
        z = self.last(self.act(self.second(self.act(self.first(x.flatten(1))))))
        return self.act(z) if self.end else z


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (lambda z: z * torch.sigmoid(z), "silu"),
        (lambda z: z * F.relu6(z + 3) / 6, "hardswish"),
        (lambda z: 1 / (1 + torch.exp(-z)), "sigmoid"),
        (lambda z: z * (z > 0), "relu"),
    ],
)
def test_an_activation_written_by_hand_is_one_site_between_its_layers(act, kind):
    torch.manual_seed(0)
    found = looked(ByHand(act))
    assert [(site.activation.name, site.hidden) for site in found.sites] == [(kind, True)] * 2
    assert [(site.origin.thing, site.origin.at) for site in found.sites] == [("layer", 0), ("layer", 1)]
    assert [layer.origin and (layer.origin.thing, layer.origin.at) for layer in found.layers] == [
        None, ("site", 0), ("site", 1)]  # fmt: skip
    ended = looked(ByHand(act, end=True))
    assert (ended.output.thing, ended.output.at, [site.hidden for site in ended.sites]) == (
        "site",
        2,
        [True, True, False],
    )
    assert ("ACT-L02" in rules(ByHand(act, end=True))) == (kind in ("relu", "hardswish"))


def test_what_a_part_made_has_no_known_origin():
    """Neither the sigmoid nor the whole is a site, so that no lint speaks of a sigmoid."""

    def shared(z):
        s = torch.sigmoid(z)
        return z * s + s * z.flip(0)

    found = looked(ByHand(shared))
    assert found.sites == ()
    assert [layer.origin for layer in found.layers] == [None, None, None]
    assert set(rules(ByHand(shared))) == {"ACT-L09"}


def test_a_model_that_changes_its_calls_is_not_judged():
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last, self.turn = nn.Linear(64, 16), nn.Linear(16, 10), 0

        def forward(self, x):
            self.turn += 1
            z = self.first(x.flatten(1))
            return self.last(torch.sigmoid(z) if self.turn % 2 else torch.relu(torch.relu(z)))

    found = looked(Fickle())
    assert found.sites == ()
    assert found.output is None
    assert [layer.origin for layer in found.layers] == [None, None]
    assert lint(found) == ()
