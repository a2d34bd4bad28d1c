"""Two runs compared: paired on the same examples, refused by name where they did not ask the same, exit codes."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from runs import TINY, inside
from scipy.stats import binomtest

from actsec.errors import NotComparable, PlanError, UnknownName
from actsec.planning import reading
from actsec.planning.jobs import single_job, variants
from actsec.planning.plan import Trial
from actsec.result import Comparison
from actsec.running import runner
from actsec.running.store import Store
from actsec.verdict import between

ROBUST = "robust_accuracy@linf:0.1"


@pytest.fixture
def base(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "base")


@pytest.fixture
def worse(finished, tmp_path):
    """The same run with 40 more untouched images wrong."""
    folder = shutil.copytree(finished, tmp_path / "worse")
    store = Store.open(folder)
    plan, facts = store.plan(), store.facts()
    job = single_job("clean", plan, facts, variants(plan)[0]).id
    outcome = store.get(job)
    wrong = outcome.arrays["test_wrong"].copy()
    wrong[np.flatnonzero(wrong < 0.5)[-40:]] = 1
    store.put(dataclasses.replace(outcome, arrays=outcome.arrays | {"test_wrong": wrong}), {})
    return folder


def row(metric="ece", difference=0.1, low=0.05, high=0.15, verdict="worse"):
    return Comparison("new", "base", metric, 0.1, 0.1 + difference, difference, low, high, 100, None, verdict)


def test_a_run_beside_itself_differs_in_nothing(base, finished):
    found = between.compare(base, finished, ["robust_accuracy", "clean_accuracy", "ece"])
    assert found.same_model
    assert {each.verdict for each in found.rows} == {"no detectable difference"}
    assert all(each.difference == 0 for each in found.rows)
    assert all(each.low <= 0 <= each.high for each in found.rows)
    assert {"clean_accuracy", ROBUST, "ece"} <= {each.metric for each in found.rows}
    assert all(each.lost == each.won == 0 for each in found.flips)
    assert [each.outcome for each in found.held] == ["passed"] * 3
    assert found.exit_code == 0


def test_what_is_worse_is_found_by_the_paired_test(base, worse):
    found = between.compare(base, worse, ["clean_accuracy"])
    clean = next(each for each in found.rows if each.metric == "clean_accuracy")
    assert (clean.verdict, clean.n) == ("worse", 539)
    assert clean.difference == pytest.approx(-40 / 539)
    assert clean.p == pytest.approx(binomtest(0, 40).pvalue)
    assert found.flips[0] == between.Flips("clean_accuracy", 40, 0)
    assert found.exit_code == 1
    other_way = between.compare(worse, base, ["clean_accuracy"])
    assert (other_way.flips[0].lost, other_way.flips[0].won, other_way.exit_code) == (0, 40, 0)


def test_a_model_of_another_name_is_compared_on_the_same_examples(base, tmp_path):
    text = TINY.replace('"relu"', '"tanh"').replace('["temperature"]', "[]")
    other = tmp_path / "tanh.toml"
    other.write_text(text)
    runner.audit(reading.read(other), tmp_path / "tanh", executor="serial")
    found = between.compare(base, tmp_path / "tanh")
    sides = [json.loads((folder / "report.json").read_text())["result"] for folder in (base, tmp_path / "tanh")]
    clean = [side["variants"][0]["clean"]["accuracy"]["value"] for side in sides]
    left = [side["variants"][0]["threats"][0]["worst_case"]["value"] for side in sides]
    rows = {each.metric: each for each in found.rows}
    assert [rows["clean_accuracy"].before, rows["clean_accuracy"].after] == pytest.approx(clean)
    assert [rows[ROBUST].before, rows[ROBUST].after] == pytest.approx(left)
    assert not found.same_model


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: {"facts": dataclasses.replace(s.facts, test="f" * 64)}, "test data: "),
        (lambda s: {"facts": dataclasses.replace(s.facts, classes=("a", "b"))}, "classes: "),
        (lambda s: {"facts": dataclasses.replace(s.facts, mask="m" * 64)}, "mask: None against mmm"),
        (lambda s: {"plan": s.plan.having(seed=7)}, "seed: 0 against 7"),
        (lambda s: {"plan": s.plan.having(budget="standard")}, "budget: quick against standard"),
        (
            lambda s: {"plan": s.plan.having(attacks=(*s.plan.attacks, Trial("pgd", "l2:1", 8, "attack")))},
            "threats: linf:0.1 against linf:0.1, l2:1",
        ),
        (
            lambda s: {"plan": s.plan.having(attacks=(*s.plan.attacks, Trial("apgd", "linf:0.1", 8, "attack")))},
            "only new ran apgd at linf:0.1 on 8",
        ),
        (lambda s: {"plan": s.plan.having(attacks=s.plan.attacks[1:])}, "only base ran fgsm"),
    ],
)
def test_runs_that_did_not_ask_the_same_are_refused_by_name(finished, change, said):
    base = dataclasses.replace(between.side(finished), name="base")
    new = dataclasses.replace(base, name="new")
    between.check(base, new)
    with pytest.raises(NotComparable) as caught:
        between.check(base, dataclasses.replace(new, **change(base)))
    assert said in caught.value.problem
    assert caught.value.exit_code == 2
    assert "plan.toml" in caught.value.mend


def test_adaptive_attacks_of_the_new_model_may_come_on_top(finished):
    base = between.side(finished)
    extra = Trial("pgd(steps=5)", "linf:0.1", 8, "adaptive")
    between.check(base, dataclasses.replace(base, plan=base.plan.having(attacks=(*base.plan.attacks, extra))))


def test_an_unfinished_run_is_refused(base, finished):
    record = json.loads((base / "report.json").read_text())
    record["result"]["status"] = "partial"
    (base / "report.json").write_text(json.dumps(record))
    with pytest.raises(NotComparable, match="is not finished"):
        between.compare(base, finished)


@pytest.mark.parametrize(
    ("made", "margin", "outcome"),
    [
        (row(), 0.0, "failed"),
        (row(verdict="no detectable difference", low=-0.05), 0.0, "passed"),
        (row(verdict="better", difference=-0.1, low=-0.2, high=-0.05), 0.0, "passed"),
        (row(), 0.04, "failed"),
        (row(), 0.05, "no verdict"),
        (row(), 0.14, "no verdict"),
        (row(), 0.15, "passed"),
        (row(ROBUST), 0.04, "passed"),
        (row(ROBUST, -0.1, -0.15, -0.05), 0.04, "failed"),
        (row(ROBUST, -0.1, -0.15, -0.05), 0.1, "no verdict"),
        (row(verdict="not comparable"), 0.0, "no verdict"),
        (row(verdict="not comparable"), 0.5, "no verdict"),
    ],
)
def test_a_margin_is_decided_by_the_interval(made, margin, outcome):
    (held,) = between.hold([made], [made.metric], margin)
    assert held.outcome == outcome
    assert f"{made.difference:+.4g}".replace("-", "\N{MINUS SIGN}") in held.why


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(UnknownName, match="ece"):
        between.hold([row()], ["ec"], 0.0)
    with pytest.raises(PlanError, match="below 0"):
        between.hold([row()], ["ece"], -0.1)
    every = between.hold([row(ROBUST), row("robust_accuracy@l0:1")], ["robust_accuracy"], 0.0)
    assert [each.metric for each in every] == [ROBUST, "robust_accuracy@l0:1"]


def test_the_command_says_it_in_three_formats(base, worse):
    shown = inside("compare", base, worse, "--fail-on", "clean_accuracy")
    assert shown.code == 1
    assert "40 / 0" in shown.out
    assert "clean_accuracy: failed" in shown.out
    asked = inside("compare", base, worse, "--format", "md")
    assert asked.code == 0
    assert "| clean\\_accuracy |" in asked.out
    assert "exit 0 means compared" in asked.out
    record = json.loads(inside("compare", base, worse, "--format", "json", "--fail-on", "ece").out)
    assert record["rows"][0]["metric"] == "clean_accuracy"
    assert record["held"][0]["metric"] == "ece"
    unsure = inside("compare", base, worse, "--fail-on", "clean_accuracy", "--worse-than", 0.074)
    assert unsure.code == 3
    assert "test more images" in unsure.out
    assert inside("compare", base, base / "nothing").code == 2
