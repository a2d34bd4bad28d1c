import json

import numpy as np
import pytest
import torch
from frauds import CLASSES, BackwardNoise, Noisy, Quantised, Scaled, StraightThrough
from torch import Tensor, nn

from actsec.health.tally import kill_profile, site_health
from actsec.running.probe import broken_graph, probe
from actsec.types import Normalization, Target


def network(activation=nn.ReLU, inputs=8, classes=4, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first, second, last = nn.Linear(inputs, 16), nn.Linear(16, 16), nn.Linear(16, classes)
        return nn.Sequential(first, activation(), second, activation(), last)


def batch(n=40, inputs=8, classes=4):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, inputs, generator=generator), torch.randint(0, classes, (n,), generator=generator)


def asked(model, n=40, classes=4, **options):
    x, _ = batch(n)
    target = Target(model, (8,), CLASSES[:classes], **options)
    with torch.no_grad(), torch.random.fork_rng():
        y = target.decide(target.logits(x))
    return probe(target, x, y, 0.1, "linf")


def test_an_honest_network():
    found = asked(network(nn.Tanh))
    assert found["slope_cosine"] > 0.999
    assert found["zero_margin_gradients"] == found["zero_cross_entropy_gradients"] == 0
    assert found["repeatable"]
    assert found["repeat_difference"] == 0
    assert found["broken_graph"] == ""
    assert not found["looks_like_probabilities"]
    assert found["output_spread"] > 0.01
    assert found["gradient_rows"] == found["n"] == 40
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_margin_gradient_norms_of_a_linear_model_are_its_weights():
    model = nn.Linear(8, 2)
    found = asked(model, classes=2)
    expected = float((model.weight[1] - model.weight[0]).detach().abs().sum())  # the dual of linf is l1
    assert found["gradient_norms"] == pytest.approx([expected] * 5, rel=1e-5)
    assert found["gradient_cosine"] == pytest.approx(1)
    assert found["slope_cosine"] == pytest.approx(1, abs=1e-6)


def test_saturated_softmax_hides_cross_entropy_only():
    found = asked(Scaled(network(), 1e5))
    assert found["zero_cross_entropy_gradients"] > 0.8
    assert found["zero_margin_gradients"] == 0
    assert found["slope_cosine"] > 0.99


def test_a_staircase_has_no_gradient_and_its_straight_through_twin_a_false_one():
    hidden, false = asked(Quantised(network())), asked(StraightThrough(network()))
    assert hidden["zero_margin_gradients"] == 1
    assert false["zero_margin_gradients"] == 0
    assert false["slope_cosine"] < 0.5


def test_backward_noise_disagrees_with_finite_differences():
    found = asked(BackwardNoise(network(), 10.0))
    assert abs(found["slope_cosine"]) < 0.5
    assert abs(found["gradient_cosine"]) < 0.5


def test_randomness_shows_whether_declared_or_not():
    for stochastic in (False, True):
        found = asked(Noisy(network()), stochastic=stochastic)
        assert not found["repeatable"]
        assert found["repeat_difference"] > 1e-2


class Cut(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.inner, self.how = network(), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "raise":
            return self.inner(_Refusing.apply(x))
        return self.inner(x.detach() if self.how == "detach" else torch.from_numpy(x.detach().numpy()))


class _Refusing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("no way back")


@pytest.mark.parametrize(("how", "words"), [("detach", "cut off"), ("numpy", "cut off"), ("raise", "no way back")])
def test_broken_graphs_are_named(how, words):
    model = Cut(how).requires_grad_(False)
    assert words in broken_graph(Target(model, (8,), CLASSES[:4]), batch()[0])
    found = asked(Cut(how))
    assert words in found["broken_graph"]
    assert "zero_margin_gradients" not in found
    assert found["unstable_predictions"] > 0


def test_constant_and_nan_outputs():
    dead = network()
    with torch.no_grad():
        dead[2].weight.zero_()
    found = asked(dead)
    assert found["output_spread"] == 0
    assert found["classes_decided"] == 1
    assert found["zero_margin_gradients"] == 1
    broken = network()
    with torch.no_grad():
        broken[0].weight[0, 0] = torch.nan
    found = asked(broken)
    assert found["non_finite_outputs"] == 1
    assert json.dumps(found, allow_nan=False)


def test_probabilities_are_recognised_with_any_head():
    assert asked(nn.Sequential(network(), nn.Softmax(1)))["looks_like_probabilities"]
    assert asked(nn.Sequential(network(classes=1), nn.Sigmoid()), classes=2)["looks_like_probabilities"]
    assert not asked(Scaled(network(classes=1), 100.0), classes=2)["looks_like_probabilities"]


def test_a_threshold_moves_no_probe_of_the_outputs():
    plain, moved = (asked(network(classes=2), classes=2, threshold=t) for t in (None, 0.9))
    assert plain["looks_like_probabilities"] == moved["looks_like_probabilities"]
    assert plain["output_spread"] > 0
    assert moved["gradient_rows"] == 40


def test_probing_leaves_the_model_and_the_global_random_state_alone():
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 4)).train()
    model[1].eval()
    x, y = batch()
    target = Target(model, (8,), CLASSES[:4])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    flags, random = [m.training for m in model.modules()], torch.random.get_rng_state()
    probe(target, x, y, 0.1, "linf")
    site_health(target, x, y)
    kill_profile(target, x, x)
    assert all(torch.equal(value, before[k]) for k, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == flags
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert not any(m._forward_hooks for m in model.modules())


def test_the_probe_is_a_function_of_the_seed_alone():
    first, second = asked(network()), asked(network())
    assert first == second


def hidden(model, x):
    """Pre-activations of both sites, by hand."""
    one = model[0](x)
    return one, model[2](model[1](one))


def test_dead_fractions_by_hand():
    model = network()
    with torch.no_grad():
        model[0].bias[:5] = -100.0  # five units no input can wake
    x, y = batch()
    with torch.no_grad():
        values = hidden(model, x)
    for batch_size in (7, 128):
        found = site_health(Target(model, (8,), CLASSES[:4]), x, y, batch=batch_size)
        assert [site["kind"] for site in found] == ["relu", "relu"]
        for site, z in zip(found, values, strict=True):
            assert site["units"] == 16
            assert site["dead"] == pytest.approx(float((z <= 0).double().mean()))
            assert site["permanently_dead"] == pytest.approx(float((z <= 0).all(0).double().mean()))
            assert site["saturated"] is None
            assert site["finite"]
    assert found[0]["permanently_dead"] >= 5 / 16


def test_site_gradient_norms_by_hand():
    model = network(nn.Tanh)
    x, y = batch()
    z = model[0](x).detach().requires_grad_(True)
    loss = nn.functional.cross_entropy(model[4](model[3](model[2](model[1](z)))), y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, z)
    found = site_health(Target(model, (8,), CLASSES[:4]), x, y)[0]
    assert found["gradient_norm"] == pytest.approx(float(gradient.norm(dim=1).mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("activation", "inside"),
    [(nn.Tanh, lambda z: z.abs() > 2.1785), (nn.Sigmoid, lambda z: z.abs() > 4.3567), (nn.ReLU6, lambda z: z > 6)],
)
def test_saturated_fractions_by_hand(activation, inside):
    model = network(activation)
    with torch.no_grad():
        model[0].weight *= 15
    x, y = batch()
    with torch.no_grad():
        z, _ = hidden(model, x)
    found = site_health(Target(model, (8,), CLASSES[:4]), x, y)[0]
    assert found["saturated"] == pytest.approx(float(inside(z).double().mean()), abs=1e-9)
    assert found["saturated"] > 0.05
    assert (found["dead"] is None) == (activation is not nn.ReLU6)


def test_nan_is_neither_dead_nor_alive():
    model = network()
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    x, y = batch()
    first, second = site_health(Target(model, (8,), CLASSES[:4]), x, y)
    assert first["finite"]
    assert first["dead"] is not None
    assert not second["finite"]
    assert second["dead"] is second["permanently_dead"] is second["gradient_norm"] is None
    x[0, 0] = torch.nan  # in the first of several chunks alone
    whole, _ = site_health(Target(network(), (8,), CLASSES[:4]), x, y, batch=7)
    assert not whole["finite"]
    assert whole["dead"] is whole["permanently_dead"] is whole["gradient_norm"] is None
    found = kill_profile(Target(network(), (8,), CLASSES[:4]), x, x)
    assert found.net is None
    assert "not finite" in found.reason


class Gated(nn.Module):
    """A gate, and an activation of a parameter that never sees the input."""

    def __init__(self):
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 4)
        self.scale = nn.Parameter(torch.randn(16))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x)) * torch.sigmoid(self.gate(x))
        return self.last(h * torch.relu(self.scale))


def test_gates_and_constant_calls_are_left_out():
    x, y = batch()
    found = site_health(Target(Gated(), (8,), CLASSES[:4]), x, y)
    assert [(site["kind"], site["units"]) for site in found] == [("relu", 16)]


def test_normalisation_is_applied_once():
    model = network()
    x, y = batch()
    plain = site_health(Target(nn.Sequential(*model), (8,), CLASSES[:4]), (x - 0.5) / 0.25, y)
    normalization = Normalization((0.5,), (0.25,))
    images = Target(nn.Sequential(nn.Flatten(), *model), (1, 2, 4), CLASSES[:4], normalization=normalization)
    shaped = site_health(images, x.reshape(-1, 1, 2, 4), y)
    assert [s["dead"] for s in plain] == [s["dead"] for s in shaped]


def test_kill_profile_by_hand():
    model = network()
    x, _ = batch()
    other = (x + 0.3 * torch.sign(torch.sin(100 * x))).clamp(0, 1)
    target = Target(model, (8,), CLASSES[:4])
    with torch.no_grad():
        before = [z <= 0 for z in hidden(model, x)]
        after = [z <= 0 for z in hidden(model, other)]
    whole, whole_after = torch.cat(before, 1), torch.cat(after, 1)
    for batch_size in (7, 128):
        found = kill_profile(target, x, other, batch=batch_size)
        assert found.reason == ""
        assert np.allclose(found.net, (whole_after.double().mean(1) - whole.double().mean(1)).numpy())
        lost = (whole_after & ~whole).sum(1) / (~whole).sum(1)
        assert np.allclose(found.killed_of_active, lost.numpy())
        for site, one, two in zip(found.sites, before, after, strict=True):
            assert site["dead_before"] == pytest.approx(float(one.double().mean()))
            assert site["dead_after"] == pytest.approx(float(two.double().mean()))
            assert site["killed"] == pytest.approx(float((two & ~one).double().mean()))
            assert site["revived"] == pytest.approx(float((one & ~two).double().mean()))
            assert site["units"] == 16


def test_what_cannot_die_is_not_applicable():
    x, _ = batch()
    found = kill_profile(Target(network(nn.LeakyReLU), (8,), CLASSES[:4]), x, x)
    assert (found.sites, found.net, found.killed_of_active) == ([], None, None)
    assert found.reason == "not applicable: leaky_relu cannot be killed"
