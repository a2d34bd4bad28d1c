"""Gates: conditions on a metric, decided by its interval.

A number that a check voids passes none, nor does one that an essential check was not made of. A model that hides its
gradients from cross-entropy alone is called masked and may pass: its number is that of the margin attack.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from actsec.errors import PlanError, unknown
from actsec.planning.plan import Plan
from actsec.result import GateResult, Variant
from actsec.spec import parse_chain
from actsec.types import Threat
from actsec.verdict.metrics import METRICS, Value, measured, needed

_GATE = re.compile(
    r"\s*(?P<metric>[a-z_0-9]+)(\{(?P<label>.+?)\})?(@(?P<at>[\w.:/=]+))?(\[(?P<variant>.+)\])?"
    r"\s*(?P<sign>>=|<=)\s*(?P<limit>-?\d*\.?\d+(?:[eE][-+]?\d+)?)\s*"
)
_EXAMPLES = {
    "threat": "robust_accuracy@linf:0.1>=0.3",
    "kill": "net_kill@linf:0.1:kill<=0.2",
    "corruption": "corruption_accuracy@blur:3>=0.8",
    "radius": "certified_accuracy@l2:0.5>=0.4",
}
_NEARLY = re.compile(
    r"\s*(?P<what>[a-z_]+[^<>]*?)\s*(?P<sign>=>|=<|[<>]=?)\s*(?P<limit>\d*\.?\d+)\s*(?P<percent>%?)\s*"
)
Outcome: TypeAlias = Literal["passed", "failed", "no verdict"]
_WRITE = "Write METRIC>=LIMIT or METRIC<=LIMIT: robust_accuracy@linf:0.1>=0.3."
_LONGEST = 1000  # characters: the pattern takes time quadratic in the digits of a limit


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition on a metric: ``robust_accuracy{cat}@linf:0.1>=0.3``, ``ece[relu | temperature]<=0.05``.

    threat is what comes after @: a threat, of ``corruption_accuracy`` a kind and a severity, of ``certified_accuracy``
    a radius. ``ece@linf:0.1:miscalibrate<=0.3`` speaks of attacked confidence, ``ece`` alone of untouched inputs.
    label is the one class that is meant, None: all.
    """

    metric: str
    threat: str | None
    variant: str | None
    at_least: bool
    limit: float
    label: str | None = None

    @staticmethod
    def parse(text: str) -> Gate:
        """Read a gate. Raises PlanError with the way to write it, UnknownName for a metric nobody knows."""
        match = _GATE.fullmatch(text) if len(text) < _LONGEST else None
        if match is None:
            raise PlanError(f"cannot read the gate {text!r}", meant(text, _GATE, _WRITE))
        name, at, label = match["metric"], match["at"], match["label"]
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
        metric = METRICS[name]
        if at and metric.at not in ("corruption", "radius"):
            at = str(Threat.parse(at))
        _check_at(text, name, at)
        if label is not None and metric.per_class is None:
            known = ", ".join(each for each, m in METRICS.items() if m.per_class)
            raise PlanError(f"gate {text!r}: {name} is not measured class by class", f"Those that are: {known}.")
        limit = float(match["limit"])
        check_limit(text, name, limit)
        return Gate(name, at, match["variant"], match["sign"] == ">=", limit, label)


def check_limit(text: str, name: str, limit: float) -> None:
    """Raise PlanError for a limit that the metric cannot reach."""
    metric = METRICS[name]
    if metric.top is not None and not (-1 if metric.at == "kill" else 0) <= limit <= metric.top:
        mend = f"Write {limit / 100:g} for {limit:g} %." if limit > 1 else "Give a limit that it can reach."
        raise PlanError(f"gate {text!r}: {name} lies in [0, {metric.top:g}]", mend)


def meant(text: str, readable: re.Pattern[str], otherwise: str) -> str:
    """The gate that was probably meant, where that can be read, or how one is written."""
    found = _NEARLY.fullmatch(text) if len(text) < _LONGEST else None
    if found is not None:
        limit = float(found["limit"]) / (100 if found["percent"] else 1)
        written = f"{found['what']}{'>=' if '>' in found['sign'] else '<='}{limit:g}"
        if readable.fullmatch(written):
            return f"Write {written}, with >= or <= and a share as a number from 0 to 1."
    return otherwise


def _check_at(text: str, name: str, at: str | None) -> None:
    """Raise PlanError for a threat that the metric cannot have, or lacks."""
    kind = METRICS[name].at
    if kind == "nothing" and at is not None:
        raise PlanError(f"gate {text!r}: {name} takes no threat", "For example clean_accuracy>=0.9.")
    if kind in _EXAMPLES and at is None:
        needs = "a threat" if kind in ("threat", "kill") else "a " + kind
        raise PlanError(f"gate {text!r}: {name} needs {needs}", f"For example {_EXAMPLES[kind]}.")
    if at is None or kind not in ("threat", "confidence", "kill"):
        return
    threat = Threat.parse(at)
    moves, forces = threat.aim is not None, threat.region is not None
    if (kind == "confidence") != moves or (kind == "kill") != forces:
        mends = {
            "confidence": f"Write {name}@{at}:miscalibrate, or {name} alone.",
            "kill": f"For example {_EXAMPLES['kill']}.",
            "threat": f"Known of it: {_of_goal(moves=moves)}.",
        }
        raise PlanError(f"gate {text!r}: {name} says nothing of {at}", mends[kind])


def _of_goal(*, moves: bool) -> str:
    """The metrics of a threat whose goal is the confidence, or units."""
    return ", ".join(each for each, m in METRICS.items() if m.at == ("confidence" if moves else "kill"))


def gate_results(plan: Plan, made: tuple[Variant, ...]) -> tuple[GateResult, ...]:
    """Every gate of the plan, decided by the interval: passed when it lies beyond the limit, failed when short."""
    return tuple(_decide(text, Gate.parse(text), made) for text in plan.gates)


def check_gates(plan: Plan, threats: Sequence[Threat], variants: Sequence[str]) -> None:
    """Refuse a gate on a threat or variant the plan does not test, before any work is done."""
    for text in plan.gates:
        gate = Gate.parse(text)
        if gate.metric.endswith("miss_rate") and plan.positive is None:
            raise PlanError(f"gate {text!r}: which class is missed?", "Give --positive CLASS.")
        known = _tested(plan, gate, threats)
        if gate.threat is not None and known is not None and gate.threat not in known:
            raise PlanError(
                f"gate {text!r}: {gate.threat} is not tested",
                f"Tested: {', '.join(known) or 'nothing of the kind'}; --eps sets the first.",
            )
        if gate.variant is not None:
            found = _meant(gate.variant, variants)
            if not found:
                raise unknown("variant", gate.variant, variants)
            if len(found) > 1:
                either = " or ".join(found)
                raise PlanError(f"gate {text!r}: {gate.variant} may be {either}", "Write one of them whole.")


def check_classes(plan: Plan, classes: Sequence[str]) -> None:
    """Refuse a gate on a class that the data does not have. Raises UnknownName."""
    for text in plan.gates:
        if (label := Gate.parse(text).label) is not None and label not in classes:
            raise unknown(f"class (gate {text!r})", label, classes)


def _tested(plan: Plan, gate: Gate, threats: Sequence[Threat]) -> list[str] | None:
    """What the plan tests that the gate may name after @; None where only the run will tell."""
    kind = METRICS[gate.metric].at
    if kind in ("confidence", "kill"):
        role = "miscalibrate" if kind == "confidence" else "kill"
        return list(dict.fromkeys(str(Threat.parse(t.threat)) for t in plan.attacks if t.role == role))
    if kind == "corruption":
        specs = [spec for text in plan.corruptions or () for spec in parse_chain(text)]
        return [f"{spec.name}:{dict(spec.options).get('severity', 3)}" for spec in specs]
    return [str(threat) for threat in threats] if kind == "threat" else None


def _meant(name: str, variants: Sequence[str]) -> tuple[str, ...]:
    """The variants that a gate may mean: the one of this name, else those of this chain, else those of these defenses.

    ``relu | fast_training(eps=0.1)`` is also ``fast_training(eps=0.1)``, and ``fast_training`` where no other is.
    """
    chains = [each.partition(" | ")[2] for each in variants]
    for called in (variants, chains, [_defenses(chain) for chain in chains]):
        if name in called:
            return tuple(each for each, known in zip(variants, called, strict=True) if known == name)
    return ()


def _defenses(chain: str) -> str:
    """The names of a chain without their options: ``swap | temperature``."""
    return " | ".join(spec.name for spec in parse_chain(chain)) if chain else ""


def _decide(text: str, gate: Gate, made: tuple[Variant, ...]) -> GateResult:
    named = _meant(gate.variant, [v.id for v in made]) if gate.variant else ()
    variant = next((v for v in made if (v.id in named if gate.variant else v.audited)), None)
    metric = METRICS[gate.metric]
    found = measured(metric, variant, gate.threat, gate.label) if variant else None
    name = variant.id if variant else str(gate.variant)
    if found is None:
        return GateResult(text, name, None, None, None, gate.limit, "no verdict", "it was not measured")
    there = variant.clean.accuracy.n if variant else 0
    outcome, reason = by_interval(found, gate.limit, at_least=gate.at_least, there=there)
    # A masked number is too good: an accuracy may fail "at least", a miss rate "at most", and nothing else.
    flattered = outcome == "failed" and gate.at_least == metric.higher_is_better
    samples = None
    if outcome == "no verdict":
        samples = needed(found, gate.limit)
    elif not found.believable and not flattered:
        outcome, reason = "no verdict", f"it cannot be believed: {found.why}"
    bounds = (found.value, found.low, found.high, gate.limit)
    return GateResult(text, name, *bounds, outcome, reason, found.n, samples)


def by_interval(found: Value, limit: float, *, at_least: bool, there: int) -> tuple[Outcome, str]:
    """How the 95 % interval decides a limit, and the reason; there: how many test examples there are."""
    passed = found.low >= limit if at_least else found.high <= limit
    failed = found.high < limit if at_least else found.low > limit
    interval = f"95 % interval {found.low:.3f} to {found.high:.3f}"
    interval = f"all {found.n} units looked at" if found.kind == "counted" else f"{interval} (n = {found.n})"
    if passed or failed:
        return ("passed" if passed else "failed"), interval
    return "no verdict", f"the {interval} contains the limit: {_more(needed(found, limit), found, there)}"


def _more(samples: int | None, found: Value, there: int) -> str:
    """What would decide a gate."""
    if samples is None:
        return "the value is the limit itself, and no number of images decides that"
    tested = f"{found.of or found.n} were tested"
    more = "--samples" if samples <= there else f"more test data: there are {there}"
    return f"about {samples} images would decide ({tested}; {more})"
