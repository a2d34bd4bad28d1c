"""Goals of a threat: written, reached, counted, kept apart; and what no adversary could do is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from attack_models import digits, linear
from hypothesis import given
from hypothesis import strategies as st
from runs import inside

import actsec
from actsec import goals, losses
from actsec.errors import ActsecError, ThreatError
from actsec.losses import Confident, goal_of
from actsec.planning.jobs import VariantPlan
from actsec.planning.plan import Plan, Trial
from actsec.planning.reading import from_table, write
from actsec.registry import build
from actsec.running import preparing
from actsec.search.ledger import ALREADY_WRONG, FOUND
from actsec.search.referee import attack_target, cases_of
from actsec.types import Observed, Outcome, Threat
from actsec.verdict.gates import Gate
from actsec.verdict.gathering import Gathered, Tried
from actsec.verdict.threats import attack_result, threat_result

GOALS = st.one_of(
    st.sampled_from(
        [
            "misclassify",
            "kill",
            "saturate",
            "zero_tail",
            "least_likely",
            *(f"miscalibrate{a}" for a in ("", "=over", "=under")),
        ]
    ),
    st.integers(0, 10**6).map(lambda k: f"class={k}"),
    st.floats(0.5, 1, exclude_max=True).map(lambda p: f"confident={p!r}"),
)


@given(
    st.sampled_from(["linf", "l2", "l1", "l0"]),
    st.none() | st.floats(1e-9, 1e9) | st.integers(1, 2000).map(lambda k: k / 255) | st.integers(1, 999).map(float),
    GOALS,
)
def test_a_threat_reads_back_as_it_is_written(norm, eps, goal):
    threat = Threat(norm, eps, goal)
    assert Threat.parse(str(threat)) == threat
    assert str(Threat.parse(str(threat))) == str(threat)
    plan = Plan(attacks=(Trial("fgsm", str(threat), 3),))
    assert from_table({"attacks": [f"fgsm at {threat}"]}).attacks[0].threat == str(threat)
    assert str(threat) in write(plan)


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("linf:8/255:class=3", "class=3"),
        ("linf:8/255:class=03", "class=3"),
        ("l2:confident=0.990", "confident=0.99"),
        ("l2:confident=99/100", "confident=0.99"),
        ("linf:0.1:least_likely", "least_likely"),
        ("l2:0.5", "misclassify"),
        ("l2:0.5:miscalibrate=worst", "miscalibrate"),
    ],
)
def test_goals_are_read_in_any_of_their_writings(text, goal):
    assert Threat.parse(text).goal == goal


@pytest.mark.parametrize(
    "text",
    ["linf:0.1:class", "linf:0.1:class=-1", "linf:0.1:class=x", "l2:confident=1", "l2:confident=0.2", "l2:confident=x",
     "linf:0.1:best", "linf:0.1:class=1:2", "lp:0.1", "linf:-1", "linf:0", "linf:inf"],
)  # fmt: skip
def test_what_is_no_threat_is_refused_with_the_mend(text):
    with pytest.raises(ThreatError) as problem:
        Threat.parse(text)
    assert problem.value.mend
    with pytest.raises(ThreatError):
        Threat("linf", 0.1, "class=03")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("linf:1.5", "larger than the box"),
        ("l2:8.1", "larger than the box"),
        ("l1:65", "larger than the box"),
        ("l0:65", "larger than the box"),
        ("l0:1.5", "1.5 pixels"),
        ("linf:0.1:class=10", "there is no class 10"),
    ],
)
def test_threats_nobody_can_carry_out_are_refused(text, says):
    with pytest.raises(ThreatError, match=says) as problem:
        goals.check(Threat.parse(text), (1, 8, 8), (0.0, 1.0), 10)
    assert problem.value.mend
    attack = "one_pixel" if text.startswith("l0") else "pgd"
    target, x, y = digits()
    with pytest.raises(ThreatError, match=says):
        actsec.attack(target, x[:2], y[:2], attack, threat=text)
    said = inside("attack", attack, "--model", "reference:mlp(width=[8])", "--threat", text, "--samples", 2)
    assert said.code == 2
    plan = from_table({"model": "reference:mlp(width=[8])", "defenses": [], "attacks": [f"{attack} at {text}"]})
    with pytest.raises(ThreatError):
        preparing.prepare(plan)


@pytest.mark.parametrize("text", ["linf:1", "l2:8", "l1:64", "l0:64"])
def test_the_whole_box_is_a_threat(text):
    goals.check(Threat.parse(text), (1, 8, 8), (0.0, 1.0), 10)


def test_one_pixel_has_no_l2():
    target, x, y = digits()
    with pytest.raises(ThreatError, match="works in l0, not in l2"):
        actsec.attack(target, x[:2], y[:2], "one_pixel", threat="l2:0.5")


@pytest.mark.parametrize(
    "text", ["pgd(steps=20, loss=margin)", "fgsm", "square(queries=60)", "noise(draws=20)", "apgd(steps=10)"]
)
def test_a_class_is_reached_or_not_and_its_own_images_are_left_out(text):
    target, x, y = digits()
    threat = "linf:0.3:class=3"
    outcome = actsec.attack(target, x, y, text, threat=threat)
    own = (y == 3).numpy()
    assert own.any()
    assert np.array_equal(outcome.counted, ~own)
    assert not outcome.success[own].any()
    label = target.decide(target.logits(torch.from_numpy(outcome.x))).numpy()
    assert (label[outcome.success] == 3).all()
    assert outcome.still_correct.n == int((~own).sum())
    clean = target.decide(target.logits(x)).numpy()
    there = outcome.success | ((clean == 3) & ~own)
    assert outcome.still_correct.k == int((~there[~own]).sum())
    assert f"({int(own.sum())} of the wanted class left out)" in outcome.sentence
    named = actsec.attack(target, x, y, text, threat="linf:0.3", target_class=3)
    if "noise" not in text and "square" not in text and "pgd" not in text:  # no draws, which the threat's name keys
        assert np.array_equal(named.x[~own], outcome.x[~own])


def test_the_least_likely_class_is_that_of_the_smallest_logit():
    target, x, y = digits()
    cases = cases_of(target, x, y, "linf", 0.5)
    aimed = goals.aimed(cases, Threat.parse("linf:0.5:least_likely"), target)
    assert torch.equal(aimed.target, target.model(x).argmin(1))
    outcome = actsec.attack(target, x, y, "pgd(steps=40, loss=margin)", threat="linf:0.6:least_likely")
    label = target.decide(target.logits(torch.from_numpy(outcome.x)))
    assert outcome.success.sum() > 5
    assert torch.equal(label[outcome.success], aimed.target[outcome.success])


def test_confident_is_the_softmax_of_a_wrong_class():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 5, generator=draw) * 4
    y = torch.randint(0, 5, (500,), generator=draw)
    target, *_ = linear()
    cases = replace(cases_of(target, torch.zeros(500, 2), y, "l2", None))
    for p in (0.5, 0.9, 0.99):
        score = Confident(p).score(Observed(logits), (), cases)
        most, label = logits.double().softmax(1).max(1)
        assert torch.equal(score > 0, (label != y) & (most > p))
        aim = replace(cases, target=(y + 1) % 5)
        there = (label == aim.target) & (most > p)
        assert torch.equal(Confident(p).score(Observed(logits), (), aim) > 0, there)
    assert (
        Confident(0.9).score(Observed(torch.full((1, 5), torch.nan)), (), cases.rows(torch.tensor([0]))) == -torch.inf
    )


def test_a_threshold_moves_the_decision_and_not_the_probability():
    logits = torch.tensor([[0.0, 2.0], [0.0, 6.0], [3.0, 0.0]])
    y = torch.tensor([0, 0, 1])
    target, *_ = linear()
    own = target.having(threshold=0.9)
    cases = cases_of(own, torch.zeros(3, 2), y, "l2", None)
    score = goal_of(Threat.parse("l2:confident=0.95"), object(), 0.9).score(
        Observed(own.decision_logits(logits)), (), cases
    )
    # 0.88 is below the threshold; 0.998 is above both; 0.953 for class 0.
    assert (score > 0).tolist() == [False, True, True]


def test_a_confident_mistake_costs_more_and_is_one():
    target, x, y = digits()
    plain = actsec.attack(target, x, y, "minimal_l2(steps=40)", threat="l2")
    sure = actsec.attack(target, x, y, "minimal_l2(steps=40)", threat="l2:confident=0.99")
    both = plain.success & sure.success
    assert both.sum() > 40
    assert (sure.size[both] > plain.size[both]).mean() > 0.95
    probability = target.logits(torch.from_numpy(sure.x)).double().softmax(1)
    most, label = probability.max(1)
    assert (most[sure.success] >= 0.99 - 1e-6).all()
    assert (label != y)[sure.success].all()


def test_a_confident_mistake_of_a_linear_model_costs_what_it_must():
    """Two classes: the boundary of probability p lies log(p / (1 - p)) further along the same direction."""
    target, _, _, w, b = linear(d=6)
    x = torch.full((8, 6), 0.5) + torch.linspace(-0.03, 0.03, 8)[:, None] * w / w.norm()
    value = x.double() @ w.double() + b.double()
    y = (value > 0).long()
    wide = target.having(bounds=(-50.0, 50.0))
    outcome = actsec.attack(wide, x, y, "minimal_l2", threat="l2:confident=0.9")
    truth = (value.abs() + np.log(9)) / w.double().norm()
    assert outcome.success.all()
    assert (torch.from_numpy(outcome.size) >= truth * (1 - 1e-6)).all()
    torch.testing.assert_close(torch.from_numpy(outcome.size), truth, rtol=0.01, atol=0)


def test_classes_are_named_once_and_exist():
    target, x, y = digits()
    with pytest.raises(ThreatError, match="names a class and so does target_class"):
        actsec.attack(target, x, y, "fgsm", threat="linf:0.1:class=3", target_class=2)
    for wrong in (10, -1):
        with pytest.raises(ThreatError, match="the target has 10 classes"):
            actsec.attack(target, x, y, "fgsm", eps=0.1, target_class=wrong)
    mixed = torch.where(torch.arange(len(y)) % 2 == 0, (y + 1) % 10, -1)
    outcome = actsec.attack(target, x, y, "fgsm", eps=0.3, target_class=mixed)
    assert outcome.counted.all()


@pytest.mark.parametrize("eps", [[0.1, 0.2], [0.1] * 63 + [-1], [0.1] * 63 + [float("nan")]])
def test_budgets_of_rows_are_one_positive_number_each(eps):
    target, x, y = digits()
    with pytest.raises(ThreatError, match="numbers for 64 inputs"):
        actsec.attack(target, x, y, "fgsm", eps=np.array(eps))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_row_keeps_its_own_budget(norm):
    target, x, y = digits()
    eps = np.linspace(0.01, 0.4, 64)
    outcome = actsec.attack(target, x, y, "pgd(steps=5)", eps=eps, threat=norm)
    assert (outcome.size <= eps * (1 + 1e-6)).all()
    same = actsec.attack(target, x, y, "fgsm", eps=np.full(64, 0.1))
    one = actsec.attack(target, x, y, "fgsm", eps=0.1)
    assert np.array_equal(same.x, one.x)
    with pytest.raises(ThreatError, match="and an eps for each input"):
        actsec.attack(target, x, y, "fgsm", eps=eps, threat="linf:0.1")


def tried(text, status, *, threat, labels, counted=None, smallest=None, size=None):
    """A finished trial of six images, three classes: what it left is called ``labels``."""
    n = len(status)
    logits = np.full((n, 3), -8.0)
    logits[np.arange(n), labels] = 8.0
    arrays = {
        "status": np.array(status),
        "wrong": (np.array(labels) != Y).astype(float),
        "smallest": np.full((n, 3), np.inf) if smallest is None else smallest,
        "size": np.full(n, 0.05) if size is None else size,
        "logits": logits,
        "on_grid": np.full(n, -1),
        "trace": np.zeros((0, 0, 3)),
        "forwards": np.ones(n),
        "backwards": np.ones(n),
        "rejected": np.zeros(n, dtype=int),
    } | ({} if counted is None else {"counted": np.array(counted, dtype=bool)})
    return Tried(Trial(text, threat, n, "attack"), arrays, ({"refused": 0},), None, missing=False)


Y = np.array([0, 0, 0, 1, 1, 2])
CLEAN = np.array([0, 0, 0, 1, 2, 2])
"""Image 4 is called class 2 untouched: it is there already. Image 5 belongs to class 2."""


def gathered(*trials):
    logits = np.full((6, 3), -8.0)
    logits[np.arange(6), CLEAN] = 8.0
    clean = Outcome("", {}, {"test_wrong": (CLEAN != Y).astype(float), "test_logits": logits})
    return Gathered(VariantPlan("relu", "reference:mlp"), clean, None, None, trials, ())


def test_threats_are_counted_apart_and_candidates_for_each_they_satisfy():
    free = np.full((6, 3), np.inf)
    free[0, 0], free[4, 0] = 0.05, 0.0  # image 0 falls to an untargeted change of class 2, image 4 fell before
    # Image 1 is driven to class 2 by the targeted attack: a misclassification, too.
    driven = np.full((6, 3), np.inf)
    driven[1, 0], driven[4, 0] = 0.07, 0.0
    untargeted = tried("pgd", [1, 2, 2, 2, 0, 2], threat="linf:0.1", labels=[2, 0, 0, 1, 2, 2], smallest=free)
    targeted = tried(
        "fgsm", [2, 1, 2, 2, 0, 0], threat="linf:0.1:class=2", labels=[0, 2, 0, 1, 2, 2],
        counted=[1, 1, 1, 1, 1, 0], smallest=driven,
    )  # fmt: skip
    g = gathered(untargeted, targeted)
    any_class, that_class = Threat.parse("linf:0.1"), Threat.parse("linf:0.1:class=2")
    assert g.wrong_under(any_class, 6).tolist() == [1, 1, 0, 0, 1, 0]
    assert g.wrong_under(that_class, 6).tolist() == [1, 1, 0, 0, 1, 0]  # image 5 is class 2 and is not counted
    assert g.wrong_under(Threat.parse("linf:0.1:class=1"), 6).tolist() == [0] * 6
    assert g.counted(that_class, 6).tolist() == [True] * 5 + [False]
    assert g.counted(any_class, 6).all()
    plan = Plan(eps=0.1, attacks=(untargeted.trial, targeted.trial))
    shown = threat_result(g, plan, that_class, Y, ("a", "b", "c"), "echo")
    assert (shown.worst_case.k, shown.worst_case.n, shown.left_out) == (2, 5, 1)
    assert shown.goal == "class=2"
    assert "images of that class are left out" in shown.echo
    alone = attack_result(g, targeted)
    assert (alone.n, alone.still_correct.k) == (5, 3)
    assert (alone.success.k, alone.success.n) == (1, 4)


def test_an_untargeted_success_is_no_targeted_one():
    free = np.full((6, 3), np.inf)
    free[:, 0] = 0.01
    untargeted = tried("pgd", [1] * 6, threat="linf:0.1", labels=[1, 1, 1, 0, 0, 0], smallest=free)
    targeted = tried("fgsm", [2] * 6, threat="linf:0.1:class=2", labels=list(Y), counted=[1, 1, 1, 1, 1, 0])
    g = gathered(untargeted, targeted)
    assert g.wrong_under(Threat.parse("linf:0.1"), 6).all()
    assert not g.wrong_under(Threat.parse("linf:0.1:class=2"), 6).any()
    # Too large a change for the smaller ball of another goal does not count there.
    sure = Threat.parse("linf:0.04:confident=0.9")
    assert not g.wrong_under(sure, 6).any()
    assert g.wrong_under(Threat.parse("linf:0.06:confident=0.9"), 6).all()
    assert not g.wrong_under(Threat.parse("l2:0.06:confident=0.9"), 6).any()


def test_gates_speak_of_goals():
    gate = Gate.parse("robust_accuracy@linf:8/255:class=3>=0.3")
    assert (gate.threat, gate.limit, gate.at_least) == ("linf:8/255:class=3", 0.3, True)
    assert not Gate.parse("robust_accuracy@l2:confident=0.99<=0.5").at_least


def test_the_command_line_takes_goals():
    said = inside(
        "attack", "fgsm", "--model", "reference:mlp(width=[8])", "--threat", "linf:0.2:class=3", "--samples", 30
    )
    assert said.code == 0, said.err
    assert "fgsm at linf:0.2:class=3" in said.out
    assert "of the wanted class left out" in said.out


def test_goals_settle_as_they_say():
    target, x, y = digits()
    cases = cases_of(target, x, y, "linf", 0.3)
    plain = attack_target(build("attacks", "pgd(steps=10)"), target, cases, losses.Misclassify())
    sure = attack_target(build("attacks", "pgd(steps=10)"), target, cases, Confident(0.99))
    assert ((sure.status == FOUND) <= (plain.status == FOUND) | (plain.status == ALREADY_WRONG)).all()
    assert sure.forwards.sum() > plain.forwards.sum()
    assert issubclass(ThreatError, ActsecError)
