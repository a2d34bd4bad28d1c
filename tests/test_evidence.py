"""The checklist, the evidence page and the ids of catalogs: from the record alone, done only with what shows it."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
import sample_result as sample

from actsec import registry, taxonomy
from actsec.command_line.pages import OTHERS
from actsec.errors import PlanError, UnknownName
from actsec.planning.conditions import evidence_of, evidence_texts
from actsec.planning.reading import from_table, write
from actsec.reports import evidence, load, manifest
from actsec.reports.checklist import ITEMS, checklist
from actsec.reports.issues import issues
from actsec.verdict.acceptance import PROBLEMS
from actsec.verdict.policy import problems

EVERY = [sample.normal, sample.masked, sample.partial, sample.hostile]


def rows(result):
    return {row.item: row for row in checklist(result)}


def row(result, words):
    (found,) = [r for item, r in rows(result).items() if words in item]
    return found


@pytest.mark.parametrize("make", EVERY)
def test_done_has_evidence_and_nothing_else_has(make):
    found = checklist(make())
    assert [r.item for r in found] == list(ITEMS)
    assert [r.number for r in found] == list(range(1, len(ITEMS) + 1))
    for each in found:
        assert (each.status == "done") == bool(each.evidence), each
    for each in evidence.evidence(make()):
        assert (each.status == "measured") == bool(each.evidence), each


def with_attacks(result, keep):
    """The result without the attacks of its audited model that ``keep`` refuses."""
    first = result.variants[0]
    threats = tuple(dataclasses.replace(t, attacks=tuple(filter(keep, t.attacks))) for t in first.threats)
    return dataclasses.replace(result, variants=(dataclasses.replace(first, threats=threats), *result.variants[1:]))


def added(result, *attacks, **threat):
    first = result.variants[0]
    whole = dataclasses.replace(first.threats[0], attacks=(*first.threats[0].attacks, *attacks), **threat)
    return dataclasses.replace(
        result, variants=(dataclasses.replace(first, threats=(whole, *first.threats[1:])), *result.variants[1:])
    )


@pytest.mark.parametrize(
    ("words", "attack"),
    [
        ("uses no gradient", sample.attack("square(queries=150)", "gradient_free", 60, 931, 1000)),
        ("decisions alone", sample.attack("art/HopSkipJump(max_iter=9)", "attack", 60, 931, 1000)),
        ("made on another model", sample.attack("transfer(source=v)", "transfer", 60, 931, 1000)),
        ("Random restarts", sample.attack("pgd(steps=40, restarts=5)", "doubled", 60, 931, 1000)),
    ],
)
def test_an_attack_that_ran_is_evidence_and_one_that_crashed_is_none(words, attack):
    without = sample.normal()
    assert row(without, words).status == "not done"
    found = row(added(without, attack), words)
    assert found.status == "done"
    assert attack.attack in found.evidence
    assert "60 of 1000" in found.evidence
    assert "linf:0.1" in found.evidence
    crashed = dataclasses.replace(attack, error="boom", n=0, counts=False)
    assert row(added(without, crashed), words).status == "not done"


def test_taking_an_attack_away_undoes_what_rested_on_it():
    whole = sample.normal()
    for words, role in (("More than one loss", "margin"), ("Random noise of the same size", "noise")):
        assert row(whole, words).status == "done"
        assert row(with_attacks(whole, lambda a, role=role: a.role != role), words).status == "not done"


def test_checks_not_made_are_not_done_and_those_that_do_not_apply_say_so():
    def with_check(status):
        check = sample.check("ACT-M04", "doubling", status, "twice the steps break nothing more")
        return row(added(sample.normal(), checks=(check,)), "twice the steps").status

    assert [with_check(s) for s in ("ok", "red", "not_done", "error", "not_applicable")] == [
        "done", "done", "not done", "not done", "not applicable",
    ]  # fmt: skip


def test_a_defense_without_its_own_attacks_is_not_done():
    def told(*statuses):
        whole = sample.normal()
        checks = [(sample.check("ACT-M24", "adaptive", s, f"{s} of its own"),) for s in statuses]
        made = list(whole.variants)
        for i, each in zip(range(4, 4 + len(checks)), checks, strict=True):
            threat = dataclasses.replace(made[i].threats[0], checks=each)
            made[i] = dataclasses.replace(made[i], threats=(threat, *made[i].threats[1:]))
        return row(dataclasses.replace(whole, variants=tuple(made)), "adapted to it").status

    assert told("ok", "ok", "ok") == "done"
    assert told("ok", "not_done", "ok") == "not done"
    assert told("not_applicable", "not_applicable", "not_applicable") == "not applicable"


def test_nothing_attacked_has_no_checklist_and_is_no_evidence_of_robustness():
    bare = sample.normal()
    only = dataclasses.replace(bare.variants[0], threats=(), corruptions=None)
    result = dataclasses.replace(bare, variants=(only,), second_opinions=())
    assert checklist(result) == ()
    told = {(e.reference, e.about): e.status for e in evidence.evidence(result)}
    assert told[("Article 15(5)", "inputs made to mislead the model")] == "not done"
    assert told[("Article 15(1)", "an appropriate level of accuracy")] == "measured"


def test_what_is_void_is_no_clean_evidence():
    found = [e for e in evidence.evidence(sample.masked()) if e.reference == "MEASURE 2.7"]
    assert "not to be believed" in found[0].evidence


@pytest.mark.parametrize("form", ["html", "md"])
@pytest.mark.parametrize("make", EVERY)
def test_the_word_is_never_said(make, form):
    assert not re.search(
        r"complian|conform|certif(y|ied) by|passes the", str(load.render(sample.report(make()), form)).lower()
    )


def test_every_requirement_names_a_source_and_quotes_nothing_long():
    for each in evidence.REQUIREMENTS:
        assert each.url.startswith("https://")
        assert len(each.about) < 80
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", evidence.EDITION)


def test_the_plan_states_who_answers_and_the_page_leaves_blank_what_it_does_not():
    plan = from_table({"evidence": {"system": "Door camera", "tester": "A. Turing"}})
    assert plan.evidence == ("system=Door camera", "tester=A. Turing")
    assert from_table({"evidence": list(plan.evidence)}) == plan
    assert 'evidence = ["system=Door camera", "tester=A. Turing"]' in write(plan)
    result = sample.normal()
    stated = dataclasses.replace(result, plan={**result.plan, "evidence": list(plan.evidence)})
    page = str(load.render(sample.report(stated), "md"))
    assert "| system | Door camera |" in page
    assert "| tester | A. Turing | \u2015" in page
    assert re.search(r"\| approver \| \u2015+ \| \u2015+ \| \u2015+ \|", page)
    with pytest.raises(UnknownName, match="Did you mean 'tester'"):
        evidence_texts({"testr": "A"})
    with pytest.raises(PlanError, match="states nothing"):
        evidence_of(["system="])


def test_the_manifest_is_what_sha256sum_says_and_leaves_out_what_changes(tmp_path):
    for name in ("plan.toml", "report.json", "outcomes/a.json", "costs/a.json", ".lock", "outcomes/.part-x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / manifest.NAME).write_text("old")
    assert [name for _, name in manifest.files(tmp_path)] == ["outcomes/a.json", "plan.toml", "report.json"]
    before = manifest.summary(tmp_path)
    (tmp_path / "costs/a.json").write_text("other")
    (tmp_path / "report.html").write_text("page")
    assert manifest.summary(tmp_path) == before
    (tmp_path / "outcomes/a.json").write_text("other")
    assert manifest.summary(tmp_path) != before
    page = str(load.render(dataclasses.replace(sample.report(sample.normal()), folder=str(tmp_path)), "html"))
    assert all(digest in page for _, digest in manifest.summary(tmp_path))


def rules():
    for kind in ("diagnostics", "lints", "symptoms"):
        yield from (registry.find(kind, name).rule for name in registry.names(kind))
    yield from (*PROBLEMS, *OTHERS)


def test_the_table_of_ids_is_closed_and_every_rule_in_it_exists():
    assert set(taxonomy._RULES) <= set(rules())
    for rule in taxonomy._RULES:
        for taxon in taxonomy.taxa(rule):
            assert taxon.edition == taxonomy.SCHEMES[taxon.scheme].edition
            assert taxon.url.startswith("https://")
    used = {taxon.id for rule in taxonomy._RULES for taxon in taxonomy.taxa(rule)}
    assert used == set(taxonomy._NAMES)
    shapes = {
        "ATLAS": r"AML\.T\d{4}(\.\d{3})?",
        "CWE": r"CWE-\d+",
        "OWASP-ML": r"ML\d\d:2023",
        "NISTAML": r"NISTAML\.\d{3}",
    }
    for name, (scheme, _, _) in taxonomy._NAMES.items():
        assert re.fullmatch(shapes[scheme], name)
    assert taxonomy.taxa("ACT-A01") == ()  # no catalog has a word for dead units


def fooled(**threat):
    made = sample.variant("relu", 931, 41)
    return dataclasses.replace(made, threats=(dataclasses.replace(made.threats[0], **threat), *made.threats[1:]))


def found(variant):
    from test_policy import gathered

    from actsec.planning.plan import Plan

    return [p for p in problems(Plan(), (variant,), (gathered(variant),), ()) if p.rule == "ACT-V01"]


def test_a_fooled_model_is_a_finding_with_ids_and_one_that_noise_fools_as_much_is_none():
    (one,) = found(fooled())
    assert one.severity == "high"
    assert "41 of 1000" in one.claim
    assert {t.id for t in one.taxa} == {"AML.T0015", "AML.T0043", "ML01:2023", "NISTAML.022", "CWE-1039"}
    assert found(fooled(worst_case=sample.share(800, 1000)))[0].severity == "medium"
    assert found(fooled(worst_case=sample.share(915, 1000))) == []


def test_sarif_refers_to_the_catalogs_and_the_page_names_them():
    result = sample.normal()
    problem = dataclasses.replace(found(fooled())[0], variant="relu")
    report = sample.report(dataclasses.replace(result, problems=(problem,)))
    run = json.loads(load.render(report, "sarif"))["runs"][0]
    catalogs = {each["name"]: each for each in run["taxonomies"]}
    assert [each["name"] for each in run["tool"]["driver"]["supportedTaxonomies"]] == list(catalogs)
    for each in run["results"]:
        for taxon in each.get("taxa", ()):
            assert taxon["id"] in {t["id"] for t in catalogs[taxon["toolComponent"]["name"]]["taxa"]}
    (mine,) = [each for each in run["results"] if each["ruleId"] == "ACT-V01"]
    assert {t["id"] for t in mine["taxa"]} == {t.id for t in problem.taxa}
    (gate,) = [each for each in run["results"] if each["ruleId"] == "ACT-G01"]
    assert "CWE-1039" in {t["id"] for t in gate["taxa"]}  # of a gate on robust accuracy
    page = str(load.render(report, "html"))
    for taxon in problem.taxa:
        assert taxon.id in page
        assert taxon.url in page
    assert json.loads(str(load.render(report, "json")))["result"]["problems"][0]["taxa"][0]["id"] == "AML.T0015"


def test_a_gate_that_is_not_decided_or_not_about_attacks_has_no_id():
    result = sample.normal()
    for change in ({"outcome": "no verdict"}, {"gate": "ece<=0.01"}):
        changed = dataclasses.replace(result, gates=(dataclasses.replace(result.gates[0], **change),))
        (gate,) = [issue for issue in issues(changed) if issue.gate]
        assert gate.taxa == ()
