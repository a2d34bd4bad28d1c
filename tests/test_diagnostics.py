from dataclasses import replace

import numpy as np
import pytest
from frauds import KWTA, BackwardNoise, Noisy, Quantised, Scaled, StraightThrough, evidence, train
from torch import nn

from actsec import registry
from actsec.errors import BadOption, UnknownName
from actsec.types import Evidence, Finding, Threat
from actsec.verdict.sanity import diagnose, state

N = 200
HONEST_PROBE = {
    "n": N,
    "gradient_rows": N,
    "non_finite_outputs": 0.0,
    "output_spread": 1.0,
    "classes_decided": 10,
    "classes_present": 10,
    "looks_like_probabilities": False,
    "repeatable": True,
    "repeat_difference": 0.0,
    "company_difference": 0.0,
    "company_rows": 8,
    "broken_graph": "",
    "zero_cross_entropy_gradients": 0.0,
    "zero_margin_gradients": 0.0,
    "non_finite_gradients": 0.0,
    "slope_cosine": 1.0,
    "slope_rows": N,
    "gradient_cosine": 0.9,
}


def upto(share: float) -> np.ndarray:
    """The first share of the rows correct: nested sets, so gaps are what they look like."""
    return np.arange(N) < round(share * N)


def told(probe=(), stochastic=False, threat=None, **shares) -> Evidence:
    """Evidence of an honest model, with these roles' accuracies changed (None: not run)."""
    honest = {
        "single_step": 0.5,
        "iterative": 0.4,
        "doubled": 0.4,
        "margin": 0.4,
        "unbounded": 0.0,
        "gradient_free": 0.45,
        "noise": 0.8,
        "transfer": 0.6,
    }
    correct = {
        role: upto(value) if isinstance(value, float) else value
        for role, value in (honest | shares).items()
        if value is not None
    }
    numbers = HONEST_PROBE | dict(probe)
    return Evidence(threat or Threat("linf", 0.1), upto(0.95), correct, numbers, 10, stochastic, 0)


def status(found: tuple[Finding, ...]) -> dict[str, str]:
    return {each.rule: each.status for each in found}


def one(name: str, given: Evidence) -> Finding:
    (found,) = diagnose(given, [name])
    return found


def test_an_honest_model_is_clean_and_every_rule_speaks():
    found = diagnose(told())
    assert [each.rule for each in found] == [f"ACT-M{i:02}" for i in range(1, 16)]
    assert set(status(found).values()) == {"ok"}
    assert state(found, stochastic=False) == "clean"
    assert state(found, stochastic=True) == "randomised"


@pytest.mark.parametrize("name", registry.names("diagnostics"))
def test_rules_are_documented_and_say_not_done_rather_than_ok(name):
    kind = registry.find("diagnostics", name)
    assert registry.page("diagnostics", name).startswith(kind.rule)
    full = registry.canonical("diagnostics", name)
    assert registry.canonical("diagnostics", str(full)) == full
    nothing = Evidence(Threat("linf", 0.1), upto(0.95), {}, {}, 10, False)
    assert one(name, nothing).status == "not_done"
    assert one(name, nothing).claim.startswith("Not done")
    for role in kind.roles:
        assert one(name, told(**{role: None})).status == "not_done"


def test_without_transfer_a_model_can_be_clean_and_without_the_others_it_cannot():
    assert state(diagnose(told(transfer=None)), False) == "clean"
    for role in ("single_step", "iterative", "doubled", "margin", "unbounded", "gradient_free", "noise"):
        assert state(diagnose(told(**{role: None})), False) == "unchecked"
    assert state((), False) == "unchecked"


@pytest.mark.parametrize(
    ("name", "probe", "roles", "expected", "voids"),
    [
        ("zero_gradients", {"zero_margin_gradients": 0.3}, {}, "red", True),
        ("zero_gradients", {"zero_margin_gradients": 0.005}, {}, "ok", False),
        ("zero_gradients", {"non_finite_gradients": 0.3}, {}, "red", True),
        ("zero_gradients", {"zero_cross_entropy_gradients": 0.9}, {}, "warn", False),
        ("zero_gradients", {"zero_cross_entropy_gradients": 0.9}, {"margin": None}, "red", True),
        ("zero_gradients", {"broken_graph": "RuntimeError: no"}, {}, "red", True),
        ("margin_beats_cross_entropy", {}, {"margin": 0.3}, "warn", False),
        ("single_step_beats_iterative", {}, {"single_step": 0.3}, "red", True),
        ("single_step_beats_iterative", {}, {"single_step": 0.3, "margin": 0.3}, "warn", False),
        ("doubling_helps", {}, {"doubled": 0.3}, "red", True),
        ("doubling_helps", {}, {"doubled": 0.3, "margin": 0.3}, "warn", False),
        ("doubling_helps", {}, {"doubled": 0.3, "gradient_free": 0.3}, "warn", False),
        ("unbounded_fails", {}, {"unbounded": 0.04}, "red", True),
        ("unbounded_fails", {}, {"unbounded": 0.015}, "warn", False),
        ("unbounded_fails", {}, {"unbounded": 0.01}, "ok", False),
        ("gradient_free_beats_gradient", {}, {"gradient_free": 0.3}, "red", True),
        ("gradient_free_beats_gradient", {}, {"gradient_free": 0.3, "margin": 0.3}, "warn", False),
        ("noise_beats_gradient", {}, {"noise": 0.3}, "red", True),
        ("noise_beats_gradient", {}, {"noise": 0.3, "margin": 0.3}, "warn", False),
        ("transfer_beats_gradient", {}, {"transfer": 0.3}, "red", True),
        ("finite_differences", {"slope_cosine": 0.85}, {}, "red", True),
        ("finite_differences", {"slope_cosine": 0.95}, {}, "ok", False),
        ("finite_differences", {"slope_cosine": None}, {}, "not_done", False),
        ("finite_differences", {"slope_cosine": 0.0, "repeatable": False}, {}, "not_applicable", False),
        ("gradient_stability", {"gradient_cosine": 0.01}, {}, "warn", False),
        ("not_repeatable", {"repeat_difference": 1e-3, "repeatable": False}, {}, "red", True),
        ("constant_output", {"output_spread": 0.0}, {}, "red", True),
        ("constant_output", {"non_finite_outputs": 0.1}, {}, "red", True),
        ("constant_output", {"classes_decided": 1}, {}, "warn", False),
        ("constant_output", {"n": 1}, {}, "not_done", False),
        ("probabilities_given", {"looks_like_probabilities": True}, {}, "warn", False),
    ],
)
def test_each_rule_at_each_status(name, probe, roles, expected, voids):
    found = one(name, told(probe, **roles))
    assert (found.status, found.voids) == (expected, voids)
    assert found.claim
    assert bool(found.advice) == (expected in ("warn", "red"))


def test_rows_broken_by_the_search_alone_void_though_the_accuracies_are_equal():
    # Same accuracy, other rows: per-example worst cases show what means hide.
    found = one("gradient_free_beats_gradient", told(gradient_free=np.roll(upto(0.4), 20)))
    assert found.numbers["first"] == found.numbers["second"] == pytest.approx(0.4)
    assert found.numbers["only_this"] == pytest.approx(0.1)
    assert (found.status, found.voids) == ("red", True)


def test_delta_is_two_paired_standard_errors_where_rows_are_few():
    before, after = np.ones(30, bool), np.ones(30, bool)
    after[:2] = False
    few = Evidence(Threat("linf", 0.1), before, {"iterative": before, "noise": after}, {}, 10, False)
    found = one("noise_beats_gradient", few)
    change = np.r_[np.ones(2), np.zeros(28)]
    assert found.numbers["limit"] == pytest.approx(2 * change.std(ddof=1) / np.sqrt(30))
    assert found.status == "ok"


def test_one_stray_row_in_fifty_is_no_red():
    left = np.zeros(50, bool)
    left[0] = True
    assert one("unbounded_fails", told(unbounded=left)).status == "warn"
    left[:4] = True
    assert one("unbounded_fails", told(unbounded=left)).status == "red"


def test_thresholds_are_options():
    assert one("unbounded_fails(limit=0.1)", told(unbounded=0.04)).status == "ok"
    assert one("noise_beats_gradient(least=0.2)", told(noise=0.3)).status == "ok"
    with pytest.raises(UnknownName, match="unbounded_fails"):
        diagnose(told(), ["unbounded_fail"])
    with pytest.raises((BadOption, UnknownName)):
        diagnose(told(), ["unbounded_fails(limits=1)"])


def test_threats_without_one_budget_or_without_gradients_are_not_applicable():
    comparing = {f"ACT-M{i:02}" for i in range(2, 9)}
    for threat in (Threat("l2"), Threat("linf", 0.1, "kill"), Threat("l0", 1.0)):
        found = status(diagnose(told(threat=threat)))
        assert {rule for rule, value in found.items() if value == "not_applicable"} == comparing


def test_a_crash_is_a_finding_and_not_a_pass():
    broken = told(noise=np.ones(3, bool))
    found = one("noise_beats_gradient", broken)
    assert found.status == "error"
    assert "different rows" in found.claim
    assert state(diagnose(broken), False) == "unchecked"


def test_state_names_the_cause():
    def of(stochastic=False, **change):
        return state(diagnose(told(stochastic=stochastic, **change)), stochastic)

    assert of(gradient_free=0.3) == "masked"
    assert of(gradient_free=0.3, stochastic=True) == "masked"
    assert of(probe={"repeat_difference": 1.0, "repeatable": False}, noise=0.1) == "randomised"
    assert of(probe={"zero_cross_entropy_gradients": 0.9}) == "masked"
    assert of(margin=0.3) == "clean"
    assert of(doubled=0.3) == "unchecked"
    assert of(probe={"output_spread": 0.0}) == "unchecked"
    assert of(probe={"slope_cosine": 0.1}, noise=None) == "masked"


@pytest.fixture(scope="module")
def relu():
    return train(nn.ReLU, epochs=25)


@pytest.fixture(scope="module")
def honest(relu):
    return evidence(relu, rows=100)


def of(model, stochastic=False):
    given = evidence(model, stochastic=stochastic, rows=100)
    found = diagnose(given)
    return given, found, state(found, stochastic)


def assert_clean(given):
    found = diagnose(given)
    assert {rule: value for rule, value in status(found).items() if value != "ok"} == {"ACT-M07": "not_done"}
    assert state(found, False) == "clean"


def test_plain_relu_is_not_flagged(honest):
    assert_clean(honest)


@pytest.mark.parametrize(("activation", "eps"), [(nn.Tanh, 0.0), (nn.ReLU, 0.1)], ids=["tanh", "adversarial"])
def test_honest_models_are_not_flagged(activation, eps):
    assert_clean(evidence(train(activation, eps=eps, epochs=15), rows=100))


@pytest.mark.parametrize("factor", [100.0, 1000.0])
def test_scaled_logits_are_masked_but_the_margin_attack_keeps_the_worst_case_believable(relu, honest, factor):
    given, found, verdict = of(Scaled(relu, factor))
    assert given.correct["iterative"].mean() > honest.correct["iterative"].mean() + 0.4
    assert verdict == "masked"
    assert status(found)["ACT-M01"] == status(found)["ACT-M02"] == status(found)["ACT-M06"] == "warn"
    assert not any(each.voids for each in found)
    blind = replace(given, correct={k: v for k, v in given.correct.items() if k != "margin"})
    assert any(each.voids for each in diagnose(blind))


@pytest.mark.parametrize(
    ("fraud", "rules"),
    [
        (lambda m: BackwardNoise(m, 10.0), {"ACT-M06", "ACT-M09"}),
        (lambda m: BackwardNoise(m, 100.0), {"ACT-M06", "ACT-M09"}),
        (lambda m: train(KWTA, epochs=25), {"ACT-M06", "ACT-M08"}),
        (Quantised, {"ACT-M01", "ACT-M05", "ACT-M06", "ACT-M09"}),
        (StraightThrough, {"ACT-M09"}),
    ],
    ids=["backward_noise_10", "backward_noise_100", "kwta", "quantised", "straight_through"],
)
def test_planted_frauds_void_the_number(relu, fraud, rules):
    _, found, verdict = of(fraud(relu))
    red = {each.rule for each in found if each.status == "red" and each.voids}
    assert rules <= red
    assert verdict == "masked"


def test_undeclared_noise_is_void(relu):
    _, found, verdict = of(Noisy(relu))
    assert verdict == "randomised"
    assert status(found)["ACT-M11"] == "red"
    assert any(each.voids for each in found)


def test_declared_noise_is_attacked_by_mean_gradients_and_is_randomised(relu):
    found = diagnose(evidence(Noisy(relu), stochastic=True, rows=40))
    assert status(found)["ACT-M11"] == "warn"
    assert status(found)["ACT-M09"] == "not_applicable"
    assert not any(each.voids for each in found)
    assert state(found, True) == "randomised"
