"""The same architecture trained with every activation, and what differs beyond seeds and sampling.

Per network: accuracy, loss, curves, the epoch of the lowest validation loss, calibration, units dead on all training
rows, and what attacks leave. All activations share the data, its split, the recipe and the seeds; a seed decides the
initial weights and the order of the batches. See ``actsec.study.comparing`` for when a difference counts as one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import actsec
from actsec import models, registry, training
from actsec import target as targets
from actsec.activations import activation
from actsec.data import Dataset, Splits, from_arrays, load, split
from actsec.errors import BadOption, ModelError
from actsec.health import tally
from actsec.study.comparing import LEAST_SEEDS
from actsec.types import Target
from actsec.verdict import calibration

Array = NDArray[Any]
DATA = ("iris", "breast_cancer", "digits", "moons")
ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "softplus")
ATTACKS = ("pgd(steps=20)", "minimal_l2")
MOONS = "moons"


@dataclass(frozen=True, slots=True)
class Settings:
    """What all networks of a study share."""

    activations: tuple[str, ...] = ACTIVATIONS
    width: tuple[int, ...] = (64, 32)
    depths: tuple[int, ...] = (2,)
    seeds: int = LEAST_SEEDS
    epochs: int = 60
    attacks: tuple[str, ...] = ATTACKS
    eps: float = 0.1
    samples: int = 100
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.seeds < LEAST_SEEDS:
            raise BadOption(f"seeds = {self.seeds} tell nothing of an activation", f"Give {LEAST_SEEDS} or more.")
        if not self.activations or not self.depths or self.samples < 1:
            raise BadOption(
                f"activations = {list(self.activations)}, depths = {list(self.depths)}, samples = {self.samples}",
                "Give at least one of each.",
            )
        for kind in self.activations:
            activation(kind)


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """One network and what was measured of it.

    rows holds, by metric, one number a test row (n,) or two (n, 2); attacked metrics stand under the attack's spec.
    broke is why training ended early; nothing else is measured then.
    """

    activation: str
    depth: int
    seed: int
    epochs: int
    converged: int
    training_loss: tuple[float, ...]
    training_accuracy: tuple[float, ...]
    validation_loss: tuple[float, ...]
    validation_accuracy: tuple[float, ...]
    dead: float | None
    rows: dict[str, Array]
    model: nn.Module
    broke: str = ""


def two_moons(n: int = 400, noise: float = 0.15, seed: int = 0) -> Splits:
    """Two interleaving half circles with normal noise, standardised: x (n, 2), split 55 : 15 : 30."""
    draws = np.random.default_rng(seed)
    angle, label = draws.uniform(0, math.pi, n), np.arange(n) % 2
    x = np.where(label[:, None] == 0, np.stack([np.cos(angle), np.sin(angle)], 1), 0.0)
    x = np.where(label[:, None] == 1, np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], 1), x)
    x = x + draws.normal(0, noise, x.shape)
    x = ((x - x.mean(0)) / x.std(0)).clip(-4, 4).astype(np.float32)
    return _parts(from_arrays(x, label, name=MOONS, classes=("upper", "lower"), bounds=(-4.0, 4.0), layout="as_is"))


def read(source: str) -> Splits:
    """Train, calibration and test of a source: ``moons``, or what ``actsec.data.load`` reads, split where it is not."""
    if source == MOONS:
        return two_moons()
    found = load(source, seed=0)
    if isinstance(found, Splits) and found.train is not None and found.calibration is not None:
        return found
    return _parts(found.test if isinstance(found, Splits) else found)


def _parts(whole: Dataset) -> Splits:
    train, held, test = split(whole, (0.55, 0.15, 0.30), 0)
    return Splits(test, train, held)


def run(splits: Splits, settings: Settings, tell: Callable[[str], None] = lambda _: None) -> tuple[Trained, ...]:
    """Train and measure every network. Raises what building, training's data checks and attacks raise."""
    found = []
    for depth in settings.depths:
        for kind in settings.activations:
            tell(f"{splits.test.name}: {kind}, {depth} hidden layers")
            found += [_network(splits, settings, kind, depth, seed) for seed in range(settings.seeds)]
    return tuple(found)


def _network(splits: Splits, settings: Settings, kind: str, depth: int, seed: int) -> Trained:
    train, held, test = splits.train, splits.calibration, splits.test
    assert train is not None  # noqa: S101  # read() sees to it
    assert held is not None  # noqa: S101  # the same
    shape, classes = tuple(test.x.shape[1:]), test.classes
    options = f"width={list(settings.width)}, depth={depth}, dropout={settings.dropout}"
    spec = f"mlp(activation={activation(kind).spec}, {options})"
    model = models.build(spec, shape, len(classes), seed)
    recipe = training.Recipe(epochs=settings.epochs, batch_size=32, learning_rate=1e-3, schedule="constant", seed=seed)
    given = [torch.from_numpy(part) for part in (train.whole(), train.y, held.whole(), held.y)]
    try:
        history = training.fit(model, given[0], given[1], recipe, validation=(given[2], given[3]))
    except ModelError as problem:
        return Trained(kind, depth, seed, 0, 0, (), (), (), (), None, {}, model, problem.problem)
    target = targets.load(model, classes=classes, input_shape=shape, bounds=test.bounds).having(name=spec)
    rows = _clean(target, test)
    for attack in settings.attacks:
        rows |= _attacked(target, test, attack, settings, seed)
    return Trained(
        activation=kind,
        depth=depth,
        seed=seed,
        epochs=history.epochs_run,
        converged=int(np.argmin(history.validation_loss)) + 1,
        training_loss=history.loss,
        training_accuracy=history.accuracy,
        validation_loss=history.validation_loss,
        validation_accuracy=history.validation_accuracy,
        dead=_dead(target, given[0], given[1]),
        rows=rows,
        model=target.model,
    )


def _clean(target: Target, test: Dataset) -> dict[str, Array]:
    logits = _logits(target, torch.from_numpy(test.whole()))
    right = (logits.argmax(1).numpy() == test.y).astype(np.float64)
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(test.y), reduction="none").numpy()
    sure = calibration.confidence(logits.numpy())
    return {"accuracy": right, "loss": loss, "ECE": np.stack([sure, right], 1)}


def _attacked(target: Target, test: Dataset, attack: str, settings: Settings, seed: int) -> dict[str, Array]:
    """Of the first rows: still correct after the attack, or the size of the smallest change that fools."""
    x, y, eps = test.x[: settings.samples], test.y[: settings.samples], None if smallest(attack) else settings.eps
    found = actsec.attack(target, x, y, attack, eps=eps, seed=seed, table=test.table)
    before = _logits(target, torch.from_numpy(x)).argmax(1).numpy() == y
    sure = calibration.confidence(_logits(target, torch.from_numpy(np.asarray(found.x, np.float32))).numpy())
    if eps is None:
        # what was wrong before needs no change; what was not fooled needs more than was tried
        size = np.where(before, np.where(found.success, found.size, np.inf), 0.0)
        return {f"median smallest change, {attack}": size}
    confident = {f"confidence when fooled, {attack}": np.where(found.success, sure, np.nan)}
    return {f"robust accuracy, {attack}": (before & ~found.success).astype(np.float64), **confident}


def smallest(attack: str) -> bool:
    """Whether an attack looks for the smallest change rather than for any within eps."""
    made = registry.build("attacks", attack)
    return "minimal" in getattr(made, "roles", ()) or bool(getattr(made, "sizes", ()))


def _logits(target: Target, x: Tensor) -> Tensor:
    with torch.no_grad():
        return target.logits(x)


def _dead(target: Target, x: Tensor, y: Tensor) -> float | None:
    """The share of hidden units dead on every training row; None where none of the activations can die."""
    sites = [site for site in tally.site_health(target, x, y) if site["permanently_dead"] is not None]
    units = sum(site["units"] for site in sites)
    return sum(site["permanently_dead"] * site["units"] for site in sites) / units if units else None


def record(networks: Sequence[Trained]) -> list[dict[str, Any]]:
    """The networks for JSON: numbers a network, no rows and no weights."""
    left = ("rows", "model")
    fields = [f.name for f in dataclasses.fields(Trained) if f.name not in left]
    return [{name: getattr(network, name) for name in fields} for network in networks]
