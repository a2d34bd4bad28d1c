"""Units forced by an attack: beside noise and PGD at the same eps, beside certificates, and on other models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from actsec import registry
from actsec.result import Bracket, Kill, KillEffect, PassedOn, SiteBracket, SiteKill
from actsec.spec import parse
from actsec.types import Outcome
from actsec.verdict import statistics
from actsec.verdict.gathering import Gathered, Tried
from actsec.verdict.statistics import share_of


def kills(g: Gathered) -> tuple[Kill, ...]:
    """Dead-ReLU forcing at each of its budgets, beside noise and PGD at the same one."""
    attacks = [t for t in g.tried if t.trial.role == "kill"]
    return tuple(kill for attack in attacks for kill in _kill(g, attack))


def _kill(g: Gathered, attack: Tried) -> tuple[Kill, ...]:
    by_role = {t.trial.role: t for t in g.tried if t.trial.threat == attack.trial.threat} | {"kill": attack}
    if not attack.usable and attack.reason is None:
        return ()
    threat, n = attack.trial.threat, len(attack.arrays.get("status", ()))
    if attack.reason is not None:
        return (Kill(threat, False, attack.reason, 0, None, None, None, None, None, None, None, None, None, ()),)
    # What was tried on fewer rows stands beside nothing; of what was tried on more, the same rows count.
    others = {role: t for role, t in by_role.items() if t.usable and len(t.arrays["status"]) >= n}
    net = attack.arrays["net"].astype(np.float64)
    low, high = statistics.interval(statistics.resampled(net[:, None], 0)[:, 0] / n)

    def mean(role: str, key: str) -> float | None:
        return float(others[role].arrays[key][:n].mean()) if role in others else None

    def changed(role: str) -> Any:
        right = g.clean_wrong[:n] < 0.5
        return share_of(others[role].arrays["wrong"][:n][right] > 0.5) if role in others and right.any() else None

    return (
        Kill(
            threat=threat,
            applicable=True,
            reason="",
            n=n,
            net=float(net.mean()),
            net_low=low,
            net_high=high,
            noise_net=mean("kill_noise", "net"),
            pgd_net=mean("kill_pgd", "net"),
            killed_of_active=mean("kill", "killed_of_active"),
            noise_killed_of_active=mean("kill_noise", "killed_of_active"),
            label_changed=changed("kill"),
            noise_label_changed=changed("kill_noise"),
            sites=_site_kills(attack.numbers),
            effect=_kill_effect(attack, others.get("kill_noise"), others.get("kill_pgd")),
            attack=str(registry.brief("attacks", parse(attack.trial.attack))),
            bracket=_bracket(attack.bracketed),
            passed=_passed(attack.bracketed),
        ),
    )


def _bracket(found: Outcome | None) -> Bracket | None:
    told = None if found is None else found.numbers.get("bracket")
    if told is None:
        return None
    several = {name: tuple(told[name]) for name in ("blackouts", "blackouts_anywhere")}
    return Bracket(**{**told, **several, "sites": tuple(SiteBracket(**site) for site in told["sites"])})


def _passed(found: Outcome | None) -> tuple[PassedOn, ...]:
    told = [] if found is None else found.numbers.get("passed", [])
    return tuple(
        PassedOn(each["name"], statistics.share(each["changed"], each["right"]) if each["right"] else None, each["net"])
        for each in told
    )


def _kill_effect(attack: Tried, noise: Tried | None, pgd: Tried | None) -> KillEffect | None:
    """What forcing did to margins and gradients, beside noise and PGD on the same rows.

    Their critical units are those of the default ranking: beside an attack on others they say nothing.
    """
    n, options = len(attack.arrays["status"]), dict(parse(attack.trial.attack).options)
    ranked = (options.get("rank", "gradient"), options.get("share", 0.25))
    alike = options.get("aim") != "critical" or ranked == ("gradient", 0.25)

    def critical(tried: Tried | None) -> float | None:
        found = None if tried is None else tried.arrays.get("critical_killed")
        return None if found is None else float(found[:n].mean())

    def ratio(tried: Tried) -> float | None:
        before, after = tried.arrays["gradient_before"][:n], tried.arrays["gradient_after"][:n]
        return float(np.median(after[before > 0] / before[before > 0])) if (before > 0).any() else None

    if "margin_before" not in attack.arrays:
        return None
    arrays = attack.arrays
    return KillEffect(
        margin_before=float(np.median(arrays["margin_before"])),
        margin_after=float(np.median(arrays["margin_after"])),
        gradient_ratio=ratio(attack),
        zero_gradients=float((arrays["gradient_after"] == 0).mean()),
        blackouts=float(arrays["blackout"].mean()),
        noise_margin_after=None if noise is None else float(np.median(noise.arrays["margin_after"][:n])),
        noise_gradient_ratio=None if noise is None else ratio(noise),
        critical_killed=critical(attack),
        noise_critical_killed=critical(noise) if alike else None,
        pgd_critical_killed=critical(pgd) if alike else None,
    )


def _site_kills(numbers: Sequence[dict[str, Any]]) -> tuple[SiteKill, ...]:
    """Per-site means over the shards of a trial, weighted by their rows."""
    tables, weights = [n["kill"]["sites"] for n in numbers], [int(n["rows"]) for n in numbers]
    total = sum(weights)

    def mean(i: int, key: str) -> float:
        return float(sum(w * table[i][key] for w, table in zip(weights, tables, strict=True)) / total)

    keys = ("dead_before", "dead_after", "killed", "revived")
    return tuple(
        SiteKill(site["name"], site["kind"], site["units"], *(mean(i, key) for key in keys))
        for i, site in enumerate(tables[0])
    )
