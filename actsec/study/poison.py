"""Poisoned training against clean twins: whether planted rows weaken layers, and hide what attacks would find.

Every network is trained with the same recipe from the same initial weights three times over: on clean rows, with the
poison's rows, and with as many random rows in the same place. What counts is what the poison does beyond both others.
Poisons of an update act on the clean-trained network: a few steps on the planted rows alone, where the twin takes as
many steps on as many clean rows. After that all are trained on clean rows for some epochs more: what is left persists.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from actsec import registry
from actsec.activations import activation
from actsec.runner import Progress, Tell
from actsec.study.activations import read
from actsec.study.harm import Harm
from actsec.study.laboratory import MITIGATIONS, NONE, RANDOM, Laboratory, Network, Outcome, Settings
from actsec.training import Recipe
from actsec.types import Poison


@dataclass(frozen=True, slots=True)
class Cell:
    """One network of the study beside its twin and its control, each a tuple over seeds."""

    activation: str
    depth: int
    poison: str
    mitigation: str
    poisoned: tuple[Outcome, ...]
    twin: tuple[Outcome, ...]
    control: tuple[Outcome, ...]


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
    wanted = [
        (k, d, poison, NONE) for k in settings.activations for d in settings.depths for poison in settings.poisons
    ]
    wanted += [
        (kind, depth, poison, mitigation)
        for kind in settings.activations
        for depth in settings.depths
        for mitigation in settings.mitigations
        for poison in settings.mitigated
        if applies(mitigation, poison)
    ]
    arms = {each: _arms(laboratory, *each) for each in wanted}
    shown = {each: trios if each[3] == NONE else tuple((*pair,) for *pair, _ in trios) for each, trios in arms.items()}
    clock = _Clock({network for trios in shown.values() for trio in trios for network in trio}, tell)
    return tuple(_cell(laboratory, each, arms[each], clock) for each in wanted)


def applies(mitigation: str, poison: str) -> bool:
    """Whether a poison can be planted at all: units of leaky_relu neither die nor saturate, so none are crafted."""
    return not (mitigation == "leaky_relu" and poison.startswith("crafted"))


Trio = tuple[Network, Network, Network]


def _arms(laboratory: Laboratory, kind: str, depth: int, poison: str, mitigation: str) -> tuple[Trio, ...]:
    """Poisoned, clean and random networks, a trio a seed."""
    made: Poison = registry.build("poisons", poison)
    count, found = made.count(laboratory.train), []
    for seed in range(laboratory.settings.seeds):
        clean = network_of(laboratory.settings, kind, depth, seed, mitigation)
        as_many = count if made.enters == "update" else 0
        found.append(
            (
                dataclasses.replace(clean, arm=poison, enters=made.enters, planted=count),
                dataclasses.replace(clean, enters=made.enters, planted=as_many),
                dataclasses.replace(clean, arm=RANDOM, enters=made.enters, planted=count),
            )
        )
    return tuple(found)


def _cell(laboratory: Laboratory, each: tuple[str, int, str, str], trios: tuple[Trio, ...], clock: _Clock) -> Cell:
    """A cell, measured. Transfer crafts on the clean twin of the next seed, the same for all of a trio."""
    kind, depth, poison, mitigation = each
    columns: list[list[Outcome]] = [[], [], []]
    for seed, trio in enumerate(trios):
        other = network_of(laboratory.settings, kind, depth, (seed + 1) % len(trios))
        source = other if mitigation == NONE else None
        for column, network in zip(columns, trio, strict=True):
            if mitigation != NONE and network.arm == RANDOM:
                continue  # mitigations are held against their own twins
            with_label = f"{kind}, {depth} hidden layers, {mitigation}: {network.arm}"
            column.append(clock.timed(network, with_label, lambda n=network, s=source: laboratory.outcome(n, s)))  # type: ignore[misc]  # bound at once
    return Cell(kind, depth, poison, mitigation, *(tuple(column) for column in columns))


class _Clock:
    """Tells how many networks are done, and the time left by the mean of those that took any."""

    def __init__(self, networks: set[Network], tell: Tell) -> None:
        self.left, self.total, self.tell, self.begun = set(networks), len(networks), tell, time.monotonic()

    def timed(self, network: Network, label: str, work: Callable[[], Outcome]) -> Outcome:
        found = work()
        if network in self.left:
            self.left.remove(network)
            done = self.total - len(self.left)
            remaining = (time.monotonic() - self.begun) / done * len(self.left)
            self.tell(Progress(done, self.total, label, remaining))
        return found


def record(cells: tuple[Cell, ...]) -> list[dict[str, Any]]:
    """The cells for JSON: numbers a network, no rows."""
    found = []
    for cell in cells:
        told: dict[str, Any] = {name: getattr(cell, name) for name in ("activation", "depth", "poison", "mitigation")}
        for arm in ("poisoned", "twin", "control"):
            told[arm] = [{"at_once": _told(o.at_once), "later": _told(o.later)} for o in getattr(cell, arm)]
        found.append(told)
    return found


def _told(found: Harm) -> Mapping[str, Any]:
    numbers = {f.name: getattr(found, f.name) for f in dataclasses.fields(found) if f.name != "rows"}
    return numbers | {"correct": {name: float(np.mean(rows)) for name, rows in found.rows.items()}}
