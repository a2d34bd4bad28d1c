"""Gates: conditions on a metric, decided by its interval.

A number that a check voids passes none, nor does one that an essential check was not made of. A model that hides its
gradients from cross-entropy alone is called masked and may pass: its number is that of the margin attack.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actsec.errors import PlanError, unknown
from actsec.plan import Plan
from actsec.result import ClassShare, GateResult, Share, ThreatResult, Variant
from actsec.spec import parse_chain
from actsec.types import Threat
from actsec.verdict import sanity

_GATE = re.compile(
    r"\s*(?P<metric>[a-z_]+)(@(?P<threat>[\w.:/=]+))?(\[(?P<variant>.+)\])?"
    r"\s*(?P<sign>>=|<=)\s*(?P<limit>\d*\.?\d+(?:[eE][-+]?\d+)?)\s*"
)
_LONGEST = 1000  # characters: the pattern takes time quadratic in the digits of a limit


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition on a metric: ``robust_accuracy@linf:0.1>=0.3``, ``ece[relu | temperature]<=0.05``.

    ``ece@linf:0.1:miscalibrate<=0.3`` speaks of attacked confidence, ``ece`` alone of untouched inputs.
    """

    metric: str
    threat: str | None
    variant: str | None
    at_least: bool
    limit: float

    @staticmethod
    def parse(text: str) -> Gate:
        """Read a gate. Raises PlanError with the way to write it, UnknownName for a metric nobody knows."""
        match = _GATE.fullmatch(text) if len(text) < _LONGEST else None
        if match is None:
            raise PlanError(f"cannot read the gate {text!r}", "Write METRIC>=LIMIT: robust_accuracy@linf:0.1>=0.3.")
        if match["metric"] not in METRICS:
            raise unknown("metric", match["metric"], METRICS)
        threat = str(Threat.parse(match["threat"])) if match["threat"] else None
        _check_threat(text, match["metric"], threat)
        limit = float(match["limit"])
        if limit > 1:
            raise PlanError(f"gate {text!r}: every metric lies in [0, 1]", f"Write {limit / 100:g} for {limit:g} %.")
        return Gate(match["metric"], threat, match["variant"], match["sign"] == ">=", limit)


def _moves_confidence(threat: str) -> bool:
    return Threat.parse(threat).aim is not None


def _check_threat(text: str, metric: str, threat: str | None) -> None:
    """Raise PlanError for a threat that the metric cannot have, or lacks."""
    if threat is not None and metric in {*_OF_THREAT, "ece"} and (metric == "ece") != _moves_confidence(threat):
        mend = f"Write ece@{threat}:miscalibrate, or ece alone." if metric == "ece" else "Such threats have ece alone."
        raise PlanError(f"gate {text!r}: {metric} says nothing of {threat}", mend)
    if metric != "ece" and (metric in _OF_THREAT) != (threat is not None):
        needs = "needs a threat" if metric in _OF_THREAT else "takes no threat"
        raise PlanError(f"gate {text!r}: {metric} {needs}", "For example robust_accuracy@linf:0.1>=0.3.")


Value = tuple[float, float, float, bool, str]
"""A metric's value, its interval, whether it may be believed, and why not."""


def _share(share: Share | None, threat: ThreatResult | None = None) -> Value | None:
    """None where nothing was tested: an empty share has an interval that says nothing.

    Of a threat, one that no check compares attacks under or of which an essential check is missing is not believed.
    """
    if share is None or share.n == 0:
        return None
    if threat is None:
        return share.value, share.low, share.high, True, ""
    if threat.believable and threat.checks and (why := _unchecked(threat)):
        return share.value, share.low, share.high, False, why
    return share.value, share.low, share.high, threat.believable, threat.why


def _unchecked(threat: ThreatResult) -> str:
    """Which checks a number lacks, whatever its state says; empty where it lacks none."""
    undone = sanity.undone(threat.checks)
    if not undone and threat.state != "unchecked":
        return ""
    undone = undone or tuple(c.rule for c in threat.checks if c.status in ("not_done", "error"))
    if not sanity.compared(threat.checks):
        return f"no check compares attacks under {threat.threat}"
    return f"not every check was made: {', '.join(undone)}"


def _worst(classes: Sequence[ClassShare], threat: ThreatResult | None = None) -> Value | None:
    """The least of each: a class of few images may hold the interval down although its value does not."""
    shares = [c.share for c in classes if c.share.n]
    if not shares:
        return None
    least = min(shares, key=lambda share: share.value)
    found = Share(least.k, least.n, least.value, min(s.low for s in shares), min(s.high for s in shares))
    return _share(found, threat)


def _ece(variant: Variant, threat: str | None) -> Value | None:
    """Of untouched inputs, or of those whose confidence was attacked; an attack held up by masking flatters it."""
    believable, why = True, ""
    if threat is None:
        found = next((c for c in variant.calibration if c.condition == "clean"), None)
    else:
        found = next((m.after for m in variant.miscalibrations if m.threat == threat), None)
        if variant.threats:
            believable, why = variant.threats[0].believable, variant.threats[0].why
    if found is None or found.ece_low is None or found.ece_high is None:
        return None
    return found.ece, found.ece_low, found.ece_high, believable, why


METRICS: dict[str, Callable[[Variant, ThreatResult | None], Value | None]] = {
    "clean_accuracy": lambda v, _: _share(v.clean.accuracy),
    "worst_class_accuracy": lambda v, _: _worst(v.clean.per_class),
    "robust_accuracy": lambda _, t: None if t is None else _share(t.worst_case, t),
    "worst_class_robust_accuracy": lambda _, t: None if t is None else _worst(t.per_class, t),
    "miss_rate": lambda v, _: _share(v.clean.missed),
    "robust_miss_rate": lambda _, t: None if t is None else _share(t.missed, t),
    "ece": lambda v, _: _ece(v, None),
}
_OF_THREAT = {"robust_accuracy", "worst_class_robust_accuracy", "robust_miss_rate"}


def gate_results(plan: Plan, made: tuple[Variant, ...]) -> tuple[GateResult, ...]:
    """Every gate of the plan, decided by the interval: passed when it lies beyond the limit, failed when short."""
    return tuple(_decide(text, Gate.parse(text), made) for text in plan.gates)


def check_gates(plan: Plan, threats: Sequence[Threat], variants: Sequence[str]) -> None:
    """Refuse a gate on a threat or variant the plan does not test, before any work is done."""
    for text in plan.gates:
        gate = Gate.parse(text)
        if gate.metric.endswith("miss_rate") and plan.positive is None:
            raise PlanError(f"gate {text!r}: which class is missed?", "Give --positive CLASS.")
        known = [str(threat) for threat in threats]
        if gate.metric == "ece":
            known = list(dict.fromkeys(trial.threat for trial in plan.attacks if trial.role == "miscalibrate"))
        if gate.threat is not None and gate.threat not in known:
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
    threat = next((t for t in variant.threats if t.threat == gate.threat), None) if variant else None
    found = METRICS[gate.metric](variant, threat) if variant else None
    if found and variant and threat and not threat.checks and found[3] and (why := _unchecked(variant.threats[0])):
        # Another goal has no checks of its own: those at the first threat speak for the model.
        found = (*found[:3], False, f"at {variant.threats[0].threat} {why}")
    if variant and gate.metric == "ece":
        found = _ece(variant, gate.threat)
    name = variant.id if variant else str(gate.variant)
    if found is None:
        return GateResult(text, name, None, None, None, gate.limit, "no verdict", "it was not measured")
    value, low, high, believable, why = found
    passed = low >= gate.limit if gate.at_least else high <= gate.limit
    failed = high < gate.limit if gate.at_least else low > gate.limit
    interval = f"95 % interval {low:.3f} to {high:.3f}"
    # A masked number is too good: an accuracy may fail "at least", a miss rate "at most", and nothing else.
    flattered = gate.at_least != (gate.metric in ("robust_miss_rate", "ece"))
    if failed and (believable or flattered):
        outcome, reason = "failed", interval
    elif passed and believable:
        outcome, reason = "passed", interval
    elif passed or failed:
        outcome, reason = "no verdict", f"it cannot be believed: {why}"
    else:
        outcome, reason = "no verdict", f"the {interval} contains the limit: test more images"
    return GateResult(text, name, value, low, high, gate.limit, outcome, reason)  # type: ignore[arg-type]  # three words
