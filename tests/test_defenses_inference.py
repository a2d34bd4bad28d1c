"""Defenses that act at inference: vector scaling, isotonic calibration, noise at activations."""

import functools

import frauds
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.isotonic import IsotonicRegression
from test_defenses import everything, material, trained
from torch import nn

from actsec import registry
from actsec.activations import find
from actsec.defenses._heads import nll_of
from actsec.defenses._site_noise import Jitter, alphas
from actsec.defenses.isotonic import KNOTS, curved, log_odds, rising
from actsec.defenses.temperature import Tempered
from actsec.defenses.vector_scaling import best_vectors
from actsec.diagnostics.finite_differences import FiniteDifferences
from actsec.diagnostics.zero_gradients import ZeroGradients
from actsec.errors import BadOption, UnknownName
from actsec.running.probe import probe
from actsec.types import Evidence, Split, Target, Threat
from actsec.verdict.calibration import ece


class Fixed(nn.Module):
    """Logits looked up by the row number that the input holds."""

    def __init__(self, logits):
        super().__init__()
        self.register_buffer("table", logits)

    def forward(self, x):
        return self.table[x[:, 0].long()]


def looked_up(logits, y, classes=None, **options):
    """A target of these logits (n, classes), and its calibration split."""
    count = classes or logits.shape[1]
    target = Target(Fixed(logits.float()), (1,), tuple(map(str, range(count))), **options)
    split = Split(torch.arange(len(y))[:, None].float(), y, torch.arange(len(y)))
    return target, material(calibration=split)


def fitted(target, text, given_material):
    defense = registry.build("defenses", text)
    made = defense.wrap(target)
    return made, defense.fit(made, given_material)


def _with(text, logits, y):
    target, given_material = looked_up(logits, y)
    return target, text, given_material


def planted(n=3000, seed=0, weight=(0.4, 0.5, 1.5, 1.0), bias=(1.0, 0.0, -0.5, -0.5)):
    """Logits of four classes and labels drawn from the softmax of weight * logits + bias."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, 4, generator=generator).double()
    p = (logits * torch.tensor(weight) + torch.tensor(bias)).softmax(1)
    return logits, torch.multinomial(p, 1, generator=generator).squeeze(1)


def said(made, x):
    made.model.eval()
    with torch.no_grad():
        return made.logits(x)


# --- vector scaling


def test_at_the_optimum_what_is_left_of_each_class_is_what_the_prior_holds():
    logits, y = planted()
    weight, bias = best_vectors(logits[None], y)
    left = (logits * weight + bias).softmax(1) - torch.nn.functional.one_hot(y, 4)
    # The derivatives of the sum of negative log-likelihoods and half the squares of log w and b, written out.
    assert torch.allclose(left.sum(0) + bias, torch.zeros(4).double(), atol=1e-3)
    assert torch.allclose((left * logits * weight).sum(0) + weight.log(), torch.zeros(4).double(), atol=1e-3)
    assert abs(float(bias.sum())) < 1e-4


def test_it_fits_no_worse_than_the_truth_and_comes_near_it():
    logits, y = planted(20_000)
    weight, bias = best_vectors(logits[None], y)
    true_w, true_b = torch.tensor((0.4, 0.5, 1.5, 1.0)).double(), torch.tensor((1.0, 0.0, -0.5, -0.5)).double()
    prior = float((true_w.log() ** 2).sum() + (true_b**2).sum()) / (2 * len(y))
    found, truth = (float(nll_of((logits * w + b)[None], y)) for w, b in ((weight, bias), (true_w, true_b)))
    assert found <= truth + prior
    # A standard error of a parameter is near 1 / sqrt(n / classes) = 0.014 times the spread: five of them.
    assert torch.allclose(weight, true_w, atol=0.07)
    assert torch.allclose(bias, true_b, atol=0.15)


def test_it_counts_the_labels_it_changes():
    logits, y = planted(400)
    target, given_material = looked_up(logits, y)
    made, found = fitted(target, "vector_scaling", given_material)
    x = given_material.calibration.x
    before, after = said(target, x).argmax(1), said(made, x).argmax(1)
    changed = before != after
    assert found.numbers["labels_changed"] == int(changed.sum()) > 0
    assert found.numbers["labels_mended"] == int((changed & (after == y)).sum())
    assert found.numbers["labels_spoilt"] == int((changed & (before == y)).sum())
    assert str(int(changed.sum())) in found.notes[0]
    assert found.numbers["nll_after"] < found.numbers["nll_before"]


def test_a_split_it_could_separate_does_not_saturate_it():
    # Every label is right and the likelihood alone would make the logits infinite.
    logits = torch.eye(4).double().repeat(50, 1) * 8 + torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    target, given_material = looked_up(logits, torch.arange(4).repeat(50))
    made, _ = fitted(target, "vector_scaling", given_material)
    assert float(made.model.weight.max()) < 4
    assert float(made.model.bias.abs().max()) < 1


def test_a_class_without_examples_keeps_a_finite_bias():
    logits, _ = planted(200)
    y = torch.arange(200) % 3
    made, found = fitted(*_with("vector_scaling", logits, y))
    assert bool(torch.isfinite(made.model.bias).all())
    assert min(found.numbers["bias"]) == found.numbers["bias"][3] > -10


@pytest.mark.parametrize("text", ["vector_scaling", "isotonic", "isotonic(curves=each)"])
def test_one_logit_is_two_with_a_zero(text):
    generator = torch.Generator().manual_seed(1)
    z = 3 * torch.randn(600, generator=generator)
    y = (torch.rand(600, generator=generator) < (z / 3).sigmoid()).long()
    single, given_material = looked_up(z[:, None], y, classes=2)
    double, _ = looked_up(torch.stack([torch.zeros(600), z], 1), y)
    one, two = (fitted(target, text, given_material) for target in (single, double))
    x = given_material.calibration.x
    assert torch.equal(said(one[0], x), said(two[0], x))
    assert one[1] == two[1]


@pytest.mark.parametrize("text", ["vector_scaling", "isotonic", "isotonic(curves=each)"])
def test_with_a_threshold_labels_are_counted_by_the_threshold(text):
    generator = torch.Generator().manual_seed(2)
    z = 4 * torch.randn(800, generator=generator)
    y = (torch.rand(800, generator=generator) < (z / 4 + 0.5).sigmoid()).long()
    target, given_material = looked_up(torch.stack([torch.zeros(800), z], 1), y, threshold=0.8)
    made, found = fitted(target, text, given_material)
    assert made.threshold == 0.8
    x = given_material.calibration.x
    before, after = (t.decide(said(t, x)) for t in (target, made))
    assert found.numbers["labels_changed"] == int((before != after).sum()) > 0


# --- isotonic


def samples(least=2):
    """Log-odds with ties, and labels."""
    return st.integers(least, 60).flatmap(
        lambda n: st.tuples(
            arrays(np.float64, n, elements=st.integers(-40, 40).map(lambda k: k / 4)),
            arrays(np.float64, n, elements=st.sampled_from([0.0, 1.0])),
        )
    )


@given(samples())
@settings(max_examples=150, deadline=None)
def test_a_curve_rises_strictly_and_meets_scikit_learn_at_its_points(drawn):
    s, hit = drawn
    knots, values = rising(s, hit)
    assert bool((np.diff(knots) > 0).all())
    assert bool((np.diff(values.astype(np.float32)) > 0).all())
    chance = 1 / (1 + np.exp(-s))
    theirs = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(chance, hit)
    inner, share = knots[1:-1], 1 / (1 + np.exp(-values[1:-1]))
    expected = theirs.predict(1 / (1 + np.exp(-inner)))
    mixed = (expected > 0) & (expected < 1)
    assert np.allclose(share[mixed], expected[mixed], rtol=1e-9, atol=1e-12)
    # A step that is all wrong or all right is kept off 0 and 1, on its own side of its neighbour.
    assert bool((share[expected == 0] < 0.5).all())
    assert bool((share[expected == 1] > 0.5).all())


def test_the_points_of_a_fitted_model_are_scikit_learns():
    logits, y = planted(800)
    for text, rows in (("isotonic", 1), ("isotonic(curves=each)", 4)):
        target, given_material = looked_up(logits, y)
        made, found = fitted(target, text, given_material)
        p, hits = logits.float().double().softmax(1).numpy(), torch.nn.functional.one_hot(y, 4).numpy()
        assert made.model.knots.shape == (rows, KNOTS)
        for row in range(rows):
            mine = (p.ravel(), hits.ravel()) if rows == 1 else (p[:, row], hits[:, row])
            theirs = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(*mine)
            steps = found.numbers["steps"][row]
            at, to = (t[row, 1 : 1 + steps].double().sigmoid().numpy() for t in (made.model.knots, made.model.values))
            expected = theirs.predict(at)
            mixed = (expected > 0) & (expected < 1)
            assert steps > 5
            assert np.allclose(to[mixed], expected[mixed], atol=1e-5)


@given(arrays(np.float32, (6, 5), elements=st.floats(-60, 60, width=32)))
@settings(max_examples=100, deadline=None)
def test_one_curve_keeps_the_order_of_the_logits(drawn):
    z = torch.from_numpy(drawn).double()
    knots, values = _curve()
    after = curved(z, knots.double(), values.double())
    order = z.argsort(1)
    gaps = z.gather(1, order).diff(dim=1)
    moved = after.gather(1, order).diff(dim=1)
    assert bool((moved[gaps > 1e-3] > 0).all())
    assert bool((moved >= -1e-9).all())


@functools.cache
def _curve():
    logits, y = planted(800)
    target, given_material = looked_up(logits, y)
    made, _ = fitted(target, "isotonic", given_material)
    return made.model.knots, made.model.values


def test_log_odds_are_exact_where_probabilities_are_not():
    z = torch.tensor([[100.0, 0.0, 0.0], [0.0, 0.0, 0.0], [-3.0, 5.0, 5.0]])
    expected = torch.tensor(
        [[100 - np.log(2), -100.0, -100.0], [-np.log(2)] * 3, [-8 - np.log(2), *[-np.log1p(np.exp(-8))] * 2]]
    )
    assert torch.allclose(log_odds(z), expected.float(), atol=1e-6)
    p = z.double().softmax(1)
    ordinary = log_odds(z.double())[1:]
    assert torch.allclose(ordinary, (p / (1 - p)).log()[1:], atol=1e-9)


def test_gradients_are_the_curves_own():
    knots, values = _curve()
    z = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda t: curved(t, knots.double(), values.double()), z, eps=1e-7, atol=1e-5)


def test_calibrated_probabilities_are_the_curves_normalised():
    knots, values = _curve()
    z = torch.tensor([[2.0, 0.0, -1.0, 0.5]]).double()
    s = log_odds(z)[0].numpy()
    q = 1 / (1 + np.exp(-np.interp(s, knots[0].double(), values[0].double())))
    assert np.allclose(curved(z, knots.double(), values.double()).softmax(1)[0], q / q.sum(), atol=1e-9)


@pytest.mark.parametrize("text", ["isotonic", "isotonic(curves=each)", "vector_scaling"])
def test_an_overconfident_model_is_mended_and_the_labels_are_counted(text):
    logits, y = planted(6000, weight=(0.3,) * 4, bias=(0.0,) * 4)
    target, given_material = looked_up(logits, y)
    half = Split(*(tensor[:3000] for tensor in (given_material.calibration.x, y, torch.arange(6000))))
    made, found = fitted(target, text, material(calibration=half))
    x, label = given_material.calibration.x[3000:], y[3000:]

    def gap(t):
        p, decided = said(t, x).double().softmax(1).max(1)
        return ece(p.numpy(), (decided == label).numpy())

    assert gap(target) > 0.2
    assert gap(made) < 0.04
    changed = int((said(target, x).argmax(1) != said(made, x).argmax(1)).sum())
    assert changed == 0 if text == "isotonic" else changed >= 0
    assert found.numbers["labels_changed"] == 0 or text != "isotonic"


@pytest.mark.parametrize("hit", [0, 1])
def test_labels_that_are_always_or_never_the_first_class_leave_a_finite_curve(hit):
    logits, _ = planted(100)
    y = torch.where(logits.argmax(1) == 0, 1, 0) if hit else logits.argmax(1)
    made, _ = fitted(*_with("isotonic", logits, y))
    assert bool(torch.isfinite(said(made, torch.arange(100)[:, None].float())).all())
    assert bool((made.model.values.diff(dim=1) > 0).all())


# --- the battery does not take an honest calibrator for a fraud, and takes the step function for one


class Stepped(nn.Module):
    """Isotonic calibration as it is usually served: flat steps, here without even a way for gradients."""

    def __init__(self, model, knots, values):
        super().__init__()
        self.model, self.knots, self.values = model, knots, values

    def forward(self, x):
        s = log_odds(self.model(x))
        step = torch.bucketize(s, self.knots[0]).clamp(1, KNOTS) - 1
        return -torch.logaddexp(torch.zeros_like(s), -(self.values[0][step] + 0 * s))


@functools.cache
def honest():
    model = frauds.train(nn.ReLU, epochs=15)
    x, y, test, label = frauds.digits()
    rows = torch.arange(600, 1200)
    return Target(model, (64,), frauds.CLASSES), material(calibration=Split(x[rows], y[rows], rows)), test, label


def checked(target):
    _, _, x, y = honest()
    numbers = probe(target, x[:100], y[:100], 0.1, "linf")
    evidence = Evidence(Threat("linf", 0.1), np.ones(100, bool), {}, numbers, 10, False, 0)
    return {rule.rule: next(iter(rule(evidence))).status for rule in (ZeroGradients(), FiniteDifferences())}


@pytest.mark.parametrize("text", ["isotonic", "isotonic(curves=each)", "vector_scaling", "temperature"])
def test_the_battery_passes_an_honest_calibrator(text):
    target, given_material, _, _ = honest()
    made, _ = fitted(target, text, given_material)
    assert checked(made) == {"ACT-M01": "ok", "ACT-M09": "ok"}


def test_the_battery_flags_the_steps_themselves():
    target, given_material, _, _ = honest()
    made, _ = fitted(target, "isotonic", given_material)
    steps = Stepped(target.model, made.model.knots, made.model.values)
    assert checked(target.having(model=steps))["ACT-M01"] == "red"


@pytest.mark.parametrize(("temperature", "flagged"), [(0.001, True), (0.5, False)])
def test_a_temperature_that_no_fit_can_give_is_flagged(temperature, flagged):
    target, _, _, _ = honest()
    model = Tempered(target.model, None, 0.0)
    model.temperature.fill_(temperature)
    assert (checked(target.having(model=model))["ACT-M01"] in ("warn", "red")) is flagged


# --- noise at activations


def test_noise_follows_the_spread_of_each_example():
    y = torch.cat([torch.randn(1, 400), 10 * torch.randn(1, 400) + 3])
    many = y.repeat_interleave(500, 0)
    torch.manual_seed(0)
    noise = (Jitter(0.3, learned=False)(many) - many).reshape(2, 500, 400)
    expected = 0.3 * y.std(1, unbiased=False)
    # 200,000 draws each: five standard errors of a standard deviation are 0.8 % of it.
    assert torch.allclose(noise.flatten(1).std(1), expected, rtol=0.008)
    assert bool((noise.flatten(1).mean(1).abs() < 5 * expected / 200_000**0.5).all())


def test_its_slope_is_the_slope_of_what_it_computes():
    layer = Jitter(0.5, learned=True).double()
    y = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_(True)

    def fixed(value):
        torch.manual_seed(1)
        return layer(value)

    assert torch.autograd.gradcheck(fixed, y)
    flat = torch.zeros(2, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer.float()(flat).sum(), flat)
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("inplace", [False, True])
def test_only_the_named_sites_are_noisy_and_the_rest_is_the_model(inplace):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace), nn.Linear(8, 8), nn.ReLU(inplace), nn.Linear(8, 3))
    target = Target(model, (8,), ("a", "b", "c"))
    made = registry.build("defenses", "noisy_inference(std=0.2, at=activations, sites='3')").wrap(target)
    assert made.stochastic
    assert alphas(made.model) == {"3": pytest.approx(0.2)}
    x = torch.rand(64, 8, generator=torch.Generator().manual_seed(1))
    made.model.eval()
    torch.manual_seed(5)
    leaf = x.clone().requires_grad_(True)
    logits = made.logits(leaf)
    (gradient,) = torch.autograd.grad(logits.sum(), leaf)
    torch.manual_seed(5)
    again = x.clone().requires_grad_(True)
    hidden = model[2](model[1](model[0](again))).relu()
    spread = hidden.var(1, unbiased=False).sqrt()
    expected = model[4](hidden + 0.2 * spread[:, None] * torch.randn_like(hidden))
    (slope,) = torch.autograd.grad(expected.sum(), again)
    assert torch.allclose(logits, expected, atol=1e-5)
    assert torch.allclose(gradient, slope, atol=1e-4)
    assert [site.name for site in find(made.model, x[:2])] == ["1", "3"]


def test_learned_noise_learns_its_scales_on_examples_half_attacked():
    target = trained()
    text = "noisy_inference(std=0.25, at=learned, eps=0.1, inner=pgd(steps=2), finetune=2, weight_decay=1e-4)"
    made, found = fitted(target, text, everything())
    assert set(found.numbers["alpha"]) == {"1", "3", "7"}
    assert all(value != 0.25 for value in found.numbers["alpha"].values())
    assert found.numbers["weight_decay"] == 1e-4
    assert found.numbers["threat"] == "linf:0.1"
    # 400 fair draws: four standard deviations are 40.
    assert 160 <= found.numbers["examples_attacked"] <= 240
    names = [name for name in made.model.state_dict() if name.endswith("alpha")]
    assert sorted(names) == ["stands.1.alpha", "stands.3.alpha", "stands.7.alpha"]
    fixed, _ = fitted(trained(), "noisy_inference(std=0.2, at=activations, finetune=1)", everything())
    assert not any(name.endswith("alpha") for name in fixed.model.state_dict())


def test_what_cannot_be_is_refused_by_name():
    for text, word in {
        "noisy_inference": "std",
        "noisy_inference(at=activations)": "std",
        "noisy_inference(std=0.1, at=learned, finetune=1)": "eps",
        "noisy_inference(std=0.1, at=learned, eps=0.1)": "finetune",
        "noisy_inference(std=0.1, sites='1')": "sites",
        "noisy_inference(std=0.1, eps=0.1)": "takes no eps",
        "noisy_inference(std=0.1, inner=fgsm)": "takes no inner",
        "noisy_inference(std=0.1, at=activations, inner=pgd(steps=3), finetune=1)": "takes no inner",
        "noisy_inference(std=0.1, at=activations, sites=[])": "sites",
        "noisy_inference(std=0.1, weight_decay=0.1)": "takes no weight_decay",
        "noisy_inference(std=0.1, finetune=2, batch_size=0)": "noisy_inference: batch_size=0",
        "smoothing(std=0.1, learning_rate=0.1)": "takes no learning_rate",
        "smoothing(std=0.1, finetune=1, learning_rate=-1)": "smoothing: learning_rate=-1",
        "swap(to=elu, batch_size=8)": "takes no batch_size",
        "swap(to=prelu, activation_decay=0.1, recalibrate=true)": "takes no activation_decay",
        "swap(to=prelu, twin=false)": "takes no twin",
        "swap(to=elu, sites=[])": "sites",
        "noisy_inference(std=-1, at=activations)": "std",
        "isotonic(curves=two)": "curves",
    }.items():
        with pytest.raises(BadOption, match=word) as caught:
            registry.build("defenses", text)
        assert caught.value.mend
    with pytest.raises(UnknownName, match="activation site"):
        registry.build("defenses", "noisy_inference(std=0.1, at=activations, sites='9')").wrap(trained())


def test_an_audit_gives_its_eps_to_what_trains_against_it_alone():
    from actsec.planning.pricing import spelled
    from actsec.planning.resolving import _with_eps
    from actsec.spec import parse

    assert str(_with_eps(parse("noisy_inference(std=0.1)"), 0.1)) == "noisy_inference(std=0.1)"
    learned = parse("noisy_inference(std=0.1, at=learned, finetune=1)")
    assert _with_eps(learned, 0.1).get("eps") == 0.1
    for name in ("noisy_inference", "smoothing"):
        assert str(spelled(name, 0.1)) == f"{name}(std=0.1, finetune=3)"
