"""What the engineer is told of each fix: the rule behind the labels, the pairing, the halves, and what it costs."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_result import variant

from actsec.planning.jobs import VariantPlan
from actsec.planning.plan import Plan, Trial
from actsec.result import Comparison
from actsec.spec import parse_chain
from actsec.types import Outcome
from actsec.verdict import advice, calibration, effects, statistics
from actsec.verdict.advice_words import sentence_of
from actsec.verdict.gathering import FOUND, Gathered, Tried
from actsec.verdict.labels import Seen, label_of

AT = "linf:0.1"
PLAN = Plan(eps=0.1, attacks=(Trial("pgd(steps=2)", AT, 400, "attack"),))


def compared(metric="robust_accuracy@linf:0.1", before=0.1, after=0.5, half=0.05, verdict="better", n=200):
    gap = after - before
    return Comparison("v", "b", metric, before, after, gap, gap - half, gap + half, n, 0.001, verdict)


def seen(**changes):
    made = Seen(
        name="fix",
        kinds=frozenset({"robustness"}),
        chosen=0.4,
        chosen_low=0.3,
        robust=compared(),
        clean=compared("clean_accuracy", 0.9, 0.85),
        p=0.001,
        p_clean=1.0,
        fixes=3,
        changed=9,
    )
    return dataclasses.replace(made, **changes)


CALIBRATION, STABILITY = frozenset({"calibration"}), frozenset({"stability"})
NOTHING = compared(after=0.1)
FEWER_DEAD = compared("dead_units", 0.3, 0.1)
WORSE = compared("clean_accuracy", 0.9, 0.6)
SHRUNK = dataclasses.replace(compared("smallest_change@l2", 0.5, 0.4, verdict="worse"), p=None)
FEWER_L0 = compared("robust_accuracy@l0:1", 0.9, 0.6, verdict="worse")


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({}, "recommended"),
        ({"clean": compared("clean_accuracy", 0.9, 0.69)}, "costs more than it gives"),
        ({"clean": compared("clean_accuracy", 0.9, 0.71)}, "recommended"),
        ({"clean": compared("clean_accuracy", 0.9, 0.45), "robust": compared(after=0.45)}, "costs more than it gives"),
        ({"p": 0.06}, "no detectable effect"),
        ({"chosen": -0.01, "chosen_low": -0.1}, "no detectable effect"),
        ({"robust": compared(half=0.5)}, "no detectable effect"),
        ({"robust": NOTHING, "p": 1.0, "clean": WORSE, "p_clean": 0.01}, "costs more than it gives"),
        ({"robust": NOTHING, "p": 1.0, "clean": WORSE, "p_clean": 0.06}, "no detectable effect"),
        ({"robust": compared(before=0.5, after=0.1)}, "costs more than it gives"),
        ({"robust": compared(before=0.5, after=0.1), "inflated": True}, "no detectable effect"),
        ({"inflated": True}, "recommended"),
        ({"void": "its gradients vanish"}, "looks better, is masking"),
        (
            {"void": "its gradients vanish", "chosen_low": -0.1, "clean": WORSE, "p_clean": 0.01},
            "costs more than it gives",
        ),
        ({"void": "its gradients vanish", "chosen_low": -0.1}, "no detectable effect"),
        ({"unchecked": "square was not run"}, "not checked"),
        ({"unchecked": "square was not run", "void": "its gradients vanish"}, "looks better, is masking"),
        ({"unchecked": "square was not run", "p": 0.06}, "no detectable effect"),
        ({"unchecked": "square was not run", "kinds": STABILITY}, "not checked"),
        ({"besides": (dataclasses.replace(SHRUNK, after=0.39, difference=-0.11),)}, "costs more than it gives"),
        ({"besides": (dataclasses.replace(SHRUNK, after=0.41, difference=-0.09),)}, "recommended"),
        ({"besides": (FEWER_L0,)}, "costs more than it gives"),
        ({"besides": (dataclasses.replace(FEWER_L0, after=0.71, difference=-0.19),)}, "recommended"),
        ({"besides": (SHRUNK,), "robust": NOTHING, "p": 1.0}, "costs more than it gives"),
        (
            {"besides": (dataclasses.replace(SHRUNK, after=0.48, difference=-0.02),), "robust": NOTHING, "p": 1.0},
            "no detectable effect",
        ),
        ({"besides": (FEWER_L0,), "robust": NOTHING, "p": 1.0, "fixes": 3}, "costs more than it gives"),
        ({"besides": (FEWER_L0,), "robust": NOTHING, "p": 1.0, "fixes": 60}, "no detectable effect"),
        ({"kinds": CALIBRATION, "changed": 0}, "looks better, is masking"),
        ({"kinds": CALIBRATION, "robust": NOTHING, "p": 1.0, "ece": compared("ece", 0.1, 0.02)}, "calibration only"),
        (
            {"kinds": CALIBRATION, "robust": NOTHING, "p": 1.0, "ece": compared("ece", 0.1, 0.1, verdict="none")},
            "no detectable effect",
        ),
        (
            {"kinds": CALIBRATION, "robust": NOTHING, "p": 1.0, "ece": compared("ece", 0.1, 0.4, verdict="worse")},
            "costs more than it gives",
        ),
        ({"kinds": STABILITY}, "stability only"),
        ({"kinds": STABILITY, "robust": NOTHING, "p": 1.0}, "no detectable effect"),
        ({"kinds": STABILITY, "robust": NOTHING, "p": 1.0, "dead": FEWER_DEAD}, "stability only"),
        (
            {"kinds": STABILITY, "robust": NOTHING, "p": 1.0, "dead": FEWER_DEAD, "trained": False},
            "no detectable effect",
        ),
        (
            {"kinds": STABILITY, "robust": NOTHING, "p": 1.0, "dead": compared("dead_units", 0.1, 0.095)},
            "no detectable effect",
        ),
        ({"kinds": STABILITY, "clean": WORSE, "p_clean": 0.001}, "costs more than it gives"),
        ({"kinds": frozenset({"robustness", "calibration"})}, "recommended"),
    ],
)
def test_the_rule(changes, label):
    assert label_of(seen(**changes)) == label


shares = st.floats(0, 1)
anything = st.builds(
    seen,
    kinds=st.sets(st.sampled_from(["robustness", "calibration", "stability"]), min_size=1).map(frozenset),
    chosen=st.floats(-1, 1),
    chosen_low=st.floats(-1, 1),
    robust=st.builds(compared, before=shares, after=shares, half=st.floats(0.001, 0.5)),
    clean=st.builds(compared, st.just("clean_accuracy"), before=shares, after=shares, half=st.floats(0.001, 0.5)),
    p=shares,
    p_clean=shares,
    changed=st.integers(0, 3),
    void=st.sampled_from(["", "its gradients vanish"]),
    unchecked=st.sampled_from(["", "pgd failed"]),
    besides=st.sampled_from(
        [
            (),
            (compared("smallest_change@l2", 0.5, 0.4, verdict="worse"),),
            (compared("dead_units", 0.1, 0.3, verdict="worse"),),
        ]
    ),
    inflated=st.booleans(),
)


@given(anything)
def test_what_is_never_recommended(case):
    label, sentence = label_of(case), sentence_of(case, label_of(case))
    if label == "recommended":
        assert "robustness" in case.kinds
        assert not case.void
        assert not case.unchecked
        lost = [0.2 for c in case.elsewhere if c.metric == "smallest_change@l2"]
        assert all(share <= 0.5 * (case.robust.after - case.robust.before) for share in lost)
        assert case.chosen > 0
        assert case.robust.low > 0
        assert case.p < 0.05
        assert case.clean.before - case.clean.after <= 0.5 * (case.robust.after - case.robust.before)
        assert case.clean.after > 0.5 * case.clean.before
    assert sentence.count("\n") == 0
    halved = case.clean.before > 0 and case.clean.after <= case.clean.before / 2
    if halved and case.kinds != CALIBRATION:
        assert sentence.startswith("fix: it costs half of the clean accuracy or more, ")
        assert sentence.index("clean accuracy") < sentence.index("robust accuracy")
    assert ("half of the clean accuracy" in sentence) == halved


def test_a_sentence_holds_the_numbers_of_its_label():
    case = seen(clean=compared("clean_accuracy", 0.8, 0.38), robust=compared(before=0.0, after=0.18))
    assert label_of(case) == "costs more than it gives"
    assert sentence_of(case, label_of(case)) == (
        "fix: it costs half of the clean accuracy or more, \N{MINUS SIGN}42.0 points (80.0 to 38.0 %, "
        "95 % interval \N{MINUS SIGN}47.0 to "
        "\N{MINUS SIGN}37.0); robust accuracy at linf:0.1 +18.0 points (0.0 to 18.0 %, 95 % interval +13.0 to +23.0, "
        "p = 0.001 corrected for 3 fixes) on 200 images kept to confirm it."
    )
    void = sentence_of(seen(void="ACT-M03 square breaks 20 more"), "looks better, is masking")
    assert void.endswith("the checks void that: ACT-M03 square breaks 20 more.")


CLASSES = 4


def gathered(name, clean_wrong, attacked_wrong, *, confidence=0.9, more=(), **fields):
    """A variant on rows whose labels are all 0: wrong rows are called 1. more: (trial, wrong) beside the first."""
    trials = ((PLAN.attacks[0], attacked_wrong), *more)
    clean = Outcome(
        "c", {"parameters": 10}, {"test_wrong": clean_wrong * 1.0, "test_logits": logits(clean_wrong, confidence)}
    )
    chain = parse_chain(name.partition(" | ")[2]) if " | " in name else ()
    known = {"probe": None, "fit": None, "errors": (), **fields}
    return Gathered(
        VariantPlan(name, "b", chain, audited=not chain),
        clean,
        tried=tuple(tried(*t, confidence) for t in trials),
        **known,
    )


def logits(wrong, confidence):
    made = np.zeros((len(wrong), CLASSES))
    label = (np.asarray(wrong) > 0.5).astype(int)
    made[np.arange(len(wrong)), label] = np.log(confidence / (1 - confidence) * (CLASSES - 1))
    return made


def tried(trial, wrong, confidence):
    n = len(wrong)
    status = np.where(wrong, FOUND, 2)
    arrays = {"status": status, "wrong": wrong * 1.0, "logits": logits(wrong, confidence)}
    arrays["smallest"] = np.stack([np.where(wrong, size, np.inf) for size in (0.1, 1.0, 5.0)], 1)
    return Tried(trial, arrays, ({"rows": n},), None, False)


def told(base, *others, plan=PLAN, rows=0, believable=True, threats=None):
    every = (base, *others)
    y = np.zeros(len(base.clean_wrong), int)
    made = tuple(
        dataclasses.replace(
            variant("relu", 931, 41),
            id=g.variant.name,
            chain=g.variant.name.partition(" | ")[2],
            audited=g is base,
            parameters=10,
            threats=tuple(
                dataclasses.replace(t, believable=believable or g is base, why="" if believable else "it lies")
                for t in (variant("relu", 931, 41).threats if threats is None or g is base else threats)
            ),
        )
        for g in every
    )
    pairs = tuple(effects.pair(base, g, plan, y, made) for g in every)
    found = advice.advise(pairs, every, plan, made, rows)
    return [a for a in found if a.label != "not tested"]


def draw(share, n=400, seed=0):
    return np.random.default_rng(seed).random(n) < share


FIX = "b | fast_training(eps=0.1)"


def test_a_gain_on_both_halves_is_recommended_with_the_numbers_of_the_half_not_chosen_on():
    before, after = draw(0.9, seed=1), draw(0.4, seed=2)
    (found,) = told(gathered("b", draw(0.0), before), gathered(FIX, draw(0.0), after))
    assert (found.label, found.variant) == ("recommended", FIX)
    robust = found.effects[0]
    exact = statistics.paired(~before[1::2], ~after[1::2])
    assert (robust.metric, robust.n) == ("robust_accuracy@linf:0.1", 200)
    assert (robust.before, robust.after) == (np.mean(~before[1::2]), np.mean(~after[1::2]))
    assert (robust.difference, robust.low, robust.high, robust.p) == dataclasses.astuple(exact)
    assert found.p == exact.p


def test_a_gain_on_one_half_alone_is_no_gain():
    before = draw(0.9, seed=1)
    for half in (effects.CHOOSING, effects.REPORTED):
        after = before.copy()
        after[half] = False
        (found,) = told(gathered("b", draw(0.05), before), gathered(FIX, draw(0.05), after))
        assert found.label == "no detectable effect"
        gained = half == effects.REPORTED
        assert (found.effects[0].difference > 0.5) == gained


def test_every_fix_that_is_compared_raises_the_price_of_luck():
    before = draw(0.5, seed=1)
    after = before.copy()
    right, wrong = np.flatnonzero(before)[::2][:7], np.flatnonzero(before)
    after[[*wrong[wrong % 2 == 1][:8], *wrong[wrong % 2 == 0][:8]]] = False
    assert len(right)
    base = gathered("b", draw(0.05), before)
    alone = told(base, gathered(FIX, draw(0.05), after))
    assert alone[0].label == "recommended"
    idle = [gathered(f"b | fast_training(eps=0.1, epochs={k})", draw(0.05), before) for k in range(1, 7)]
    crowd = told(base, gathered(FIX, draw(0.05), after), *idle)
    assert {a.label for a in crowd} == {"no detectable effect"}
    mine = next(a for a in crowd if a.variant == FIX)
    assert mine.p == pytest.approx(7 * alone[0].p)
    assert "corrected for 7 fixes" in mine.sentence


def test_a_gain_that_the_checks_void_is_masking_and_says_why():
    (found,) = told(
        gathered("b", draw(0.05), draw(0.9, seed=1)), gathered(FIX, draw(0.05), draw(0.3, seed=2)), believable=False
    )
    assert found.label == "looks better, is masking"
    assert "it lies" in found.sentence
    assert found.effects[0].verdict == "not comparable"


def test_temperature_is_credited_with_calibration_alone():
    wrong, fooled = draw(0.2), draw(0.9, seed=1)
    base = gathered("b", wrong, fooled, confidence=0.99)
    (found,) = told(base, gathered("b | temperature", wrong, fooled, confidence=0.8))
    assert found.label == "calibration only"
    assert "no decision changed, so it is no defense" in found.sentence
    (idle,) = told(base, gathered("b | temperature", wrong, fooled, confidence=0.99))
    assert idle.label == "no detectable effect"
    # The same decisions and a robust gain: the attacks fail on it, and it is worth nothing.
    (fraud,) = told(base, gathered("b | temperature", wrong, draw(0.3, seed=2), confidence=0.99))
    assert fraud.label == "looks better, is masking"
    assert "the attacks missed what it seems to gain" in fraud.sentence


def test_every_headline_threat_has_its_effect_and_a_loss_at_one_is_a_price():
    l0, l2 = Trial("one_pixel", "l0:1", 100, "attack"), Trial("minimal_l2", "l2", 50, "minimal")
    plan = PLAN.having(attacks=(*PLAN.attacks, l0, l2))
    none, all_of_them = np.zeros(100, bool), np.ones(100, bool)
    base = gathered("b", draw(0.0), draw(0.9, seed=1), more=((l0, none), (l2, all_of_them[:50])))
    other = gathered(FIX, draw(0.0), draw(0.3, seed=2), more=((l0, all_of_them), (l2, all_of_them[:50])))
    (found,) = told(base, other, plan=plan)
    by_metric = {c.metric: c for c in found.effects}
    assert found.label == "costs more than it gives"
    assert (
        f"{FIX[4:]}: it is easier to fool elsewhere: robust accuracy at l0:1 \N{MINUS SIGN}100.0 points (100.0"
        in found.sentence
    )
    assert "also worse" not in found.sentence, "said once"
    assert by_metric["robust_accuracy@l0:1"].verdict == "worse"
    assert by_metric["robust_accuracy@l0:1"].n == 50
    assert by_metric["smallest_change@l2"].difference == 0
    assert by_metric["smallest_change@l2"].before == 1.0
    (unhurt,) = told(base, dataclasses.replace(other, tried=(*other.tried[:-2], *base.tried[-2:])), plan=plan)
    assert unhurt.label == "recommended"


def test_confidence_when_wrong_is_compared_under_the_same_attack():
    sure = Trial("transfer", AT, 400, "transfer")
    plan = PLAN.having(attacks=(*PLAN.attacks, sure))
    first, second = draw(0.5, seed=1), draw(0.6, seed=2)
    y = np.zeros(400, int)
    base = gathered("b", draw(0.05), first, confidence=0.9)
    # What the other alone faced is stronger and leaves it surer: it is not compared with another attack's leavings.
    other = gathered(FIX, draw(0.05), second, confidence=0.7)
    other = dataclasses.replace(other, tried=(*other.tried, tried(sure, draw(0.9), 0.99)))
    found = effects.confidence_when_wrong(effects.Pair(base, other, plan, y, frozenset()), plan_threat())
    assert (found.before, found.after) == (pytest.approx(0.9), pytest.approx(0.7))
    assert found.verdict == "better"
    assert effects.strongest(other, plan_threat()).trial == sure
    rare = gathered(FIX, draw(0.05), np.arange(400) < effects.FEWEST_WRONG - 1, confidence=0.7)
    assert effects.confidence_when_wrong(effects.Pair(base, rare, plan, y, frozenset()), plan_threat()) is None


def plan_threat():
    from actsec.planning.jobs import headline_threats

    return headline_threats(PLAN)[0]


def test_dead_units_and_nonsense_are_paired_where_both_were_measured():
    def with_dead(name, dead, sure):
        probe = Outcome("p", {}, {"dead": dead})
        return gathered(
            name, draw(0.05), draw(0.9), probe=probe, nonsense=Outcome("n", {}, {"confidence": np.asarray(sure)})
        )

    dead = np.random.default_rng(0).random(100) / 4 + 0.2
    base, other = with_dead("b", dead, [0.95] * 60 + [0.5] * 40), with_dead(FIX, dead / 2, [0.5] * 100)
    both = effects.Pair(base, other, PLAN, np.zeros(400, int), frozenset())
    fewer, less_sure = effects.dead_units(both), effects.nonsense_above(both)
    assert (fewer.before, fewer.after) == (pytest.approx(dead.mean()), pytest.approx(dead.mean() / 2))
    assert fewer.verdict == less_sure.verdict == "better"
    assert (less_sure.before, less_sure.after, less_sure.n) == (0.6, 0.0, 100)
    blind = effects.Pair(gathered("b", draw(0.05), draw(0.9)), other, PLAN, np.zeros(400, int), frozenset())
    assert effects.dead_units(blind) is None
    assert effects.nonsense_above(blind) is None


def test_what_fitting_cost_is_counted_over_the_chain():
    fit = {"fit": {"a": {"forwards": 10, "backwards": 5}, "b": {"forwards": 3, "backwards": 0}}}
    assert advice.fitting_passes(gathered("b", draw(0.1), draw(0.9), fit=Outcome("f", fit, {}))) == 23
    fit["fit"]["b"] = {}
    assert advice.fitting_passes(gathered("b", draw(0.1), draw(0.9), fit=Outcome("f", fit, {}))) is None


def test_a_fix_that_could_not_be_judged_says_why():
    base = gathered("b", draw(0.05), draw(0.9))
    failed = dataclasses.replace(gathered(FIX, draw(0.05), draw(0.9)), clean=None, errors=("out of memory",))
    made = (
        variant("relu", 931, 41),
        dataclasses.replace(variant("relu", 931, 41), id=FIX, chain="fast_training(eps=0.1)"),
    )
    pairs = (effects.pair(base, base, PLAN, np.zeros(400, int), made), None)
    found = advice.advise(pairs, (base, failed), PLAN, made, 0)
    assert found[0].label == "not tested"
    assert "could not be judged: out of memory" in found[0].sentence


def test_what_a_hardened_model_has_in_it_is_not_offered_again():
    base = gathered("b", draw(0.05), draw(0.9))
    for inside in ((), parse_chain("adversarial_training(eps=0.1)")):
        brought = dataclasses.replace(base, variant=dataclasses.replace(base.variant, inside=inside))
        found = {a.variant for a in advice.advise((None,), (brought,), PLAN, (variant("relu", 931, 41),), 0)}
        assert ("adversarial_training" in found) is not bool(inside)
        assert "fast_training" in found


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert statistics.holm([]) == ()
    assert statistics.holm([0.5, 0.9]) == (1.0, 1.0)


def test_false_recommendations_of_many_idle_fixes_stay_below_five_percent():
    rng = np.random.default_rng(3)
    alarms = 0
    for _ in range(200):
        before = rng.random(60) < 0.5
        changed = [before ^ (rng.random(60) < 0.3) for _ in range(8)]
        found = [statistics.paired(before, after) for after in changed]
        alarms += any(p < 0.05 for p in statistics.holm([each.p for each in found]))
    assert alarms / 200 <= 0.05


@pytest.mark.parametrize(("won", "lost"), [(9, 2), (5, 5), (12, 0), (30, 18)])
def test_sign_flips_of_bools_are_mcnemar(won, lost):
    before = np.array([False] * won + [True] * lost + [True] * 20)
    after = np.array([True] * won + [False] * lost + [True] * 20)
    assert statistics.sign_flip(before, after) == pytest.approx(statistics.paired(before, after).p, abs=0.015)


def test_a_weighted_mean_is_over_what_weighs():
    values, weights = np.array([0.9, 0.8, 0.1, 0.2]), np.array([1.0, 1, 0, 0])
    found = statistics.paired_weighted((values, weights), (values, 1 - weights))
    assert found.difference == pytest.approx(0.15 - 0.85)
    assert found.low <= found.difference <= found.high


def test_medians_with_failures():
    rng = np.random.default_rng(0)
    before = rng.random(200) + 1
    after = before + 1
    assert statistics.paired_median(before, after).difference == pytest.approx(1)
    after[:120] = np.inf
    assert statistics.paired_median(before, after) is None
    assert statistics.paired_median(before, np.where(np.arange(200) < 20, np.inf, before)).low >= 0


@pytest.mark.parametrize("over", [0.0, 0.08, 0.2])
def test_the_interval_of_an_ece_covers_the_truth(over):
    """A model that is overconfident by a constant has exactly that ECE."""
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(80):
        confidence = rng.uniform(0.5, 0.99, 300)
        correct = rng.random(300) < confidence - over
        null = float(np.quantile(calibration.null_ece(confidence, draws=400), 0.95))
        low, high = calibration.ece_interval(confidence, correct, null)
        assert 0 <= low <= calibration.ece(confidence, correct) <= high <= 1
        covered.append(low <= over <= high)
    assert np.mean(covered) > 0.95 - 3 * np.sqrt(0.95 * 0.05 / len(covered))


def test_times_are_in_the_environment_and_never_in_the_result(finished):
    report = json.loads((finished / "report.json").read_text())
    (fix,) = [v["id"] for v in report["result"]["variants"] if v["chain"]]
    times = report["environment"]["fixes"][fix]
    assert times["latency_ratio"] > 0
    assert times["seconds"] > 0
    assert report["environment"]["training_seconds_per_pass"] > 0
    assert not re.search(r"latency|seconds", json.dumps(report["result"]))
    (told_of,) = [a for a in report["result"]["advice"] if a["variant"] == fix]
    assert told_of["passes"] > 0
    assert told_of["parameters"] == 0


def fixed(**changes):
    """A fix that gains on both halves, and what the checks under the first threat said of it."""
    base, other = gathered("b", draw(0.0), draw(0.9, seed=1)), gathered(FIX, draw(0.0), draw(0.4, seed=2))
    first, *rest = variant("relu", 931, 41).threats
    return base, other, (dataclasses.replace(first, **changes), *rest)


UNDONE = dataclasses.replace(variant("relu", 931, 41).threats[0].checks[0], rule="ACT-M24", status="not_done")


@pytest.mark.parametrize("state", ["unchecked", "randomised", "clean"])
def test_a_fix_whose_adaptive_attack_failed_is_not_recommended_whatever_the_state_says(state):
    """A target that draws is called randomised before anybody asks which checks were made."""
    base, other, threats = fixed(state=state, checks=(UNDONE,))
    (found,) = told(base, other, threats=threats)
    assert found.label == "not checked"
    assert "not to be relied on: these checks were not made: ACT-M24" in found.sentence
    assert found.effects[0].verdict == "better", "the number stands, nobody relies on it"
    done = tuple(dataclasses.replace(UNDONE, status="ok") for _ in range(1))
    assert told(base, other, threats=(dataclasses.replace(threats[0], state="clean", checks=done), *threats[1:]))[
        0
    ].label == ("recommended")


@pytest.mark.parametrize("how", ["error", "missing"])
def test_an_attack_that_failed_on_the_fix_alone_is_no_gain(how):
    """The comparison leaves it out of both sides: the strongest attack would go unseen."""
    strong = Trial("cascade(steps=10)", AT, 400, "attack")
    plan = PLAN.having(attacks=(*PLAN.attacks, strong))
    base, other, _ = fixed()
    base = dataclasses.replace(base, tried=(*base.tried, tried(strong, draw(0.95, seed=1), 0.9)))
    gone = dataclasses.replace(
        tried(strong, draw(0.9, seed=5), 0.9), **({"error": "out of memory"} if how == "error" else {"missing": True})
    )
    (found,) = told(base, dataclasses.replace(other, tried=(*other.tried, gone)), plan=plan)
    assert found.label == "not checked"
    assert "these attacks failed or did not finish: cascade(steps=10)" in found.sentence
    aside = dataclasses.replace(gone, error=None, missing=False, arrays={}, numbers=({"not_applicable": "no units"},))
    (beside,) = told(base, dataclasses.replace(other, tried=(*other.tried, aside)), plan=plan)
    assert beside.label == "recommended", "what does not apply to a model has not failed on it"


def test_a_number_void_at_another_threat_is_masking_here_too():
    base, other, threats = fixed()
    l2 = dataclasses.replace(variant("relu", 931, 41).threats[0], threat="l2", eps=None, state="masked")
    (found,) = told(base, other, threats=(threats[0], l2))
    assert found.label == "looks better, is masking"
    assert "the checks void that: at l2 its gradients are hidden" in found.sentence


def test_few_images_recommend_nothing_however_much_they_gain():
    for rows, label in ((2 * advice.ENOUGH - 2, "not checked"), (2 * advice.ENOUGH, "recommended")):
        none, every = np.zeros(rows, bool), np.ones(rows, bool)
        plan = PLAN.having(attacks=(dataclasses.replace(PLAN.attacks[0], samples=rows),))
        base, other = (
            dataclasses.replace(g, tried=(tried(plan.attacks[0], wrong, 0.9),))
            for g, wrong in ((gathered("b", none, every), every), (gathered(FIX, none, none), none))
        )
        (found,) = told(base, other, plan=plan)
        assert found.label == label
        assert ("too few" in found.sentence) == (label == "not checked")


def test_a_gain_that_rests_on_refusing_is_paid_in_clean_accuracy_and_says_so():
    """What a detector refuses untouched is wrong: abstaining on half of the images buys nothing."""
    for share, label in ((0.05, "recommended"), (0.5, "costs more than it gives")):
        refused = draw(share, seed=4)
        base, other = gathered("b", draw(0.0), draw(0.9, seed=1)), gathered(FIX, refused, refused | draw(0.1, seed=5))
        other.clean.arrays["test_rejected"] = refused * 1.0
        (found,) = told(base, other)
        assert found.label == label
        assert (
            f"it refuses {100 * refused.mean():.1f} % more of the untouched inputs, which count as wrong"
            in found.sentence
        )


def test_of_equal_gains_the_one_that_keeps_more_clean_accuracy_stands_first():
    before, after = draw(0.9, seed=1), draw(0.3, seed=2)
    names = [f"b | fast_training(eps=0.1, epochs={k})" for k in (1, 2, 3)]
    clean = [draw(0.1, seed=6), draw(0.0), draw(0.05, seed=6)]
    passes = [{"fit": {"a": {"forwards": k, "backwards": 0}}} for k in (1, 2, 3)]
    fixes = [
        gathered(name, wrong, after | wrong, fit=Outcome("f", fit, {}))
        for name, wrong, fit in zip(names, clean, passes, strict=True)
    ]
    same = [dataclasses.replace(f, tried=fixes[0].tried) for f in fixes]
    assert [a.variant for a in told(gathered("b", draw(0.0), before), *same)] == [names[1], names[2], names[0]]


def test_masking_of_the_half_that_confirms_alone_is_still_seen():
    """The checks look at all rows: 12 of 150 that only a search without gradients breaks, each on the odd half."""
    from actsec.types import Evidence, Threat
    from actsec.verdict.sanity import diagnose

    rows = np.arange(150)
    left = rows % 2 == 1
    broken = left & (rows < 24)
    seen = dict.fromkeys(("single_step", "iterative", "doubled", "margin"), left) | {"gradient_free": left & ~broken}
    given = Evidence(Threat("linf", 0.1), np.ones(150), seen, {}, 10, False)
    (found,) = diagnose(given, ["gradient_free_beats_gradient"])
    assert (found.status, found.voids) == ("red", True)


def test_what_costs_more_begins_with_what_it_costs():
    robust = compared(before=0.1, after=0.9)
    for gain, label in ((robust, "recommended"), (compared(before=0.1, after=0.4), "costs more than it gives")):
        far = seen(besides=(SHRUNK,), robust=gain, clean=compared("clean_accuracy", 0.9, 0.89))
        assert label_of(far) == label
        sentence = sentence_of(far, label)
        start = "fix: it is easier to fool elsewhere: smallest change at l2 0.500 to 0.400 (change \N{MINUS SIGN}0.100"
        assert sentence.startswith(start)
        assert "also worse" not in sentence
    dear = seen(besides=(SHRUNK,), robust=robust, clean=compared("clean_accuracy", 0.9, 0.47))
    assert sentence_of(dear, label_of(dear)).startswith("fix: clean accuracy \N{MINUS SIGN}43.0 points")
    weaker = seen(robust=compared(before=0.5, after=0.1))
    assert sentence_of(weaker, label_of(weaker)).startswith(
        "fix: robust accuracy at linf:0.1 \N{MINUS SIGN}40.0 points"
    )


def test_recalibrating_is_not_training():
    """It goes forwards over the training data and changes no weight: dead units that are gone are the swap's."""
    base = gathered("b", draw(0.05), draw(0.9, seed=1))
    for fit, words in (
        ({"forwards": 5000, "backwards": 0}, "no weight was trained"),
        ({"forwards": 5000, "backwards": 5000}, "it is for training"),
    ):
        numbers = Outcome("f", {"fit": {"swap(to=silu, recalibrate=true)": fit}}, {})
        other = gathered("b | swap(to=silu, recalibrate=true)", draw(0.05), draw(0.9, seed=1), fit=numbers)
        (found,) = told(base, other)
        assert found.label == "no detectable effect"
        assert words in found.sentence
