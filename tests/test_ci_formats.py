"""SARIF and JUnit: valid by the published schemas, true to the verdict, pointing at the plan, hard to break out of."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import sample_result as sample
from runs import inside

from actsec import result as r
from actsec.errors import StoreError
from actsec.reports import load
from actsec.reports.load import Report
from actsec.reports.places import PlanFile

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("ACTSEC_SHARED", HERE.parent.parent / "shared"))
WORST = "robust_accuracy@linf:0.1"
ALL = [sample.normal, sample.masked, sample.partial, sample.hostile]


def gate(outcome, text=f"{WORST}>=0.3", variant="relu"):
    return r.GateResult(text, variant, 0.041, 0.03, 0.055, 0.3, outcome, "95 % interval 0.030 to 0.055")


def gated(*outcomes, code=1, make=sample.normal, **more):
    gates = tuple(gate(outcome, f"{WORST}>=0.{i}") for i, outcome in enumerate(outcomes, 3))
    return Report(dataclasses.replace(make(), gates=gates, exit_code=code, **more))


def sarif(report):
    return json.loads(load.render(report, "sarif"))["runs"][0]


def parse(text):
    return ET.fromstring(text)  # noqa: S314  # what actsec wrote


def suite(report):
    return parse(load.render(report, "junit")).find("testsuite")


@pytest.fixture(scope="module")
def junit_schema():
    xmlschema = pytest.importorskip("xmlschema", reason="pip install xmlschema")
    return xmlschema.XMLSchema(str(HERE / "schemas" / "junit-10.xsd"))


@pytest.fixture(scope="module")
def sarif_schema():
    path = SHARED / "schemas" / "sarif-schema-2.1.0.json"
    if not path.exists():
        pytest.skip("the OASIS schema is not here: see tests/schemas/README.md")
    validator = pytest.importorskip("jsonschema", reason="pip install jsonschema").Draft4Validator
    schema = json.loads(path.read_text())
    validator.check_schema(schema)
    return validator(schema)


REPORTS = [
    *(lambda make=make: gated("failed", "no verdict", "passed", make=make) for make in ALL),
    lambda: gated(code=0),
    lambda: gated("no verdict", code=3),
]


@pytest.mark.parametrize("make", REPORTS)
def test_sarif_fits_the_published_schema(make, sarif_schema):
    log = json.loads(load.render(make(), "sarif"))
    assert [error.message for error in sarif_schema.iter_errors(log)] == []


@pytest.mark.parametrize("make", REPORTS)
def test_sarif_fits_the_models_generated_from_the_schema(make):
    model = pytest.importorskip("pydantic_sarif.model", reason="pip install pydantic-sarif")
    log = model.StaticAnalysisResultsFormatSarifVersion210JsonSchema.model_validate_json(load.render(make(), "sarif"))
    assert log.version.value == "2.1.0"


@pytest.mark.parametrize("make", REPORTS)
def test_junit_fits_the_schema_of_jenkins(make, junit_schema):
    text = load.render(make(), "junit")
    junit_schema.validate(text)
    found = parse(text).find("testsuite")
    cases = found.findall("testcase")
    assert int(found.get("tests")) == len(cases)
    for count, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(found.get(count)) == sum(case.find(tag) is not None for case in cases)


def test_a_failed_gate_is_a_failure_and_no_verdict_is_an_error_never_a_pass():
    report = gated("failed", "no verdict", "passed")
    cases = {c.get("name"): c for c in suite(report).findall("testcase")}
    tags = {name: [child.tag for child in case] for name, case in cases.items()}
    assert tags[f"{WORST}>=0.3"] == ["failure"]
    assert tags[f"{WORST}>=0.4"] == ["error"]
    assert tags[f"{WORST}>=0.5"] == []
    assert "0.041" in cases[f"{WORST}>=0.3"].find("failure").get("message")
    found = {each["ruleId"]: each for each in sarif(report)["results"] if each["ruleId"].startswith("ACT-G")}
    assert (found["ACT-G01"]["kind"], found["ACT-G01"]["level"]) == ("fail", "error")
    assert (found["ACT-G02"]["kind"], found["ACT-G02"]["level"]) == ("open", "none")
    assert not any(f"{WORST}>=0.5" in each["message"]["text"] for each in sarif(report)["results"])


@pytest.mark.parametrize(
    ("report", "red"),
    [
        (gated("passed", code=0), False),
        (gated(code=0), False),
        (gated("failed", code=1), True),
        (gated("no verdict", code=3), True),
        (gated("passed", code=3), True),
        (gated(code=3), True),
        (gated("passed", code=3, status="partial"), True),
        (gated(code=5), True),
    ],
)
def test_junit_is_green_exactly_when_the_exit_code_is_0(report, red):
    found = suite(report)
    assert (found.get("failures") != "0" or found.get("errors") != "0") == red
    assert (report.result.exit_code != 0) == red
    if not report.result.gates:
        assert found.get("skipped") == "1"


def test_findings_and_checks_have_their_rule_severity_and_help():
    report = gated("failed", make=sample.masked)
    run = sarif(report)
    rules = {rule["id"]: rule for rule in run["tool"]["driver"]["rules"]}
    wanted = {p.rule for p in report.result.problems}
    assert wanted
    assert wanted | {"ACT-G01"} <= set(rules)
    levels = {"high": "error", "medium": "warning", "low": "note"}
    for problem in report.result.problems:
        found = next(e for e in run["results"] if e["ruleId"] == problem.rule)
        assert found["level"] == levels[problem.severity]
    for each in run["results"]:
        assert run["tool"]["driver"]["rules"][each["ruleIndex"]]["id"] == each["ruleId"]
        assert rules[each["ruleId"]]["help"]["text"]
        assert re.fullmatch(r"\d\.\d", rules[each["ruleId"]]["properties"]["security-severity"])
    prints = [json.dumps(e["partialFingerprints"]) + e["ruleId"] for e in run["results"]]
    assert len(set(prints)) == len(prints)


def test_the_help_of_a_rule_with_a_page_is_its_page():
    made = sample.normal()
    first = made.variants[0]
    check = r.Check("ACT-M17", "The search had come to rest", "warn", "claim", {}, "advice", False, "actsec attack x")
    threat = dataclasses.replace(first.threats[0], checks=(check,))
    made = dataclasses.replace(made, variants=(dataclasses.replace(first, threats=(threat,)), *made.variants[1:]))
    run = sarif(Report(made))
    (rule,) = [rule for rule in run["tool"]["driver"]["rules"] if rule["id"] == "ACT-M17"]
    assert "Pintor et al. 2022" in rule["help"]["text"]
    (found,) = [each for each in run["results"] if each["ruleId"] == "ACT-M17"]
    assert "actsec attack x" in found["message"]["text"]


PLAN = f"""# what this model must hold
model = "nets.py:make"
gates = [
  "clean_accuracy>=0.9",
  '{WORST}>=0.3',
]

[[attacks]]
attack = "fgsm"

[[gate]]
# tables as well
metric = "{WORST}"
min = 0.40
variant = "relu"
[[gate]]
metric = "ece"
max = 0.05
"""


def test_locations_point_at_the_gate_in_the_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ci").mkdir()
    (tmp_path / "ci" / "my plan.toml").write_text(PLAN)
    texts = {f"{WORST}>=0.3": 5, f"{WORST}[relu]>=0.4": 11, "ece<=0.05": 16, "clean_accuracy>=0.9": 4, "elsewhere": 1}
    gates = tuple(gate("failed", text) for text in texts)
    report = Report(dataclasses.replace(sample.normal(), gates=gates), plan="ci/my plan.toml")
    places = {}
    for each in sarif(report)["results"]:
        where = each["locations"][0]["physicalLocation"]
        assert where["artifactLocation"] == {"uri": "ci/my%20plan.toml"}
        places[each["message"]["text"].split(" ")[1]] = where["region"]
    assert {text: places[text]["startLine"] for text in texts} == texts
    line, region = PLAN.splitlines()[4], places[f"{WORST}>=0.3"]
    assert line[region["startColumn"] - 1 : region["endColumn"] - 1] == f"'{WORST}>=0.3'"
    assert PlanFile("", PLAN).key("model").line == 2
    assert PlanFile("", PLAN).key("metric") is None


def test_without_a_named_plan_the_run_s_own_is_meant(tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN)
    report = Report(dataclasses.replace(sample.normal(), gates=(gate("failed"),)), folder=str(tmp_path))
    run = sarif(report)
    where = run["results"][0]["locations"][0]["physicalLocation"]
    assert where["artifactLocation"] == {"uri": "plan.toml", "uriBaseId": "RUN"}
    assert where["region"]["startLine"] == 5
    assert str(tmp_path) not in json.dumps(run)
    with pytest.raises(StoreError, match=r"nowhere\.toml"):
        load.render(dataclasses.replace(report, plan="nowhere.toml"), "sarif")


EVIL = "\x00\x1b[31mred\x1b[0m\x08\ufffe\ud800]]><evil/>&amp;[click](javascript:1) {0} \u202e"


@pytest.mark.parametrize("form", ["sarif", "junit"])
def test_nothing_untrusted_breaks_out(form, junit_schema):
    problem = r.Problem("ACT-D01", "high", EVIL, EVIL, EVIL)
    gates = (dataclasses.replace(gate("failed", EVIL, EVIL), why=EVIL),)
    made = dataclasses.replace(
        sample.normal(), problems=(problem,), gates=gates, model={"name": EVIL}, headline=(EVIL,), exit_code=1
    )
    from actsec.reports.formats import junit
    from actsec.reports.formats import sarif as sarif_format

    text = (junit if form == "junit" else sarif_format).render(Report(made))
    text.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\ud800-\udfff\u202e]", text)
    assert "[31m" not in text
    if form == "junit":
        junit_schema.validate(text)
        assert parse(text).find(".//evil") is None
        assert parse(text).find(".//failure").text.count("<evil/>") == 1
    else:
        messages = [each["message"]["text"] for each in json.loads(text)["runs"][0]["results"]]
        assert messages
        assert not any("](" in m for m in messages)
        assert all("{0}" not in m.replace("{{", "").replace("}}", "") for m in messages)


def test_the_command_writes_them_where_they_are_looked_for(finished, tmp_path):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(finished, run)
    assert inside("report", run, "--format", "junit").out.strip() == str(run / "junit.xml")
    assert inside("report", run, "--format", "sarif").out.strip() == str(run / "actsec.sarif")
    assert parse((run / "junit.xml").read_text()).tag == "testsuites"
    assert json.loads((run / "actsec.sarif").read_text())["version"] == "2.1.0"
    assert inside("report", run, "--format", "sarif", "--plan", "no.toml").code == 2
