"""What a plan holds a result to: gates, accepted findings, and who answers for it; as tables and as their texts.

[[gate]]                                    "robust_accuracy@linf:8/255[relu]>=0.3"
metric = "robust_accuracy@linf:8/255"
min = 0.3                                   # or max, or both
variant = "relu"                            # the audited model where left out
class = "cat"                               # that class alone: "robust_accuracy{cat}@linf:8/255[relu]>=0.3"

[[accept]]                                  "ACT-D01 until 2027-03-31: the same patient, scanned twice"
finding = "ACT-D01"
until = 2027-03-31
reason = "the same patient, scanned twice"

[evidence]                                  "system=Door camera", "tester=A. Turing", ...
system = "Door camera"
tester = "A. Turing"
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from actsec.errors import PlanError, unknown

_ACCEPT = re.compile(r"\s*(?P<finding>ACT-[A-Z]\d\d) until (?P<until>\S+?): (?P<reason>.*\S)\s*", re.DOTALL)
PEOPLE = ("tester", "approver")
EVIDENCE = ("system", "version", "purpose", *PEOPLE)
"""What the evidence page states: of the system under test, and who answers for the test."""
NEVER = {
    "ACT-E01": "a job that failed measured nothing",
    "ACT-M00": "a model at chance has no robustness to measure",
    "ACT-A00": "a model that answers NaN has no robustness to measure",
    "ACT-R01": "accept the check that voids the number, if it is mistaken",
}
"""Findings that nobody can accept, and why."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A finding that stays in the report and out of the gates up to and with a day, and why."""

    finding: str
    until: dt.date
    reason: str

    def __str__(self) -> str:
        return f"{self.finding} until {self.until.isoformat()}: {self.reason}"

    @staticmethod
    def parse(text: str) -> Accepted:
        """Read ``ACT-D01 until 2027-03-31: reason``. Raises PlanError."""
        match = _ACCEPT.fullmatch(text)
        if match is None:
            raise PlanError(f"cannot read what is accepted: {text!r}", "Write 'ACT-D01 until 2027-03-31: the reason'.")
        if (why := NEVER.get(match["finding"])) is not None:
            raise PlanError(f"{match['finding']} cannot be accepted: {why}", "Mend the cause.")
        return Accepted(match["finding"], _day(match["until"]), match["reason"])


def gate_texts(table: Any) -> tuple[str, ...]:
    """The gates of one ``[[gate]]`` table, or of one text. Raises PlanError, UnknownName for a key nobody knows."""
    if isinstance(table, str):
        return (table,)
    kinds = {"metric": str, "class": str, "variant": str, "min": (int, float), "max": (int, float)}
    _known("gate", table, kinds)
    bounds = [(sign, table[key]) for key, sign in (("min", ">="), ("max", "<=")) if key in table]
    if "metric" not in table or not bounds:
        mend = 'Write metric = "robust_accuracy@linf:0.1" and min = 0.3 below it, or max.'
        raise PlanError(f"[[gate]] {dict(table)!r} names no metric or no limit", mend)
    variant = f"[{table['variant']}]" if "variant" in table else ""
    name, _, at = table["metric"].partition("@")
    one = f"{{{table['class']}}}" if "class" in table else ""
    return tuple(f"{name}{one}{'@' * bool(at)}{at}{variant}{sign}{limit!r}" for sign, limit in bounds)


def accept_text(table: Any) -> str:
    """The text of one ``[[accept]]`` table, or of one text. Raises PlanError, UnknownName for a key nobody knows."""
    if isinstance(table, str):
        return str(Accepted.parse(table))
    kinds = {"finding": str, "reason": str, "until": (dt.date, str)}
    _known("accept", table, kinds)
    missing = [key for key in kinds if not table.get(key)]
    if missing:
        mend = 'Write finding = "ACT-D01", reason = "..." and until = 2027-03-31: nothing is accepted for ever.'
        raise PlanError(f"[[accept]] {dict(table)!r} lacks {' and '.join(missing)}", mend)
    return str(Accepted.parse(f"{table['finding']} until {table['until']}: {' '.join(table['reason'].split())}"))


def evidence_texts(table: Any) -> tuple[str, ...]:
    """The texts of the ``[evidence]`` table, or of a list of them. Raises PlanError, UnknownName."""
    if isinstance(table, Mapping):
        _known("evidence", table, dict.fromkeys(EVIDENCE, str))
        table = [f"{key}={' '.join(value.split())}" for key, value in table.items()]
    texts = [table] if isinstance(table, str) else list(table)
    evidence_of(texts)
    return tuple(texts)


def evidence_of(texts: Iterable[str]) -> dict[str, str]:
    """What is stated for the evidence page, by key. Raises PlanError, UnknownName for a key nobody knows."""
    found: dict[str, str] = {}
    for text in texts:
        key, sign, value = str(text).partition("=")
        if not sign or not value.strip():
            raise PlanError(f"evidence {text!r} states nothing", "Write system=NAME, tester=NAME and so on.")
        if key.strip() not in EVIDENCE:
            raise unknown("key of evidence", key.strip(), EVIDENCE)
        found[key.strip()] = value.strip()
    return found


def _known(name: str, table: Any, kinds: Mapping[str, Any]) -> None:
    if not isinstance(table, Mapping):
        raise PlanError(f"{name} = {table!r} is no table", f"Write [[{name}]] and its keys below it.")
    for key, value in table.items():
        if key not in kinds:
            raise unknown(f"key of [[{name}]]", key, kinds)
        if not isinstance(value, kinds[key]) or isinstance(value, bool):
            raise PlanError(f"[[{name}]] {key} = {value!r} has the wrong type", "See docs/pipelines.md.")


def _day(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise PlanError(f"accepted until {text!r}, which is no day", "Write a day as 2027-03-31.") from None
