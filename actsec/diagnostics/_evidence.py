"""Reading the evidence: gaps between attacks on the same rows, and what to say when a role is missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsec.spec import Value
from actsec.types import GRADIENT, JUDGE_DRAWS, Diagnostic, Evidence, Finding, Status

Shares = NDArray[np.float64]
"""Of each row (n,) the share of the judge's answers that were correct: 0 or 1 unless the target draws."""

_DOUBT = 2 * math.sqrt(2 * 0.25 / JUDGE_DRAWS)
"""Two standard errors of the difference of two shares of the judge's draws, where they are largest."""
FEWEST = 2
"""Paired comparisons need at least so many images."""

_WORDS = {
    "single_step": "the single-step attack",
    "iterative": "the iterative attack",
    "doubled": "the iterative attack with twice the steps and restarts",
    "margin": "the margin attack",
    "unbounded": "the unbounded attack",
    "gradient_free": "the gradient-free search",
    "noise": "random noise",
    "transfer": "the attack made on another model",
    "attack": "the search",
}


@dataclass(frozen=True, slots=True)
class Gap:
    """How much lower the second accuracy is than the first on the same rows; large above delta."""

    first: float
    second: float
    drop: float
    delta: float
    n: int

    @property
    def large(self) -> bool:
        return self.drop > self.delta


def gap(first: Shares, second: Shares, least: float) -> Gap:
    """The paired gap of two arrays of shares (n,), with delta = max(least, 2 standard errors)."""
    if first.shape != second.shape or not len(first):
        raise ValueError(f"roles cover different rows: {first.shape} and {second.shape}")
    change = np.asarray(first, np.float64) - second
    n = len(change)
    error = float(change.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return Gap(float(first.mean()), float(second.mean()), float(change.mean()), max(least, 2 * error), n)


def still(evidence: Evidence, roles: Iterable[str]) -> Shares:
    """What the strongest attack of these roles that were made leaves of each row (n,)."""
    return least_of(evidence.clean, *(evidence.correct[role] for role in roles if role in evidence.correct))


def accuracy(evidence: Evidence, role: str) -> Shares:
    """What one role's attack leaves of each row (n,)."""
    return np.asarray(evidence.correct[role], np.float64)


def least_of(*shares: NDArray[Any]) -> Shares:
    """Row by row (n,) the least."""
    return np.asarray(np.minimum.reduce([np.asarray(share, np.float64) for share in shares]))


def after(evidence: Evidence, left: Shares, *more: NDArray[Any]) -> Shares:
    """Of what is left of each row (n,), what still stands when more attacks are made.

    Of a target that draws the least of several estimates lies below each of them by chance: a row falls only by more
    than two standard errors of the difference of two estimates.
    """
    least = least_of(left, *more)
    return np.where(left - least > _DOUBT, least, left) if evidence.stochastic else least


def lower_bound(k: int, n: int) -> float:
    """The lower end of the 95 % interval of k of n: one stray example in fifty is no share above 1 %."""
    from actsec.verdict.statistics import share

    return share(k, n).low


def unanswerable(diagnostic: Diagnostic, evidence: Evidence, *, follows: bool = False) -> Finding | None:
    """The finding to give when the threat makes the rule meaningless or a role it needs is missing; None: go on.

    follows says that the rule is about gradients although it needs none of their roles.
    """
    threat = evidence.threat
    if threat.eps is None or threat.goal != "misclassify":
        what = "the smallest change has no fixed budget" if threat.eps is None else f"the goal is {threat.goal}"
        return finding(diagnostic, "not_applicable", f"Compares accuracies at one eps; here {what}.")
    if threat.norm == "l0" and (follows or set(diagnostic.roles) & {*GRADIENT, "unbounded"}):
        return finding(diagnostic, "not_applicable", "Attacks on few pixels are searched without gradients.")
    if diagnostic.roles and len(evidence.clean) < FEWEST:
        return finding(diagnostic, "not_done", f"Not done: {len(evidence.clean)} images say nothing.")
    missing = [role for role in diagnostic.roles if role not in evidence.correct]
    if missing:
        words = " and ".join(_WORDS.get(role, role) for role in missing)
        return finding(
            diagnostic,
            "not_done",
            f"Not done: {words} was not run.",
            advice="Add an attack with this role to the plan.",
        )
    return None


def unprobed(diagnostic: Diagnostic, evidence: Evidence, key: str) -> Finding | None:
    """The finding to give when the model was not probed for this number; None: go on."""
    if evidence.probe.get(key) is None:
        return finding(diagnostic, "not_done", "Not done: the model was not probed for this.")
    return None


def finding(
    diagnostic: Diagnostic,
    status: Status,
    claim: str,
    numbers: Mapping[str, Value] | None = None,
    advice: str = "",
    *,
    severity: Any = "none",
    voids: bool = False,
) -> Finding:
    """A finding under the rule's id and title."""
    return Finding(diagnostic.rule, diagnostic.title, status, claim, dict(numbers or {}), advice, severity, voids)


def numbers(found: Gap, **more: Value) -> dict[str, Value]:
    """value is the drop in accuracy, limit is delta."""
    accuracies = {"first": found.first, "second": found.second}
    return {"value": found.drop, "limit": found.delta, "n": found.n, **accuracies, **more}


def percent(value: float) -> str:
    """0.317 as ``31.7 %``."""
    return f"{100 * value:.1f} %"


def beside_gradients(diagnostic: Diagnostic, evidence: Evidence, role: str, least: float) -> Finding:
    """Judge an attack that follows no gradient of the model against all that do."""
    plain = gap(accuracy(evidence, "iterative"), accuracy(evidence, role), least)
    followed = still(evidence, GRADIENT)
    alone = gap(followed, after(evidence, followed, accuracy(evidence, role)), least)
    shown = numbers(plain, only_this=alone.drop, only_this_limit=alone.delta)
    words = _WORDS[role]
    claim = f"After the iterative attack {percent(plain.first)} are correct, after {words} {percent(plain.second)}."
    advice = "Gradients mislead the attack here; believe the lower number, and search longer without gradients."
    if alone.large:
        claim += f" It breaks {percent(alone.drop)} that no gradient attack breaks."
        return finding(diagnostic, "red", claim, shown, advice, severity="high", voids=True)
    if plain.large:
        return finding(diagnostic, "warn", claim, shown, advice, severity="medium")
    return finding(diagnostic, "ok", claim, shown)


def comes_nearer(diagnostic: Diagnostic, evidence: Evidence, role: str, by: float, least: float) -> Finding:
    """Judge a search for the smallest change that follows no gradient against those that do, row by row.

    It comes nearer where its size is below ``by`` times theirs.
    """
    if evidence.threat.eps is not None or evidence.threat.goal != "misclassify":
        return finding(diagnostic, "not_applicable", "Compares the smallest changes; this threat has a fixed budget.")
    if evidence.threat.norm != "l2":
        claim = f"Nothing searches without gradients for the smallest {evidence.threat.norm} change."
        return finding(diagnostic, "not_applicable", claim)
    if evidence.stochastic:
        return finding(diagnostic, "not_applicable", "The smallest change to a target that draws is one draw's luck.")
    sizes, words = evidence.sizes, _WORDS[role]
    if "minimal" not in sizes or role not in sizes or min(len(sizes["minimal"]), len(sizes[role])) < FEWEST:
        what = words if role not in sizes else "a gradient search for the smallest change"
        advice = "Add an attack with this role to the plan."
        return finding(diagnostic, "not_done", f"Not done: {what} was not run.", advice=advice)
    # The search by score costs more and sees fewer rows: the first of them.
    rows = min(len(sizes["minimal"]), len(sizes[role]))
    followed, searched = sizes["minimal"][:rows], sizes[role][:rows]
    found = gap(np.ones(rows), np.where(searched < by * followed, 0.0, 1.0), least)
    share = {"value": found.drop, "limit": found.delta, "n": found.n}
    both = [float(np.median(values)) for values in (followed, searched)]
    medians = {"median_gradient": both[0], f"median_{role}": both[1]}
    shown = {**share, **{name: value for name, value in medians.items() if math.isfinite(value)}}
    claim = f"{words[:1].upper()}{words[1:]} comes nearer than every gradient search on {percent(found.drop)} of rows."
    if found.large:
        advice = "Gradients mislead the search; believe the smaller sizes, and search longer without gradients."
        return finding(diagnostic, "red", claim, shown, advice, severity="high", voids=True)
    return finding(diagnostic, "ok", claim, shown)
