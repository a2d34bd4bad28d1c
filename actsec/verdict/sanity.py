"""Can the number be believed? One rule a file; each reads the evidence and says ok, warn, red or not done.

A rule knows no attack, only the roles of attacks: bool arrays "still correct after it", on the same rows. Two rows of
numbers are told apart by a gap above delta = max(0.02, 2 standard errors of the paired difference).

Two questions are kept apart, since masking flatters some attacks and not others:

    Is the reported worst case too high?   red with voids: a passing robustness number must not be believed. Said only
                                           when some attack breaks examples that all gradient attacks together leave,
                                           or the gradients are shown to be wrong, absent or unsearched.
    Does the model hide its gradients?     warn where only the audited cross-entropy attack is fooled and a stronger
                                           attack in the same audit already tells the truth.

``state`` sums up: masked, randomised, unchecked (an essential rule could not be applied) or clean.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol

from actsec import registry
from actsec.types import Evidence, Finding, Status, Threat
from actsec.verdict import false_alarms

State = Literal["clean", "randomised", "masked", "unchecked"]

Command = Callable[[str, Threat], str]
"""The command that runs an attack on the model that is judged, from the attack's spec and the threat."""


def attack_command(attack: str, threat: Threat) -> str:
    """The command that runs an attack, without the model, which whoever types it knows."""
    return shlex.join(["actsec", "attack", attack, "--threat", str(threat)])


def diagnose(
    evidence: Evidence, names: Sequence[str] | None = None, command: Command = attack_command
) -> tuple[Finding, ...]:
    """The findings of the named diagnostics (specs such as ``unbounded_fails(limit=0.05)``), or of all, in rule order.

    A diagnostic that crashes leaves a finding with status ``error``, never silence or ``ok``. Unknown names raise. What
    is neither ok nor beside the point carries a command to dig further and the rule's false-alarm rate.
    """
    chosen = registry.names("diagnostics") if names is None else names
    wanted = [registry.build("diagnostics", name) for name in chosen]
    findings: list[Finding] = []
    for diagnostic in sorted(wanted, key=lambda each: str(each.rule)):
        try:
            findings.extend(diagnostic(evidence))
        except Exception as error:  # noqa: BLE001  # whatever a rule raises, the audit goes on and says so
            claim = f"The check crashed: {type(error).__name__}: {error}"
            advice = "Report this as a bug; until then count the check as not done."
            voids = bool(getattr(diagnostic, "essential", False))
            findings.append(Finding(diagnostic.rule, diagnostic.title, "error", claim, {}, advice, "medium", voids))
            continue
        fired = [i for i, each in enumerate(findings) if each.rule == diagnostic.rule and each.status in _SPEAKS]
        for i in fired:
            findings[i] = _equipped(findings[i], diagnostic, evidence.threat, command)
    return tuple(findings)


_SPEAKS = ("warn", "red")


def _equipped(found: Finding, diagnostic: Any, threat: Threat, command: Command) -> Finding:
    """A finding with how to go on from it, and how far to trust it."""
    dig = getattr(diagnostic, "dig", "")
    how = command(dig, threat) if dig and _runs(dig, threat) else shlex.join(["actsec", "explain", found.rule])
    return dataclasses.replace(found, command=how, false_alarms=false_alarms.words(found.rule))


def _runs(attack: str, threat: Threat) -> bool:
    """Whether an attack works under a threat: not each one has every norm, or can do without an eps."""
    made = registry.build("attacks", attack)
    endless = threat.eps is None and threat.norm != "l2" and "minimal" not in made.roles
    suits = ("minimal" in made.roles) == (threat.eps is None) or "any_eps" in made.roles
    return threat.norm in made.norms and suits and not endless


_SMALLEST = ("ACT-M22", "ACT-M23")
"""The rules that compare searches for the smallest change."""


def _kinds() -> dict[str, Any]:
    """Every diagnostic by its rule."""
    return {kind.rule: kind for kind in (registry.find("diagnostics", name) for name in registry.names("diagnostics"))}


class Judged(Protocol):
    """A finding, or a check of a report."""

    @property
    def rule(self) -> str: ...

    @property
    def status(self) -> Status: ...


def undone(findings: Iterable[Judged]) -> tuple[str, ...]:
    """The essential rules that were not done or crashed, whatever the state says: of a target that draws as well."""
    kinds = _kinds()
    return tuple(
        each.rule
        for each in findings
        if each.status in ("not_done", "error") and getattr(kinds.get(each.rule), "essential", False)
    )


def compared(findings: Iterable[Judged]) -> bool:
    """Whether some rule held one attack against another: direct questions to the model say nothing of a threat."""
    kinds = _kinds()
    return any(
        each.status in ("ok", "warn", "red") and (each.rule in _SMALLEST or getattr(kinds.get(each.rule), "roles", ()))
        for each in findings
    )


def state(findings: Iterable[Finding], stochastic: bool) -> State:
    """The masking verdict on findings of ``diagnose``; the first of these that holds.

    randomised: forward passes differ although the target does not say so, which explains every other sign; masked: some
    rule says that gradients are hidden; unchecked: no rule that compares attacks exists for the threat; randomised: the
    target is stochastic; unchecked: an essential rule was not done or crashed, or the number is void for another reason
    (a search cut short, a constant output); clean: none of these.
    """
    found = tuple(findings)
    kinds = _kinds()
    status = {each.rule: each.status for each in found}
    if status.get("ACT-M11") == "red":
        return "randomised"
    if any(each.status in getattr(kinds.get(each.rule), "masks", ("red",)) for each in found):
        return "masked"
    if not compared(found):
        return "unchecked"
    if stochastic:
        return "randomised"
    essential = [rule for rule, kind in kinds.items() if getattr(kind, "essential", False)]
    undone = any(status.get(rule, "not_done") in ("not_done", "error") for rule in essential)
    return "unchecked" if undone or any(each.voids for each in found) else "clean"
