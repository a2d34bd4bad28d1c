"""What a checkup measures and why it says units are gone: against direct computation, closed forms, planted causes."""

from __future__ import annotations

import copy
import dataclasses
import json
import math

import ailing
import pytest
import torch
from runs import inside
from torch import nn

import actsec
from actsec import registry
from actsec.forcing import unit_evidence
from actsec.health import flow, profiles, tally, vital_signs
from actsec.health.fresh import fresh, why_not
from actsec.health.vitals import LIVE, Flow, InputGradients, LayerFlow, Outliers, Spread, Units, Vitals
from actsec.planning import plan
from actsec.reports import vital_blocks
from actsec.reports.blocks import Figures, Fold, Table
from actsec.reports.figures.units import card
from actsec.running import checkup, scene
from actsec.symptoms._seen import Seen
from actsec.types import Target
from actsec.verdict.causes import MENDS, Gone, cause


class Residual(nn.Module):
    """A norm read as it is, a sum written into a norm's own memory, and an activation in place."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.first = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.two, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.last = nn.Linear(4 * 8 * 8, 10)

    def forward(self, x):
        x = torch.relu_(self.first(self.one(x)))
        out = self.second(self.two(x))
        out += x
        return self.last(torch.relu(out).flatten(1))


def residual(seed=0):
    torch.manual_seed(seed)
    model = Residual()
    with torch.no_grad():
        model.first.bias[1] = -9.0
    return actsec.load(model.eval(), input_shape=(1, 8, 8), classes=10)


def mlp(*layers, seed=0):
    torch.manual_seed(seed)
    return actsec.load(nn.Sequential(*layers).eval(), input_shape=(16,), classes=3)


def images(n=40, shape=(1, 8, 8)):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(3))


def test_units_are_counted_as_by_hand():
    target, x = residual(), images()
    found = profiles.profile(target, x, batch=7)
    seen = {}
    model = target.model
    with torch.no_grad():
        first = model.first(model.one(x))
        seen["relu_"] = first.flatten(1)
        hidden = first.clamp(min=0)
        seen["relu"] = (model.second(model.two(hidden)) + hidden).flatten(1)
    for name, z in zip(found, seen.values(), strict=True):
        mine = found[name]
        assert torch.equal(mine.live, (z > 0).sum(0).int())
        mean, std = mine.moments()
        assert torch.allclose(mean, z.double().mean(0), atol=1e-6)
        assert torch.allclose(std, z.double().std(0, correction=0), atol=1e-5)
        told = mine.units()
        assert told.count == z.shape[1]
        assert told.live[0] == int((z <= 0).all(0).sum())
        assert told.live[-1] == int((z > 0).all(0).sum())
        assert sum(told.live) == told.count
        assert sum(told.counts) == z.numel()
        width = (told.high - told.low) / len(told.counts)
        for mine_at, share in zip(told.quantiles, (0.05, 0.5, 0.95), strict=True):
            assert abs(mine_at - float(torch.quantile(z, share))) <= width
        assert told.marks == (0.0,)
    assert next(iter(found.values())).units().live[0] >= 64


def test_the_feeder_is_what_the_site_reads_untouched():
    first, second = profiles.profile(residual(), images(4)).values()
    assert (first.feeder.name, first.feeder.norms) == ("first", True)
    # the sum was written into the norm's own memory: it feeds nothing
    assert second.feeder is None
    channels = first.feeder.channels((4, 8, 8))
    assert channels.reshape(4, 64).float().std(1).max() == 0
    assert channels[::64].tolist() == [0, 1, 2, 3]


def test_levels_are_tenths_of_the_images():
    shares = torch.tensor([0.0, 0.01, 0.1, 0.11, 0.95, 1.0, 1.0])
    assert profiles._levels(shares) == (1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 1, 2)
    assert len(LIVE) == 12


def test_saturating_and_leaky_kinds():
    target = mlp(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 8), nn.LeakyReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        target.model[0].bias[0] = 50.0
    tanh, leaky = (each.units() for each in profiles.profile(target, images(30, (16,))).values())
    assert tanh.live[0] == 1
    assert tanh.marks == pytest.approx((-2.18, 2.18), abs=0.01)
    assert leaky.live is None
    assert leaky.marks == (0.0,)


def test_a_value_that_is_not_finite_is_neither_alive_nor_dead():
    target = mlp(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        target.model[0].bias[0] = math.inf
    (only,) = profiles.profile(target, images(30, (16,))).values()
    told = only.units()
    assert (told.live, told.quantiles, told.mean, told.counts) == (None, None, None, ())


def test_fresh_weights_are_keyed_and_leave_the_model_alone():
    target, x = residual(), images()
    before = copy.deepcopy(target.model.state_dict())
    one, again, other = (fresh(target, x, seed) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(before.values(), target.model.state_dict().values(), strict=True))
    assert torch.equal(one.model.one.weight, again.model.one.weight)
    assert not torch.equal(one.model.one.weight, other.model.one.weight)
    with torch.no_grad():
        z = one.model.one(x)
    # batches of 64: all 40 images at once
    assert torch.allclose(one.model.first.running_mean, z.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(one.model.first.running_var, z.var((0, 2, 3)), rtol=1e-4)
    assert one.model.first.momentum == target.model.first.momentum


def rows_of_passes(model):
    """How many rows each pass of a model has that keeps gradients, while the hook stands."""
    seen = []
    model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])) if torch.is_grad_enabled() else None)
    return seen


def test_a_large_network_is_given_few_images_at_once_and_says_the_same():
    target, x, y = residual(), images(70), torch.arange(70) % 10
    few = target.having(batch=3)
    whole = tally.observed(target, x, y).sites, flow.gradients(target, x, y), flow.input_gradients(target, x, y)
    seen = rows_of_passes(target.model)
    pieces = tally.observed(few, x, y).sites, flow.gradients(few, x, y), flow.input_gradients(few, x, y)
    assert max(seen) == 3
    assert sum(seen) == 70 + 70 + 2 * 70
    for one, other in zip(*(part[0] for part in (whole, pieces)), strict=True):
        known = [key for key, value in one.items() if isinstance(value, float)]
        assert "gradient_norm" in known
        assert [one[key] for key in known] == pytest.approx([other[key] for key in known], rel=1e-5)
    assert pieces[1][1] == pytest.approx(whole[1][1], rel=1e-5)
    assert [a.gradient_norm for a in pieces[1][0]] == pytest.approx([a.gradient_norm for a in whole[1][0]], rel=1e-5)
    for name in ("norm", "turn"):  # the departure from the tangent is a difference of losses, which float32 rounds
        pair = [dataclasses.astuple(getattr(part[2], name)) for part in (pieces, whole)]
        assert pair[0] == pytest.approx(pair[1], rel=1e-3)


def test_of_a_large_network_fewer_images_are_asked_and_the_cost_says_so():
    target, x, y = residual(), images(70), torch.arange(70) % 10
    small, large = (
        vital_signs.vital_signs(target, x, y, flow.gradients(target, x, y), large=large) for large in (False, True)
    )
    assert (small.inputs.n, large.inputs.n) == (70, 32)
    assert small.backwards - large.backwards == 3 * (70 - 32) + 5 * (70 - 16)
    assert large.forwards < small.forwards
    assert large.units[0].live == small.units[0].live, "every image is watched all the same"


def test_what_a_backward_keeps_decides_how_many_images_a_checkup_holds(monkeypatch):
    """1 MiB of activations a row under a bound of 8 MiB: four at a time, each counted twice."""
    held = []
    watch = tally.observed
    monkeypatch.setattr(tally, "observed", lambda target, *given: held.append(target.batch) or watch(target, *given))
    monkeypatch.setattr(checkup, "kept_by_row", lambda *_: 1 << 20)
    made = plan.Plan(model="reference:mlp(width=[4])", activations=("relu",), samples=20, memory=8)
    loaded = scene.load(checkup.whole(made))
    target, _, _ = checkup.subject(loaded)
    checkup.examine(target, loaded)
    assert held == [4]


def test_bare_profiles_count_who_lives():
    target, x = residual(), images()
    whole, bare = profiles.profile(target, x, batch=7), profiles.profile(target, x, batch=7, bare=True)
    for name, mine in whole.items():
        assert torch.equal(bare[name].live, mine.live)
        assert bare[name].total is None


def test_what_cannot_be_drawn_anew_is_named():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

    assert why_not(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) == ""
    assert why_not(nn.Sequential(nn.Linear(2, 2), Own())).startswith("1 (Own) has parameters")
    assert why_not(nn.ReLU()) == "the model has no parameters"


def test_large_logits_zero_the_cross_entropy_and_not_the_margin():
    target = mlp(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))
    x = images(50, (16,))
    y = target.model(x).argmax(1)
    soft = flow.input_gradients(target, x, y)
    assert (soft.zero_cross_entropy, soft.zero_margin) == (0, 0)
    with torch.no_grad():
        target.model[2].weight *= 1e5
        target.model[2].bias *= 1e5
    hard = flow.input_gradients(target, x, y)
    assert hard.zero_cross_entropy > 40
    assert hard.zero_margin == 0
    leaf = x.clone().requires_grad_(True)
    nn.functional.cross_entropy(target.model(leaf), y, reduction="sum").backward()
    assert hard.zero_cross_entropy == int((leaf.grad.abs().amax(1) == 0).sum())


def test_a_straight_loss_is_called_straight_and_a_bent_one_is_not():
    class Wave(nn.Module):
        def __init__(self, pitch: float) -> None:
            super().__init__()
            self.pitch, self.act = pitch, nn.ReLU()

        def forward(self, x):
            z = x.sum(1) if not self.pitch else torch.sin(self.pitch * x).sum(1)
            # far on the losing side the cross-entropy is the margin, so that it is as straight as z
            return torch.stack([self.act(z + 50), torch.zeros_like(z)], 1)

    x, y = images(64, (16,)), torch.ones(64, dtype=torch.long)
    straight, bent = (
        flow.input_gradients(actsec.load(Wave(pitch), input_shape=(16,), classes=2), x, y) for pitch in (0.0, 400.0)
    )
    assert straight.bend.q95 < 1e-3
    assert straight.turn.q05 > 0.999
    assert straight.norm.median == pytest.approx(4.0, rel=1e-4)  # |(1, ..., 1)| of 16
    assert bent.bend.median > 0.5
    assert abs(bent.turn.median) < 0.4


def test_a_model_without_a_gradient_says_so():
    class Steps(nn.Module):
        def forward(self, x):
            return torch.relu(x).detach()[:, :3] * 2

    target = actsec.load(Steps(), input_shape=(16,), classes=3)
    found = flow.input_gradients(target, images(8, (16,)), torch.zeros(8, dtype=torch.long))
    assert found.reason == "no gradient reaches the input"


def test_gradients_that_overflow_make_no_ratio_of_other_layers():
    """60 layers that grow tenfold: the first ones' gradients are infinite, and the rest would be said to vanish."""
    torch.manual_seed(0)
    layers = [layer for _ in range(60) for layer in (nn.Linear(8, 8), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(8, 3)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0) if parameter.dim() == 1 else parameter.abs_().mul_(10)
        model[0].weight.mul_(1e-38)
        model[-1].weight.mul_(1e-4)
    x, y = torch.rand(8, 8), torch.arange(8) % 3
    assert bool(torch.isfinite(model(x)).all())
    found, ratio = flow.gradients(Target(model, (8,), ("a", "b", "c")), x, y)
    assert found[0].gradient_norm is None
    assert found[-1].gradient_norm is not None
    assert ratio is None
    assert found[0].not_finite == 1
    assert found[-1].not_finite == 0
    assert why_explodes(target=Target(model, (8,), ("a", "b", "c")), x=x, y=y)


def why_explodes(target, x, y):
    """What the checkup of a target says of its gradients, of a model whose pre-activations are all finite."""
    from actsec.verdict.activity import findings

    trained = flow.gradients(target, x, y)
    told = dataclasses.replace(vitals(), flow=flow.flow(trained, [trained], ""))
    (found,) = [each for each in findings(seen(vitals=told, ratio=trained[1])) if each.rule == "ACT-A04"]
    assert found.severity == "high"
    assert "NaN or infinite" in found.claim
    return found.cause == "from birth"


class Root(nn.Module):
    """A square root of what is 0 for some inputs, whose slope there is infinite: finite forward, NaN backward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 4), nn.Linear(4, 3)

    def forward(self, x):
        z = self.first(x)
        return self.last(torch.sqrt(z * (z > 0)))


def test_a_gradient_that_is_not_finite_speaks_and_is_counted():
    torch.manual_seed(1)
    target, x = actsec.load(Root().eval(), input_shape=(16,), classes=3), images(50, (16,))
    y = target.model(x).argmax(1)
    leaf = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(nn.functional.cross_entropy(target.model(leaf), y, reduction="sum"), leaf)
    broken = ~torch.isfinite(slope).all(1)
    assert 0 < int(broken.sum()) < 50
    found = flow.input_gradients(target, x, y)
    assert int(broken.sum()) <= found.not_finite < 50
    assert found.flat == 0
    layers, ratio = flow.gradients(target, x, y)
    assert ratio is None
    assert layers[0].not_finite == 2
    assert why_explodes(target, x, y)


def test_outliers_are_the_rows_far_from_the_median():
    x = images(200, (16,))
    none, _ = unit_evidence.outliers(x)
    assert none.found == 0
    x[[3, 77]] *= 1000
    some, rows = unit_evidence.outliers(x)
    assert some.found == 2
    assert rows.nonzero().flatten().tolist() == [3, 77]
    away = unit_evidence.away_from(x, rows)
    assert float(away.norm()) == pytest.approx(1.0)
    assert float(away @ x[3].double()) < 0


@pytest.mark.parametrize(("blank", "found", "worst"), [(0.5, 2, 1000.0), (0.0, 2, 1000.0)])
def test_rows_that_are_mostly_alike_make_no_outlier_of_the_others(blank, found, worst):
    """Nine of ten rows are one and the same; the others differ as images do, and two of them were multiplied."""
    x = torch.full((1000, 16), blank)
    x[::10] = images(100, (16,))
    same, _ = unit_evidence.outliers(x)
    assert same.found == 0
    assert 0.1 < same.worst < 10
    x[[10, 20]] *= 1000
    some, rows = unit_evidence.outliers(x)
    assert rows.nonzero().flatten().tolist() == [10, 20]
    assert some.found == found
    assert worst / 3 < some.worst < 3 * worst
    alone, _ = unit_evidence.outliers(torch.full((9, 4), blank))
    assert (alone.found, alone.worst) == (0, 0.0)


def gone(**changes):
    """Dead units of a layer about which nothing stands out."""
    told = {"saturated": False, "share": 0.5, "born": 0.05, "before": None, "first": True, "layer": "1"}
    more = {"biased": 0.0, "longer": 0.0, "unmoved": 0.0, "scale": 1.0, "reach": 1.1, "bias": 0.0, "largest": 0.1}
    return Gone(**{**told, **more, "even": 3.0, "depth": 4.0, "inputs": 0.5, "channels": 64, **changes})


CLEAN, DIRTY = Outliers(100, 0, 2.0, 10.0), Outliers(100, 3, 900.0, 10.0)


@pytest.mark.parametrize(
    ("changes", "train", "name"),
    [
        ({}, CLEAN, "cannot tell"),
        ({"biased": 0.51}, CLEAN, "bias shift"),
        ({"biased": 0.5}, CLEAN, "cannot tell"),
        ({"before": 0.9}, CLEAN, "sites before"),
        ({"before": 0.89}, CLEAN, "cannot tell"),
        ({"longer": 0.6}, CLEAN, "learning rate"),
        ({"longer": 0.6}, DIRTY, "outliers in the training data"),
        ({"longer": 0.6}, None, "learning rate or training data"),
        ({"longer": 0.6, "even": 1.2}, DIRTY, "initialisation"),
        ({"longer": 0.6, "norms": True}, DIRTY, "cannot tell"),
        ({"longer": 0.6, "biased": 0.6}, DIRTY, "bias shift"),
        ({"unmoved": 0.9, "born": 0.2}, CLEAN, "dead from birth"),
        ({"unmoved": 0.9, "depth": 5.0}, CLEAN, "initialisation"),
        ({"unmoved": 0.9, "depth": 4.9}, CLEAN, "cannot tell"),
        ({"unmoved": 0.9, "born": 0.15, "channels": 8}, CLEAN, "dead from birth"),
        ({"unmoved": 0.9, "first": False}, CLEAN, "cannot tell"),
        ({"unmoved": 0.9, "born": None}, CLEAN, "cannot tell"),
        ({"saturated": True, "born": 0.4}, CLEAN, "initialisation"),
        ({"saturated": True, "born": 0.4, "inputs": 9.0}, CLEAN, "scale of the inputs"),
        ({"saturated": True, "born": 0.2, "inputs": 9.0}, CLEAN, "cannot tell"),
        ({"saturated": True, "longer": 0.9}, CLEAN, "learning rate"),
        ({"layer": "", "biased": None, "longer": None, "unmoved": None}, DIRTY, "cannot tell"),
    ],
)
def test_each_rule_speaks_where_its_evidence_is(changes, train, name):
    found = cause(gone(**changes), train)
    assert found.name == name
    assert found.evidence
    assert found.mend == MENDS[name]
    assert "actsec " in found.mend or name in ("sites before", "scale of the inputs")


@pytest.mark.parametrize("ailment", ["rate: adam .05", "outliers x1000", "bias tampered", "narrow", "negative weights"])
def test_planted_causes_of_dead_units_are_found(ailment):
    planted = ailing.plant(ailment, 0)
    found = [units for units in ailing.looked(planted).units if units.cause]
    assert found[0].cause.of == "dead"
    assert found[0].cause.name == planted.cause
    assert found[0].gone > 0.25


@pytest.mark.parametrize("ailment", ["tanh: wide weights", "tanh: rate", "tanh: inputs x60", "tanh: bias"])
def test_planted_causes_of_saturation_are_found(ailment):
    planted = ailing.plant(ailment, 1)
    found = [units for units in ailing.looked(planted).units if units.cause]
    assert (found[0].cause.of, found[0].cause.name) == ("saturated", planted.cause)


@pytest.mark.parametrize("ailment", ["healthy: sgd", "healthy: tanh"])
def test_healthy_models_have_no_cause(ailment):
    assert not [units for units in ailing.looked(ailing.plant(ailment, 0)).units if units.cause]


def test_without_the_training_data_it_is_not_told_which():
    found = ailing.looked(ailing.plant("outliers x1000", 0), given=False)
    assert found.train is None
    names = [units.cause.name for units in found.units if units.cause]
    assert names[0] == "learning rate or training data"
    assert "outliers in the training data" not in names


def test_the_shares_agree_with_health():
    planted = ailing.plant("narrow", 0)
    _, _, x, y, _ = ailing.digits()
    target = actsec.load(planted.model, input_shape=tuple(x.shape[1:]), classes=10)
    before = copy.deepcopy(target.model.state_dict())
    told = ailing.looked(planted)
    for site, units in zip(tally.site_health(target, x[:300], y[:300]), told.units, strict=True):
        assert units.live[0] == round(site["permanently_dead"] * units.count)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), target.model.state_dict().values(), strict=True))
    assert not target.model._forward_pre_hooks
    # whole, two to find sites and feeders; first 128 of it; 5 draws of flow and profile; both ends of a step
    rows, few = 300, 128
    assert rows + few + 5 * 2 * few + 2 * rows <= told.forwards <= rows + few + 5 * 2 * few + 2 * rows + 60
    assert told.backwards == 3 * rows + 5 * few


def units(at=0, **changes):
    told = {"site": f"s{at}", "kind": "relu", "count": 12, "live": (3, *[0] * 10, 9), "low": -1.0, "high": 1.0}
    more = {"counts": (1,) * 40, "marks": (0.0,), "mean": 0.0, "std": 1.0, "quantiles": (-1.0, 0.0, 1.0)}
    return Units(**{**told, **more, **changes})


def vitals(many=1, **changes):
    spread, turn = Spread(0.1, 0.2, 0.3, 0.4, 0.5), Spread(0.7, 0.8, 0.9, 0.95, 1.0)
    inputs = InputGradients(100, 0.02, "", 0, 0, spread, spread, turn)
    flowing = Flow((), None, None, None, None, 0, "no such thing")
    told = {"units": tuple(units(at) for at in range(many)), "flow": flowing, "inputs": inputs, "train": None}
    return Vitals(**{**told, "test": CLEAN, "forwards": 10, "backwards": 5, **changes})


def test_a_card_takes_the_same_room_however_many_units():
    few, many = card(units(), 1), card(units(count=10**6, live=tuple([83333] * 11 + [83337])), 1)
    assert len(many.svg) < len(few.svg) + 12 * 120
    assert "25.0 % never live" in few.alt.replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert 'class="kink"' in few.svg
    assert "not finite" in card(units(quantiles=None, counts=()), 1).alt
    assert "does not die" in card(units(live=None), 1).svg


def test_a_large_network_is_drawn_in_part_and_listed_whole():
    found = vitals(120)
    worse = dataclasses.replace(found, units=(*found.units[:119], units(119, live=(12, *[0] * 11))))
    blocks = list(vital_blocks.blocks(worse, "model"))
    (cards,) = (block for block in blocks if isinstance(block, Figures) and block.small)
    assert len(cards.items) == vital_blocks.MOST_CARDS
    assert cards.items[-1].alt.startswith("Site 120, s119")
    table = next(b for f in blocks if isinstance(f, Fold) for b in f.blocks if isinstance(b, Table))
    assert len(table.rows) == 120
    assert all(len(row) == len(table.columns) for row in table.rows)


@pytest.mark.parametrize("name", registry.names("symptoms"))
def test_every_rule_has_its_page(name):
    rule = registry.find("symptoms", name).rule
    assert registry.page("symptoms", name).startswith(f"{rule}: ")
    assert inside("explain", rule).out.startswith(f"{rule}: ")


def test_the_rule_of_the_monitor_has_its_page():
    """A checkup has nothing to compare with, so that no symptom of it is called drift."""
    said = inside("explain", "ACT-A20").out
    assert said.startswith("ACT-A20: ")
    assert "ActivationMonitor" in said
    assert "ACT-A20" in inside("explain", "ACT-A200").err


def test_rules_are_numbered_without_gap():
    rules = sorted(registry.find("symptoms", name).rule for name in registry.names("symptoms"))
    assert rules == [f"ACT-A{number:02}" for number in range(10)]


def seen(**changes):
    from test_diagnose_cli import calibrated, share, site

    told = {"sites": (site(),), "steep": frozenset(), "unresolved": (), "ratio": 1.0, "accuracy": share(90)}
    return Seen(**{**told, "calibration": calibrated(), "n": 100, "vitals": vitals(), **changes})


@pytest.mark.parametrize(
    ("inputs", "rule", "severity", "why"),
    [
        ({"zero_cross_entropy": 1}, None, None, None),
        ({"zero_cross_entropy": 2}, "ACT-A08", "medium", "large logits"),
        ({"zero_cross_entropy": 2, "zero_margin": 2}, "ACT-A08", "high", "cannot tell"),
        ({"reason": "no gradient reaches the input"}, "ACT-A08", "high", "cannot tell"),
        ({"turn": Spread(0, 0, 0.49, 1, 1)}, "ACT-A09", "low", "cannot tell"),
        ({"turn": Spread(0, 0, 0.5, 1, 1)}, None, None, None),
        ({"not_finite": 1}, "ACT-A08", "high", "cannot tell"),
    ],
)
def test_limits_of_gradients_by_the_input(inputs, rule, severity, why):
    from actsec.verdict.activity import findings

    told = vitals()
    told = dataclasses.replace(told, inputs=dataclasses.replace(told.inputs, **inputs))
    found = [(each.rule, each.severity, each.cause) for each in findings(seen(vitals=told))]
    assert found == ([(rule, severity, why)] if rule else [])


@pytest.mark.parametrize(
    ("fresh_ratio", "sites", "why"),
    [
        (1e-5, {}, "from birth"),
        (1.0, {}, "learned"),
        (1.0, {"permanently_dead": 1.0}, "dead units"),
        (1.0, {"kind": "tanh", "saturated": 0.9}, "saturated units"),
        (None, {}, "cannot tell"),
        (1e5, {}, "learned"),
    ],
)
def test_why_gradients_vanish(fresh_ratio, sites, why):
    from test_diagnose_cli import site

    from actsec.verdict.activity import findings

    told = vitals()
    told = dataclasses.replace(told, flow=dataclasses.replace(told.flow, fresh=fresh_ratio))
    found = findings(seen(vitals=told, ratio=1e-4, sites=(site(**sites),), steep=frozenset("a")))
    assert next(each.cause for each in found if each.rule == "ACT-A04") == why


@pytest.mark.parametrize(
    ("fresh_broken", "sites", "why"),
    [(0, {}, "cannot tell"), (2, {}, "from birth"), (2, {"finite": False}, "values that are not finite")],
)
def test_why_gradients_are_not_finite(fresh_broken, sites, why):
    from test_diagnose_cli import site

    from actsec.verdict.activity import findings

    layer = LayerFlow("0", None, None, None, None, not_finite=3, fresh_not_finite=fresh_broken)
    told = dataclasses.replace(vitals(), flow=dataclasses.replace(vitals().flow, layers=(layer,), draws=5))
    found = findings(seen(vitals=told, ratio=None, sites=(site(**sites),)))
    (mine,) = [each for each in found if each.rule == "ACT-A04"]
    assert (mine.severity, mine.cause) == ("high", why)
    text = json.dumps([str(block) for block in vital_blocks.blocks(told, "m")])
    assert "NaN or infinite at 1 of 1 layers" in text
    assert "not finite (3)" in text


def test_a_model_that_guesses_is_diagnosed_and_has_no_verdict(tmp_path):
    import numpy as np
    from safetensors.torch import save_file

    _, _, x, y, _ = ailing.digits()
    model = ailing.plant("narrow", 0).model
    save_file(model.state_dict(), tmp_path / "narrow.safetensors")
    (tmp_path / "nets.py").write_text(
        "from torch import nn\ndef make():\n    L, i = [nn.Flatten()], 64\n    for w in (16, 8, 4, 4):\n"
        "        L += [nn.Linear(i, w), nn.ReLU()]; i = w\n    return nn.Sequential(*L, nn.Linear(4, 10))\n"
    )
    np.savez(tmp_path / "test.npz", x=x[:100].numpy(), y=y[:100].numpy())
    model = ["--model", f"{tmp_path / 'nets.py'}:make", "--weights", tmp_path / "narrow.safetensors"]
    told = inside("diagnose", *model, "--data", tmp_path / "test.npz", "--quiet", "--out", tmp_path / "run")
    assert told.code == 3, told.err
    assert "ACT-M00 high: the model returns the same output for every example" in told.out
    assert "cause: dead from birth" in told.out
    stored = json.loads((tmp_path / "run" / "report.json").read_text())["result"]
    assert stored["variants"][0]["vitals"]["units"][2]["live"][0] == 4
    html = (tmp_path / "run" / "report.html").read_text()
    assert "dead from birth" in html
    assert html.count('class="kink"') >= 2
    marked = inside("report", tmp_path / "run", "--format", "md", "--out", "-").out
    assert "- Site 3, 6: " in marked
    assert "dead from birth" in marked
