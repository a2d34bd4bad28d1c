"""What activation health comes to: limits, findings, gates, the exit code, and the words for a terminal.

Nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actsec import registry
from actsec.errors import PlanError, unknown
from actsec.health.seen import Seen
from actsec.health.vitals import Layer, Spread, Vitals
from actsec.result import Calibration, Clean, GateResult, Problem, Share, SiteHealth
from actsec.verdict import metrics as audited
from actsec.verdict.gates import by_interval, check_limit, meant
from actsec.verdict.metrics import Value

if TYPE_CHECKING:
    from actsec.health.architecture import Architecture

VANISHING, EXPLODING = 1e-3, 1e3
DEAD, SATURATED = 0.25, 0.5
WATCHED = 1000
"""Images whose activations an audit watches; a checkup too, unless it is told."""
_GATE = re.compile(r"\s*(?P<metric>[a-z_0-9]+)\s*(?P<sign>>=|<=)\s*(?P<limit>\d*\.?\d+(?:[eE][-+]?\d+)?)\s*")
METRICS = (
    "clean_accuracy", "wrong_above_90", "ece", "confidence_when_wrong", "dead", "permanently_dead", "saturated",
    "gradient_ratio",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checkup:
    """What was found. n images were watched; clean and calibration are on all test images.

    left_out counts calls that are no hidden activation: gates, the output, constants. gradient_ratio is G, None where
    the last layer has no gradient. vitals are units, gradients and causes. exit_code: 0, 1 where a gate failed, 3 where
    nothing can be said.
    """

    model: str
    data: str
    n: int
    activations: dict[str, int]
    parameters: int
    fingerprint: str
    clean: Clean
    calibration: Calibration
    sites: tuple[SiteHealth, ...]
    unresolved: tuple[str, ...]
    left_out: dict[str, int]
    layers: tuple[Layer, ...]
    gradient_ratio: float | None
    findings: tuple[Problem, ...]
    gates: tuple[GateResult, ...]
    exit_code: int
    vitals: Vitals | None = None


def lint(network: Architecture, without: Sequence[str] = ()) -> tuple[Problem, ...]:
    """What every lint but those named ``without`` finds, worst first."""
    wanted = [name for name in registry.names("lints") if name not in without]
    found = [problem for name in wanted for problem in registry.find("lints", name)()(network)]
    return worst_first(found)


def findings(seen: Seen) -> tuple[Problem, ...]:
    """What every rule of ``actsec.symptoms`` finds, worst first."""
    found = [problem for name in registry.names("symptoms") for problem in registry.find("symptoms", name)()(seen)]
    return worst_first(found)


def of_sites(
    sites: Sequence[SiteHealth], unresolved: Sequence[str], accuracy: Share, watched: int
) -> tuple[Problem, ...]:
    """What the same rules find where sites alone were watched, on so many images at most, as in an audit."""
    n = min(accuracy.n, watched)
    seen = Seen(tuple(sites), frozenset(), tuple(unresolved), None, accuracy, None, n)
    rules = ("not_finite", "dead_units", "hidden_calls")
    return worst_first([problem for name in rules for problem in registry.find("symptoms", name)()(seen)])


def worst_first(found: Sequence[Problem]) -> tuple[Problem, ...]:
    """By severity, then by rule."""
    order = ("high", "medium", "low")
    return tuple(sorted(found, key=lambda problem: (order.index(problem.severity), problem.rule)))


@dataclass(frozen=True, slots=True)
class Measured:
    """What a checkup measured of the model, as the metrics of an audit read it of a variant."""

    sites: tuple[SiteHealth, ...]
    clean: Clean
    calibration: tuple[Calibration, ...]
    gradient_ratio: float | None
    threats: tuple[()] = ()
    miscalibrations: tuple[()] = ()

    def value(self, metric: str) -> Value | float | None:
        """A metric with its interval, as an audit has it; a bare number where there is none; None: not measured."""
        if metric == "gradient_ratio":
            return self.gradient_ratio
        found = audited.METRICS[metric].measure(self, None)  # type: ignore[arg-type]  # what is read of a Variant
        few = metric == "confidence_when_wrong" and found is None  # too few wrong answers for an interval
        return self.calibration[0].confidence_when_wrong if few else found


def check_gates(gates: Sequence[str]) -> None:
    """Raise PlanError or UnknownName for a gate that cannot be read."""
    for text in gates:
        match = _GATE.fullmatch(text)
        metric = re.split(r"[^a-z_0-9]", text.strip(), maxsplit=1)[0]
        if metric in audited.METRICS and metric not in METRICS:
            known = ", ".join(METRICS)
            raise PlanError(f"gate {text!r}: {metric} is for `actsec audit` to decide", f"Known here: {known}.")
        if match is None:
            mend = meant(text, _GATE, "Write METRIC<=LIMIT or METRIC>=LIMIT: permanently_dead<=0.1.")
            raise PlanError(f"cannot read the gate {text!r}", mend)
        if match["metric"] not in METRICS:
            raise unknown("metric", match["metric"], METRICS)
        if match["metric"] in audited.METRICS:
            check_limit(text, match["metric"], float(match["limit"]))


def decide(text: str, measured: Measured) -> GateResult:
    """A gate, decided as an audit decides it: by the 95 % interval, of units by their count, all of them looked at.

    What has no interval, the ratio of gradients, is decided by its value, and the reason says so.
    """
    match = _GATE.fullmatch(text)
    assert match is not None  # noqa: S101  # check_gates has read it
    found, limit, at_least = measured.value(match["metric"]), float(match["limit"]), match["sign"] == ">="
    if found is None:
        return GateResult(text, "", None, None, None, limit, "no verdict", "it was not measured")
    if not isinstance(found, Value):
        held = found >= limit if at_least else found <= limit
        why = f"it is {found:.4g}: by its value, for it has no interval"
        return GateResult(text, "", found, None, None, limit, "passed" if held else "failed", why)
    outcome, why = by_interval(found, limit, at_least=at_least, there=measured.clean.accuracy.n)
    samples = audited.needed(found, limit) if outcome == "no verdict" else None
    bounds = (found.value, found.low, found.high, limit)
    return GateResult(text, "", *bounds, outcome, f"it is {found.value:.4g}, {why}", found.n, samples)


def exit_code(found: Sequence[Problem], gates: Sequence[GateResult]) -> int:
    """1 where a gate failed, 3 where nothing can be said, else 0: finished, which is not the same as healthy."""
    if any(gate.outcome == "failed" for gate in gates):
        return 1
    blocked = any(problem.rule in ("ACT-A00", "ACT-A06", "ACT-M00") for problem in found)
    return 3 if blocked or any(gate.outcome == "no verdict" for gate in gates) else 0


def lines(found: Checkup) -> Iterator[str]:
    """The checkup for a terminal: findings first, then a line a site."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.activations.items()) or "none"
    left = "".join(f", {count} {role} left out" for role, count in found.left_out.items())
    yield f"{found.model} on {found.data}: {found.n} images watched, no attack made"
    yield f"activations: {kinds}{left}; {len(found.unresolved)} unresolved"
    yield from (f"  unresolved {item}" for item in found.unresolved)
    share, fit = found.clean.accuracy, found.calibration
    sure = "" if fit.confidence_when_wrong is None else f", {fit.confidence_when_wrong:.3f} when wrong"
    interval = f"95 % interval {share.low:.1%} to {share.high:.1%}"
    yield f"clean accuracy {share.value:.1%} ({share.k} of {share.n}, {interval})"
    yield f"confidence {fit.mean_confidence:.3f} on average{sure}"
    yield (
        f"ECE {fit.ece:.3f} ({fit.bins} bins, n {fit.n}); a perfectly calibrated model would show up to "
        f"{fit.null_p95:.3f} at this n"
    )
    if found.gradient_ratio is None:
        broken = [layer for layer in found.layers if layer.not_finite]
        told = f"none, NaN or infinite at {len(broken)} of {len(found.layers)} layers" if broken else "not measured"
        yield f"gradient, first layer over last: {told}"
    else:
        reached = [layer.name for layer in found.layers if layer.gradient_norm is not None]
        yield f"gradient, first layer over last ({reached[0]} / {reached[-1]}): {found.gradient_ratio:.3g}"
    if found.vitals is not None:
        yield from _vital(found.vitals)
    yield ""
    width = max([len(site.name) for site in found.sites] + [4])
    yield f"{'site':{width}}  {'kind':11} {'units':>8}  {'dead':>7}  {'always':>7}  {'saturated':>9}  {'gradient':>9}"
    for site in found.sites:
        shares = (_share(site.dead, 7), _share(site.permanently_dead, 7), _share(site.saturated, 9))
        norm = "not done" if site.gradient_norm is None else f"{site.gradient_norm:.2e}"
        odd = "" if site.finite else "  NOT FINITE"
        yield f"{site.name:{width}}  {site.kind:11} {site.units:>8}  {'  '.join(shares)}  {norm:>9}{odd}"
    yield ""
    if found.vitals is not None and found.vitals.units:
        yield from _of_units(found.vitals, width)
        yield ""
    for each in found.findings:
        yield f"{each.rule} {each.severity}: {each.claim}. {each.advice}"
        if each.cause:
            yield f"  cause: {each.cause}{f' ({each.evidence})' if each.evidence else ''}"
    if not found.findings:
        yield "nothing stands out"
    yield from (f"gate {gate.gate}: {gate.outcome} ({gate.why})" for gate in found.gates)


def _vital(found: Vitals) -> Iterator[str]:
    """Gradients with fresh weights and by the input, outliers, cost."""
    flow, inputs = found.flow, found.inputs
    if flow.fresh is not None:
        span = f"{flow.fresh_low:.3g} to {flow.fresh_high:.3g} in {flow.draws} draws"
        yield f"  with fresh weights {flow.fresh:.3g} ({span}, each layer's own default)"
    else:
        yield f"  with fresh weights: not measured{f', {flow.reason}' if flow.reason else ''}"
    if inputs.reason:
        yield f"gradient by the input: not measured, {inputs.reason}"
    else:
        zeros = f"cross-entropy {inputs.zero_cross_entropy}, margin {inputs.zero_margin} of {inputs.n}"
        norm = "" if inputs.norm is None else f"; norm {inputs.norm.median:.3g} ({_span(inputs.norm)})"
        broken = f"; NaN or infinite on {inputs.not_finite}, left out of what follows" if inputs.not_finite else ""
        yield f"gradient by the input exactly 0: {zeros}{broken}{norm}"
        bend = "not measured" if inputs.bend is None else f"{inputs.bend.median:.3g} ({_span(inputs.bend)})"
        turn = "not measured" if inputs.turn is None else f"{inputs.turn.median:.3g} ({_span(inputs.turn)})"
        yield f"over a random step of {inputs.reach:g}: departure from the tangent {bend}, cosine {turn}"
    train = "not given" if found.train is None else f"{found.train.found} of {found.train.n} rows"
    yield f"outliers: {found.test.found} of {found.test.n} images, training data {train}"
    yield f"cost: {found.forwards:,} forwards and {found.backwards:,} backwards of one image"


def _span(found: Spread) -> str:
    return f"{found.q05:.3g} to {found.q95:.3g}"


def _of_units(found: Vitals, width: int) -> Iterator[str]:
    """On how many images units live, and where their pre-activations lie: a line a site."""
    yield f"{'site':{width}}  {'never':>6} {'<half':>6} {'>=half':>6} {'all':>6}   pre-activation 5 / 50 / 95 %"
    for units in found.units:
        live = f"{'cannot':>27}"
        if units.live is not None:
            groups = (units.live[:1], units.live[1:6], units.live[6:-1], units.live[-1:])
            live = " ".join(f"{sum(group) / max(units.count, 1):>6.1%}" for group in groups)
        z = "not finite" if units.quantiles is None else " / ".join(f"{q:.3g}" for q in units.quantiles)
        marks = f", bends at {' and '.join(f'{mark:.3g}' for mark in units.marks)}" if units.marks else ""
        yield f"{units.site:{width}}  {live}   {z}{marks}"


def linted(network: Architecture, found: Sequence[Problem]) -> Iterator[str]:
    """What the lints say of an architecture, for a terminal."""
    kinds = [site.activation.name for site in network.hidden]
    told = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds))) or "none"
    yield f"{len(network.layers)} layers, hidden activations: {told}"
    yield f"{network.outputs} outputs, {network.classes} labels"
    if not network.fresh:
        yield "the weights are given: nothing is said of the initialisation (ACT-L07)"
    yield from (f"{each.rule} {each.severity}: {each.claim}. {each.advice}" for each in found)
    if not found:
        yield "nothing stands out"


def _share(value: float | None, width: int) -> str:
    return f"{'cannot' if value is None else f'{value:.1%}':>{width}}"
