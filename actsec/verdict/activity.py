"""What activation health comes to: limits, findings, gates, the exit code, and the words for a terminal.

Nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actsec.errors import PlanError, unknown
from actsec.result import Calibration, Clean, GateResult, Problem, Share, SiteHealth
from actsec.verdict import gates as audited

if TYPE_CHECKING:
    from actsec.architecture import Architecture

VANISHING, EXPLODING = 1e-3, 1e3
DEAD, SATURATED = 0.25, 0.5
WRONG, SURE = 5, 0.9
"""Wrong answers are called sure when there are at least 5 and their mean confidence is above 0.9."""
_GATE = re.compile(r"\s*(?P<metric>[a-z_]+)\s*(?P<sign>>=|<=)\s*(?P<limit>\d*\.?\d+(?:[eE][-+]?\d+)?)\s*")
METRICS = ("dead", "permanently_dead", "saturated", "gradient_ratio", "ece", "confidence_when_wrong")


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer with weights, in the order of the first call: the norm of the loss's gradient by them, median."""

    name: str
    gradient_norm: float | None


@dataclass(frozen=True, slots=True)
class Checkup:
    """What was found. n images were watched; clean and calibration are on all test images.

    left_out counts calls that are no hidden activation: gates, the output, constants. gradient_ratio is G, None where
    the last layer has no gradient. exit_code: 0, 1 where a gate failed, 3 where nothing can be said.
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


def findings(
    sites: Sequence[SiteHealth],
    steep: frozenset[str],
    unresolved: Sequence[str],
    ratio: float | None,
    accuracy: Share,
    calibration: Calibration,
    n: int,
) -> tuple[Problem, ...]:
    """What is wrong, worst first. steep names the sites that saturate above, where saturation is no matter of course.

    Limits: 25 % of a site's units dead on every image, half of its units saturated on average, G outside [1e-3, 1e3],
    ECE above the 95 % point of its null.
    """
    found = [*_of_sites(sites, steep, n), *_of_confidence(accuracy, calibration)]
    if ratio is not None and not VANISHING <= ratio <= EXPLODING:
        what, cure = ("vanish", "relu, tanh or residual connections") if ratio < 1 else ("explode", "gradient clipping")
        claim = f"gradients {what}: the first layer's is {ratio:.2g} times the last layer's"
        found.append(_problem("ACT-A04", "medium", claim, f"Try {cure}, normalisation, another initialisation."))
    if unresolved:
        claim = f"{len(unresolved)} calls act as activations and cannot be watched: {unresolved[0]}"
        found.append(_problem("ACT-A02", "low", claim, "They are neither watched nor swapped."))
    return worst_first(found)


def worst_first(found: Sequence[Problem]) -> tuple[Problem, ...]:
    """By severity, then by rule."""
    order = ("high", "medium", "low")
    return tuple(sorted(found, key=lambda problem: (order.index(problem.severity), problem.rule)))


def _of_sites(sites: Sequence[SiteHealth], steep: frozenset[str], n: int) -> Iterator[Problem]:
    if not sites:
        yield _problem("ACT-A06", "high", "no activation that sees the input was found", "Is the model linear?")
    if broken := [site.name for site in sites if not site.finite]:
        claim = f"{broken[0]} gives values that are not finite, {len(broken)} of {len(sites)} sites do"
        yield _problem("ACT-A00", "high", claim, "Look for NaN in the weights.")
    dead = [site for site in sites if (site.permanently_dead or 0) > DEAD]
    if dead:
        worst = max(dead, key=lambda site: site.permanently_dead or 0)
        claim = f"{worst.permanently_dead:.0%} of the units of {worst.name} are dead on all {n} images; {_and(dead)}"
        advice = "Usual causes: a high learning rate, initialisation, a large negative bias, poisoned data."
        yield _problem("ACT-A01", "medium", claim, advice)
    flat = [site for site in sites if site.name in steep and (site.saturated or 0) > SATURATED]
    if flat:
        worst = max(flat, key=lambda site: site.saturated or 0)
        claim = f"{worst.saturated:.0%} of the units of {worst.name} are saturated on average; {_and(flat)}"
        yield _problem("ACT-A03", "medium", claim, "Usual causes: large weights, inputs of another scale than trained.")


def _and(sites: Sequence[SiteHealth]) -> str:
    return "no other site is" if len(sites) == 1 else f"{len(sites)} sites are over the limit"


def _of_confidence(accuracy: Share, calibration: Calibration) -> Iterator[Problem]:
    over = calibration.mean_confidence > accuracy.value
    if calibration.ece > calibration.null_p95:
        claim = (
            f"{'overconfident' if over else 'underconfident'}: mean confidence {calibration.mean_confidence:.3f}, "
            f"accuracy {accuracy.value:.3f}; ECE {calibration.ece:.3f}, by chance up to {calibration.null_p95:.3f}"
        )
        yield _problem("ACT-A05", "medium" if over else "low", claim, "Try actsec defend temperature.")
    wrong, sure = accuracy.n - accuracy.k, calibration.confidence_when_wrong
    if wrong >= WRONG and sure is not None and sure > SURE:
        claim = f"sure of its mistakes: mean confidence {sure:.3f} on {wrong} wrong answers"
        yield _problem("ACT-A07", "medium", claim, "Do not use its confidence to decide what a person should look at.")


def _problem(rule: str, severity: Any, claim: str, advice: str) -> Problem:
    return Problem(rule, severity, "", claim, advice)


def metrics(sites: Sequence[SiteHealth], ratio: float | None, calibration: Calibration) -> dict[str, float | None]:
    """What gates may speak of: of sites, the worst one's."""

    def most(name: str) -> float | None:
        return max((value for site in sites if (value := getattr(site, name)) is not None), default=None)

    of_sites = {name: most(name) for name in ("dead", "permanently_dead", "saturated")}
    sure = calibration.confidence_when_wrong
    return {**of_sites, "gradient_ratio": ratio, "ece": calibration.ece, "confidence_when_wrong": sure}


def check_gates(gates: Sequence[str]) -> None:
    """Raise PlanError or UnknownName for a gate that cannot be read."""
    for text in gates:
        match = _GATE.fullmatch(text)
        metric = re.split(r"[^a-z_]", text.strip(), maxsplit=1)[0]
        if metric in audited.METRICS and metric not in METRICS:
            known = ", ".join(METRICS)
            raise PlanError(f"gate {text!r}: {metric} is for `actsec audit` to decide", f"Known here: {known}.")
        if match is None:
            raise PlanError(f"cannot read the gate {text!r}", "Write METRIC<=LIMIT: permanently_dead<=0.1.")
        if match["metric"] not in METRICS:
            raise unknown("metric", match["metric"], METRICS)


def decide(text: str, found: dict[str, float | None]) -> GateResult:
    """A gate on the worst site, decided by its value on the images looked at."""
    match = _GATE.fullmatch(text)
    assert match is not None  # noqa: S101  # check_gates has read it
    value, limit = found[match["metric"]], float(match["limit"])
    if value is None:
        return GateResult(text, "", None, None, None, limit, "no verdict", "it was not measured")
    held = value >= limit if match["sign"] == ">=" else value <= limit
    return GateResult(text, "", value, None, None, limit, "passed" if held else "failed", f"it is {value:.4g}")


def exit_code(found: Sequence[Problem], gates: Sequence[GateResult]) -> int:
    """1 where a gate failed, 3 where nothing can be said, else 0: finished, which is not the same as healthy."""
    if any(gate.outcome == "failed" for gate in gates):
        return 1
    blocked = any(problem.rule in ("ACT-A00", "ACT-A06") for problem in found)
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
        yield "gradient, first layer over last: not measured"
    else:
        first, last = found.layers[0].name, found.layers[-1].name
        yield f"gradient, first layer over last ({first} / {last}): {found.gradient_ratio:.3g}"
    yield ""
    width = max([len(site.name) for site in found.sites] + [4])
    yield f"{'site':{width}}  {'kind':11} {'units':>8}  {'dead':>7}  {'always':>7}  {'saturated':>9}  {'gradient':>9}"
    for site in found.sites:
        shares = (_share(site.dead, 7), _share(site.permanently_dead, 7), _share(site.saturated, 9))
        norm = "not done" if site.gradient_norm is None else f"{site.gradient_norm:.2e}"
        odd = "" if site.finite else "  NOT FINITE"
        yield f"{site.name:{width}}  {site.kind:11} {site.units:>8}  {'  '.join(shares)}  {norm:>9}{odd}"
    yield ""
    yield from (f"{each.rule} {each.severity}: {each.claim}. {each.advice}" for each in found.findings)
    if not found.findings:
        yield "nothing stands out"
    yield from (f"gate {gate.gate}: {gate.outcome} ({gate.why})" for gate in found.gates)


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
