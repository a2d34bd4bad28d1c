"""JUnit XML, as Jenkins and GitLab read it: one test case a gate, and one for whether the run has a verdict at all.

A failed gate is a failure. A gate without a verdict is an error, never a pass and never skipped: nothing is known yet.
Where the plan sets no gate, that is a skipped case: exit code 0 then only means finished.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from actsec.reports import lookup, words
from actsec.reports.issues import issues, measured
from actsec.reports.load import Report
from actsec.result import GateResult, Result

_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(report: Report) -> str:
    """The XML text."""
    result = report.result
    suite = ET.Element("testsuite")
    properties = ET.SubElement(suite, "properties")
    told = {"actsec": result.actsec, "plan_id": result.plan_id, "exit_code": str(result.exit_code)}
    for name, value in told.items():
        ET.SubElement(properties, "property", name=name, value=_text(value))
    cases = [_verdict(result), *(_gate(gate) for gate in result.gates)]
    if not result.gates:
        case = _case("actsec.gates", "no gate was set")
        ET.SubElement(case, "skipped", message="Exit code 0 means finished, not safe.")
        cases.append(case)
    suite.extend(cases)
    model = _text(lookup.model_name(result))
    counts = {"tests": len(cases)}
    for kind, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        counts[kind] = sum(case.find(tag) is not None for case in cases)
    suite.attrib |= {"name": f"actsec: {model}", **{key: str(count) for key, count in counts.items()}}
    output = ET.SubElement(suite, "system-out")
    output.text = "\n".join(_text(line) for line in (*result.headline, *_found(result)))
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _verdict(result: Result) -> ET.Element:
    """Whether a number came out that can be gated on."""
    case = _case("actsec", "the audit has a verdict")
    void = [gate for gate in result.gates if gate.outcome == "no verdict"]
    if result.status != "complete":
        _add(case, "error", "partial", "the run is not finished: actsec resume RUN")
    elif result.exit_code not in (0, 1) and not void:
        high = [f"{p.rule} {p.variant}: {p.claim}" for p in result.problems if p.severity == "high"]
        _add(case, "error", "no verdict", "; ".join(high) or words.exit_meaning(result.exit_code, gates=True))
    return case


def _gate(gate: GateResult) -> ET.Element:
    case = _case(f"actsec.gate.{gate.variant}", gate.gate)
    if gate.outcome != "passed":
        tag = "failure" if gate.outcome == "failed" else "error"
        _add(case, tag, gate.outcome, f"{measured(gate.value)}{gate.why}")
    return case


def _case(classname: str, name: str) -> ET.Element:
    return ET.Element("testcase", classname=_text(classname), name=_text(name))


def _add(case: ET.Element, tag: str, kind: str, message: str) -> None:
    made = ET.SubElement(case, tag, type=kind, message=_text(message))
    made.text = _text(message)


def _found(result: Result) -> list[str]:
    """Findings and checks that are not clean, one a line."""
    return [
        f"{each.rule} ({each.severity}{each.accepted and ', accepted '}{each.accepted}) {each.subject}: {each.claim}"
        for each in issues(result)
        if not each.gate
    ]


def _text(text: str) -> str:
    """Text that XML can hold: ANSI sequences go, other control characters are written out."""
    return _ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", words.clean(text))
