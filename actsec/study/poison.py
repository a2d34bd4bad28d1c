"""Poisoned training against clean twins: whether planted rows weaken layers, and hide what attacks would find.

Every network is trained with the same recipe from the same initial weights three times over: on clean rows, with the
poison's rows, and with as many random rows in the same place. What counts is what the poison does beyond both others.
Poisons of an update act on the clean-trained network: a few steps on the planted rows alone, where the twin takes as
many steps on as many clean rows. After that all are trained on clean rows for some epochs more: what is left persists.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from actsec import registry
from actsec.activations import activation
from actsec.activations.regions import regions
from actsec.running.progress import Progress, Tell
from actsec.spec import parse
from actsec.study.activations import read
from actsec.study.harm import Harm
from actsec.study.laboratory import CLEAN, MITIGATIONS, NONE, RANDOM, Laboratory, Network, Outcome, Settings
from actsec.training import Recipe
from actsec.types import Poison


@dataclass(frozen=True, slots=True)
class Cell:
    """One network of the study beside its twin and its control, each a tuple over seeds.

    adapted: the poison is planted by one who knows the mitigation; ``poison`` is then still the plain one's spec.
    """

    activation: str
    depth: int
    poison: str
    mitigation: str
    poisoned: tuple[Outcome, ...]
    twin: tuple[Outcome, ...]
    control: tuple[Outcome, ...]
    adapted: bool = False


def network_of(settings: Settings, kind: str, depth: int, seed: int, mitigation: str = NONE) -> Network:
    """The clean network of an activation, depth and seed, with what a mitigation changes."""
    changes = dict(MITIGATIONS.get(mitigation, {}))
    checked = bool(changes.pop("checked", False))
    of_recipe = {name: changes.pop(name) for name in ("clip_norm", "optimizer", "learning_rate") if name in changes}
    options = {"activation": activation(kind).spec, "width": f"[{settings.width}]", "depth": depth} | changes
    spec = f"mlp({', '.join(f'{name}={value}' for name, value in options.items())})"
    plain = Recipe(
        epochs=settings.epochs,
        batch_size=32,
        optimizer="sgd",
        learning_rate=settings.learning_rate,
        momentum=0.0,
        schedule="constant",
        seed=seed,
    )
    return Network(spec, dataclasses.replace(plain, **of_recipe), checked)


def run(source: str, settings: Settings, tell: Tell = lambda _: None) -> tuple[Cell, ...]:
    """Train and measure every network. Raises what reading data, building and the poisons raise."""
    laboratory = Laboratory(read(source), settings)
    tried = [(NONE, poison, False) for poison in settings.poisons]
    tried += [(name, poison, False) for name in settings.mitigations for poison in settings.mitigated]
    if settings.adapted:
        tried += [(name, p, True) for name in settings.mitigations for p in settings.mitigated if can_adapt(p)]
    wanted = [
        Wanted(kind, depth, poison, mitigation, adapted)
        for kind in settings.activations
        for depth in settings.depths
        for mitigation, poison, adapted in tried
        if adapted or applies(kind, mitigation, poison)
    ]
    arms = [_arms(laboratory, each) for each in wanted]
    clock = _Clock({network for of in arms for arm in of for network in arm}, tell)
    return tuple(_cell(laboratory, each, of, clock) for each, of in zip(wanted, arms, strict=True))


class Wanted(NamedTuple):
    """A cell to be made."""

    activation: str
    depth: int
    poison: str
    mitigation: str
    adapted: bool = False


def can_adapt(poison: str) -> bool:
    """Whether a poison can be planted by one who knows the mitigation."""
    return hasattr(registry.build("poisons", poison), "adapted")


def applies(kind: str, mitigation: str, poison: str) -> bool:
    """Whether a poison can be planted at all: rows are crafted to make units die or saturate, if they can."""
    found = activation(MITIGATIONS.get(mitigation, {}).get("activation", kind)).spec
    forced = any(region in ("dead", "saturated") for region, _, _ in regions(found.name, found.options))
    return forced or parse(poison).name != "crafted"


Arms = tuple[tuple[Network, ...], tuple[Network, ...], tuple[Network, ...]]
"""Poisoned networks, their clean twins, and random controls, one a seed."""


def _arms(laboratory: Laboratory, each: Wanted) -> Arms:
    """The networks of a cell. Mitigations are held against their own twins alone: no controls."""
    kind, depth, poison, mitigation, adapted = each
    poison = str(parse(poison).having(adapted=True)) if adapted else poison
    made: Poison = registry.build("poisons", poison)
    count, settings = made.count(laboratory.train), laboratory.settings
    clean = [network_of(settings, kind, depth, seed, mitigation) for seed in range(settings.seeds)]
    as_many = count if made.enters == "update" else 0

    def networks(arm: str, planted: int) -> tuple[Network, ...]:
        return tuple(dataclasses.replace(one, arm=arm, enters=made.enters, planted=planted) for one in clean)

    return networks(poison, count), networks(CLEAN, as_many), networks(RANDOM, count) if mitigation == NONE else ()


def _cell(laboratory: Laboratory, each: Wanted, arms: Arms, clock: _Clock) -> Cell:
    """A cell, measured. Transfer crafts on the clean twin of the next seed, the same for all three arms."""
    kind, depth, poison, mitigation, adapted = each
    seeds = laboratory.settings.seeds

    def measured(arm: tuple[Network, ...]) -> tuple[Outcome, ...]:
        found = []
        for seed, network in enumerate(arm):
            other = network_of(laboratory.settings, kind, depth, (seed + 1) % seeds)
            found.append(laboratory.outcome(network, other if mitigation == NONE else None))
            clock.told(network, f"{kind}, {depth} hidden layers, {mitigation}: {network.arm}")
        return tuple(found)

    poisoned, twin, control = map(measured, arms)
    return Cell(kind, depth, poison, mitigation, poisoned, twin, control, adapted)


class _Clock:
    """Tells how many networks are done, and the time left by their mean so far."""

    def __init__(self, networks: set[Network], tell: Tell) -> None:
        self.left, self.total, self.tell, self.begun = networks, len(networks), tell, time.monotonic()

    def told(self, network: Network, label: str) -> None:
        if network not in self.left:
            return
        self.left = self.left - {network}
        done = self.total - len(self.left)
        remaining = (time.monotonic() - self.begun) / done * len(self.left)
        self.tell(Progress(done, self.total, label, remaining))


_NAMED = ("activation", "depth", "poison", "mitigation", "adapted")


def record(cells: tuple[Cell, ...]) -> list[dict[str, Any]]:
    """The cells for JSON: numbers a network, no rows."""
    found = []
    for cell in cells:
        told: dict[str, Any] = {name: getattr(cell, name) for name in _NAMED}
        for arm in ("poisoned", "twin", "control"):
            told[arm] = [{"at_once": _told(o.at_once), "later": _told(o.later)} for o in getattr(cell, arm)]
        found.append(told)
    return found


def _told(found: Harm) -> Mapping[str, Any]:
    numbers = {f.name: getattr(found, f.name) for f in dataclasses.fields(found) if f.name != "rows"}
    return numbers | {"correct": {name: float(np.mean(rows)) for name, rows in found.rows.items()}}
