"""What the planner adds so that numbers can be believed: checks at every threat, adaptive attacks, twins."""

from __future__ import annotations

import pytest

from actsec import registry
from actsec.errors import PlanError, UnknownName
from actsec.planning import budgets, checking, resolving
from actsec.planning.jobs import headline_threats, jobs, rows_tested, source_jobs, variants
from actsec.planning.plan import Facts, Plan, Trial
from actsec.types import Threat

IMAGES = budgets.Images((1, 8, 8), 16, 539)
ROLES = {"noise", "single_step", "iterative", "doubled", "margin", "gradient_free"}
FACTS = Facts(model="m", test="t", train="tr", calibration="c", shape=(1, 8, 8), classes=tuple("0123456789"), grid=16)
TRAINED = "adversarial_training(inner=pgd(steps=5), epochs=2)"


def resolve(*trials, **options):
    return resolving.resolve(Plan(attacks=trials, **options), IMAGES, trains=True, calibrates=True)


def roles(plan, threat):
    return {t.role for t in plan.attacks if t.threat == threat}


PLANS = {
    "demo": resolve(),
    "l2": resolve(Trial("pgd", "l2:0.5"), Trial("minimal_l2")),
    "chain": resolve(defenses=(f"swap(to=gelu) | {TRAINED}",)),
    "own": resolve(model="m.py:f", defenses=("swap(to=gelu, finetune=2)", "temperature")),
    "standard": resolve(budget="standard"),
}


@pytest.mark.parametrize("name", PLANS)
def test_every_defended_model_faces_what_its_defenses_name_once_at_every_threat_it_faces(name):
    plan = PLANS[name]
    for variant in variants(plan):
        for threat in headline_threats(plan):
            if not rows_tested(plan, variant.name, threat):
                continue
            for attack in checking.faced(variant, threat, plan.budget):
                full = registry.canonical("attacks", attack)
                made = [
                    t
                    for t in plan.attacks
                    if t.threat == str(threat)
                    and registry.canonical("attacks", t.attack) == full
                    and (not t.variants or variant.name in t.variants)
                ]
                assert len(made) == 1, (variant.name, threat, attack)
                assert made[0].samples == rows_tested(plan, variant.name, threat)


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_with_its_checks_resolves_to_itself(name):
    assert resolving.resolve(PLANS[name], IMAGES, trains=True, calibrates=True) == PLANS[name]


def test_adversarial_training_faces_more_than_the_standard_attacks():
    made = [t for t in PLANS["demo"].attacks if t.role == "adaptive"]
    assert [t.threat for t in made] == ["linf:0.1"]
    assert all("training" in name for name in made[0].variants)
    assert {t.threat for t in PLANS["l2"].attacks if t.role == "adaptive"} == {"linf:0.1", "l2:0.5"}
    assert any(t.role == "adaptive" and "swap(to=gelu) |" in t.variants[0] for t in PLANS["chain"].attacks)


def test_a_threat_in_l2_has_the_checks_of_linf_and_the_smallest_change_its_own():
    plan = PLANS["l2"]
    assert roles(plan, "l2:0.5") >= ROLES
    # The whole box: 64 features of width 1.
    assert [t.threat for t in plan.attacks if t.role == "unbounded"] == ["linf:1", "l2:8"]
    assert roles(plan, "l2") == {"minimal", "noise", "gradient_free"}
    assert roles(PLANS["demo"], "l2") == {"minimal", "noise", "gradient_free"}


def test_checks_elsewhere_are_for_the_models_that_were_attacked_there():
    plan = resolve(Trial("pgd", "l2:0.5", variants=("relu",)))
    added = [t for t in plan.attacks if t.threat == "l2:0.5"]
    assert len(added) > len(ROLES)
    assert {t.variants for t in added} == {("relu",)}
    assert roles(resolve(Trial("noise", "l2:0.5", role="noise")), "l2:0.5") == {"noise"}
    assert roles(resolve(Trial("pgd", "linf:0.2:class=3")), "linf:0.2:class=3") == {"attack"}


def test_the_first_model_is_given_examples_of_another_that_learned():
    def sources(plan):
        return [t.attack for t in plan.attacks if t.role == "transfer" and t.variants == (variants(plan)[0].name,)]

    assert sources(PLANS["demo"]) == ["transfer(source=variant:leaky_relu, attack=pgd(steps=20))"]
    (own,) = sources(PLANS["own"])
    assert "finetune=2" in own
    # What is made of the model itself without training is no other model.
    assert not sources(resolve(model="m.py:f", defenses=("temperature", "swap(to=gelu)")))


@pytest.mark.parametrize("name", ["demo", "own"])
def test_the_twin_is_made_before_its_examples_and_those_before_they_are_tried(name):
    plan, seen = PLANS[name], set()
    for job in jobs(plan, FACTS):
        assert set(job.needs) <= seen
        seen.add(job.id)
    trial = next(t for t in plan.attacks if "source=" in t.attack)
    made = source_jobs(plan, FACTS, trial)
    assert {job.kind for job in made} == {"craft"}
    assert made[0].variant != variants(plan)[0].name
    assert {job.id for job in made} <= seen


def test_a_twin_that_does_not_exist_is_a_mistake():
    with pytest.raises(UnknownName, match="leaky_relu"):
        resolve(Trial("transfer(source='variant:leaky_rel')"))
    named = resolve(Trial("transfer(source='variant:gelu')"))
    assert "gelu" not in named.attacks[0].variants
    assert "relu" in named.attacks[0].variants


def test_unwritten_lengths_are_the_budgets():
    (swapped,) = (v for v in variants(PLANS["own"]) if "swap" in v.name)
    assert checking.faced(swapped, Threat("linf", 0.1), "quick") == (
        "pgd(loss=margin, steps=20)",
        "square(queries=150)",
    )
    assert checking.faced(swapped, Threat("linf", 0.1), "standard")[1] == "square(queries=1000)"
    assert checking.faced(swapped, Threat("l2"), "quick") == ()
    assert checking.faced(swapped, Threat("l0", 1.0), "quick") == ()


@pytest.mark.parametrize("name", PLANS)
def test_every_variant_has_every_check_at_the_first_threat_on_all_that_is_attacked(name):
    """Swaps straight, recalibrated and fine-tuned, noise, calibrators, chains: none is judged by less than another."""
    plan = PLANS[name]
    more = ("swap(to=silu)", "swap(to=silu, recalibrate=true)", "swap(to=silu, finetune=2)", "noisy_inference(std=0.1)")
    named = plan.having(defenses=(*(plan.defenses or ()), *more), attacks=())
    named = resolving.resolve(named, IMAGES, trains=True, calibrates=True)
    for each in (plan, named):
        first = headline_threats(each)[0]
        for variant in variants(each):
            mine = [t for t in each.attacks if not t.variants or variant.name in t.variants]
            made = {t.role: t.samples for t in mine if t.threat == str(first)}
            made |= {t.role: t.samples for t in mine if t.role == "unbounded" and t.threat == "linf:1"}
            assert set(made) >= ROLES | {"unbounded"}, variant.name
            attacked = rows_tested(each, variant.name, first)
            assert {made[role] for role in ROLES | {"unbounded"}} == {attacked}, variant.name


def test_a_check_of_fewer_images_than_are_attacked_is_refused_at_every_threat():
    for at in ("linf:0.1", "l2:0.5", "l1:2"):
        with pytest.raises(PlanError, match="on 20 images of 60"):
            resolve(Trial("pgd(steps=3)", at, 60), Trial("fgsm", at, 20, "single_step"))
    both = (Trial("pgd(steps=3)", "l2:0.5", 60, variants=("relu",)), Trial("fgsm", "l2:0.5", 20, variants=("tanh",)))
    assert {t.samples for t in resolve(*both).attacks if t.threat == "l2:0.5" and t.role in ROLES} == {60}
