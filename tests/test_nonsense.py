"""Confidence where there is nothing to see: closed forms, the far-field theorem, fooling, and what the report says."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from functools import cache

import numpy as np
import pytest
import sample_result as sample
import torch
import torch.nn.functional as F
from attack_models import CLASSES, digits
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import inside
from sklearn.metrics import roc_auc_score, roc_curve
from torch import nn

import actsec
from actsec import nonsense, registry
from actsec.attacks import PGD
from actsec.attacks.fooling import Fooling, LogOdds
from actsec.draws import Draws
from actsec.errors import BadOption, ThreatError
from actsec.losses import Confident
from actsec.nonsense import ALPHAS, KINDS, NOT_FINITE, REJECTED, ROWS, blanks, far, fool, measure
from actsec.planning import jobs, plan
from actsec.reports import load
from actsec.reports.figures.rays import Line, rays
from actsec.reports.lookup import first
from actsec.running import preparing, scene
from actsec.running.store import Store
from actsec.search.ledger import FOUND
from actsec.search.referee import attack_target, cases_of
from actsec.types import Cases, Observed, Outcome, Target
from actsec.verdict import nonsense as verdict
from actsec.verdict.gathering import gather


@cache
def mlp(activation: str) -> Target:
    """64-32-32-10 trained for a moment on digits with an activation of nn."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = torch.tensor(data.images, dtype=torch.float32)[:1200, None] / 16, torch.tensor(data.target)[:1200]
    act = getattr(nn, activation)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Flatten(), nn.Linear(64, 32), act(), nn.Linear(32, 32), act(), nn.Linear(32, 10)]
        model = nn.Sequential(*layers)
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(8):
            for i in torch.split(torch.randperm(1200), 64):
                optimizer.zero_grad()
                F.cross_entropy(model(x[i]), y[i]).backward()
                optimizer.step()
    model.zero_grad()
    return Target(model.eval(), (1, 8, 8), CLASSES)


def images(n=40, shape=(3, 6, 6), low=0.0, high=1.0):
    draw = torch.Generator().manual_seed(1)
    return low + (high - low) * torch.rand(n, *shape, generator=draw) ** 2


def inputs(x, id, bounds, seed):
    """All nonsense (m, *shape) that ``measure`` asks about, and its kind (m,) by KINDS."""
    drawn = nonsense.Drawn(x, id, nonsense.observed(x), bounds, seed)
    made = [drawn.rows(kind, torch.arange(count)) for kind, count in enumerate(drawn.counts())]
    return torch.cat(made), torch.arange(len(made)).repeat_interleave(torch.tensor(drawn.counts()))


def test_what_the_nonsense_is():
    x = images(low=-1.0, high=3.0)
    made, kind = inputs(x, torch.arange(40) * 7, (-1.0, 3.0), 5)
    assert ((made >= -1) & (made <= 3)).all()
    uniform, gaussian, permuted, blank = (made[kind == k] for k in range(len(KINDS)))
    assert [len(part) for part in (uniform, gaussian, permuted, blank)] == [ROWS, ROWS, 40, ROWS]
    assert abs(uniform.mean() - 1) < 4 * math.sqrt(16 / 12 / uniform.numel())
    # Far from the ends of the box nothing is cut off.
    away = 1 + images() / 10
    near = inputs(away, torch.arange(40), (-1.0, 3.0), 5)[0][kind == 1]
    assert ((near.mean(0) - away.mean(0)).abs() < 5 * away.std(0) / ROWS**0.5).all()
    assert (near.std(0) / away.std(0, unbiased=False)).mean() == pytest.approx(1, rel=0.05)
    for before, after in zip(x, permuted, strict=True):
        pixels = [sorted(map(tuple, image.flatten(1).T.tolist())) for image in (before, after)]
        assert pixels[0] == pixels[1]
        assert not torch.equal(before, after)
    assert len({tuple(p.flatten().tolist()) for p in permuted}) == 40
    assert blank[:3].flatten(1).unique(dim=1).flatten().tolist() == [-1, 1, 3]
    assert torch.allclose(blank[3], x.mean(0))
    assert blank[4:].flatten(2).std(2).max() == 0
    assert len(blank[4:].flatten(2)[..., 0].unique(dim=0)) == ROWS - 4


def test_nonsense_is_the_same_whatever_the_model_and_its_order():
    x = images()
    ids = torch.arange(40) + 100
    again = inputs(x, ids, (0.0, 1.0), 5)[0]
    assert torch.equal(inputs(x, ids, (0.0, 1.0), 5)[0], again)
    assert not torch.equal(inputs(x, ids, (0.0, 1.0), 6)[0], again)
    flipped = inputs(x.flip(0), ids.flip(0), (0.0, 1.0), 5)[0]
    assert torch.equal(flipped[2 * ROWS : 2 * ROWS + 40].flip(0), again[2 * ROWS : 2 * ROWS + 40])


@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_the_moments_of_pieces_are_those_of_the_whole(at_once):
    x = images(90, low=1000.0, high=1001.0)
    x[:, 0] = 0.1
    found = nonsense.moments(torch.split(x, at_once))
    assert torch.allclose(found.mean, x.double().mean(0), rtol=0, atol=1e-12 * 1000)
    assert torch.allclose(found.deviation, x.double().std(0, unbiased=False), rtol=0, atol=1e-12 * 1000)


def test_each_row_of_nonsense_is_drawn_alone_as_it_is_among_others():
    x = images()
    whole, kind = inputs(x, torch.arange(40) + 100, (0.0, 1.0), 5)
    drawn = nonsense.Drawn(x, torch.arange(40) + 100, nonsense.observed(x), (0.0, 1.0), 5)
    for k, count in enumerate(drawn.counts()):
        alone = torch.cat([drawn.rows(k, torch.tensor([row])) for row in range(count)])
        assert torch.equal(alone, whole[kind == k])


@pytest.mark.parametrize("batch", [1, 32, 64])
def test_no_more_nonsense_is_held_than_a_call_takes(batch, monkeypatch):
    target, x, _ = digits()
    held, rows = [], nonsense.Drawn.rows

    def counted(drawn, kind, row):
        held.append(len(row))
        return rows(drawn, kind, row)

    monkeypatch.setattr(nonsense.Drawn, "rows", counted)
    found, whole = measure(target.having(batch=batch), x), measure(target, x)
    assert max(held[: held.index(max(held))]) == batch
    assert np.array_equal(found.surest, whole.surest)
    assert np.allclose(found.confidence, whole.confidence, atol=1e-6)
    assert batch == 1 or np.array_equal(found.confidence, whole.confidence)


def test_confidence_is_the_probability_of_the_decision_on_the_stored_inputs():
    target, x, _ = digits()
    before = [p.clone() for p in target.model.parameters()]
    state = torch.get_rng_state()
    found = measure(target, x, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, target.model.parameters(), strict=True))
    made, kind = inputs(x, torch.arange(len(x)), (0.0, 1.0), 2)
    with torch.no_grad():
        logits = target.model(made).double()
    probability = torch.softmax(logits, 1)
    assert np.allclose(found.confidence, probability.amax(1), atol=1e-6)
    assert np.array_equal(found.label, probability.argmax(1))
    assert np.allclose(found.energy, logits.logsumexp(1), atol=1e-5)
    assert np.array_equal(found.kind, kind)
    for k in range(len(KINDS)):
        best = found.surest[k]
        assert found.kind[best] == k
        assert found.confidence[best] == found.confidence[found.kind == k].max()
        assert np.array_equal(found.shown[k], made[best])


def test_a_threshold_decides_and_a_single_logit_is_two_classes():
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 1))
    plain = Target(model, (3, 6, 6), ("no", "yes"))
    strict = plain.having(threshold=0.9)
    x = images()
    made = inputs(x, torch.arange(40), (0.0, 1.0), 0)[0]
    with torch.no_grad():
        yes = torch.sigmoid(model(made).double().flatten()).numpy()
    assert np.allclose(measure(plain, x).confidence, np.maximum(yes, 1 - yes), atol=1e-6)
    told = measure(strict, x)
    assert np.array_equal(told.label, yes > 0.9)
    assert np.allclose(told.confidence, np.where(yes > 0.9, yes, 1 - yes), atol=1e-6)


class Standardised(nn.Module):
    """Divides by each image's own deviation, which a blank has not."""

    def forward(self, x):
        flat = x.flatten(1)
        return (flat / flat.std(1, keepdim=True))[:, :4]


def test_what_has_no_answer_is_not_confident_and_is_counted():
    x = images(shape=(1, 4, 4))
    found = measure(Target(Standardised(), (1, 4, 4), tuple("abcd")), x)
    blank = (found.kind == 3) & (found.label == NOT_FINITE)
    assert blank.sum() > 150
    assert (found.confidence[blank] == 0).all()
    assert (found.confidence[~blank] > 0.25).all()
    detector = Target(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), (1, 4, 4), tuple("abcd")).having(
        rejects=lambda z: z.flatten(1).mean(1) < 0.3
    )
    found = measure(detector, x)
    dark = inputs(x, torch.arange(40), (0.0, 1.0), 0)[0].flatten(1).mean(1).numpy() < 0.3
    assert np.array_equal(found.label == REJECTED, dark)
    assert (found.confidence[dark] == 0).all()
    assert np.isnan(found.energy[dark]).all()


def test_a_linear_models_far_field_in_closed_form():
    """logits W x: confidence softmax(alpha W u), limit argmax W u."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False))
    found = far(Target(model, (1, 4, 4), tuple("abc")), seed=4)
    u = Draws(4, "nonsense/far").uniform(torch.arange(32), 0, (1, 4, 4)).double()
    slope = u.flatten(1) @ model[1].weight.detach().double().T
    assert found.precision == "float64"
    assert np.array_equal(found.limit, slope.argmax(1))
    for i, alpha in enumerate(ALPHAS):
        assert np.allclose(found.confidence[:, i], torch.softmax(alpha * slope, 1).amax(1), atol=1e-12)
    assert (found.label[:, -1] == found.limit).all()


@pytest.mark.parametrize("activation", ["ReLU", "LeakyReLU"])
def test_a_piecewise_linear_network_tends_to_the_class_its_jacobian_names(activation):
    """Hein et al. 2019, theorem 3.1, the Jacobian by autograd in float64."""
    target = mlp(activation)
    found = far(target)
    u = Draws(0, "nonsense/far").uniform(torch.arange(32), 0, (1, 8, 8)).double()
    exact = copy.deepcopy(target.model).double()
    for i in range(8):
        jacobian = torch.autograd.functional.jacobian(lambda z: exact(z[None])[0], 1e7 * u[i])
        assert int((jacobian * u[i]).flatten(1).sum(1).argmax()) == found.limit[i]
    assert (found.limit >= 0).all()
    assert (found.confidence[:, -1] > 1 - 1e-9).all()
    assert (found.label[:, -1] == found.limit).all()
    assert found.confidence[:, 0].mean() < 0.95


@pytest.mark.parametrize(
    ("activation", "sure"), [("GELU", True), ("Tanh", False), ("Sigmoid", False), ("ReLU6", False)]
)
def test_bounded_activations_have_a_limit_below_certainty(activation, sure):
    found = far(mlp(activation))
    assert (found.limit >= 0).all() == sure
    assert (found.limit >= 0).any() == sure
    assert (found.confidence[:, -1].mean() > 0.999) == sure
    if not sure:
        assert np.allclose(found.confidence[:, -1], found.confidence[:, -2], atol=1e-3)


def test_temperature_moves_certainty_and_does_not_end_it():
    target = mlp("ReLU")

    class Cooler(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x) / 4

    cooler = target.having(model=Cooler(target.model))
    x = digits()[1]
    hot, cool = measure(target, x), measure(cooler, x)
    assert np.array_equal(hot.label, cool.label)
    assert (cool.confidence <= hot.confidence + 1e-9).all()
    assert (cool.confidence > 0.9).mean() < 0.2 * (hot.confidence > 0.9).mean()
    near, away = far(target), far(cooler)
    assert away.confidence[:, 0].mean() < near.confidence[:, 0].mean() - 0.1
    assert np.array_equal(near.limit, away.limit)
    assert (away.confidence[:, -1] > 1 - 1e-9).all()


@pytest.mark.parametrize("batch", [1, 5])
def test_rays_are_asked_in_calls_of_the_targets_size(batch):
    target, rows = mlp("ReLU"), []
    whole = far(target)
    told = target.having(batch=batch, rejects=lambda z: rows.append(len(z)) or z.flatten(1).mean(1) > 1e5)
    asked = nn.Sequential(target.model)
    asked.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    found = far(told.having(model=asked))
    assert max(rows) == batch
    assert np.allclose(found.confidence[:, :-1], whole.confidence[:, :-1], rtol=0, atol=1e-12)
    assert (found.confidence[:, -1] == 0).all()
    assert (found.limit == -1).all()


def test_a_model_that_refuses_float64_is_measured_in_float32():
    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.rand(16, 3)  # neither parameter nor buffer: .double() leaves it

        def forward(self, x):
            return x.flatten(1) @ self.scale

    found = far(Target(Stubborn(), (1, 4, 4), tuple("abc")))
    assert found.precision == "float32"
    assert (found.limit >= 0).all()
    assert (found.label[:, -1] == found.limit).all()


def test_a_detector_that_rejects_what_is_far_ends_certainty():
    target = mlp("ReLU").having(rejects=lambda z: z.flatten(1).amax(1) - 1.5)
    found = far(target)
    assert (found.limit == -1).all()
    assert (found.confidence[:, 1:] == 0).all()
    assert (found.confidence[:, 0] > 0).all()


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=8), st.integers(0, 2))
@settings(max_examples=50, deadline=None)
def test_the_log_odds_are_those_of_the_probability(values, target):
    z = torch.tensor([values], dtype=torch.float64)
    cases = Cases(
        *[torch.zeros(1, dtype=torch.int64)] * 2, torch.tensor([1]), torch.tensor([target]), torch.ones(1), "linf"
    )
    p = torch.softmax(z, 1)[0]
    assert LogOdds()(Observed(z), cases).item() == pytest.approx(math.log(p[target] / (1 - p[target])), abs=1e-9)
    free = dataclasses.replace(cases, target=torch.tensor([-1]))
    best = max((i for i in range(len(values)) if i != 1), key=lambda i: values[i])
    assert LogOdds()(Observed(z), free).item() == pytest.approx(math.log(p[best] / (1 - p[best])), abs=1e-9)


def test_fooling_of_a_linear_model_finds_the_optimum():
    """Maximal log odds of two classes over 0 <= delta <= eps: eps on the coordinates that raise them, 0 elsewhere."""
    draw = torch.Generator().manual_seed(3)
    model = nn.Linear(12, 2)
    with torch.no_grad():
        model.weight.copy_(torch.randn(2, 12, generator=draw))
    target = Target(model, (12,), ("a", "b"))
    w = (model.weight[1] - model.weight[0]).detach()
    zero = Cases(
        torch.arange(2), torch.zeros(2, 12), torch.tensor([0, 1]), torch.tensor([0, 1]), torch.full((2,), 0.3).double(),
        "linf",
    )  # fmt: skip
    found = attack_target(Fooling(steps=20), target, zero, Confident(0.999999), settle=False)
    expected = torch.stack([0.3 * (w < 0), 0.3 * (w > 0)]).float()
    assert torch.allclose(found.x, expected)


def test_fooling_reaches_more_than_pgd_does_and_by_the_goals_own_word():
    """Each restart aims at the next likely class, and the log odds are what the goal asks for."""
    target, x, y = digits()
    cases, goal = cases_of(target, x, y, "linf", 0.2), Confident(0.99)
    ours, theirs = (attack_target(a(steps=20, restarts=2), target, cases, goal) for a in (Fooling, PGD))
    found = ours.status == FOUND
    assert found.sum() > 1.2 * (theirs.status == FOUND).sum() > 20
    probability = torch.softmax(target.model(ours.x[found]).detach().double(), 1)
    sure, label = probability.max(1)
    assert (sure >= 0.99 - 1e-6).all()
    assert (label != y[found]).all()


def test_a_blank_is_taken_for_every_class_and_what_is_returned_is_so():
    target, _, _ = digits()
    found = fool(target, seed=1)
    assert found.start.tolist() == [0] * 10 + [1] * 10
    assert found.target.tolist() == [*range(10)] * 2
    reached = np.isfinite(found.eps)
    assert reached.sum() >= 18
    with torch.no_grad():
        probability = torch.softmax(target.model(torch.from_numpy(found.x)).double(), 1).numpy()
    own = probability[np.arange(20), found.target]
    assert np.allclose(own, found.confidence, atol=1e-6)
    assert (own[reached] >= 0.99 - 1e-6).all()
    black = found.start == 0
    assert np.allclose(found.x[black].reshape(10, -1).max(1)[reached[black]], found.eps[black & reached])
    assert ((found.x >= 0) & (found.x <= 1)).all()
    again = fool(target, seed=1)
    assert all(np.array_equal(getattr(found, f.name), getattr(again, f.name)) for f in dataclasses.fields(found))


@pytest.mark.parametrize(("activation", "expected"), [("ReLU", (0, 0, 9, 10)), ("Sigmoid", (0, 0, 0, 0))])
def test_how_much_of_a_black_image_must_change(activation, expected):
    """At eps 1 a ReLU network is sure of every class, a sigmoid one of none, and three times the steps find no more."""
    radii = (0.1, 0.25, 0.5, 1.0)
    for steps in (20, 60):
        sizes = fool(mlp(activation), eps=radii, attack=f"fooling(steps={steps})").eps[:10]
        assert tuple(int((sizes <= e * (1 + 1e-6)).sum()) for e in radii) == expected


def test_each_row_stands_alone():
    target, _, _ = digits()
    every, two = fool(target, eps=(0.3,)), fool(target, classes=(3, 7), eps=(0.3,))
    pick = [3, 7, 13, 17]
    assert np.array_equal(every.x[pick], two.x)
    assert np.array_equal(every.eps[pick], two.eps)


def test_a_start_that_a_detector_rejects_is_no_success():
    target, _, _ = digits()
    guarded = target.having(rejects=lambda x: x.flatten(1).mean(1) < 0.15)
    found = fool(guarded, classes=(0, 1), eps=(0.5,))
    black = found.x[found.start == 0]
    assert (found.eps[found.start == 0] > 0.1).all()
    assert (black.mean((1, 2, 3)) >= 0.15 - 1e-6).all()


def test_what_fool_refuses():
    target, _, _ = digits()
    for options in ({"classes": (10,)}, {"classes": ()}, {"eps": (0.0,)}, {"confidence": 0.3}):
        with pytest.raises(BadOption):
            fool(target, **options)
    for text in ("fooling(steps=0)", "fooling(restarts=0)", "fooling(step_size=0)"):
        with pytest.raises(BadOption, match="fooling"):
            registry.build("attacks", text)
    cases = cases_of(target, *(part[:2] for part in digits()[1:]), "linf", None)
    with pytest.raises(ThreatError, match="fooling needs a budget"):
        attack_target(Fooling(), target, cases)
    assert blanks.spaced(3) == (0, 1, 2)
    assert blanks.spaced(1000)[::9] == (0, 999)
    assert len(blanks.spaced(1000)) == 10


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.lists(st.integers(0, 6), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_auroc_is_sklearns(inside_scores, outside_scores):
    known = roc_auc_score([1] * len(inside_scores) + [0] * len(outside_scores), inside_scores + outside_scores)
    assert verdict.auroc(np.array(inside_scores), np.array(outside_scores)) == pytest.approx(known)


def test_the_share_above_is_strict_and_row_by_row():
    outcome = Outcome("job", {}, {"confidence": np.array([0.95, 0.9, 0.2])})
    assert verdict.share_above(outcome, 0.9).tolist() == [True, False, False]


def test_an_audit_measures_every_variant_on_the_same_inputs(finished):
    store = Store.open(finished)
    read = gather(store.plan(), store.facts(), store)
    assert len(read) == 2
    kinds = [g.nonsense.arrays["kind"] for g in read]
    assert np.array_equal(*kinds)
    record = json.loads((finished / "report.json").read_text())["result"]["variants"]
    for g, shown in zip(read, record, strict=True):
        found = shown["nonsense"]
        confidence = g.nonsense.arrays["confidence"]
        assert found["above_90"]["k"] == int((confidence > 0.9).sum())
        assert found["n"] == len(confidence)
        logits = g.clean.arrays["test_logits"].astype(np.float64)
        sure = torch.softmax(torch.from_numpy(logits), 1).amax(1).numpy()
        for k, row in enumerate(found["kinds"]):
            here = confidence[kinds[0] == k]
            y = np.r_[np.ones(len(sure)), np.zeros(len(here))]
            assert row["auroc_confidence"] == pytest.approx(roc_auc_score(y, np.r_[sure, here]))
            energy = np.r_[np.logaddexp.reduce(logits, axis=1), g.nonsense.arrays["energy"][kinds[0] == k]]
            assert row["auroc_energy"] == pytest.approx(roc_auc_score(y, energy))
            p = torch.softmax(torch.from_numpy(logits), 1)
            entropy = np.r_[torch.special.entr(p).sum(1).numpy(), g.nonsense.arrays["entropy"][kinds[0] == k]]
            assert row["auroc_entropy"] == pytest.approx(roc_auc_score(y, -entropy))
            scores = {"confidence": np.r_[sure, here], "energy": energy, "entropy": -entropy}
            for name, score in scores.items():
                passing, kept, _ = roc_curve(y, score, drop_intermediate=False)
                assert row[f"fpr95_{name}"] == pytest.approx(passing[kept >= 0.95].min())
            assert row["sure"]["k"] == int((here >= 0.99).sum())
            labels = g.nonsense.arrays["label"][kinds[0] == k]
            assert row["attracted"]["k"] == int((labels == int(row["attractor"])).sum())
        assert len(found["fooling"]["classes"]) == 10
        assert found["fooling"]["eps"] == list(nonsense.FOOLING_EPS)
        assert [s["k"] for s in found["fooling"]["black"]] == sorted(s["k"] for s in found["fooling"]["black"])
    assert record[1]["nonsense"]["pictures"] == []
    stored = load.read(finished).examples["nonsense"]
    assert len(stored) == len(record[0]["nonsense"]["pictures"]) >= 4
    # Temperature: the same labels, the same classes far away.
    assert np.array_equal(read[0].nonsense.arrays["label"], read[1].nonsense.arrays["label"])
    assert np.array_equal(read[0].nonsense.arrays["far_limit"], read[1].nonsense.arrays["far_limit"])


def test_a_table_has_no_nonsense_images():
    facts = plan.Facts("m", "t", None, None, shape=(13,))
    resolved = preparing.resolved(scene.load(plan.Plan(activations=("relu",), defenses=()))).plan
    variant = jobs.variants(resolved)[0]
    assert jobs.nonsense_jobs(resolved, facts, variant) == ()
    two = jobs.nonsense_jobs(resolved, dataclasses.replace(facts, shape=(1, 8, 8)), variant)
    assert [job.kind for job in two] == ["nonsense", "fool"]
    assert len({job.id for job in two}) == 2


def body(result, form="md"):
    text = str(load.render(sample.report(result), form))
    own = text[text.index("## Nonsense") :]
    return own[: own.index("\n## ", 5)]


def test_the_section_says_what_temperature_and_bounded_activations_do():
    result = sample.normal()
    text = body(result).replace("\\", "")
    assert "above 90 % sure of 166 of 800 nonsense inputs (20.8 %) and of 90.0 % of test images" in text
    assert "one logit outgrows the others along 32 of 32 rays" in text
    assert "one logit outgrows the others along none of 32 rays" in text
    assert "**relu | temperature:** **tends to certainty**" in text
    assert "Far away 100.0 % sure, undefended 100.0 %: unchanged in kind." in text
    assert "taken for at 99 % or more, changed by at most 0.25 for 4 of 10, by at most 1 for 10 of 10." in text
    assert "changed by at most 0.25 for 0 of 10, by at most 1 for 0 of 10; the most was 83.0 %." in text
    assert "3 not finite" in text
    bounded = sample.nonsense(20, sample.CLASSES, 0)
    swapped = dataclasses.replace(result.variants[5], nonsense=bounded)
    alone = body(dataclasses.replace(result, variants=(dataclasses.replace(first(result), nonsense=bounded),)))
    assert "changed by up to 1 is taken for no class at 99 %; the most was 83.0 %." in alone
    text = body(dataclasses.replace(result, variants=(*result.variants[:5], swapped)))
    assert "Far away 58.7 % sure, undefended 100.0 %: a change in kind." in text
    blind = tuple(dataclasses.replace(v, nonsense=None) for v in result.variants)
    assert "Not done: confidence on nonsense" in body(dataclasses.replace(result, variants=blind))
    one = dataclasses.replace(result, variants=(*result.variants[:3], blind[3]))
    assert f"Not done for {blind[3].title}." in body(one).replace("\\", "")
    unfooled = dataclasses.replace(first(result).nonsense, fooling=None)
    only = dataclasses.replace(first(result), nonsense=unfooled)
    assert "no attack tried to write a class into a blank" in body(dataclasses.replace(result, variants=(only,)))


def test_pictures_are_drawn_and_a_missing_array_is_named(tmp_path):
    report = sample.report(sample.normal())
    page = str(load.render(report, "html"))
    assert page.count("<image") == 6
    without = dataclasses.replace(report, examples={k: v for k, v in report.examples.items() if k != "nonsense"})
    assert "<image" not in str(load.render(without, "html"))
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "report.json").write_text(load.to_json(report))
    np.savez(folder / "examples.npz", **report.examples)
    assert load.read(folder).examples["nonsense"].shape == (6, 1, 8, 8)
    np.savez(folder / "examples.npz", **without.examples)
    with pytest.raises(actsec.ActsecError, match="lacks the 6 nonsense inputs"):
        load.read(folder)


def test_of_many_models_those_that_differ_are_drawn():
    base = sample.nonsense(10, sample.CLASSES).far
    other = sample.nonsense(10, sample.CLASSES, 0).far
    figure = rays([Line("audited", base), *(Line(f"same {i}", base) for i in range(7)), Line("bounded", other)], 0.1)
    assert "bounded" in figure.alt
    assert "audited" in figure.alt
    assert "6 of 9 models" in figure.caption


def test_actsec_attack_takes_the_goal_from_the_threat():
    target, x, y = digits()
    found = actsec.attack(target, x[:12], y[:12], "fooling(steps=20)", threat="linf:0.2:confident=0.99")
    assert found.success.sum() >= 6
    assert "fooling" in inside("list", "attacks").out
