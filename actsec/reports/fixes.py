"""The fixes as rows of a table: what each changed, with paired intervals, and what it cost; for every format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from actsec.reports import lookup, words
from actsec.reports.blocks import Chip, Content, Tone, joined, muted, strong, struck
from actsec.reports.load import Report
from actsec.result import Advice, Comparison, Result
from actsec.training.recipe import unlike

LABELS: dict[str, Tone] = {
    "recommended": "good",
    "looks better, is masking": "bad",
    "costs more than it gives": "warn",
    "not checked": "warn",
}
NOT_MEASURED = "not measured"
_NAMES = {
    "robust_accuracy": "robust accuracy",
    "smallest_change": "median smallest change",
    "clean_accuracy": "clean accuracy",
    "ece": "ECE",
    "confidence_when_wrong": "confidence when wrong",
    "nonsense_above_90": "nonsense above 0.9",
    "dead_units": "dead units",
}
_SHORT = {
    "robust_accuracy": "robust",
    "smallest_change": "smallest change",
    "clean_accuracy": "clean",
    "ece": "ECE",
    "confidence_when_wrong": "sure if wrong",
    "nonsense_above_90": "sure of nonsense",
    "dead_units": "dead units",
}
_NUMBERS = ("ece", "smallest_change")
"""Metrics that are no shares, and are not shown in percent."""
_VERDICT: dict[str, Tone] = {"better": "good", "worse": "bad"}


def tone(label: str) -> Tone:
    """The tone of a label."""
    return LABELS.get(label, "neutral")


def tried(result: Result) -> tuple[Advice, ...]:
    """The fixes that were compared, best first."""
    return tuple(a for a in result.advice if a.label != "not tested")


def metrics(advice: tuple[Advice, ...]) -> tuple[str, ...]:
    """Every metric of the fixes, robust accuracy first; those that were measured of none stand in their usual place."""
    found = dict.fromkeys(c.metric for a in advice for c in a.effects)
    kinds = {kind: [m for m in found if m.partition("@")[0] == kind] for kind in _NAMES}
    always = ("clean_accuracy", "ece", "confidence_when_wrong", "nonsense_above_90", "dead_units")
    return tuple(m for kind in _NAMES for m in kinds[kind] or ([kind] if kind in always else []))


def title(metric: str) -> str:
    """The metric as a column is called."""
    kind, _, threat = metric.partition("@")
    return f"{_NAMES.get(kind, kind)}{', ' * bool(threat)}{threat}"


def short(metric: str) -> str:
    """The same where there is no room; under which attack a model is wrong is said once, by its robust accuracy."""
    kind, _, threat = metric.partition("@")
    threat = threat if kind in ("robust_accuracy", "smallest_change") else ""
    return f"{_SHORT.get(kind, kind)}{' ' * bool(threat)}{threat}"


def amount(metric: str, value: float) -> str:
    """A value of a metric."""
    kind = metric.partition("@")[0]
    return f"{value:.3f}" if kind == "ece" else words.number(value) if kind in _NUMBERS else words.percent(value)


def change(comparison: Comparison) -> str:
    """The difference, signed."""
    if comparison.metric.partition("@")[0] in _NUMBERS:
        return f"{comparison.difference:+.3f}".replace("-", "\N{MINUS SIGN}")
    return words.points(comparison.difference)


def bounds(comparison: Comparison) -> str:
    """The interval of the difference, in its units."""
    if comparison.metric.partition("@")[0] in _NUMBERS:
        text = f"[{comparison.low:+.3f}, {comparison.high:+.3f}]"
    else:
        text = f"[{100 * comparison.low:+.1f}, {100 * comparison.high:+.1f}]"
    return text.replace("-", "\N{MINUS SIGN}")


def verdict(comparison: Comparison) -> Chip:
    """What the test said."""
    return Chip(comparison.verdict, _VERDICT.get(comparison.verdict, "neutral"))


def effect(advice: Advice, metric: str) -> Comparison | None:
    """What a fix did to a metric; None where that was not measured."""
    return next((c for c in advice.effects if c.metric == metric), None)


def cell(advice: Advice, metric: str) -> Content:
    """The effect whole: change, interval, before and after, n, and the verdict where there is one."""
    found = effect(advice, metric)
    if found is None:
        return NOT_MEASURED
    void = found.verdict == "not comparable"
    shown = struck(change(found)) if void else strong(change(found)) if found.verdict != _NOTHING else change(found)
    sides = f"{amount(metric, found.before).removesuffix(' %')} to {amount(metric, found.after)}, n = {found.n}"
    chip = (Chip("void", "bad"),) if void else (verdict(found),) if found.verdict in _VERDICT else ()
    return joined((shown, *chip, muted(bounds(found)), muted(sides)))


_NOTHING = "no detectable difference"


def narrow(advice: Advice, metric: str) -> tuple[Content, Content]:
    """The effect in two short lines: the change, and its interval. In points, also of an ECE."""
    found = effect(advice, metric)
    if found is None:
        return "\N{EN DASH}", ""
    if metric.startswith("smallest_change"):
        value, inside = change(found), bounds(found)
    else:
        value = words.signed(found.difference)
        inside = f"[{_end(found.low, found, metric)}, {_end(found.high, found, metric)}]"
    void = found.verdict == "not comparable"
    shown = struck(value) if void else strong(value) if found.verdict != _NOTHING else value
    return shown, muted(inside)


def _end(value: float, found: Comparison, metric: str) -> str:
    """An end of an interval in whole points, never so that the change lies outside; 0 is 0, else its sign shows."""
    if value == 0:
        return "0"
    nearest, shown = round(100 * value), round(100 * found.difference, 1)
    whole = nearest
    if value <= found.difference:
        whole -= whole > shown
    else:
        whole += whole < shown
    text = f"{100 * value:+.1f}" if metric == "ece" or 0 in (nearest, whole) else f"{whole:+d}"
    return text.replace("-", "\N{MINUS SIGN}")


def latency(report: Report, advice: Advice) -> str:
    """``1.02x``, the time of an answer over the undefended model's on the machine of the run."""
    ratio = times(report, advice).get("latency_ratio")
    return f"{ratio:.2f}x" if isinstance(ratio, float) else NOT_MEASURED


def training(report: Report, advice: Advice) -> Content:
    """Passes and seconds that fitting took."""
    seconds = times(report, advice).get("seconds")
    passes = NOT_MEASURED if advice.passes is None else f"{words.number(advice.passes)} passes"
    return joined((passes, muted(f"{seconds:.1f} s"))) if isinstance(seconds, (int, float)) else passes


def parameters(advice: Advice) -> str:
    """Parameters added."""
    return (
        NOT_MEASURED
        if advice.parameters is None
        else f"{advice.parameters:+,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    )


def times(report: Report, advice: Advice) -> Mapping[str, Any]:
    """What the machine of the run took for a fix: ``seconds`` and ``latency_ratio``."""
    fixes: Mapping[str, Mapping[str, Any]] = report.environment.get("fixes", {})
    return fixes.get(advice.variant, {})


def rule(advice: tuple[Advice, ...]) -> str:
    """How the labels came about, and how many fixes were compared."""
    count = len(advice)
    corrected = f", with p corrected for {count} (Holm)" if count > 1 else ""
    return (
        f"{words.plural(count, 'fix', 'fixes')} compared with the audited model: ranked on one half of the images, "
        f"confirmed on the other{corrected}, whose accuracies are shown. A gain must show on both halves: of "
        "many that do nothing one looks good by luck. Changes are in points, with 95 % paired intervals."
    )


def unequal(result: Result, advice: tuple[Advice, ...]) -> str:
    """What should be equal and is not between the best-ranked fix's training and the others'; "" where all is."""
    trained = [(lookup.chain(result, a.variant), numbers) for a in advice if (numbers := _trained(result, a))]
    if not trained:
        return ""
    (first, its), *others = trained
    told = "; ".join(f"{name}: {apart}" for name, numbers in others if (apart := unlike(its, numbers)))
    why = "these should be equal before a difference in robustness is laid to the defense (Pang et al. 2020)"
    return f"{why}. {first} beside {told}." if told else ""


def _trained(result: Result, advice: Advice) -> Mapping[str, Any]:
    """The numbers of a fix's training, its last if it has several; empty where no weight was trained."""
    fits = (list(v.fit.get("fit", {}).values()) for v in result.variants if v.id == advice.variant)
    return next((numbers for fit in fits for numbers in reversed(fit) if "learning_rate" in numbers), {})


COSTS: tuple[tuple[str, Callable[[Report, Advice], Content]], ...] = (
    ("latency", latency),
    ("training", training),
    ("parameters", lambda _, advice: parameters(advice)),
)
"""The columns of what a fix costs."""
