"""Findings that the plan accepts until a day: visible everywhere, out of the gates and of the exit code.

What is accepted changes no number: a value that an accepted check voids stays struck through, and its gate says whose
word it passes on. A check that was not made cannot be accepted, nor a job that failed, chance or NaN.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Collection, Iterable, Sequence

from actsec import registry
from actsec.errors import PlanError, unknown
from actsec.planning.conditions import Accepted
from actsec.planning.plan import Plan
from actsec.result import AcceptedFinding, GateResult, Problem, ThreatResult, Variant

PROBLEMS = ("ACT-V01", "ACT-D01", "ACT-S01", "ACT-A01", "ACT-A02")
"""Findings of policy.py that may be accepted."""


def today() -> dt.date:
    """The day it is, in UTC: the one thing beside the plan that a result depends on, and only where it accepts."""
    return dt.datetime.now(dt.UTC).date()


def check(plan: Plan) -> None:
    """Refuse what cannot be accepted before any work is done. Raises PlanError, UnknownName."""
    if not plan.accept:
        return
    known = {str(registry.find("diagnostics", name).rule) for name in registry.names("diagnostics")} | {*PROBLEMS}
    seen: set[str] = set()
    for accepted in map(Accepted.parse, plan.accept):
        if accepted.finding not in known:
            raise unknown("finding (accept)", accepted.finding, known)
        if accepted.finding in seen:
            raise PlanError(f"{accepted.finding} is accepted twice", "Keep one of the two.")
        seen.add(accepted.finding)


def active(plan: Plan, day: dt.date) -> frozenset[str]:
    """The rules accepted on a day, the last one included."""
    return frozenset(a.finding for a in map(Accepted.parse, plan.accept) if day <= a.until)


def records(plan: Plan, day: dt.date, made: Sequence[Variant], found: Iterable[Problem]) -> tuple[AcceptedFinding, ...]:
    """What the plan accepts, and whether it still does and there was anything to accept."""
    seen = {p.rule for p in found}
    seen |= {c.rule for v in made for t in v.threats for c in t.checks if c.status in ("red", "warn")}
    out = []
    for a in map(Accepted.parse, plan.accept):
        state = "expired" if day > a.until else "accepted" if a.finding in seen else "nothing found"
        out.append(AcceptedFinding(a.finding, a.until.isoformat(), a.reason, state))  # type: ignore[arg-type]  # three words
    return tuple(out)


def excused(made: Sequence[Variant], rules: Collection[str]) -> tuple[Variant, ...]:
    """The variants as the gates see them: what only accepted checks void is believed."""
    return tuple(dataclasses.replace(v, threats=_excused(v.threats, rules)) for v in made)


def _excused(threats: tuple[ThreatResult, ...], rules: Collection[str]) -> tuple[ThreatResult, ...]:
    if not threats or not rules:
        return threats
    first = not threats[0].believable and _lifted(threats[0], rules)
    out = []
    for threat in threats:
        # A threat that no check of its own voids is held to the first: it is lifted with it.
        held = bool(_voiding(threat)) or not first
        lifted = not threat.believable and (_lifted(threat, rules) if held else True)
        out.append(dataclasses.replace(threat, believable=True, why="") if lifted else threat)
    return tuple(out)


def _voiding(threat: ThreatResult) -> list[str]:
    return [c.rule if c.status in ("red", "warn") else "" for c in threat.checks if c.voids and c.status != "ok"]


def _lifted(threat: ThreatResult, rules: Collection[str]) -> bool:
    void = _voiding(threat)
    return bool(void) and all(rule in rules for rule in void)


def told(
    gates: Sequence[GateResult], strict: Sequence[GateResult], accepted: Sequence[AcceptedFinding]
) -> tuple[GateResult, ...]:
    """The gates, each that passes or fails only because something is accepted saying so."""
    names = ", ".join(a.finding for a in accepted if a.state == "accepted")
    return tuple(
        gate if gate.outcome == other.outcome else dataclasses.replace(gate, why=f"{gate.why}; {names} accepted")
        for gate, other in zip(gates, strict, strict=True)
    )


def lines(accepted: Sequence[AcceptedFinding]) -> tuple[str, ...]:
    """For the headline."""
    words = {
        "accepted": "{0} is accepted until {1} and out of the gates: {2}.",
        "expired": "{0} is no longer accepted: {1} is past.",
        "nothing found": "{0} is accepted until {1}, but was not found: the plan can drop it.",
    }
    return tuple(words[a.state].format(a.finding, a.until, a.reason.rstrip(".")) for a in accepted)
