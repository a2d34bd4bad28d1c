"""Ways in which a verdict could be kinder than its evidence, each closed."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import actsec
from actsec.errors import DataError, PlanError, ThreatError
from actsec.planning import budgets, resolving
from actsec.planning.jobs import VariantPlan
from actsec.planning.plan import Plan, Trial
from actsec.types import Evidence, Outcome, Target, Threat
from actsec.verdict import calibration
from actsec.verdict.gathering import Gathered, Tried, compared
from actsec.verdict.metrics import _worst
from actsec.verdict.sanity import diagnose
from actsec.verdict.statistics import per_class

IMAGES = budgets.Images((1, 8, 8), 16, 200)


def resolve(*trials, **options):
    return resolving.resolve(Plan(attacks=trials, **options), IMAGES, trains=True, calibrates=True)


def test_images_that_a_check_never_saw_are_refused():
    with pytest.raises(PlanError, match="5 images of 60"):
        resolve(Trial("fgsm", samples=5, role="single_step"), Trial("pgd", samples=60, role="iterative"))


def test_asking_for_more_images_is_not_lowered_and_the_checks_follow():
    plan = resolve(Trial("pgd", samples=180))
    assert plan.attacks[0].samples == 180
    assert {t.samples for t in plan.attacks if t.role in ("noise", "margin", "gradient_free")} == {180}


def test_noise_alone_is_no_attack():
    plan = resolve(Trial("noise", "l2:0.5", 50))
    assert plan.attacks[0].role == "noise"
    from actsec.planning.jobs import rows_tested

    assert rows_tested(plan, "relu", Threat("l2", 0.5)) == 0


def test_what_the_base_alone_has_faced_does_not_flatter_a_defense():
    def tried(attack, wrong, role="attack", error=None):
        arrays = {
            "status": np.where(wrong, 1, 2),
            "wrong": wrong.astype(float),
            "smallest": np.where(wrong[:, None], 0.1, np.inf) * np.ones(3),
        }
        return Tried(Trial(attack, "linf:0.1", 4, role), arrays, ({},), error, missing=False)

    def gathered(name, *trials):
        clean = Outcome("c", {}, {"test_wrong": np.zeros(4)})
        return Gathered(VariantPlan(name, "reference:cnn"), clean, None, None, trials, ())

    weak, strong = np.array([True, False, False, False]), np.array([True, True, True, False])
    base = gathered("relu", tried("pgd", weak), tried("cascade", strong), tried("art/X", strong, "second_opinion"))
    drawing = gathered("noisy", tried("pgd", weak), tried("transfer", strong, "transfer"))
    crashed = gathered("broken", tried("pgd", weak), tried("cascade", strong, error="it crashed"))
    threat = Threat("linf", 0.1)
    for other, left in ((drawing, strong), (crashed, weak)):
        ours, theirs = compared(base, other)
        assert np.array_equal(base.wrong_under(threat, 4, ours), weak)
        assert np.array_equal(other.wrong_under(threat, 4, theirs), left)
    ours, _ = compared(base, gathered("gelu", tried("pgd", weak), tried("cascade", weak)))
    assert np.array_equal(base.wrong_under(threat, 4, ours), strong)


def test_a_check_that_crashes_voids_the_pass():
    evidence = Evidence(
        Threat("linf", 0.1),
        np.ones(50, bool),
        {role: np.ones(n, bool) for role, n in (("iterative", 50), ("gradient_free", 40), ("noise", 50))},
        {},
        10,
        stochastic=False,
    )
    crashed = [f for f in diagnose(evidence) if f.status == "error"]
    assert crashed
    assert all(f.voids for f in crashed)


def test_a_class_of_few_images_holds_the_worst_class_down():
    y = np.array([0] * 100 + [1] * 6)
    correct = np.array([True] * 80 + [False] * 20 + [True] * 5 + [False])
    found = _worst(per_class(correct, y, ("many", "few")))
    assert found.value == pytest.approx(0.8)
    assert found.low == pytest.approx(0.436, abs=0.001)


def test_confidence_is_of_the_decided_class():
    logits = np.log(np.array([[0.4, 0.6], [0.1, 0.9]]))
    assert calibration.decided(calibration.softmax(logits), 0.8).tolist() == [0, 1]
    assert calibration.confidence(logits, 0.8) == pytest.approx([0.4, 0.9])
    assert calibration.confidence(logits) == pytest.approx([0.6, 0.9])


@pytest.fixture
def target():
    torch.manual_seed(0)
    return Target(nn.Linear(4, 3), (4,), ("a", "b", "c"))


def test_inputs_outside_the_box_are_refused_not_called_robust(target):
    x, y = torch.rand(8, 4), torch.zeros(8, dtype=torch.int64)
    with pytest.raises(DataError, match="outside the target"):
        actsec.attack(target, x * 255, y, "fgsm", eps=0.1)
    with pytest.raises(DataError, match="8 inputs with 5 labels"):
        actsec.attack(target, x, y[:5], "fgsm", eps=0.1)
    with pytest.raises(DataError, match="labels run from"):
        actsec.attack(target, x, y + 7, "fgsm", eps=0.1)
    with pytest.raises(ThreatError, match="is a text"):
        actsec.attack(target, x, y, "fgsm", eps="8/255")


def test_a_targeted_attack_ends_in_its_class(target):
    x = torch.rand(30, 4, generator=torch.Generator().manual_seed(1))
    y = target.model(x).argmax(1)
    wanted = (y + 1) % 3
    found = actsec.attack(target, x, y, "pgd(steps=30)", eps=0.9, target_class=wanted)
    with torch.no_grad():
        now = target.model(torch.from_numpy(found.x)).argmax(1)
    assert found.success.any()
    assert bool((now == wanted)[torch.from_numpy(found.success)].all())


def test_kappa_is_kept(target):
    x = torch.rand(10, 4, generator=torch.Generator().manual_seed(2))
    y = target.model(x).argmax(1)
    options = "steps=50, search_steps=5, c=0.1, step_size=0.05"
    plain = actsec.attack(target, x, y, f"carlini_wagner({options})")
    kept = actsec.attack(target, x, y, f"carlini_wagner({options}, confidence=0.2)")
    both = plain.success & kept.success
    assert both.any()
    assert (kept.size[both] > plain.size[both]).all()
    with torch.no_grad():
        z = target.model(torch.from_numpy(kept.x))
    right = z.gather(1, y[:, None])[:, 0]
    margin = z.scatter(1, y[:, None], -torch.inf).amax(1) - right
    assert bool((margin[torch.from_numpy(kept.success)] >= 0.2).all())


def test_a_masked_model_is_believed_nowhere():
    from sample_result import normal

    from actsec.verdict.assembling import _held_to_the_first

    threats = next(v for v in normal().variants if len(v.threats) > 1).threats
    first = dataclasses.replace(threats[0], believable=False, why="ACT-M09 slopes disagree")
    held = _held_to_the_first((first, *threats[1:]))
    assert not any(t.believable for t in held)
    assert "ACT-M09" in held[1].why


def test_an_attack_that_is_also_a_check_is_tried_once():
    plan = resolve(Trial("fgsm"), Trial("pgd(steps=7)"))
    assert [t.role for t in plan.attacks if t.attack == "fgsm"] == ["single_step"]
    assert plan.attacks[1].role == "attack"
