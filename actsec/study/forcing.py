"""Units of one model forced dead, saturated or to zero: every aim beside noise, PGD and what no attack can beat.

Whatever regions the model's activations have are tried, each by the attacks made for it (CONTENDERS) and by what was
not: random signs, the best of 20 draws of them, PGD on the labels, and the candidate of PGD with most units forced. One
draw of noise and PGD's own best are adversaries with other aims; both "best" are chosen by the count itself.

``run`` does it for networks of several seeds. Its parts (``contend``, brackets.bracket, singles) measure what a target
and rows of Cases come to, for whoever has them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from actsec import registry
from actsec.activations import activation
from actsec.errors import ActsecError, BadOption, ModelError, ThreatError
from actsec.forcing import consequences, units
from actsec.forcing.aim import VERBS, Chosen, Kill, Ranked, groups
from actsec.forcing.brackets import bracket
from actsec.forcing.consequences import Consequence
from actsec.losses import Misclassify
from actsec.result import Bracket, Share
from actsec.running.progress import Progress, Tell
from actsec.search.referee import attack_target, cases_of
from actsec.spec import parse
from actsec.study.singles import Smallest, Twin, Universal, smallest, twins, universal
from actsec.types import Cases, Region, Target
from actsec.verdict.statistics import share

NOISE, BEST, PGD, PGD_BEST = "sign noise", "sign noise, best of 20", "PGD", "PGD for kills"
COUNT, ONE_LAYER, ABLATION = "count", "one layer", "critical, ablation"
SHARE = 0.25
"""Units that count as critical, of every site."""
ABLATIONS = 2000
"""Forwards an image up to which units are ranked by ablation."""
BESIDE = {
    NOISE: "noise(draws=1, kind=sign)",
    BEST: "noise(draws=20, kind=sign)",
    PGD: "pgd(steps={steps})",
    PGD_BEST: "pgd(steps={steps})",
}
CONTENDERS: dict[Region, dict[str, str]] = {
    "dead": {
        **BESIDE,
        COUNT: "dead_relu(steps={steps})",
        "critical, gradient": "dead_relu(steps={steps}, aim=critical)",
        ABLATION: "dead_relu(steps={steps}, aim=critical, rank=ablation)",
        ONE_LAYER: "dead_relu(steps={steps}, site={site!r})",
        "blackout": "dead_relu(steps={steps}, aim=blackout)",
    },
    "saturated": {
        **BESIDE,
        COUNT: "saturation(steps={steps})",
        ONE_LAYER: "saturation(steps={steps}, site={site!r})",
    },
    "zero_tail": {
        **BESIDE,
        COUNT: "zero_tail(steps={steps})",
        ONE_LAYER: "zero_tail(steps={steps}, site={site!r})",
    },
}
"""Attacks by what a report calls them, the same names in every region; ``count`` comes before what rests on it."""
SWAPS = ("leaky_relu", "gelu", "tanh")
"""Activations of the twins."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured. units: per site, whose smallest kills are searched; certified: images that are bracketed."""

    norm: Literal["linf", "l2"] = "linf"
    eps: float = 0.1
    images: int = 64
    seeds: int = 1
    steps: int = 50
    units: int = 4
    certified: int = 40
    swaps: tuple[str, ...] = SWAPS

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise BadOption(f"--norm {self.norm}", "Units are forced in linf or l2.")
        for option in ("eps", "images", "seeds", "steps", "certified"):
            if not getattr(self, option) > 0:
                raise BadOption(f"--{option} {getattr(self, option)}", f"{option} is above 0.")
        if self.units < 0:
            raise BadOption(f"--units {self.units}", "Give how many single units to search at a site, or 0.")
        for name in self.swaps:
            activation(name)


@dataclass(frozen=True, slots=True)
class Forced:
    """What one contender left. labels: changed of those right before, None where none was; x its inputs (n, *shape)."""

    name: str
    attack: str
    effect: Consequence
    labels: Share | None
    x: Tensor = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Contest:
    """Every contender at one region of one target; not_done says why one is missing. site: that of ``one layer``."""

    region: Region
    forced: tuple[Forced, ...]
    not_done: dict[str, str]
    site: str

    def __getitem__(self, name: str) -> Forced:
        return next(each for each in self.forced if each.name == name)

    def __contains__(self, name: str) -> bool:
        return any(each.name == name for each in self.forced)


@dataclass(frozen=True, slots=True)
class Round:
    """One region of one network: contenders, certificates, one delta for all, single units, twins.

    A part that could not be made is None or empty, and not_done says why by its name.
    """

    contest: Contest
    bracket: Bracket
    universal: Universal | None
    smallest: tuple[Smallest, ...]
    twins: tuple[Twin, ...]
    not_done: dict[str, str]


@dataclass(frozen=True, slots=True)
class Network:
    """A target of the study with its seed, its rows, and a round for each region its units have."""

    name: str
    seed: int
    target: Target = field(repr=False, compare=False)
    cases: Cases = field(repr=False, compare=False)
    rounds: tuple[Round, ...]


def regions_of(target: Target, x: Tensor) -> tuple[Region, ...]:
    """The regions that some unit of a target has, in the order of CONTENDERS. Raises ThreatError without one."""
    found = tuple(region for region in CONTENDERS if units.sites(target, x, region))
    if not found:
        raise ThreatError(
            f"no unit of {target.name} can be forced dead, saturated or into a zero tail",
            "Dead: relu, relu6, hardswish. Saturated: tanh, sigmoid, hardtanh. Zero tails: gelu, silu, mish.",
        )
    return found


def contend(
    target: Target,
    cases: Cases,
    region: Region = "dead",
    wanted: Iterable[str] | None = None,
    *,
    steps: int = 50,
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> Contest:
    """Every contender that is wanted, all of the region's if None, on the rows of cases; ``tell`` hears each name.

    Steps + 1 forwards and steps backwards a row for each, and 6 forwards and 2 backwards for what it came to; ranking
    by ablation takes a forward for every unit or channel, and is not done above ABLATIONS.
    Raises ThreatError where no unit has the region, ModelError for values that are not finite.
    """
    names = [*CONTENDERS[region]] if wanted is None else [name for name in CONTENDERS[region] if name in [*wanted]]
    chosen = units.critical(target, cases, Ranked("gradient", SHARE, region))
    made: list[Forced] = []
    not_done: dict[str, str] = {}
    site = ""
    for name in names:
        tell(name)
        if name == ABLATION and (forwards := _ablations(target, cases.x)) > ABLATIONS:
            not_done[name] = f"ranking takes {forwards} forwards an image, more than {ABLATIONS}"
            continue
        if name == ONE_LAYER:
            count = next((each for each in made if each.name == COUNT), None)
            if count is None or len(count.effect.sites) < 2:
                not_done[name] = "the model has one site alone" if count is not None else "it rests on the count"
                continue
            site = max(count.effect.sites, key=lambda s: s.killed - s.revived).name
        attack = CONTENDERS[region][name].format(steps=steps, site=site)
        try:
            made.append(_forced(name, attack, target, cases, region, chosen, seed))
        except ModelError as problem:  # it went where the model has values that are not finite
            not_done[name] = problem.problem
    return Contest(region, tuple(made), not_done, site)


def _forced(name: str, attack: str, target: Target, cases: Cases, region: Region, chosen: Chosen, seed: int) -> Forced:
    built: Any = registry.build("attacks", attack)
    goal = Misclassify() if name == PGD else Kill(region, getattr(built, "site", None), getattr(built, "aim", "count"))
    # PGD on the labels does not ask about images that are wrong already; they stay untouched.
    left = attack_target(built, target, cases, goal, settle=False, seed=seed, name=name)
    found = consequences.compare(target, cases.x, left.x, cases.y, region, chosen, cases.id)
    labels = share(found.changed, found.right) if found.right else None
    return Forced(name, str(parse(attack)), found, labels, left.x)


def _ablations(target: Target, x: Tensor) -> int:
    """Forwards an image that ranking by ablation takes: a unit or channel each."""
    return sum(groups(torch.empty(1, *site.shape, device="meta"))[0] for site in units.sites(target, x))


def investigate(target: Target, cases: Cases, region: Region, settings: Settings, seed: int, tell: Tell) -> Round:
    """One region of one network: everything that Settings ask."""
    steps = settings.steps
    missing: dict[str, str] = {}
    contest = contend(target, cases, region, steps=steps, seed=seed, tell=lambda name: tell(_at(region, name)))
    if COUNT not in contest:
        raise ModelError(contest.not_done[COUNT], "Look at the sites with actsec diagnose.")
    x = contest[COUNT].x
    few = slice(0, settings.certified)
    tell(_at(region, "certificates"))
    bracketed = bracket(target, cases.rows(few), x[few], region)
    tell(_at(region, "one delta for all"))
    delta: Universal | None = None
    try:
        delta = universal(target, cases, region, str(CONTENDERS[region][COUNT].format(steps=steps)), seed)
    except (ThreatError, ModelError) as problem:
        missing["universal"] = problem.problem
    tell(_at(region, "single units"))
    singles = smallest(target, cases.rows(few), region, settings.units, seed) if settings.units else ()
    tell(_at(region, "twins"))
    passed: tuple[Twin, ...] = ()
    try:
        others = tuple(name for name in settings.swaps if parse(name).name not in _kinds(target, cases.x))
        shown = {name: contest[name].x for name in (NOISE, PGD, COUNT, "critical, gradient") if name in contest}
        passed = twins(target, cases, others, shown, region)
    except (ActsecError, RuntimeError) as problem:  # what cannot be copied or rewritten
        missing["twins"] = problem.problem if isinstance(problem, ActsecError) else str(problem).splitlines()[0]
    return Round(contest, bracketed, delta, singles, passed, missing)


def _at(region: Region, name: str) -> Progress:
    return Progress(0, 0, f"{VERBS[region]}: {name}", None)


def _kinds(target: Target, x: Tensor) -> set[str]:
    return {site.kind for region in CONTENDERS for site in units.sites(target, x, region)}


def run(
    networks: Sequence[tuple[Target, int]], x: Tensor, y: Tensor, settings: Settings, tell: Tell = lambda _: None
) -> tuple[Network, ...]:
    """The study of targets, each with its seed, on inputs x (n, *shape) and labels y (n,).

    Raises ThreatError where no unit can be forced, ModelError for values that are not finite.
    """
    found = []
    every = [(target, seed, regions_of(target, x)) for target, seed in networks]
    clock = _Clock(sum(len(CONTENDERS[region]) + 4 for *_, regions in every for region in regions), tell)
    for target, seed, regions in every:
        cases = cases_of(target, x, y, settings.norm, settings.eps)
        rounds = tuple(investigate(target, cases, region, settings, seed, clock) for region in regions)
        found.append(Network(target.name, seed, target, cases, rounds))
    clock(Progress(0, 0, "done", None))
    return tuple(found)


class _Clock:
    """Counts the parts of a study as they begin, and the time left by their mean so far."""

    def __init__(self, total: int, tell: Tell) -> None:
        self.total, self.tell, self.begun, self.seen = total, tell, time.monotonic(), -1

    def __call__(self, standing: Progress) -> None:
        self.seen = min(self.seen + 1, self.total)
        left = (time.monotonic() - self.begun) / self.seen * (self.total - self.seen) if self.seen else None
        self.tell(replace(standing, done=self.seen, total=self.total, left=left))
