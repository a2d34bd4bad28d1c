"""Every number of a result that a gate can speak of: its meaning, its direction, its interval and n.

One table. A metric without an interval in the record is not in it: a gate is decided by the interval.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from actsec.result import Calibration, ClassShare, Interval, Share, ThreatResult, Variant
from actsec.verdict import sanity

Kind = Literal["share", "other", "counted"]
At = Literal["nothing", "threat", "confidence", "kill", "corruption", "radius"]
_Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Value:
    """A measured metric with its 95 % interval on n; why says what keeps it from being believed.

    of is how many images were tested to count n of them: those of all classes, where n are of one. kind ``counted``
    says that nothing was sampled: units, of which all were looked at.
    """

    value: float
    low: float
    high: float
    n: int
    kind: Kind = "share"
    believable: bool = True
    why: str = ""
    of: int = 0


@dataclass(frozen=True, slots=True)
class Metric:
    """What a gate may name. at is what comes after @; top the largest limit that makes sense, None: any.

    per_class: ``metric{class}`` is one class's own.
    """

    meaning: str
    higher_is_better: bool
    at: At
    measure: Callable[[Variant, str | None], Value | None]
    per_class: Callable[[Variant, str | None], Sequence[ClassShare]] | None = None
    top: float | None = 1.0


def measured(metric: Metric, variant: Variant, at: str | None, label: str | None) -> Value | None:
    """The metric of a variant, of one class where a label is given; None where it was not measured."""
    if label is None:
        found = metric.measure(variant, at)
        threat = _threat(variant, at) if metric.at == "threat" else None
        if found and found.believable and threat and not threat.checks and (why := _unchecked(variant.threats[0])):
            # Another goal has no checks of its own: those at the first threat speak for the model.
            return dataclasses.replace(found, believable=False, why=f"at {variant.threats[0].threat} {why}")
        return found
    assert metric.per_class is not None  # noqa: S101  # Gate.parse looked
    classes = metric.per_class(variant, at)
    share = next((c.share for c in classes if c.name == label), None)
    return None if share is None else _share(share, _threat(variant, at), sum(c.share.n for c in classes))


def needed(found: Value, limit: float) -> int | None:
    """About how many images would put the interval beyond the limit, the value staying what it is; None: no number.

    Of a share the 95 % Wilson interval excludes the limit L from n = z^2 L (1 - L) / (p - L)^2 on (Wilson 1927); at 0
    and 1 the Clopper-Pearson interval does from n = log 0.025 / log(1 - L) or log 0.025 / log L on. Of other numbers an
    interval's width falls with the square root of n.
    """
    gap = abs(found.value - limit)
    if gap == 0 or found.kind == "counted" or not found.n:
        return None
    if found.kind == "other":
        half = found.value - found.low if limit < found.value else found.high - found.value
        enough = found.n * (half / gap) ** 2
    elif 0 < found.value < 1:
        enough = _Z**2 * limit * (1 - limit) / gap**2
    else:
        enough = math.log(0.025) / math.log(1 - limit if found.value == 0 else limit)
    return max(math.ceil(enough * (found.of or found.n) / found.n), (found.of or found.n) + 1)


def _threat(variant: Variant, name: str | None) -> ThreatResult | None:
    return next((t for t in variant.threats if t.threat == name), None)


def _share(share: Share | None, threat: ThreatResult | None = None, of: int = 0) -> Value | None:
    """None where nothing was tested: an empty share has an interval that says nothing."""
    if share is None or share.n == 0:
        return None
    return Value(share.value, share.low, share.high, share.n, "share", *_believed(threat), of=of)


def _believed(threat: ThreatResult | None) -> tuple[bool, str]:
    """One that no check compares attacks under, or of which an essential check is missing, is not believed."""
    if threat is None:
        return True, ""
    if threat.believable and threat.checks and (why := _unchecked(threat)):
        return False, why
    return threat.believable, threat.why


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
    least, of = min(shares, key=lambda share: share.value), sum(share.n for share in shares)
    low, high = min(s.low for s in shares), min(s.high for s in shares)
    return Value(least.value, low, high, least.n, "other", *_believed(threat), of=of)


def _balanced(variant: Variant) -> Value | None:
    """The mean over classes; its interval by squared distances of the classes' own (MOVER, Zou and Donner 2008)."""
    shares = [c.share for c in variant.clean.per_class if c.share.n]
    if not shares:
        return None
    mean = variant.clean.balanced
    down = math.sqrt(sum((s.value - s.low) ** 2 for s in shares)) / len(shares)
    up = math.sqrt(sum((s.high - s.value) ** 2 for s in shares)) / len(shares)
    return Value(mean, max(mean - down, 0.0), min(mean + up, 1.0), sum(s.n for s in shares), "other")


def _of(read: Callable[[ThreatResult], Share | None]) -> Callable[[Variant, str | None], Value | None]:
    """A share of a threat's own."""

    def measure(variant: Variant, at: str | None) -> Value | None:
        threat = _threat(variant, at)
        return None if threat is None else _share(read(threat), threat)

    return measure


def _noise(variant: Variant, at: str | None) -> Value | None:
    threat = _threat(variant, at)
    return _share(next((a.still_correct for a in threat.attacks if a.baseline and a.n), None)) if threat else None


def _fell(variant: Variant, at: str | None) -> Value | None:
    """Of the examples that were right untouched, those that fell: one minus the share of them that stands."""
    from actsec.reports.words import correct_before
    from actsec.verdict.statistics import share

    threat = _threat(variant, at)
    before = correct_before(variant, threat) if threat else None
    if threat is None or not before:
        return None
    return _share(share(before - threat.worst_case.k, before), threat)


def _classes_of_threat(variant: Variant, at: str | None) -> Sequence[ClassShare]:
    threat = _threat(variant, at)
    return () if threat is None else threat.per_class


def _smallest(variant: Variant, at: str | None) -> Value | None:
    threat = _threat(variant, at)
    if threat is None or threat.smallest is None or threat.smallest.high is None:
        return None
    found = threat.smallest
    assert found.high is not None  # noqa: S101  # looked at above
    return Value(found.value, found.low, found.high, found.n, "other", *_believed(threat))


def _calibration(variant: Variant, at: str | None) -> tuple[Calibration | None, bool, str]:
    """Of untouched inputs, or of those whose confidence was attacked; an attack held up by masking flatters it."""
    if at is None:
        return next((c for c in variant.calibration if c.condition == "clean"), None), True, ""
    found = next((m.after for m in variant.miscalibrations if m.threat == at), None)
    first = variant.threats[0] if variant.threats else None
    return found, first is None or first.believable, first.why if first else ""


def _confidence(
    value: Callable[[Calibration], float | None], ends: Callable[[Calibration], Interval | None]
) -> Callable[[Variant, str | None], Value | None]:
    """A number of a calibration with its bootstrap interval."""

    def measure(variant: Variant, at: str | None) -> Value | None:
        found, believable, why = _calibration(variant, at)
        if found is None or (number := value(found)) is None or (interval := ends(found)) is None:
            return None
        return Value(number, interval.low, interval.high, found.n, "other", believable, why)

    return measure


def _ece_ends(found: Calibration) -> Interval | None:
    return None if found.ece_low is None or found.ece_high is None else Interval(found.ece_low, found.ece_high)


def _sure_and_wrong(variant: Variant, at: str | None) -> Value | None:
    found, believable, why = _calibration(variant, at)
    made = _share(found.wrong_above_90) if found else None
    return None if made is None else Value(made.value, made.low, made.high, made.n, "share", believable, why)


def _when_fooled(variant: Variant, at: str | None) -> Value | None:
    """Mean confidence in wrong answers on what the strongest attack at a threat left."""
    found = next((c for c in variant.calibration if c.condition.endswith(f" at {at}")), None)
    threat = _threat(variant, at)
    if found is None or found.confidence_when_wrong is None or found.confidence_when_wrong_interval is None:
        return None
    ends = found.confidence_when_wrong_interval
    return Value(found.confidence_when_wrong, ends.low, ends.high, found.n, "other", *_believed(threat))


def _killed(variant: Variant, at: str | None) -> Value | None:
    kill = next((k for k in variant.kills if k.threat == at and k.net is not None), None)
    if kill is None or kill.net is None or kill.net_low is None or kill.net_high is None:
        return None
    return Value(kill.net, kill.net_low, kill.net_high, kill.n, "other")


def _relabelled(variant: Variant, at: str | None) -> Value | None:
    return _share(next((k.label_changed for k in variant.kills if k.threat == at), None))


def _corrupted(variant: Variant, at: str | None) -> Value | None:
    rows = variant.corruptions.rows if variant.corruptions else ()
    return _share(next((row.accuracy for row in rows if f"{row.kind}:{row.severity}" == at), None))


def _worst_corruption(variant: Variant, _at: str | None) -> Value | None:
    rows = variant.corruptions.rows if variant.corruptions else ()
    return _worst([ClassShare(row.kind, row.accuracy) for row in rows])


def _certified(variant: Variant, at: str | None) -> Value | None:
    radii = variant.certificate.radii if variant.certificate else ()
    norm, _, eps = (at or "").partition(":")
    return _share(next((row.certified for row in radii if norm == "l2" and f"{row.eps:g}" == eps), None))


def _units(name: str) -> Callable[[Variant, str | None], Value | None]:
    """The largest fraction of any site: all of its units were looked at."""

    def measure(variant: Variant, _at: str | None) -> Value | None:
        found = [(value, site.units) for site in variant.sites if (value := getattr(site, name)) is not None]
        if not found:
            return None
        value, units = max(found)
        return Value(value, value, value, units, "counted")

    return measure


METRICS: dict[str, Metric] = {
    "clean_accuracy": Metric(
        "accuracy on untouched inputs", True, "nothing", lambda v, _: _share(v.clean.accuracy),
        lambda v, _: v.clean.per_class,
    ),
    "balanced_accuracy": Metric(
        "the mean of the classes' accuracies on untouched inputs", True, "nothing", lambda v, _: _balanced(v)
    ),
    "worst_class_accuracy": Metric(
        "the least accuracy of any class, untouched", True, "nothing", lambda v, _: _worst(v.clean.per_class)
    ),
    "miss_rate": Metric(
        "the share of the positive class that is called something else", False, "nothing",
        lambda v, _: _share(v.clean.missed),
    ),
    "rejection_rate": Metric(
        "untouched inputs that the model's detector refuses", False, "nothing", lambda v, _: _share(v.clean.rejected)
    ),
    "robust_accuracy": Metric(
        "accuracy at the worst case of a threat, over every attack", True, "threat", _of(lambda t: t.worst_case),
        _classes_of_threat,
    ),
    "worst_class_robust_accuracy": Metric(
        "the least robust accuracy of any class", True, "threat",
        lambda v, at: _worst(t.per_class, t) if (t := _threat(v, at)) else None,
    ),
    "robust_miss_rate": Metric(
        "the miss rate at the worst case of a threat", False, "threat", _of(lambda t: t.missed)
    ),
    "attack_success": Metric("of the examples right untouched, those that fell to any attack", False, "threat", _fell),
    "noise_accuracy": Metric("accuracy under random noise of the threat's size", True, "threat", _noise),
    "smallest_change": Metric(
        "the median smallest change that misleads, of examples right untouched", True, "threat", _smallest, top=None
    ),
    "confidence_when_fooled": Metric(
        "mean confidence in wrong answers, attacked", False, "threat", _when_fooled
    ),
    "ece": Metric("expected calibration error", False, "confidence", _confidence(lambda c: c.ece, _ece_ends)),
    "brier": Metric(
        "Brier score over all classes", False, "confidence", _confidence(lambda c: c.brier, lambda c: c.brier_interval),
        top=2.0,
    ),
    "nll": Metric(
        "negative log-likelihood", False, "confidence", _confidence(lambda c: c.nll, lambda c: c.nll_interval), top=None
    ),
    "confidence_when_wrong": Metric(
        "mean confidence in wrong answers", False, "confidence",
        _confidence(lambda c: c.confidence_when_wrong, lambda c: c.confidence_when_wrong_interval),
    ),
    "wrong_above_90": Metric("inputs answered wrongly with more than 90 %", False, "confidence", _sure_and_wrong),
    "nonsense_above_90": Metric(
        "nonsense answered with more than 90 %", False, "nothing",
        lambda v, _: _share(v.nonsense.above_90) if v.nonsense else None,
    ),
    "far_field_sure": Metric(
        "rays along which the farthest point is answered with 99 % or more", False, "nothing",
        lambda v, _: _share(v.nonsense.far.sure[-1]) if v.nonsense and v.nonsense.far.sure else None,
    ),
    "net_kill": Metric("units forced dead less units revived, of all units", False, "kill", _killed),
    "label_changed": Metric("labels that changed while units were forced", False, "kill", _relabelled),
    "dead": Metric("the largest share of dead units of any site", False, "nothing", _units("dead")),
    "permanently_dead": Metric(
        "the largest share of units of any site that are dead on all images", False, "nothing",
        _units("permanently_dead"),
    ),
    "saturated": Metric("the largest share of saturated units of any site", False, "nothing", _units("saturated")),
    "corruption_accuracy": Metric("accuracy under a corruption, such as @blur:3", True, "corruption", _corrupted),
    "worst_corruption_accuracy": Metric(
        "the least accuracy under any corruption measured", True, "nothing", _worst_corruption
    ),
    "certified_accuracy": Metric("accuracy certified at a radius, such as @l2:0.5", True, "radius", _certified),
}  # fmt: skip
