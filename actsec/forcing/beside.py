"""One forcing attack by itself: what it did to units and labels, beside noise and plain PGD at the same eps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from actsec import registry
from actsec.errors import ModelError
from actsec.forcing import consequences, units
from actsec.forcing.aim import Kill, Ranked
from actsec.forcing.consequences import Consequence
from actsec.planning import budgets
from actsec.search.ledger import Verdicts
from actsec.search.referee import attack_target
from actsec.types import Cases, Region, Target, Threat

BASELINES = {"noise": "noise(draws=20)", "PGD": "pgd(steps=20)"}


@dataclass(frozen=True, slots=True)
class Forced:
    """What the attack, noise or PGD (``by``) came to.

    rise: the mean net rise that the attack aims at, of all units that anything moves, or of those of its site or of its
    critical ones;
    effect: units and labels, whatever was aimed at.
    """

    by: str
    rise: float
    effect: Consequence


def measure(
    attack: object, verdicts: Verdicts, under: Threat, region: Region, target: Target, cases: Cases, seed: int
) -> tuple[Forced, ...]:
    """What the verdicts of a forcing attack came to, then each of BASELINES that left finite values everywhere.

    58 forwards and 26 backwards a row, and the ranking of critical units where they are aimed at.
    Raises ModelError for values that are not finite.
    """
    ranked: Ranked | None = getattr(attack, "ranked", None)
    chosen = None if ranked is None else units.critical(target, cases, ranked)
    goal = Kill(region, getattr(attack, "site", None), chosen=chosen)
    repeats = budgets.repeats("standard", target)

    def forced(by: str, score: Tensor, x: Tensor) -> Forced:
        effect = consequences.compare(target, cases.x, x, cases.y, region, chosen, cases.id)
        every = chosen is None and goal.site is None
        return Forced(by, effect.net if every else float(score.mean()), effect)

    found = [forced("attack", verdicts.score, verdicts.x)]
    for by, spec in BASELINES.items():
        built = registry.build("attacks", spec)
        made = attack_target(built, target, cases, goal, seed=seed, name=f"{spec}@{under}", repeats=repeats)
        with contextlib.suppress(ModelError):  # it went where the model has values that are not finite
            found.append(forced(by, made.score, made.x))
    return tuple(found)


def words(found: tuple[Forced, ...], region: Region, *, blackout: bool = False) -> str:
    """``at the same eps noise +0.011, ...; killed 14.0% of active units (...); the label changed on 3 of 58 images``.

    A blackout has no rise to hold beside noise and PGD: they are counted in darkened images as it is.
    """
    first, *rest = found
    made = {each.by: each for each in rest}

    def told(text: Callable[[Forced], str]) -> str:
        return ", ".join(f"{by} {text(made[by]) if by in made else 'not done'}" for by in BASELINES)

    dark = told(lambda each: str(round(each.effect.blackout * each.effect.n)))
    risen = dark if blackout else told(lambda each: f"{each.rise:+.3f}")
    killed = told(lambda each: f"{each.effect.killed_of_active:.1%}")
    changed = told(lambda each: str(each.effect.changed))
    effect, units_ = first.effect, "active units" if region == "dead" else "the units that were not there"
    return (
        f"at the same eps {risen}; {'killed' if region == 'dead' else 'forced'} {effect.killed_of_active:.1%} of "
        f"{units_} ({killed}); the label changed on {effect.changed} of {effect.right} images ({changed})"
    )
