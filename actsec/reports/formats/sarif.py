"""SARIF 2.1.0 for code scanning: gates that failed or have no verdict, findings, checks that are not clean.

A gate without a verdict is of kind ``open``, not a failure. Locations point at the gate's line in the plan, others at
the line of ``model``: ``actsec report RUN --format sarif --plan ci/plan.toml`` names the file in the repository.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import quote

from actsec.reports import words
from actsec.reports.issues import Issue, issues, rule
from actsec.reports.load import Report
from actsec.reports.places import PLAN, Place, PlanFile, plan_file

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVEL = {"high": "error", "medium": "warning", "low": "note"}
_SCORE = {"high": "8.0", "medium": "5.0", "low": "3.0"}
"""What GitHub sorts by: 7.0 to 8.9 is high, 4.0 to 6.9 medium, below that low."""


def render(report: Report) -> str:
    """The log as JSON text, ASCII."""
    result = report.result
    found = issues(result)
    first = {issue.rule: issue for issue in found}
    rules = sorted(first)
    plan = plan_file(report.folder, report.plan)
    model = words.clean(str(result.model.get("name", "model")))
    run: dict[str, Any] = {
        "tool": {
            "driver": {
                "name": "actsec",
                "semanticVersion": result.actsec,
                "rules": [_rule(first[name]) for name in rules],
            }
        },
        "automationDetails": {"id": f"actsec/{quote(model, safe='')}/"},
        "invocations": [
            {
                "executionSuccessful": result.status == "complete" and result.exit_code in (0, 1, 3),
                "exitCode": result.exit_code,
                "exitCodeDescription": words.exit_meaning(result.exit_code, gates=bool(result.gates)),
            }
        ],
        "columnKind": "unicodeCodePoints",
        "results": [_result(issue, rules.index(issue.rule), plan, named=bool(report.plan)) for issue in found],
        "properties": {"headline": [words.clean(line) for line in result.headline], "plan_id": result.plan_id},
    }
    if not report.plan:
        run["originalUriBaseIds"] = {"RUN": {"description": {"text": "The folder of the run."}}}
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1, allow_nan=False) + "\n"


def _rule(issue: Issue) -> dict[str, Any]:
    known = rule(issue)
    page = _text(known.page, lines=True)
    return {
        "id": words.clean(issue.rule),
        "shortDescription": {"text": _text(known.title)},
        "fullDescription": {"text": page.split("\n\n")[0]},
        "help": {"text": page},
        "defaultConfiguration": {"level": _LEVEL[issue.severity]},
        "properties": {"tags": ["security", "robustness"], "security-severity": _SCORE[issue.severity]},
    }


def _result(issue: Issue, index: int, plan: PlanFile | None, *, named: bool) -> dict[str, Any]:
    place = None if plan is None else (plan.gate(issue.gate) if issue.gate else plan.key("model"))
    about = "\n".join((issue.rule, issue.subject, issue.gate or issue.claim))
    found: dict[str, Any] = {
        "ruleId": words.clean(issue.rule),
        "ruleIndex": index,
        "kind": "fail" if issue.decided else "open",
        # Whatever is no failure has no level, says the standard (3.27.10).
        "level": _LEVEL[issue.severity] if issue.decided else "none",
        "message": {"text": _text(f"{issue.claim}. {issue.advice}".strip())},
        "locations": [_location(issue, place, plan if named else None)],
        "partialFingerprints": {
            "primaryLocationLineHash": hashlib.sha256(about.encode("utf-8", "surrogatepass")).hexdigest()
        },
        "properties": {"severity": issue.severity},
    }
    if issue.accepted:
        found["suppressions"] = [
            {"kind": "external", "status": "accepted", "justification": _text(issue.accepted)},
        ]
    return found


def _location(issue: Issue, place: Place | None, named: PlanFile | None) -> dict[str, Any]:
    artifact = {"uri": PLAN, "uriBaseId": "RUN"} if named is None else {"uri": quote(named.path)}
    where = place or Place(1, 1, 1)
    region = {"startLine": where.line, "startColumn": where.start, "endLine": where.line, "endColumn": where.end}
    found: dict[str, Any] = {"physicalLocation": {"artifactLocation": artifact, "region": region}}
    if issue.subject:
        found["logicalLocations"] = [{"name": words.clean(issue.subject), "kind": "variant"}]
    return found


def _text(text: str, *, lines: bool = False) -> str:
    """Text as a SARIF message: nothing in it is a link, a placeholder or a control character."""
    parts = text.split("\n") if lines else [text]
    shown = "\n".join(words.clean(part) for part in parts)
    return shown.replace("](", "] (").replace("{", "{{").replace("}", "}}")
