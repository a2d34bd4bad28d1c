"""The verdict: gates decided by intervals, what voids a pass, which exit code wins, and that all of it is derived."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import tomllib

import numpy as np
import pytest
import sample_result
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import TINY
from sample_result import variant

from actsec import errors
from actsec.data import Overlap
from actsec.errors import PlanError, UnknownName
from actsec.planning import reading
from actsec.planning.jobs import VariantPlan
from actsec.planning.plan import Plan
from actsec.reports.answers import QUESTIONS, headline
from actsec.reports.next_command import next_command, placed
from actsec.reports.next_command import runs as meaning
from actsec.result import Advice, Share
from actsec.running import finishing, preparing, runner
from actsec.running.store import Store
from actsec.types import Outcome
from actsec.verdict import gates as gating
from actsec.verdict.gates import Gate, gate_results
from actsec.verdict.gathering import FOUND, Gathered
from actsec.verdict.policy import exit_code, problems
from actsec.verdict.statistics import share

NOTHING = Share(0, 0, 0.0, 0.0, 0.0)


def audited(correct=931, left=500, n=1000, **threat):
    """The audited model, its first threat changed as asked."""
    made = variant("relu", correct, 40)
    first = dataclasses.replace(made.threats[0], worst_case=share(left, n), **threat)
    return dataclasses.replace(made, threats=(first, *made.threats[1:]))


def gathered(made, *, errors=(), numbers=None):
    clean = Outcome("c", numbers or {}, {"test_wrong": np.zeros(10)})
    return Gathered(VariantPlan(made.id, made.base, (), audited=True), clean, None, None, (), errors)


def decide(made, *gates):
    return gate_results(Plan(gates=gates), (made,))


def code(made, *gates, complete=True, found=None):
    decided = decide(made, *gates)
    known = problems(Plan(), (made,), (gathered(made),), ()) if found is None else found
    return exit_code(decided, known, (made,), complete=complete)


@settings(deadline=None)  # the first question loads the rules of checking
@given(st.integers(0, 300), st.integers(1, 300), st.integers(0, 100))
def test_a_gate_is_decided_by_the_interval(k, n, percent):
    k, limit = min(k, n), percent / 100
    made, found = audited(left=k, n=n), share(k, n)
    (least,) = decide(made, f"robust_accuracy@linf:0.1>={limit}")
    (most,) = decide(made, f"robust_accuracy@linf:0.1<={limit}")
    assert least.outcome == ("failed" if found.high < limit else "passed" if found.low >= limit else "no verdict")
    assert most.outcome == ("failed" if found.low > limit else "passed" if found.high <= limit else "no verdict")
    assert (least.value, least.low, least.high) == (found.value, found.low, found.high)


@pytest.mark.parametrize(
    ("gate", "outcome"),
    [
        ("robust_accuracy@linf:0.1>=0.4", "no verdict"),
        ("robust_accuracy@linf:0.1>=0.6", "failed"),
        ("robust_accuracy@linf:0.1<=0.6", "no verdict"),
        ("robust_accuracy@linf:0.1<=0.4", "no verdict"),
        ("clean_accuracy>=0.9", "passed"),
    ],
)
def test_a_masked_number_passes_nothing_and_fails_at_least_gates(gate, outcome):
    masked = audited(believable=False, why="ACT-M03 square breaks 20 more")
    (found,) = decide(masked, gate)
    assert found.outcome == outcome
    if outcome == "no verdict":
        assert "ACT-M03 square breaks 20 more" in found.why


def test_the_exit_codes_and_which_wins():
    good, masked = audited(), audited(believable=False, why="masked")
    least, most = "robust_accuracy@linf:0.1>=0.4", "robust_accuracy@linf:0.1>=0.6"
    unsure = "robust_accuracy@linf:0.1>=0.5"
    assert code(good) == 0
    assert code(good, least) == 0
    assert code(good, most) == 1
    assert code(good, unsure) == 3
    assert code(good, most, unsure) == 1
    assert code(masked) == 3
    assert code(masked, least) == 3
    assert code(masked, most) == 1
    assert code(good, least, complete=False) == 3
    assert code(good, most, complete=False) == 1


def test_what_is_never_0():
    good = audited()
    assert code(audited(correct=105, left=0)) == 3  # chance
    assert code(dataclasses.replace(good, threats=())) == 3
    untested = tuple(dataclasses.replace(t, worst_case=NOTHING) for t in good.threats)
    assert code(dataclasses.replace(good, threats=untested)) == 3
    broken = dataclasses.replace(good.sites[0], finite=False)
    assert code(dataclasses.replace(good, sites=(broken,))) == 3
    for changes in ({"errors": ("a crash",)}, {"numbers": {"test_non_finite": 3}}):
        found = problems(Plan(), (good,), (gathered(good, **changes),), ())
        assert code(good, found=found) == 3
        assert found[0].severity == "high"
    twice = problems(Plan(), (good,), (gathered(good),), (Overlap("train", "test", ((0, 1),)),))
    assert code(good, found=twice) == 3
    assert "1 examples are in both the train and the test data" in twice[0].claim
    fitted_twice = problems(Plan(), (good,), (gathered(good),), (Overlap("train", "calibration", ((0, 1),)),))
    assert code(good, found=fitted_twice) == 0
    trusted = problems(Plan(trust_model=True), (good,), (gathered(good),), ())
    assert {p.rule for p in trusted} == {"ACT-S01", "ACT-V01"}
    assert code(good, found=trusted) == 0


def test_a_gate_on_what_was_not_measured_gives_no_verdict():
    good = audited()
    nothing = dataclasses.replace(
        good,
        clean=dataclasses.replace(good.clean, accuracy=NOTHING, per_class=()),
        calibration=(),
        threats=(dataclasses.replace(good.threats[0], worst_case=NOTHING, per_class=()),),
    )
    gates = (
        "clean_accuracy>=0.5",
        "worst_class_accuracy>=0.5",
        "ece<=0.5",
        "robust_accuracy@linf:0.1>=0.5",
        "worst_class_robust_accuracy@linf:0.1>=0.5",
        "robust_accuracy@l2:3>=0.5",
    )
    assert [g.outcome for g in decide(nothing, *gates)] == ["no verdict"] * 6


def with_ece(made, ece, low, high):
    clean = next(c for c in made.calibration if c.condition == "clean")
    return dataclasses.replace(
        made, calibration=(dataclasses.replace(clean, ece=ece, ece_low=low, ece_high=high), *made.calibration[1:])
    )


@pytest.mark.parametrize(
    ("gate", "outcome", "exit_code"),
    [
        ("ece<=0.05", "passed", 0),
        ("ece<=0.04", "passed", 0),
        ("ece<=0.03", "no verdict", 3),
        ("ece<=0.02", "no verdict", 3),
        ("ece<=0.019", "failed", 1),
        ("ece>=0.02", "passed", 0),
        ("ece>=0.05", "failed", 1),
    ],
)
def test_ece_is_decided_by_its_interval_and_decides_the_exit_code(gate, outcome, exit_code):
    made = with_ece(audited(), 0.03, 0.02, 0.04)
    (found,) = decide(made, gate)
    assert (found.outcome, code(made, gate)) == (outcome, exit_code)
    assert (found.value, found.low, found.high) == (0.03, 0.02, 0.04)


def test_a_gate_may_name_a_variant_by_its_defenses():
    ids = ("relu | fast_training(eps=0.1)", "relu | swap(to=gelu) | temperature", "relu | swap(to=silu)")
    first = audited()
    fixes = [
        dataclasses.replace(with_ece(audited(), e, e - 0.01, e + 0.01), id=i, audited=False)
        for i, e in zip(ids, (0.02, 0.2, 0.03), strict=True)
    ]
    for name, outcome in (
        ("relu | fast_training(eps=0.1)", "passed"),
        ("fast_training(eps=0.1)", "passed"),
        ("fast_training", "passed"),
        ("swap | temperature", "failed"),
        ("swap", "passed"),
    ):
        gate = f"ece[{name}]<=0.05"
        gating.check_gates(Plan(gates=(gate,)), (), ("relu", *ids))
        (found,) = gate_results(Plan(gates=(gate,)), (first, *fixes))
        assert found.outcome == outcome
        known = exit_code((found,), (), (first, *fixes), complete=True)
        assert known == (1 if outcome == "failed" else 0)
    with pytest.raises(PlanError, match=r"may be relu \| swap\(to=gelu\) or relu \| swap\(to=silu\)"):
        gating.check_gates(
            Plan(gates=("ece[swap]<=0.05",)), (), ("relu", "relu | swap(to=gelu)", "relu | swap(to=silu)")
        )
    with pytest.raises(UnknownName):
        gating.check_gates(Plan(gates=("ece[tempreature]<=0.05",)), (), ("relu", *ids))


def test_gates_speak_of_the_audited_model_unless_they_name_another():
    first, other = audited(), dataclasses.replace(audited(left=900), id="gelu | temperature", audited=False)
    gates = ("robust_accuracy@linf:0.1>=0.8", "robust_accuracy@linf:0.1[gelu | temperature]>=0.8")
    found = gate_results(Plan(gates=gates), (first, other))
    assert [(g.variant, g.outcome) for g in found] == [("relu", "failed"), ("gelu | temperature", "passed")]


def test_the_worst_class_decides_its_gate():
    made = audited()
    worst = min(c.share.value for c in made.clean.per_class)
    assert decide(made, "worst_class_accuracy>=0.1")[0].value == worst


def test_gates_are_read_and_refused_in_words():
    assert Gate.parse(" robust_accuracy@linf:8/255 >= 0.3 ") == Gate("robust_accuracy", "linf:8/255", None, True, 0.3)
    assert Gate.parse("ece[swap(to=leaky_relu, slope=[1])]<=1e-2") == Gate(
        "ece", None, "swap(to=leaky_relu, slope=[1])", False, 0.01
    )
    for text, error in (
        ("robust_acuracy@linf:0.1>=0.3", UnknownName),
        ("robust_accuracy>=0.3", PlanError),
        ("clean_accuracy@linf:0.1>=0.3", PlanError),
        ("clean_accuracy>0.3", PlanError),
        ("clean_accuracy>=.", PlanError),
        ("clean_accuracy>=30", PlanError),
        ("", PlanError),
    ):
        with pytest.raises(error):
            Gate.parse(text)
    with pytest.raises(PlanError, match="l2:3 is not tested"):
        gating.check_gates(Plan(gates=("robust_accuracy@l2:3>=0.1",)), (), ())


def test_the_precedence_of_the_error_tree():
    codes = {
        error.__name__: error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.ActsecError)
    }
    assert codes["Interrupted"] == 130
    assert codes["ActsecError"] == 5
    assert codes["Unsafe"] == 4
    assert {codes["NoVerdict"], codes["Guessing"]} == {3}
    told = ("Interrupted", "ActsecError", "Unsafe", "NoVerdict", "Guessing")
    assert {codes[name] for name in codes if name not in told} == {2}


def test_the_first_sentences():
    good = sample_result.normal()
    lines = headline(good)
    assert len(lines) == len(QUESTIONS) == 5
    assert lines[0].startswith("4.1 % of 1000 images are still classified correctly in the worst case at linf:0.1.")
    assert "linf:0.1 is 0.1 of [0, 1] = 25.5 grey levels" in lines[0]
    for said in (
        "41 of 1000, 95 % interval 3.0 to 5.5 %",
        "untouched accuracy is 93.1 % of 1000",
        "noise",
        "weakest class",
    ):
        assert said in lines[0].replace("Untouched", "untouched")
    assert "robust_accuracy@linf:0.1>=0.3: failed" in lines[0]
    assert "Not refuted at budget quick: 6 sanity checks made, 5 green, 1 not done" in lines[1]
    assert "upper bound, not a certificate" in lines[1]
    assert "within" in lines[2] or "above" in lines[2]
    assert "the label changed on 121 of 200" in lines[3]
    assert "adversarial_training helps most" in lines[4]
    assert "Next: actsec defend adversarial_training --model 'reference:cnn(activation=relu)'" in lines[4]
    assert not any(word in " ".join(lines) for word in ("is robust", "certified", "secure"))
    without = headline(dataclasses.replace(good, gates=()))
    assert "No gate was set: exit code 0 means finished, not safe." in without[0]


def test_the_first_sentences_of_what_cannot_be_believed_or_is_not_finished():
    assert any("Do not believe that number: gradient-free" in line for line in headline(sample_result.masked()))
    assert headline(sample_result.masked())[0].startswith("Not to be believed: 71.3 % of 1000 images")
    partial = headline(sample_result.partial())
    assert partial[0] == "This run is not finished: every number below is partial."
    assert "Its confidence when fooled was not measured" in partial[3]
    assert "Not tested: no activation was swapped and no unit was forced" in partial[4]
    assert partial[-1].endswith("Next: actsec resume RUN")


PLAN = TINY.replace("samples = 8", "eps = 0.03\nsamples = 24").replace("shard = 4", "shard = 24")


def test_everything_is_derived_from_the_outcomes(tmp_path):
    """Ten rows that held are said to have fallen, in the bytes of one outcome; every claim that rests on them moves."""
    request = reading.from_table(tomllib.loads(PLAN.replace('["temperature"]', "[]")))
    before, store = runner.audit(request, tmp_path / "run", executor="serial")
    share_before = before.variants[0].threats[0].worst_case
    gate = f"robust_accuracy@linf:0.03>={share_before.low - 1e-6:.6f}"
    prepared = preparing.prepare(request.having(gates=(gate,)))
    gated = Store.create(tmp_path / "gated", prepared.plan, prepared.facts)
    for path in (store.root / "outcomes").iterdir():
        (gated.root / "outcomes" / path.name).write_bytes(path.read_bytes())
    first = finishing.finish(prepared, gated, complete=True)
    assert (first.gates[0].outcome, first.exit_code) == ("passed", 0)
    page = (gated.root / "report.html").read_text()

    job = next(
        job
        for job in prepared.jobs
        if job.recipe.get("attack", "").startswith("pgd(steps=2, ") and "cross_entropy" in job.recipe["attack"]
    )
    outcome = gated.get(job.id)
    arrays = {name: array.copy() for name, array in outcome.arrays.items()}
    held = np.flatnonzero(arrays["status"] > FOUND)[:10]
    assert len(held) == 10
    arrays["status"][held], arrays["wrong"][held] = FOUND, 1
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    (gated.root / "outcomes" / f"{job.id}.npz").write_bytes(buffer.getvalue())
    record = gated.root / "outcomes" / f"{job.id}.json"
    stored = json.loads(record.read_text())
    record.write_text(json.dumps({**stored, "arrays": hashlib.sha256(buffer.getvalue()).hexdigest()}))
    after = finishing.finish(prepared, gated, complete=True)

    old, new = first.variants[0].threats[0], after.variants[0].threats[0]
    assert new.worst_case.k == old.worst_case.k - 10
    assert after.headline[0] != first.headline[0]
    rows = [{a.attack: a.still_correct.k for a in t.attacks} for t in (old, new)]
    assert rows[1]["pgd(steps=2)"] == rows[0]["pgd(steps=2)"] - 10
    at = [next(p.share.k for p in t.curve if p.eps == 0.03) for t in (old, new)]
    assert at[1] == at[0] - 10
    assert sum(c.share.k for c in new.per_class) == sum(c.share.k for c in old.per_class) - 10
    assert first.gates[0].outcome != after.gates[0].outcome
    assert (first.exit_code, after.exit_code) == (0, 1)
    assert (gated.root / "report.html").read_text() != page


def test_what_an_audit_says_of_sites_is_what_a_checkup_says():
    """One source for the words: the same rules on the same sites, with their cause and mend."""
    from test_diagnose_cli import site
    from test_vitals import seen

    from actsec.verdict.activity import findings

    sites = (site(name="a", finite=False), site(name="b", permanently_dead=0.6), site(name="c", permanently_dead=1.0))
    base = audited()
    made = dataclasses.replace(base, sites=sites, unresolved=("d: a scripted module",))
    said = [p for p in problems(Plan(), (made,), (gathered(made),), ()) if p.rule.startswith("ACT-A0")]
    n = min(made.clean.accuracy.n, 1000)
    checkup = findings(seen(sites=sites, unresolved=made.unresolved, n=n, accuracy=made.clean.accuracy))
    for one, other in zip(said, [p for p in checkup if p.rule in ("ACT-A00", "ACT-A01", "ACT-A02")], strict=True):
        assert dataclasses.replace(one, variant="") == other
        assert one.variant == made.id
        assert one.cause


def test_the_next_command_names_its_run_where_that_is_known():
    assert (
        placed("actsec audit plan.toml --samples 400", "runs/a b") == "actsec audit 'runs/a b/plan.toml' --samples 400"
    )
    assert placed("actsec resume RUN", "runs/x") == "actsec resume runs/x"
    assert placed("actsec audit plan.toml") == "actsec audit RUN/plan.toml"
    assert meaning("actsec audit RUN/plan.toml") == "(RUN: the folder of this report)"
    assert meaning("actsec explain ACT-M03") == ""


def test_what_is_not_tested_is_offered_with_its_data_and_never_what_the_model_has():
    def told(*advice):
        result = dataclasses.replace(sample_result.normal(), gates=(), advice=advice)
        return next_command(result, result.variants[0], result.variants[0].threats[0])

    training = Advice(
        "adversarial_training",
        "not tested",
        "",
        "To test it, give --train data.npz and add --defenses 'adversarial_training(eps=0.1)'",
    )
    other = Advice("confidence_penalty", "not tested", "", "To test it, add --defenses 'confidence_penalty'")
    assert told(other, training) == (
        "actsec audit plan.toml --train TRAIN.npz --defenses 'adversarial_training(eps=0.1)'"
    )
    assert told(other) == "actsec audit plan.toml --budget standard"
