"""Confidence moved and labels kept: against closed forms, exhaustive search, the target's own rule, and noise."""

import json

import numpy as np
import pytest
import torch
from attack_models import digits, linear
from runs import TINY
from torch import nn

import actsec
from actsec import confidence
from actsec.attacks import FGSM, PGD, Miscalibration, Noise
from actsec.errors import BadOption, PlanError, ThreatError
from actsec.losses import goal_of
from actsec.planning import jobs, plan, reading
from actsec.planning.budgets import BUDGETS, Images
from actsec.planning.resolving import resolve
from actsec.reports import load
from actsec.reports.formats import md, terminal
from actsec.running import runner
from actsec.search.ledger import FOUND
from actsec.search.referee import attack_target, cases_of
from actsec.types import Observed, Target, Threat
from actsec.verdict.calibration import ece, softmax
from actsec.verdict.gates import Gate, check_gates
from actsec.verdict.miscalibrated import Left, measure, words

AIMS = ("over", "under", "worst")


def attacked(target, x, y, aim, norm, eps, attack=None, **options):
    attack = attack or Miscalibration(aim=aim, **options)
    threat = Threat.parse(f"{norm}:{eps}:miscalibrate={aim}")
    return attack_target(attack, target, cases_of(target, x, y, norm, eps), goal_of(threat, attack, target.threshold))


def most(x, w, way, norm, eps):
    """The largest rise (n,) of way * (w . x) inside ball and box [0, 1], float64: each coordinate as far as it pays."""
    x, slope = x.double(), way[:, None] * w.double()
    room = torch.where(slope > 0, 1 - x, x)
    if norm == "linf":
        return (slope.abs() * room.clamp_max(eps)).sum(1)
    low, high = torch.zeros(len(x)).double(), torch.full((len(x),), 1e6).double()
    for _ in range(200):
        middle = (low + high) / 2
        short = torch.minimum(middle[:, None] * slope.abs(), room).square().sum(1).sqrt() <= eps
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return (slope.abs() * torch.minimum(low[:, None] * slope.abs(), room)).sum(1)


def strides(w, norm, eps, steps):
    """How far the last two steps, of 4 * eps / steps falling to 0, can move the log odds."""
    return 3 * 4 * eps / steps**2 * float(w.norm(1 if norm == "linf" else 2))


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.02), ("linf", 0.3), ("l2", 0.05), ("l2", 0.8)])
@pytest.mark.parametrize("aim", AIMS)
def test_on_a_linear_model_confidence_moves_as_far_as_the_closed_form_allows(aim, norm, eps):
    target, x, label, w, b = linear(n=24)
    y = label.clone()
    y[::3] = 1 - y[::3]
    rises = torch.full_like(label, aim == "over", dtype=torch.bool) if aim != "worst" else label != y
    side = label.double() * 2 - 1
    odds = (x.double() @ w.double() + b.double()).abs()
    free = most(x, w, torch.where(rises, side, -side), norm, eps)
    # Down it can go to the boundary and no further.
    truth = torch.where(rises, free, torch.minimum(free, odds))
    found = attacked(target, x, y, aim, norm, eps, steps=40)
    score = found.score.double()
    assert bool((found.status == FOUND).all())
    assert bool((score <= truth * (1 + 1e-5) + 1e-6).all())
    # At the boundary it stops within the last two strides.
    assert bool((score >= truth * 0.99 - strides(w, norm, eps, 40)).all())


@pytest.mark.parametrize("aim", ["over", "under"])
@pytest.mark.parametrize(("norm", "classes"), [("linf", 2), ("l2", 2), ("linf", 3), ("l2", 3)])
def test_in_the_plane_it_finds_what_an_exhaustive_search_finds(norm, classes, aim):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, classes)).eval()
        x = torch.rand(16, 2)
    with torch.no_grad():
        model[0].weight.mul_(5)
        model[2].weight.mul_(8)
    target, eps = Target(model, (2,), ("a", "b", "c")[:classes]), 0.15
    line = torch.linspace(-eps, eps, 151)
    moves = torch.cartesian_prod(line, line)
    moves = moves[moves.norm(dim=1) <= eps] if norm == "l2" else moves
    with torch.no_grad():
        label, before = model(x).argmax(1), model(x).softmax(1).amax(1)
        every = x[:, None] + moves
        p = model(every.double().float()).softmax(-1)
    kept = (p.argmax(-1) == label[:, None]) & ((every >= 0) & (every <= 1)).all(-1)
    own = p.amax(-1)
    best = own.where(kept, -1.0).amax(1) if aim == "over" else own.where(kept, 2.0).amin(1)
    found = attacked(target, x, label, aim, norm, eps, steps=60, restarts=4)
    reached = torch.where(found.status == FOUND, found.logits.softmax(1).amax(1), before)
    assert bool((found.logits.argmax(1) == label).all())
    short = (best - reached) if aim == "over" else (reached - best)
    # Towards all alike is not always the way down between three classes: see the page's known failures.
    median, largest = (0.002, 0.01) if aim == "over" or classes == 2 else (0.02, 0.2)
    assert float(short.median()) < median
    assert float(short.max()) < largest
    assert float((best - before).abs().max()) > 0.1, "the search must have something to find"


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("linf", 0.5), ("l2", 0.2), ("l2", 2.0)])
def test_towards_random_targets_a_linear_model_goes_as_near_as_the_closed_form_allows(norm, eps):
    target, x, label, w, b = linear(n=48)
    odds = (x.double() @ w.double() + b.double()).abs()
    wanted = confidence.drawn(torch.arange(48), 2)
    rises, side = odds < wanted, label.double() * 2 - 1
    free = most(x, w, torch.where(rises, side, -side), norm, eps)
    truth = torch.minimum(free, (odds - wanted).abs())
    found = attacked(target, x, label, "random", norm, eps, steps=40)
    score = torch.where(found.status == FOUND, found.score.double(), torch.zeros(()).double())
    assert bool((score <= truth * (1 + 1e-5) + 1e-6).all())
    assert bool((score >= truth * 0.99 - strides(w, norm, eps, 40)).all())
    if eps >= 0.5:
        assert int((truth == (odds - wanted).abs()).sum()) > 24, "most targets must be in reach"


def test_random_targets_are_uniform_and_those_of_the_row():
    rows = torch.arange(20000)
    p = torch.sigmoid(confidence.drawn(rows, 4))
    assert float(p.min()) >= 0.25 - 1e-12
    assert float(p.max()) < 1
    shares = torch.histc(p.float(), 10, 0.25, 1.0) / len(p)
    assert float((shares - 0.1).abs().max()) < 0.01  # 5 standard deviations of a share of 20,000
    assert torch.equal(confidence.drawn(rows[[7, 3]], 4), confidence.drawn(rows, 4)[[7, 3]])


def test_confidence_follows_the_draws_and_nothing_else():
    """On a trained network: the labels stay, and what confidence says of an input is what was drawn for it."""
    target, x, y = digits()
    with torch.no_grad():
        label = target.logits(x).argmax(1)
    wanted = torch.sigmoid(confidence.drawn(torch.arange(len(x)), 10))
    reached = {}
    for name, attack in (("attack", None), ("noise", Noise(20))):
        found = attacked(target, x, y, "random", "linf", 0.3, attack=attack, **({} if attack else {"steps": 40}))
        with torch.no_grad():
            logits = target.logits(found.x)
        assert torch.equal(logits.argmax(1), label)
        reached[name] = logits.double().softmax(1).amax(1)
    gap = {name: float((p - wanted).abs().median()) for name, p in reached.items()}
    assert gap["attack"] < 0.05
    assert gap["noise"] > 4 * gap["attack"]
    assert float(torch.corrcoef(torch.stack([reached["attack"], wanted]))[0, 1]) > 0.8


def test_with_a_threshold_the_draw_is_of_how_sure_the_decision_is():
    target, x, *_ = linear(n=24)
    moved = target.having(threshold=0.8)
    with torch.no_grad():
        decided = moved.decision_logits(moved.logits(x)).argmax(1)
    found = attacked(moved, x, decided, "random", "l2", 2.0, steps=40)
    assert torch.equal(found.logits.argmax(1), decided)
    now = confidence.odds(found.logits, decided)
    near = (now - confidence.drawn(torch.arange(24), 2)).abs()
    assert float(near.median()) < 0.1


def test_down_it_goes_below_one_half_where_there_are_more_than_two_classes():
    target, x, y = digits()
    sure = attacked(target, x, y, "under", "linf", 0.3, steps=30).logits.softmax(1).amax(1)
    assert float(sure.median()) < 0.4
    assert float(sure.min()) > 0.1


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.5)])
@pytest.mark.parametrize("aim", AIMS)
def test_labels_stay_confidence_moves_and_everything_is_inside(aim, norm, eps):
    target, x, y = digits()
    found = attacked(target, x, y, aim, norm, eps, steps=15)
    noise = attacked(target, x, y, aim, norm, eps, attack=Noise(20))
    with torch.no_grad():
        before, after = target.logits(x).softmax(1), target.logits(found.x).softmax(1)
    size = (found.x - x).flatten(1).norm(torch.inf if norm == "linf" else 2, dim=1)
    assert float(size.max()) <= eps * (1 + 1e-6)
    assert float(found.x.min()) >= 0
    assert float(found.x.max()) <= 1
    assert torch.equal(before.argmax(1), after.argmax(1))
    way = confidence.sign(aim, before.argmax(1), y)
    moved = way * (after.amax(1) - before.amax(1)).double()
    # Probabilities within a rounding of 1 move in log odds alone.
    assert bool((moved >= -1e-6).all())
    assert float(found.score.mean()) > 2 * float(noise.score.clamp_min(0).mean())


def test_the_worst_is_over_where_wrong_and_under_where_right():
    target, x, y = digits()
    y = torch.where(torch.arange(len(y)) % 4 == 0, (y + 1) % 10, y)
    over, under, worst = (attacked(target, x, y, aim, "linf", 0.1, steps=10) for aim in AIMS)
    with torch.no_grad():
        right = target.logits(x).argmax(1) == y
    assert 0 < int(right.sum()) < len(y)
    assert torch.equal(worst.x, torch.where(right[:, None, None, None], under.x, over.x))


@pytest.mark.parametrize("threshold", [0.2, 0.8])
def test_the_label_is_that_of_the_targets_own_threshold(threshold):
    plain, x, _, w, b = linear(n=24)
    target = plain.having(threshold=threshold)
    with torch.no_grad():
        label = target.decide(target.logits(x))
    shift = float(np.log(threshold / (1 - threshold)))
    value = x.double() @ w.double() + b.double()
    assert bool((label == (value > shift).long()).all())
    found = attacked(target, x, label, "under", "linf", 0.4, steps=60)
    side = label.double() * 2 - 1
    truth = torch.minimum(most(x, w, -side, "linf", 0.4), (value - shift).abs())
    assert bool((found.score.double() <= truth * (1 + 1e-5) + 1e-6).all())
    assert bool((found.score.double() >= truth * 0.99 - strides(w, "linf", 0.4, 60)).all())
    with torch.no_grad():
        assert torch.equal(target.decide(target.logits(found.x)), label)


def test_what_changes_the_label_does_not_count_whoever_proposes_it():
    target, x, y = digits()
    with torch.no_grad():
        label, before = target.logits(x).argmax(1), target.logits(x).softmax(1).amax(1)
    # FGSM begins at the input: the pass that answers it is also the one that the goal compares with.
    for attack in (FGSM(), PGD(steps=5)):
        found = attacked(target, x, y, "under", "linf", 0.1, attack=attack)
        held = found.status == FOUND
        assert 0 < int(held.sum()) < len(y)
        with torch.no_grad():
            after = target.logits(found.x)
        assert torch.equal(after.argmax(1)[held], label[held])
        assert bool((after.softmax(1).amax(1)[held] <= before[held]).all())


def test_a_rejected_or_infinite_candidate_does_not_count():
    goal, logits = confidence.Miscalibrate("over"), torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, torch.inf], [2.0, 1.0]])
    _, x, y, *_ = linear(n=4)
    cases = cases_of(Target(nn.Linear(12, 2), (12,), ("a", "b")), x, y, "linf", 0.1)
    clean = goal.baseline(Observed(torch.tensor([[0.0, 0.5]]).repeat(4, 1)))
    score = goal.score(Observed(logits, rejection=torch.tensor([-1.0, 1.0, -1.0, -1.0])), clean, cases)
    assert score.tolist() == [0.5, -torch.inf, -torch.inf, -torch.inf]


def test_the_loss_rises_with_what_it_is_for():
    _, x, *_ = linear(n=3)
    cases = cases_of(Target(nn.Linear(12, 3), (12,), ("a", "b", "c")), x, torch.tensor([2, 0, 0]), "linf", 0.1)
    logits = torch.tensor([[0.2, 0.1, 2.0], [0.2, 0.1, 2.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    p = logits.softmax(1)
    over, worst = (confidence.Surety(aim)(Observed(logits), cases) for aim in ("over", "worst"))
    assert over[0] == pytest.approx(float(torch.log(p[0, 2] / (1 - p[0, 2]))))
    uniform = -torch.log(torch.tensor(3.0)) - (p.log().mean(1) * -1 - torch.log(torch.tensor(3.0)))
    assert worst[0] == pytest.approx(float(uniform[0])), "minus the cross-entropy of the uniform distribution"
    assert worst[1] == over[1]
    assert worst[2] == pytest.approx(-np.log(3)), "nothing is less sure than all alike"


def test_options_and_aims_that_mean_nothing_are_refused():
    target, x, y = digits()
    with pytest.raises(BadOption, match="at least 1"):
        Miscalibration(steps=0)
    with pytest.raises(BadOption, match="above 0"):
        Miscalibration(step_size=0.0)
    with pytest.raises(ThreatError, match="miscalibrate=over"):
        actsec.attack(target, x, y, "miscalibration(aim=over)", threat="linf:0.1:miscalibrate=under")
    with pytest.raises(ThreatError, match="needs a budget"):
        actsec.attack(target, x, y, "miscalibration", threat="linf:miscalibrate")


def test_one_attack_by_itself_says_what_calibration_came_to_beside_noise():
    target, x, y = digits()
    found = actsec.attack(target, x, y, "miscalibration(steps=10)", eps=0.1)
    made = found.miscalibration
    assert made is not None
    assert found.sentence.endswith(words(made))
    with torch.no_grad():
        before, after = (target.logits(each).double().softmax(1) for each in (x, torch.from_numpy(found.x)))
    right = (before.argmax(1) == y).numpy()
    assert made.changed == 0
    assert made.accuracy.k == int(right.sum())
    assert made.before.ece == pytest.approx(ece(before.amax(1).numpy(), right))
    assert made.after.ece == pytest.approx(ece(after.amax(1).numpy(), right), abs=1e-6)
    assert made.after.mean_confidence == pytest.approx(float(after.amax(1).mean()), abs=1e-6)
    assert made.noise is not None
    assert made.after.ece > made.noise.ece > 0
    assert actsec.attack(target, x, y, "fgsm", eps=0.1).miscalibration is None


def left(status, logits):
    count = np.ones(len(status), dtype=np.int64)
    return Left("miscalibration", np.array(status), np.array(logits, dtype=np.float64), count, count)


def test_what_was_not_moved_is_the_untouched_input_and_other_labels_are_told():
    threat = Threat.parse("linf:0.1:miscalibrate")
    clean, y = np.array([[0.0, 2.0], [0.0, 2.0], [3.0, 0.0]]), np.array([1, 1, 1])
    kept = measure(threat, clean, y, None, left([1, 2, 1], [[0, 0.5], [0, -9], [4, 0]]), None, 0)
    assert kept.changed == 0
    expected = [softmax(np.array([row])).max() for row in ([0, 0.5], [0.0, 2.0], [4.0, 0.0])]
    assert kept.after.mean_confidence == pytest.approx(np.mean(expected))
    assert kept.moved.k == 2
    assert (kept.accuracy.k, kept.accuracy.n) == (2, 3)
    broken = measure(threat, clean, y, None, left([1, 1, 1], [[0, 0.5], [0, -9], [4, 0]]), None, 0)
    assert broken.changed == 1
    assert "but 1 labels changed" in words(broken)


def test_every_budget_plans_it_with_noise_beside_it():
    for name, budget in BUDGETS.items():
        made = resolve(plan.Plan(budget=name), Images((1, 8, 8), 16, 9000), trains=True, calibrates=True)
        by_role = {role: [t for t in made.attacks if t.role == role] for role in ("miscalibrate", "miscalibrate_noise")}
        assert [Threat.parse(t.threat).aim for t in by_role["miscalibrate"]] == list(budget.aims)
        assert [t.threat for t in by_role["miscalibrate_noise"]] == [t.threat for t in by_role["miscalibrate"]]
        assert all(t.samples == budget.samples for t in by_role["miscalibrate"])
        # What draws at inference has no label that certainly stays.
        assert not any("noisy_inference" in v for t in by_role["miscalibrate"] for v in t.variants)


def test_a_named_attack_brings_its_noise_and_its_goal():
    asked = plan.Plan(attacks=(plan.Trial("miscalibration(aim=over)"),), eps=0.1)
    made = resolve(asked, Images((1, 8, 8), 16, 50), trains=True, calibrates=True)
    found = [(t.attack, t.threat) for t in made.attacks if t.role.startswith("miscalibrate")]
    assert [threat for _, threat in found] == ["linf:0.1:miscalibrate=over"] * 2
    assert resolve(made, Images((1, 8, 8), 16, 50), trains=True, calibrates=True) == made
    assert Threat.parse("linf:0.1:miscalibrate=over") not in jobs.headline_threats(made)


@pytest.mark.parametrize(
    "text",
    ["ece@linf:0.1<=0.2", "robust_accuracy@linf:0.1:miscalibrate>=0.2", "clean_accuracy@linf:0.1:miscalibrate>=0.2"],
)
def test_gates_on_what_a_threat_does_not_say_are_refused(text):
    with pytest.raises(PlanError):
        Gate.parse(text)


def test_a_gate_needs_its_threat_in_the_plan():
    asked = plan.Plan(gates=("ece@linf:0.2:miscalibrate<=0.2",), attacks=(plan.Trial("pgd", "linf:0.1"),))
    with pytest.raises(PlanError, match="is not tested"):
        check_gates(asked, [], [])


GATED = 'gates = ["ece@linf:0.1:miscalibrate<=0.001", "ece@linf:0.1:miscalibrate[temperature]>=0"]\n'
MORE = """
[[attacks]]
attack = "miscalibration(steps=4)"
"""


def test_an_audit_reports_it_for_every_variant_in_every_format(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(GATED + TINY.replace("samples = 8", "samples = 40").replace("shard = 4", "shard = 25") + MORE)
    runner.audit(reading.read(path), tmp_path / "run", executor="serial")
    result = json.loads((tmp_path / "run" / "report.json").read_text())["result"]
    for variant in result["variants"]:
        (made,) = variant["miscalibrations"]
        assert made["threat"] == "linf:0.1:miscalibrate"
        assert made["changed"] == 0
        assert made["n"] == made["before"]["n"] == made["after"]["n"] == made["noise"]["n"] == 40
        assert made["after"]["ece"] > made["noise"]["ece"]
        assert made["accuracy"]["k"] == round(made["accuracy"]["value"] * 40)
        assert made["threat"] not in [t["threat"] for t in variant["threats"]]
        assert (made["forwards"], made["backwards"]) == (5, 4)
    plain, scaled = (variant["miscalibrations"][0] for variant in result["variants"])
    assert plain["accuracy"] == scaled["accuracy"]
    low, high = (plain["after"][key] for key in ("ece_low", "ece_high"))
    assert result["gates"][0]["outcome"] == "failed"
    assert [result["gates"][0][key] for key in ("low", "high")] == [low, high]
    assert any("every label kept, an attack at linf:0.1:miscalibrate" in line for line in result["headline"])
    report = load.read(tmp_path / "run")
    for text in (md.render(report), terminal.render(report)):
        assert f"{plain['after']['ece']:.3f}" in text
        assert "labels kept" in text.lower()
