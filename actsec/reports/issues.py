"""What a pipeline should hear of, one record each: gates that failed or have no verdict, findings, red checks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from actsec import registry
from actsec.result import Result, Taxon
from actsec.taxonomy import taxa

Severity = Literal["high", "medium", "low"]
FAILED, OPEN = "ACT-G01", "ACT-G02"
_GATES = {
    FAILED: ("A gate failed", "The whole 95 % interval of the metric lies on the wrong side of the limit."),
    OPEN: ("A gate has no verdict", "The interval holds the limit, the number is void, or it was not measured."),
}
_MEND = {
    FAILED: "Mend the model (the report says what helps and what it costs) or change the limit.",
    OPEN: "Test more images, or mend what voids the number: nothing is known yet, so the exit code is 3.",
}
_SEVERITY: dict[str, Severity] = {"red": "high", "error": "medium", "warn": "low"}


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing to look at. gate is its text where it is about one; decided is False where nothing is known yet.

    accepted is the plan's reason for keeping it out of the gates, empty where there is none.
    """

    rule: str
    title: str
    severity: Severity
    subject: str
    claim: str
    advice: str
    gate: str = ""
    decided: bool = True
    accepted: str = ""

    @property
    def taxa(self) -> tuple[Taxon, ...]:
        """What catalogs call it; a gate without a verdict shows nothing yet."""
        return taxa(self.rule, self.gate if self.decided else "")


@dataclass(frozen=True, slots=True)
class Rule:
    """What a rule asks, in a line and at length."""

    title: str
    page: str


def issues(result: Result) -> tuple[Issue, ...]:
    """Every issue of a result, gates first, then findings, then checks of the audited models that are not clean."""
    return (*_gates(result), *_problems(result), *_checks(result))


def rule(issue: Issue) -> Rule:
    """What the rule of an issue asks: the page of its plug-in where it has one."""
    if issue.rule in _GATES:
        return Rule(*_GATES[issue.rule])
    for kind in ("diagnostics", "lints"):
        for name in registry.names(kind):
            page = registry.page(kind, name)
            if page.startswith(f"{issue.rule}:"):
                return Rule(issue.title or page.split("\n")[0], page)
    return Rule(issue.title or issue.claim, issue.advice or issue.claim)


def _gates(result: Result) -> Iterator[Issue]:
    for gate in result.gates:
        if gate.outcome == "passed":
            continue
        failed = gate.outcome == "failed"
        name = FAILED if failed else OPEN
        claim = f"Gate {gate.gate} on {gate.variant}: {gate.outcome}, {measured(gate.value)}{gate.why}"
        yield Issue(
            name, _GATES[name][0], "high" if failed else "medium", gate.variant, claim, _MEND[name], gate.gate, failed
        )


def measured(value: float | None) -> str:
    """``0.041, `` of a gate's value; nothing of none."""
    return "" if value is None else f"{value:.3f}, "


def _problems(result: Result) -> Iterator[Issue]:
    for each in result.problems:
        yield Issue(
            each.rule,
            "",
            each.severity,
            each.variant,
            each.claim,
            each.advice,
            accepted=_accepted(result, each.rule),
        )


def _checks(result: Result) -> Iterator[Issue]:
    """Of the audited models, what the model itself shows under every threat once."""
    for variant in result.variants:
        if not variant.audited:
            continue
        for check in {(c.rule, c.claim): c for t in variant.threats for c in t.checks}.values():
            if check.status in _SEVERITY:
                dig = f" {check.command}" if check.command else ""
                yield Issue(
                    check.rule,
                    check.title,
                    _SEVERITY[check.status],
                    variant.id,
                    check.claim,
                    check.advice + dig,
                    accepted="" if check.status == "error" else _accepted(result, check.rule),
                )


def _accepted(result: Result, rule: str) -> str:
    """Until when and why the plan accepts a rule's findings."""
    found = (a for a in result.accepted if a.finding == rule and a.state == "accepted")
    return next((f"until {a.until}: {a.reason}" for a in found), "")
