"""Forcing units: by every aim, against closed forms, linear programs, intervals and hand counts."""

import json
import re
from dataclasses import astuple, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from attack_models import digits, optimum
from runs import inside
from torch import nn

import actsec
from actsec.activations import make
from actsec.activations.properties import derivative
from actsec.activations.regions import NEGLIGIBLE, regions
from actsec.attacks import FAB, PGD, DeadReLU, Noise, Saturation, ZeroTail
from actsec.errors import ActsecError, BadOption, ModelError, ThreatError, UnknownName
from actsec.forcing import consequences, killing, units
from actsec.forcing.aim import Chosen, DeadCount, Kill, Ranked
from actsec.health import tally
from actsec.reports import answers
from actsec.result import Kill as Forced
from actsec.result import KillEffect as Effect
from actsec.search.ledger import FOUND
from actsec.search.oracle import Oracle, frozen
from actsec.search.referee import attack_target, cases_of
from actsec.types import Observed, SiteValues, Target

CLASSES = ("a", "b", "c")


def network(*widths, kind=nn.ReLU, seed=0, scale=1.0):
    """A random chain of linear layers with an activation between them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), kind()]
    model = nn.Sequential(*layers[:-1]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


def target_of(model, d=6):
    return Target(model, (d,), CLASSES)


def inputs(n=9, d=6, seed=1):
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(n, d, generator=draw) * 0.8 + 0.1
    x[:, ::3] = torch.randint(0, 2, x[:, ::3].shape, generator=draw).float()
    return x, torch.randint(0, 3, (n,), generator=draw)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_the_kill_radius_of_a_first_layer_is_z_over_the_dual_norm(norm, dual):
    model, (x, _) = network(6, 8, 3), inputs()
    layer = killing.first_layer(target_of(model), x)
    weight, bias = model[0].weight.detach().double(), model[0].bias.detach().double()
    torch.testing.assert_close(layer.weight, weight)
    torch.testing.assert_close(layer.bias, bias)
    z = x.double() @ weight.T + bias
    truth = z.clamp_min(0) / weight.norm(p=dual, dim=1)
    assert (z > 0).any()
    assert (z <= 0).any()
    radius = killing.kill_radius(layer, x, norm)
    torch.testing.assert_close(radius, truth)
    boxed = killing.kill_radius(layer, x, norm, (0.0, 1.0))
    assert (boxed >= radius - 1e-12).all()
    for unit in range(8):
        alive = z[:, unit] > 0
        own = optimum(x, weight[unit], z[:, unit], norm)[alive]
        torch.testing.assert_close(boxed[alive, unit], own, rtol=1e-6, atol=1e-9)
    wide = killing.kill_radius(layer, x, norm, (-1e3, 1e3))
    torch.testing.assert_close(wide, radius)


def test_a_unit_dies_where_its_own_activation_does():
    """hardswish is dead from -3 down: a unit at z of 1 is 4 away from it, one at z of -1 is not dead yet."""
    model, (x, _) = network(6, 8, 3, kind=nn.Hardswish), inputs()
    layer = killing.first_layer(target_of(model), x)
    with torch.no_grad():
        z, weight = model[0](x).double(), model[0].weight.double()
    radius = killing.kill_radius(layer, x, "linf")
    assert torch.allclose(radius, (z + 3).clamp_min(0) / weight.abs().sum(1), rtol=1e-5)
    step = radius[0, 0] * weight[0].sign()
    with torch.no_grad():
        assert float(model[0]((x[0] - step).float())[0]) == pytest.approx(-3, abs=1e-4)


def test_a_next_to_weightless_input_changes_no_radius():
    """A weight of 1e-38, as weight decay leaves at pixels that are always blank, once made the l2 radius the box's."""
    model, (x, _) = network(6, 8, 3), inputs()
    radii = []
    for least in (0.0, 1e-38):
        with torch.no_grad():
            model[0].bias.zero_()
            model[0].weight[:, 0] = least
        layer = killing.first_layer(target_of(model), x)
        radii.append(killing.kill_radius(layer, x, "l2", (0.0, 1.0)))
    assert torch.allclose(radii[0], radii[1], rtol=1e-12)
    assert bool((radii[0][torch.isfinite(radii[0])] > 0).any())


def test_a_first_layer_is_read_through_normalisation_and_convolution():
    target, x, _ = digits()
    layer = killing.first_layer(target, x[:4])
    with torch.no_grad():
        torch.testing.assert_close(layer(x[:4]), target.model[0](x[:4]).flatten(1).double(), atol=1e-5, rtol=1e-4)
    shifted = target.having(normalization=actsec.types.Normalization((0.3,), (0.5,)))
    with torch.no_grad():
        truth = target.model[0]((x[:4] - 0.3) / 0.5).flatten(1).double()
    torch.testing.assert_close(killing.first_layer(shifted, x[:4])(x[:4]), truth, atol=1e-5, rtol=1e-4)
    bent = Target(nn.Sequential(nn.Tanh(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).eval(), (6,), CLASSES)
    with pytest.raises(ModelError, match="is not affine"):
        killing.first_layer(bent, inputs()[0])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_kill_is_smaller_than_the_certificate_and_the_smallest_come_close(norm):
    (x, y), target = inputs(), target_of(network(6, 8, 3))
    layer = killing.first_layer(target, x)
    certified = killing.kill_radius(layer, x, norm, (0.0, 1.0))
    close = []
    for unit in range(8):
        view = units.unit_target(target, x, "1", (unit,))
        found = attack_target(FAB(20), view, cases_of(view, x, torch.zeros_like(y), norm, None))
        here = found.status == FOUND
        assert (found.size[here] >= certified[here, unit] * (1 - 1e-5)).all()
        assert torch.isfinite(certified[here, unit]).all()
        close += (found.size[here] / certified[here, unit]).tolist()
    assert len(close) > 20
    assert np.median(close) < 1.02
    eps = float(certified[torch.isfinite(certified) & (certified > 0)].median())
    forced = attack_target(DeadReLU(), target, cases_of(target, x, y, norm, eps), Kill()).x
    with torch.no_grad():
        died = (target.model[0](x) > 0) & (target.model[0](forced) <= 0)
    assert died.any()
    assert (certified[died] <= eps * (1 + 1e-5)).all()


def test_the_smallest_blackout_is_a_linear_program_and_the_attack_reaches_it():
    """Two inputs, so that a grid of the box is the truth."""
    model = network(2, 4, 3, seed=5)
    with torch.no_grad():
        model[0].bias.copy_(-0.3 * model[0].weight.sum(1) + 0.1)  # all dead somewhere near (0.3, 0.3)
        model[0].weight.copy_(model[0].weight.abs())
        model[0].bias.copy_(-0.3 * model[0].weight.sum(1))
    target = target_of(model, 2)
    x, y = torch.tensor([[0.7, 0.5], [0.4, 0.9]]), torch.zeros(2, dtype=torch.int64)
    layer = killing.first_layer(target, x)
    radius = killing.blackout_radius(layer, x, (0.0, 1.0))
    axis = torch.linspace(0, 1, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    dark = grid[(grid @ layer.weight.T + layer.bias <= 1e-12).all(1)]
    truth = (dark[None] - x[:, None].double()).abs().amax(2).amin(1)
    torch.testing.assert_close(radius, truth, atol=1 / 400, rtol=0)
    far = cases_of(target, x, y, "linf", radius * 1.05)
    near = cases_of(target, x, y, "linf", radius * 0.98)
    attack = DeadReLU(100, aim="blackout")
    reached = attack_target(attack, target, far, Kill(aim="blackout"))
    assert (reached.score > 0).all()
    assert (attack_target(attack, target, near, Kill(aim="blackout")).score <= 0).all()
    what = consequences.compare(target, x, reached.x, y)
    assert what.blackout == 1
    assert what.after.zero_gradient == 1
    assert what.after.logit_spread == pytest.approx(0, abs=1e-9)
    assert what.gradient_ratio == 0
    assert what.before.logit_spread > 0
    view = units.unit_target(target, x, "1")
    smallest = attack_target(FAB(30), view, cases_of(view, x, y, "linf", None)).size
    assert (smallest >= radius * (1 - 1e-5)).all()
    assert (smallest <= radius * 1.1).all()


def test_a_unit_that_is_alive_everywhere_allows_no_blackout():
    layer = killing.Affine("1", torch.tensor([[1.0, 0.0], [0.0, 0.0]]).double(), torch.tensor([-0.5, 1.0]).double())
    assert torch.isinf(killing.blackout_radius(layer, torch.rand(2, 2))).all()
    assert torch.isinf(killing.kill_radius(layer, torch.rand(2, 2), "linf")[:, 1]).all()


def test_interval_bounds_hold_and_are_exact_at_the_first_layer():
    (x, y), model = inputs(), network(6, 8, 7, 5, 3, scale=1.5)
    target, eps = target_of(model), 0.07
    found = killing.bounds(target.having(bounds=(-9.0, 9.0)), x, eps)
    assert [each.name for each in found] == ["1", "3", "5"]
    z, wide = model[0](x).detach().double(), eps * model[0].weight.detach().double().abs().sum(1)
    torch.testing.assert_close(found[0].low, z - wide, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found[0].high, z + wide, atol=1e-6, rtol=1e-6)
    found = killing.bounds(target, x, eps)
    draw = torch.Generator().manual_seed(3)
    tried = [(x + eps * (2 * torch.rand(x.shape, generator=draw) - 1)).clamp(0, 1) for _ in range(50)]
    tried += [attack_target(a, target, cases_of(target, x, y, "linf", eps), Kill()).x for a in (DeadReLU(), PGD())]
    with torch.no_grad():
        for candidate in tried:
            for each, stop in zip(found, (1, 3, 5), strict=True):
                z = model[:stop](candidate).double()
                assert ((z >= each.low - 1e-5) & (z <= each.high + 1e-5)).all()
    with pytest.raises(ModelError, match="no interval bounds"):
        killing.bounds(target.having(model=nn.Bilinear(2, 2, 2)), x, eps)


def test_one_activation_that_stands_at_several_places_bounds_each_of_them():
    act, (x, _) = nn.ReLU(), inputs()
    own = network(6, 8, 8, 8, 3)
    shared = nn.Sequential(*(act if isinstance(layer, nn.ReLU) else layer for layer in own)).eval()
    found, expected = killing.bounds(target_of(shared), x, 0.05), killing.bounds(target_of(own), x, 0.05)
    assert [bound.name for bound in found] == ["1", "3", "5"]
    for one, two in zip(found, expected, strict=True):
        assert torch.equal(one.low, two.low)
        assert torch.equal(one.high, two.high)


class Skip(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("layer", [Skip(nn.Linear(8, 8)), Doubled(8, 8)])
def test_no_bounds_are_claimed_of_a_layer_that_computes_something_else(layer):
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), layer, nn.ReLU(), nn.Linear(8, 3)).eval()
    with pytest.raises(ModelError, match=f"no interval bounds through 2 .{type(layer).__name__}"):
        killing.bounds(target_of(model), inputs()[0], 0.1)


def test_intervals_go_through_convolutions_and_batch_norm():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                          nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 10)).eval()  # fmt: skip
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, -1.0, 0.5, -2.0]))
        model[1].running_mean.fill_(0.1)
    target, (_, x, _) = Target(model, (1, 8, 8), tuple("0123456789")), digits()
    found = killing.bounds(target, x[:5], 0.1)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(30):
            other = (x[:5] + 0.2 * torch.rand(x[:5].shape, generator=draw) - 0.1).clamp(0, 1)
            for each, stop in zip(found, (2, 6), strict=True):
                z = model[:stop](other).flatten(1).double()
                assert ((z >= each.low - 1e-5) & (z <= each.high + 1e-5)).all()


def test_behind_one_hidden_layer_both_rankings_are_weight_times_activation():
    """The logit is linear in the units there, so that gradient and ablation agree with the closed form."""
    (x, y), model = inputs(), network(6, 12, 3)
    target = target_of(model)
    cases = cases_of(target, x, y, "linf", 0.1)
    with torch.no_grad():
        effect = torch.relu(model[0](x)) * model[2].weight[y]
    rank = effect.argsort(1, descending=True).argsort(1)
    truth = (rank < 3) & (effect > 0)
    for by in ("gradient", "ablation"):
        chosen = units.critical(target, cases, Ranked(by, 0.25, "dead"))
        assert torch.equal(dict(chosen.masks)["1"], truth), by


def test_of_images_channels_are_ranked():
    target, x, y = digits()
    cases = cases_of(target, x[:6], y[:6], "linf", 0.1)
    by_gradient, by_ablation = (
        units.critical(target, cases, Ranked(by, 0.25, "dead")) for by in ("gradient", "ablation")
    )
    shapes = {name: tuple(mask.shape) for name, mask in by_gradient.masks}
    assert shapes == {"1": (6, 8), "3": (6, 16), "6": (6, 32)}
    # The last hidden layer is linear in the logits; before it the rankings differ where units switch.
    assert torch.equal(dict(by_gradient.masks)["6"], dict(by_ablation.masks)["6"])
    pre = SiteValues("1", "relu", torch.zeros(6, 8, 8, 8))
    assert by_gradient.at(pre, cases).shape == (6, 512)
    hidden = target.model[:2](x[:1]).detach()
    silent = hidden.clone()
    silent[:, 2] = 0
    with torch.no_grad():
        lost = (target.model[2:](hidden) - target.model[2:](silent))[0, y[0]]
        effects = units._by_ablation(target, x[:1], y[:1], ["1"])["1"]
    assert effects[0, 2] == pytest.approx(float(lost), abs=1e-5)


def test_critical_units_are_what_the_attack_kills_and_labels_fall():
    target, x, y = digits()
    cases = cases_of(target, x, y, "linf", 0.15)
    chosen = units.critical(target, cases, Ranked("gradient", 0.25, "dead"))
    looks = {
        name: consequences.compare(target, x, attack_target(a, target, cases, Kill(aim=a.aim)).x, y, chosen=chosen)
        for name, a in {"count": DeadReLU(20), "critical": DeadReLU(20, aim="critical")}.items()
    }
    noise = attack_target(Noise(1, "sign"), target, cases, Kill()).x
    looks["noise"] = consequences.compare(target, x, noise, y, chosen=chosen)
    assert looks["critical"].critical_killed > looks["count"].critical_killed
    assert looks["critical"].critical_killed > 2 * looks["noise"].critical_killed
    assert looks["critical"].after.margin < looks["count"].after.margin
    assert looks["count"].net > looks["critical"].net
    assert f"of {looks['count'].right} images" in looks["count"].sentence


@pytest.mark.parametrize("aim", ["count", "critical"])
def test_one_attack_stands_beside_noise_and_pgd_and_says_what_became_of_labels(aim):
    target, x, y = digits()
    found = actsec.attack(target, x, y, f"dead_relu(steps=20, aim={aim})", eps=0.2)
    forced, noise, pgd = found.forced
    assert [each.by for each in found.forced] == ["attack", "noise", "PGD"]
    assert forced.rise > 5 * max(noise.rise, pgd.rise, 0.0)
    with torch.no_grad():
        right = target.logits(x).argmax(1) == y
        fooled = target.logits(torch.from_numpy(found.x)).argmax(1) != y
    assert (forced.effect.right, forced.effect.changed) == (int(right.sum()), int((right & fooled).sum()))
    assert pgd.effect.changed > noise.effect.changed
    assert f"noise {noise.rise:+.3f}, PGD {pgd.rise:+.3f}; killed" in found.sentence
    assert f"the label changed on {forced.effect.changed} of {int(right.sum())} images (noise " in found.sentence


def test_chosen_units_do_not_depend_on_who_else_is_there():
    target, x, y = digits()
    cases, attack = cases_of(target, x[:20], y[:20], "linf", 0.1), DeadReLU(6, aim="critical")
    whole = attack_target(attack, target, cases, Kill(aim="critical"))
    part = attack_target(attack, target, cases.rows(slice(5, 12)), Kill(aim="critical"), width=3)
    assert torch.equal(whole.x[5:12], part.x)
    assert torch.equal(whole.score[5:12], part.score)
    with pytest.raises(ActsecError, match="ranked before"):
        DeadCount(aim="critical")(Observed(torch.zeros(1, 2)), cases.rows(slice(0, 1)))


def test_goals_by_hand():
    def seen(*pre):
        sites = tuple(SiteValues(str(i), "relu", torch.tensor([z]), regions("relu", ())) for i, z in enumerate(pre))
        return Observed(torch.zeros(1, 3), sites)

    one = cases_of(target_of(network(6, 3)), torch.zeros(1, 6), torch.zeros(1, dtype=torch.int64), "linf", 0.1)
    before, after = seen([1.0, 1.0, -1.0, 1.0], [1.0, 1.0]), seen([-1.0, 1.0, 1.0, 0.0], [-1.0, -2.0])

    def score(goal, now=after):
        return float(goal.score(now, goal.baseline(before), one))

    assert score(Kill()) == pytest.approx(3 / 6)  # four killed, one revived, none else
    assert score(Kill(site="0")) == pytest.approx(1 / 4)
    mask = (("0", torch.tensor([[True, True, False, False]])), ("1", torch.tensor([[False, True]])))
    assert score(Kill(chosen=Chosen(torch.tensor([0]), mask))) == pytest.approx(2 / 3)
    assert score(Kill(aim="blackout")) == pytest.approx(0.25)
    assert score(Kill(aim="blackout", site="0")) == pytest.approx(0.5 - 1 + 0.125)
    assert score(Kill(aim="blackout"), before) < 0
    dark = Kill(aim="blackout")
    assert float(dark.score(after, dark.baseline(after), one)) < 0  # it was dark before
    with pytest.raises(UnknownName, match="activation site"):
        Kill(site="2").baseline(before)


def test_one_site_is_forced_alone():
    target, x, y = digits()
    cases = cases_of(target, x[:24], y[:24], "linf", 0.1)
    rises = {}
    for site in (None, "3"):
        found = attack_target(DeadReLU(15, site=site), target, cases, Kill(site=site)).x
        profile = tally.kill_profile(target, x[:24], found)
        rises[site] = {s["name"]: s["dead_after"] - s["dead_before"] for s in profile.sites}
    assert rises["3"]["3"] > rises[None]["3"]
    with pytest.raises(UnknownName, match="conv9"):
        attack_target(DeadReLU(site="conv9"), target, cases, Kill(site="conv9"))


def test_a_universal_delta_is_one_row_over_many_images():
    target, x, y = digits()
    images, labels = x[:32], y[:32]
    view = units.universal_target(target, images)
    zero = torch.zeros(1, 1, 8, 8)
    with frozen(target.model):
        seen, own = Oracle(view).observe(zero, True), Oracle(target).observe(images, True)
    for one, many in zip(seen.sites, own.sites, strict=True):
        assert one.name == many.name
        torch.testing.assert_close(one.pre.flatten(), many.pre.flatten())
    torch.testing.assert_close(seen.logits[0], own.logits.mean(0))
    cases = cases_of(view, zero, torch.zeros(1, dtype=torch.int64), "linf", 0.1)
    found = attack_target(DeadReLU(20), view, cases, Kill())
    assert found.size <= 0.1 * (1 + 1e-6)
    shifted = units.shifted(target, images, found.x)[0]
    assert ((shifted >= 0) & (shifted <= 1)).all()
    profile = tally.kill_profile(target, images, shifted)
    assert float(found.score) == pytest.approx(float(profile.net.mean()), abs=1e-6)
    own_noise = attack_target(Noise(20, "sign"), view, cases, Kill())
    assert found.score > own_noise.score
    alone = attack_target(DeadReLU(20), target, cases_of(target, images, labels, "linf", 0.1), Kill()).score.mean()
    assert float(alone) > float(found.score)


class WithConstants(nn.Module):
    """A relu of a parameter, spread over the rows; a gate; and a relu layer with a unit without weights."""

    def __init__(self):
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.linspace(-1, 1, 8))
        with torch.no_grad():
            self.first.weight[2] = 0
            self.first.bias[2] = 0.5

    def forward(self, x):
        fixed = torch.relu(self.scale.expand(len(x), 8))
        return self.last(torch.relu(self.first(x)) * torch.sigmoid(self.gate(x)) * fixed)


def test_constant_sites_and_units_and_gates_are_nobodys_to_kill():
    target, (x, y) = target_of(WithConstants().eval()), inputs()
    with frozen(target.model):
        seen = Oracle(target).observe(x, True)
    assert [(site.kind, site.pre.shape[1]) for site in seen.sites] == [("relu", 8)]
    profile = tally.kill_profile(target, x, (x + 0.1).clamp(0, 1))
    assert [site["units"] for site in profile.sites] == [7]
    with torch.no_grad():
        z, moved = target.model.first(x), target.model.first((x + 0.1).clamp(0, 1))
    keep = torch.arange(8) != 2
    rise = ((moved <= 0)[:, keep].double().mean(1) - (z <= 0)[:, keep].double().mean(1)).numpy()
    np.testing.assert_allclose(profile.net, rise, atol=1e-12)
    with pytest.raises(ThreatError, match="relu cannot be saturated"):
        attack_target(Saturation(), target, cases_of(target, x, y, "linf", 0.1), Kill("saturated"))


@pytest.mark.parametrize("kind", ["tanh", "sigmoid", "hardtanh"])
def test_saturated_ends_are_where_the_slope_falls_below_a_twentieth(kind):
    ((region, below, above),) = regions(kind, ())
    assert region == "saturated"
    known = actsec.activations.activation(kind)
    z = torch.tensor([below - 1e-2, below + 1e-2, above - 1e-2, above + 1e-2], dtype=torch.float64)
    flat = derivative(known, z).abs() < 0.05 * known.properties.max_slope
    assert flat.tolist() == [True, False, False, True]


@pytest.mark.parametrize("kind", ["gelu", "silu", "mish", "softplus"])
def test_zero_tails_end_where_function_and_slope_stop_being_negligible(kind):
    ((region, end, above),) = regions(kind, ())
    assert (region, above) == ("zero_tail", None)
    known = actsec.activations.activation(kind)
    z = torch.tensor([end - 1, end, end + 1e-2], dtype=torch.float64)
    tiny = torch.maximum(known(z).abs(), derivative(known, z).abs()) <= NEGLIGIBLE
    assert tiny.tolist() == [True, True, False]


def test_each_activation_has_at_most_one_region():
    found = {name: [region for region, _, _ in regions(name, ())] for name in actsec.activations.names()}
    assert found["relu"] == found["relu6"] == found["hardswish"] == ["dead"]
    for leaky in ("leaky_relu", "prelu", "elu", "selu", "celu", "identity", "kwta", "maxout", "step"):
        assert found[leaky] == [], leaky


@pytest.mark.parametrize(
    ("attack", "kind", "region", "scale"),
    [(Saturation(30), "tanh", "saturated", 4.0), (Saturation(30), "sigmoid", "saturated", 8.0),
     (ZeroTail(30), "gelu", "zero_tail", 8.0)],
)  # fmt: skip
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_tails_are_forced_beyond_noise_and_pgd(attack, kind, region, scale, norm):
    (x, y), model = inputs(24, 30), network(30, 48, 48, 3, kind=lambda: make(kind), scale=scale)
    target = target_of(model, 30)
    cases = cases_of(target, x, y, norm, 0.1 if norm == "linf" else 0.5)
    rises = [attack_target(a, target, cases, Kill(region)).score.mean() for a in (attack, Noise(20, "sign"), PGD(30))]
    assert rises[0] > 0.02
    assert rises[0] > 2 * max(rises[1:])
    found = attack_target(attack, target, cases, Kill(region))
    profile = tally.kill_profile(target, x, found.x, region=region)
    np.testing.assert_allclose(profile.net, found.score.numpy(), atol=1e-6)
    what = consequences.compare(target, x, found.x, y, region)
    assert what.net == pytest.approx(float(profile.net.mean()))
    assert what.after.active < what.before.active


def test_a_comparison_by_hand():
    (x, y), model = inputs(), network(6, 8, 7, 3)
    target, after = target_of(model), inputs(seed=7)[0]
    what = consequences.compare(target, x, after, y, batch=4)
    with torch.no_grad():
        first, second = model(x).double(), model(after).double()
    right = first.argmax(1) == y
    assert (what.n, what.right) == (9, int(right.sum()))
    assert what.changed == int((right & (second.argmax(1) != y)).sum())
    assert what.before.max_logit == pytest.approx(float(first.amax(1).mean()), abs=1e-5)
    assert what.after.confidence == pytest.approx(float(second.softmax(1).amax(1).mean()), abs=1e-5)
    assert what.after.logit_spread == pytest.approx(float(second.std(0, unbiased=False).mean()), abs=1e-5)
    leaf = after.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    assert what.after.gradient == pytest.approx(float(slope.double().norm(dim=1).median()), rel=1e-4)
    with torch.no_grad():
        z, moved = model[0](x) <= 0, model[0](after) <= 0
    assert what.sites[0].permanently_dead_before == pytest.approx(float(z.all(0).double().mean()))
    assert what.sites[0].permanently_dead_after == pytest.approx(float(moved.all(0).double().mean()))
    assert what.sites[0].killed == pytest.approx(float((moved & ~z).double().mean()))
    twins = {"itself": target, "leaky": target_of(network(6, 8, 7, 3, kind=nn.LeakyReLU))}
    same, leaky = consequences.transferred(twins, x, after, y)
    assert (same.changed, same.right) == (what.changed, what.right)
    assert same.net == pytest.approx(what.net)
    assert leaky.net is None


def test_all_shares_of_a_site_are_of_the_units_that_can_move():
    model, (x, y) = network(6, 8, 3), inputs()
    with torch.no_grad():
        model[0].weight[:4] = 0
        model[0].bias[:4] = -1.0  # half of the units are dead whatever comes in, the others on no input
        model[0].weight[4:].abs_()
        model[0].bias[4:] = 1.0
    (site,) = consequences.compare(target_of(model), x, x, y).sites
    assert site.units == 4
    assert (site.dead_before, site.permanently_dead_before) == (0.0, 0.0)
    assert (site.dead_after, site.permanently_dead_after) == (0.0, 0.0)


def rare():
    """Two units behind a conjunction: on inputs whose six features are not all near 1 they do not move."""
    model = network(6, 2, 4, 3)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.copy_(torch.tensor([-5.4, 1.0]))
        model[2].weight.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
        model[2].bias.copy_(torch.tensor([0.1, -0.1, 0.0, 3.0]))
    return model


def test_a_unit_that_one_input_in_forty_moves_is_no_constant():
    target, (x, _) = target_of(rare()), inputs(40)
    x[39] = 0.99
    assert [site["units"] for site in tally.kill_profile(target, x[:39], x[:39]).sites] == [2, 2]
    assert [site["units"] for site in tally.kill_profile(target, x, x).sites] == [2, 4]


def test_constant_units_are_the_same_in_every_piece():
    target, (x, _), (after, _) = target_of(rare()), inputs(80), inputs(80, seed=7)
    x[77], after[77] = 0.99, 0.2
    whole = tally.kill_profile(target, x, after)
    pieces = [tally.kill_profile(target, x[a : a + 20], after[a : a + 20], among=x) for a in range(0, 80, 20)]
    for i, site in enumerate(whole.sites):
        assert {piece.sites[i]["units"] for piece in pieces} == {site["units"]}
        for share in ("dead_before", "dead_after", "killed", "revived"):
            assert np.mean([piece.sites[i][share] for piece in pieces]) == pytest.approx(site[share])
    np.testing.assert_allclose(np.concatenate([piece.net for piece in pieces]), whole.net)


def test_an_audit_in_small_shards_counts_the_same_units(tmp_path):
    target, (x, _) = target_of(rare()), inputs(40)
    x[20] = 0.99
    with torch.no_grad():  # labels that the model gets right, of two classes at least
        logits = target.logits(x)
        target.model[4].bias.sub_(logits.mean(0))
        y = target.logits(x).argmax(1)
    asked = {"eps": 0.1, "samples": 40, "defenses": (), "attacks": [{"attack": "dead_relu(steps=2)"}]}
    kills = []
    for shard in (40, 4):
        run = actsec.audit(target, (x, y), out=tmp_path / str(shard), shard=shard, **asked)
        (kill,) = run.result.variants[0].kills
        kills.append(kill)
    one, many = kills
    assert [site.units for site in many.sites] == [site.units for site in one.sites] == [2, 4]
    assert many.net == pytest.approx(one.net)
    for whole, pieces in zip(one.sites, many.sites, strict=True):
        assert astuple(pieces)[3:] == pytest.approx(astuple(whole)[3:])


def test_units_forced_on_a_twin_are_those_of_the_region():
    target, (x, y) = target_of(network(6, 8, 3, kind=nn.Tanh, scale=4.0)), inputs()
    (same,) = consequences.transferred({"itself": target}, x, inputs(seed=7)[0], y, "saturated")
    expected = tally.kill_profile(target, x, inputs(seed=7)[0], region="saturated").net
    assert same.net == pytest.approx(float(expected.mean()))


def test_what_is_wrong_is_named():
    target, (x, _) = target_of(network(6, 8, 3)), inputs()
    with pytest.raises(UnknownName, match="activation site"):
        units.unit_target(target, x, "7")
    with pytest.raises(BadOption, match="counted from 0 to 7"):
        units.unit_target(target, x, "1", (8,))
    with pytest.raises(BadOption, match="kill_radius in l1"):
        killing.kill_radius(killing.first_layer(target, x), x, "l1")
    with pytest.raises(ModelError, match="cannot be saturated"):
        consequences.compare(target, x, x, torch.zeros(9, dtype=torch.int64), "saturated")
    with pytest.raises(ThreatError, match="draws at inference"):
        units.universal_target(replace(target, stochastic=True), x)


@pytest.mark.parametrize(
    ("attack", "activation", "says"),
    [
        ("dead_relu(steps=4, aim=critical)", "relu", "dead share of critical units"),
        ("dead_relu(steps=4, aim=blackout)", "relu", "a whole site dead on 0"),
        ("dead_relu(steps=4, site='2')", "relu", "killed minus revived"),
        ("saturation(steps=4)", "tanh", "saturated share of units"),
        ("zero_tail(steps=4)", "gelu", "share in a zero tail of units"),
    ],
)
def test_the_command_line_forces_units(attack, activation, says):
    said = inside(
        "attack",
        attack,
        "--model",
        f"reference:mlp(width=[16], activation={activation})",
        "--eps",
        0.2,
        "--samples",
        20,
    )
    assert said.code == 0, said.err
    assert says in said.out


def test_what_an_attack_says_of_units_is_what_an_audit_counts():
    """Half of the first layer's units see nothing: nothing forces them, and they stand in no denominator."""
    model, (x, y) = network(6, 8, 3), inputs()
    with torch.no_grad():
        model[0].weight[:4] = 0
    target = target_of(model)
    found = actsec.attack(target, x, y, "dead_relu(steps=10)", eps=0.3)
    net = float(tally.kill_profile(target, x, torch.from_numpy(found.x)).net.mean())
    assert found.forced[0].rise == pytest.approx(net)
    assert f"dead share of units {net:+.3f} net" in found.sentence
    assert net > float(found.verdicts.score.mean()) > 0


def test_a_model_that_cannot_be_forced_so_is_refused():
    target, (x, y) = target_of(network(6, 8, 3, kind=nn.Tanh)), inputs()
    with pytest.raises(ThreatError, match="tanh cannot be killed"):
        actsec.attack(target, x, y, "dead_relu", eps=0.1)
    with pytest.raises(ThreatError, match="tanh cannot be forced into a zero tail"):
        actsec.attack(target, x, y, "zero_tail", eps=0.1)


def test_the_report_holds_forcing_beside_noise_and_pgd_at_each_goal(tmp_path):
    """Two aims at one goal share their controls; another goal has its own; what cannot be forced says why."""
    attacks = ("dead_relu(steps=6)", "dead_relu(steps=6, aim=critical)", "saturation(steps=6)")
    said = inside("audit", "--model", "reference:mlp(width=[24])", "--activations", "relu,tanh", "--defenses", "none",
                  "--attacks", ", ".join(attacks), "--samples", 24, "--out", tmp_path / "run")  # fmt: skip
    assert said.code == 0, said.err
    relu, tanh = json.loads((tmp_path / "run" / "report.json").read_text())["result"]["variants"]
    count, critical, none = relu["kills"]
    assert (count["attack"], critical["attack"]) == attacks[:2]
    assert count["noise_net"] == critical["noise_net"]
    assert count["net"] > critical["net"]
    assert critical["effect"]["critical_killed"] > critical["effect"]["noise_critical_killed"]
    assert none["reason"] == "relu cannot be saturated"
    assert [kill["applicable"] for kill in tanh["kills"]] == [False, False, True]
    saturated = tanh["kills"][2]
    assert saturated["net"] > max(saturated["noise_net"], saturated["pgd_net"])
    assert saturated["effect"]["critical_killed"] is None
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Dead-ReLU forcing by dead_relu(steps=6, aim=critical) raises the dead share of units" in page
    assert "Saturation forcing: not applicable: relu cannot be saturated." in page
    folds = re.findall(r"<summary>Every site under forcing: ([^<]*)", page)
    assert len(folds) == 3
    assert folds[2] == f"{tanh['title']}, {saturated['threat']}, saturation(steps=6)"


def test_controls_stand_beside_an_attack_on_the_same_rows_and_units(tmp_path):
    """Two attacks at one threat, on more and on fewer rows; the second's critical units are of another ranking."""
    (tmp_path / "plan.toml").write_text("""
        model = "reference:mlp(width=[24])"
        samples = 12
        defenses = []
        [[attacks]]
        attack = "dead_relu(steps=3)"
        threat = "linf:0.1:kill"
        samples = 12
        [[attacks]]
        attack = "dead_relu(steps=3, aim=critical, share=0.5)"
        threat = "linf:0.1:kill"
        samples = 5
    """)
    said = inside("audit", tmp_path / "plan.toml", "--out", tmp_path / "run")
    assert said.code in (0, 3), said.err
    result = json.loads((tmp_path / "run" / "report.json").read_text())["result"]
    many, few = result["variants"][0]["kills"]
    assert (many["n"], few["n"]) == (12, 5)
    assert few["noise_net"] is not None
    assert many["noise_net"] != few["noise_net"]
    assert many["effect"]["noise_critical_killed"] is not None
    assert few["effect"]["critical_killed"] is not None
    assert few["effect"]["noise_critical_killed"] is None
    page = (tmp_path / "run" / "report.html").read_text()
    assert "of the critical units (noise not done, PGD not done)" in page


def test_a_control_that_was_not_made_is_not_called_0():
    unknown = (None,) * 2
    kill = Forced("linf:0.1:kill", True, "", 9, 0.1, 0.0, 0.2, *unknown, 0.2, None, *unknown, (), attack="dead_relu")
    assert "by +0.100 net (noise not done, PGD not done)" in answers.forced(kill)


@pytest.mark.parametrize(
    ("noise", "pgd", "critical", "said"),
    [(0.02, 0.03, None, False), (0.02, 0.1, None, True), (None, None, None, False), (0.2, None, 0.4, False),
     (0.2, None, 0.5, True)],
)  # fmt: skip
def test_what_a_control_does_as_well_is_no_attack(noise, pgd, critical, said):
    """critical: what noise kills of the critical units, of which the attack kills half."""
    effect = critical and Effect(1.0, 0.5, 1.0, 0.0, 0.0, None, None, 0.5, critical)
    kill = Forced("linf:0.1:kill", True, "", 9, 0.1, 0.0, 0.2, noise, pgd, 0.2, None, None, None, (), effect)
    assert ("counts as no attack" in answers.forced(kill)) is said
