"""[[gate]] and [[accept]]: read strictly, written back, dated; what is accepted stays in sight and out of the gates."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import shutil
import tomllib

import pytest
import sample_result as sample
from runs import inside

from actsec.data import Overlap
from actsec.errors import PlanError, UnknownName
from actsec.planning import reading
from actsec.planning.conditions import Accepted, accept_text, gate_texts
from actsec.planning.plan import Plan
from actsec.reports import load
from actsec.reports.load import Report
from actsec.result import AcceptedFinding
from actsec.running import finishing, preparing
from actsec.running.store import Store
from actsec.verdict import acceptance, assembling
from actsec.verdict.gates import gate_results
from actsec.verdict.statistics import share

DAY = dt.date(2027, 3, 31)
GATE = "robust_accuracy@linf:0.1>=0.4"
TABLES = """
gates = ["clean_accuracy>=0.9"]

[[gate]]
metric = "robust_accuracy@linf:8/255"
min = 0.30
max = 1
[[gate]]
metric = "ece"
variant = "relu | temperature"
max = 0.05

[[accept]]
finding = "ACT-D01"
until = 2027-03-31
reason = "the same patients: scanned twice,\\n known since May"
[[accept]]
finding = "ACT-M06"
until = "2027-01-01"
reason = "one in 41 honest models"
"""


def test_tables_come_to_texts_and_the_texts_read_back():
    plan = reading.from_table(tomllib.loads(TABLES))
    assert plan.gates == (
        "clean_accuracy>=0.9",
        "robust_accuracy@linf:8/255>=0.3",
        "robust_accuracy@linf:8/255<=1",
        "ece[relu | temperature]<=0.05",
    )
    assert plan.accept == (
        "ACT-D01 until 2027-03-31: the same patients: scanned twice, known since May",
        "ACT-M06 until 2027-01-01: one in 41 honest models",
    )
    assert reading.from_table(tomllib.loads(reading.write(plan))) == plan
    first = Accepted.parse(plan.accept[0])
    assert (first.finding, first.until, str(first)) == ("ACT-D01", DAY, plan.accept[0])


@pytest.mark.parametrize(
    ("read", "table", "said"),
    [
        (gate_texts, {"metric": "ece"}, "no limit"),
        (gate_texts, {"min": 0.3}, "no metric"),
        (gate_texts, {"metric": "ece", "min": "0.3"}, "min = '0.3' has the wrong type"),
        (gate_texts, {"metric": "ece", "min": True}, "wrong type"),
        (gate_texts, 3, "is no table"),
        (accept_text, {"finding": "ACT-D01", "reason": "x"}, "lacks until"),
        (accept_text, {"finding": "ACT-D01", "reason": " ", "until": DAY}, "cannot read"),
        (accept_text, {"finding": "D01", "reason": "x", "until": DAY}, "cannot read"),
        (accept_text, {"finding": "ACT-D01", "reason": "x", "until": "soon"}, "no day"),
        (accept_text, {"finding": "ACT-E01", "reason": "x", "until": DAY}, "cannot be accepted"),
        (accept_text, {"finding": "ACT-R01", "reason": "x", "until": DAY}, "accept the check"),
        (accept_text, "ACT-M00 until 2027-03-31: it is small", "cannot be accepted"),
    ],
)
def test_what_does_not_read_is_refused(read, table, said):
    with pytest.raises(PlanError, match=said) as caught:
        read(table)
    assert caught.value.mend


def test_unknown_keys_and_findings_are_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="'min'"):
        gate_texts({"metric": "ece", "minn": 0.3})
    with pytest.raises(UnknownName, match="ACT-M06"):
        acceptance.check(Plan(accept=("ACT-M66 until 2027-03-31: why",)))
    with pytest.raises(PlanError, match="twice"):
        acceptance.check(Plan(accept=("ACT-D01 until 2027-03-31: a", "ACT-D01 until 2028-03-31: b")))
    acceptance.check(Plan(accept=("ACT-D01 until 2027-03-31: a", "ACT-M06 until 2028-03-31: b")))


def test_the_last_day_still_counts():
    plan = Plan(accept=(f"ACT-D01 until {DAY}: why",))
    assert acceptance.active(plan, DAY) == {"ACT-D01"}
    assert acceptance.active(plan, DAY + dt.timedelta(1)) == set()


def void(rule, status="red"):
    return dataclasses.replace(sample.CHECKS[0], rule=rule, status=status, voids=True, claim=f"{rule} speaks")


def masked(*voiding, held=False):
    """A model whose first threat is void by these checks, and its second because of the first where held."""
    made = sample.variant("relu", 931, 40)
    why = "; ".join(f"{c.rule} {c.claim}" for c in voiding)
    checks = (*sample.CHECKS[:4], *voiding)
    first = dataclasses.replace(
        made.threats[0], worst_case=share(500, 1000), checks=checks, state="masked", believable=False, why=why
    )
    second = dataclasses.replace(made.threats[1], believable=not held, why="the checks at linf:0.1 found it")
    return dataclasses.replace(made, threats=(first, second))


@pytest.mark.parametrize(
    ("voiding", "rules", "outcome"),
    [
        ((void("ACT-M06"),), {"ACT-M06"}, "passed"),
        ((void("ACT-M06"),), set(), "no verdict"),
        ((void("ACT-M06"),), {"ACT-M03"}, "no verdict"),
        ((void("ACT-M06"), void("ACT-M03")), {"ACT-M06"}, "no verdict"),
        ((void("ACT-M06"), void("ACT-M03")), {"ACT-M06", "ACT-M03"}, "passed"),
        ((void("ACT-M06", "not_done"),), {"ACT-M06"}, "no verdict"),
        ((void("ACT-M06", "error"),), {"ACT-M06"}, "no verdict"),
        ((), {"ACT-M06"}, "no verdict"),
    ],
)
def test_a_gate_passes_on_what_is_accepted_and_on_nothing_else(voiding, rules, outcome):
    made = (masked(*voiding),)
    (gate,) = gate_results(Plan(gates=(GATE,)), acceptance.excused(made, rules))
    assert gate.outcome == outcome
    assert made[0].threats[0].believable is False


def test_a_threat_held_to_the_first_is_lifted_with_it():
    made = (masked(void("ACT-M06"), held=True),)
    assert [t.believable for t in acceptance.excused(made, {"ACT-M06"})[0].threats] == [True, True]
    assert [t.believable for t in acceptance.excused(made, {"ACT-M03"})[0].threats] == [False, False]
    believed = dataclasses.replace(made[0].threats[0], believable=True, checks=sample.CHECKS)
    other = (dataclasses.replace(made[0], threats=(believed, made[0].threats[1])),)
    assert [t.believable for t in acceptance.excused(other, {"ACT-M06"})[0].threats] == [True, False]


def test_a_gate_says_that_it_rests_on_what_is_accepted():
    plan, made = Plan(gates=(GATE, "clean_accuracy>=0.9")), (masked(void("ACT-M06")),)
    accepted = (AcceptedFinding("ACT-M06", "2027-03-31", "why", "accepted"),)
    rests, other = acceptance.told(
        gate_results(plan, acceptance.excused(made, {"ACT-M06"})), gate_results(plan, made), accepted
    )
    assert rests.why.endswith("; ACT-M06 accepted")
    assert "accepted" not in other.why


def test_states_are_told_and_shown():
    plan = Plan(
        accept=(
            f"ACT-M06 until {DAY}: a known false alarm.",
            "ACT-D01 until 2027-01-01: an overlap",
            f"ACT-M03 until {DAY}: {{never}} seen",
        )
    )
    made = (masked(void("ACT-M06")),)
    records = acceptance.records(plan, DAY, made, ())
    assert [r.state for r in records] == ["accepted", "expired", "nothing found"]
    said = acceptance.lines(records)
    assert said[0] == f"ACT-M06 is accepted until {DAY} and out of the gates: a known false alarm."
    assert "no longer accepted" in said[1]
    result = dataclasses.replace(sample.normal(), variants=made, accepted=records)
    for form in ("md", "html"):
        text = load.render(Report(result), form)
        assert "a known false alarm" in text
    issues = json.loads(load.render(Report(result), "sarif"))["runs"][0]["results"]
    (found,) = [each for each in issues if each["ruleId"] == "ACT-M06"]
    assert found["suppressions"][0]["justification"].startswith(f"until {DAY}")
    assert not any("suppressions" in each for each in issues if each["ruleId"] != "ACT-M06")
    assert f"accepted until {DAY}" in load.render(Report(result), "junit")


def test_a_run_is_judged_by_the_day(finished, tmp_path, monkeypatch):
    store = Store(shutil.copytree(finished, tmp_path / "run"))
    plan = store.plan().having(accept=(f"ACT-D01 until {DAY}: why", f"ACT-M08 until {DAY}: why"))
    prepared = preparing.prepare(plan)
    assert [job.id for job in prepared.jobs] == [job.id for job in preparing.prepare(store.plan()).jobs]
    for day, state in ((DAY, {"accepted", "nothing found"}), (DAY + dt.timedelta(1), {"expired"})):
        monkeypatch.setattr(acceptance, "today", lambda day=day: day)
        result = finishing.finish(prepared, store, complete=True)
        assert {each.state for each in result.accepted} <= state
        assert [each.finding for each in result.accepted] == ["ACT-D01", "ACT-M08"]
        assert load.read(store.root).result.accepted == result.accepted


def test_an_accepted_finding_stays_in_the_report_and_out_of_the_exit_code(finished, tmp_path, monkeypatch):
    store = Store(shutil.copytree(finished, tmp_path / "run"))
    judged = []
    monkeypatch.setattr(assembling.data, "disjoint", lambda *_: (Overlap("train", "test", ((0, 1),)),))
    monkeypatch.setattr(acceptance, "today", lambda: DAY)
    monkeypatch.setattr(
        assembling, "exit_code", lambda _, found, *__, **___: judged.append({p.rule for p in found}) or 0
    )
    for accept in ((), (f"ACT-D01 until {DAY}: the same patients",)):
        result = finishing.finish(preparing.prepare(store.plan().having(accept=accept)), store, complete=True)
        assert "ACT-D01" in {p.rule for p in result.problems}
        assert ("ACT-D01" in judged[-1]) == (not accept)
    assert result.accepted == (AcceptedFinding("ACT-D01", "2027-03-31", "the same patients", "accepted"),)
    assert any("the same patients" in line for line in result.headline)


def test_the_command_line_takes_it_and_refuses_what_nobody_can_accept(tmp_path):
    path = tmp_path / "plan.toml"
    assert inside("init", path, "--accept", f"ACT-D01 until {DAY}: why").code == 0
    assert reading.read(path).accept == (f"ACT-D01 until {DAY}: why",)
    said = inside("audit", "--accept", f"ACT-M00 until {DAY}: why", "--print-plan")
    assert said.code == 2
    assert "cannot be accepted" in said.err
