"""Trains and measures the networks of a study of poisons; equal ones once."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from actsec import models, registry, training
from actsec import target as targets
from actsec.activations import activation
from actsec.data import Splits
from actsec.errors import BadOption, ModelError, unknown
from actsec.search.oracle import frozen
from actsec.study.comparing import LEAST_SEEDS
from actsec.study.harm import Harm, attacked, harm
from actsec.training import Recipe
from actsec.types import Enters, Poison, Split, Target, Victim

NONE, CLEAN, RANDOM = "none", "clean", "random"
MITIGATIONS: dict[str, dict[str, Any]] = {
    "range_check": {"checked": True},
    "clipping": {"clip_norm": 1.0},
    "adam": {"optimizer": "adam", "learning_rate": 1e-3},
    "leaky_relu": {"activation": "leaky_relu"},
    "layer_norm": {"norm": "layer"},
    "initialisation": {"init": "orthogonal"},
}
"""What each mitigation changes: the check of the rows, the recipe, or the network."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What all networks of a study share."""

    activations: tuple[str, ...] = ("sigmoid", "tanh", "relu")
    depths: tuple[int, ...] = (3, 8)
    poisons: tuple[str, ...] = (
        "outliers(magnitude=100)",
        "outliers(magnitude=1000)",
        "outliers(magnitude=1000, labels=consistent)",
        "poisoned_scaler",
        "crafted",
    )
    mitigations: tuple[str, ...] = tuple(MITIGATIONS)
    mitigated: tuple[str, ...] = ("outliers(magnitude=1000)", "crafted")
    adapted: bool = True
    seeds: int = LEAST_SEEDS
    epochs: int = 10
    clean_epochs: int = 3
    updates: int = 3
    width: int = 64
    learning_rate: float = 0.1
    samples: int = 80
    eps: float = 0.1
    queries: int = 150

    def __post_init__(self) -> None:
        if self.seeds < LEAST_SEEDS:
            raise BadOption(f"seeds = {self.seeds} tell nothing of a poison", f"Give {LEAST_SEEDS} or more.")
        for option in ("activations", "depths", "poisons"):
            if not getattr(self, option):
                raise BadOption(f"{option} = []", "Give at least one.")
        for option in ("epochs", "clean_epochs", "updates", "width", "samples", "queries", "eps"):
            if not getattr(self, option) > 0:
                raise BadOption(f"{option} = {getattr(self, option)}", f"{option} is above 0.")
        for name in self.mitigations:
            if name not in MITIGATIONS:
                raise unknown("mitigation", name, MITIGATIONS)
        for kind in self.activations:
            activation(kind)
        for poison in (*self.poisons, *self.mitigated):
            registry.build("poisons", poison)


@dataclass(frozen=True, slots=True)
class Network:
    """What is trained, how, and on what: equal ones are the same network to the bit.

    arm is ``clean``, ``random``, or a poison's spec; enters and planted tell where and how many rows it plants.
    """

    spec: str
    recipe: Recipe
    checked: bool
    arm: str = CLEAN
    enters: Enters = "training"
    planted: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One network after the poison, and after the clean epochs that followed."""

    at_once: Harm
    later: Harm


class Standardise(nn.Module):
    """x less the mean of the rows it was fitted to, over their standard deviation, by feature; 0 counts as 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        std = rows.double().std(0, correction=0)
        self.register_buffer("mean", rows.double().mean(0).to(rows.dtype))
        self.register_buffer("std", torch.where(std == 0, 1.0, std).to(rows.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Laboratory:
    """Trains networks and remembers them: a network that two poisons need is trained once."""

    def __init__(self, splits: Splits, settings: Settings) -> None:
        train, test = splits.train, splits.test
        assert train is not None  # noqa: S101  # activations.read sees to it
        self.settings, self.classes, self.bounds = settings, test.classes, test.bounds
        self.train = Split(torch.from_numpy(train.whole()), torch.from_numpy(train.y), torch.arange(len(train)))
        self.test = torch.from_numpy(test.whole()), torch.from_numpy(test.y)
        self.first = self.test[0][: settings.samples], self.test[1][: settings.samples]
        self.trained: dict[Network, nn.Module | str] = {}
        self.measured: dict[tuple[Network, bool], Outcome] = {}

    def planted(self, network: Network) -> Split:
        """The train split with what the network's arm plants in it, before any check of the rows."""
        if network.arm == CLEAN and network.enters != "update":
            return self.train
        victim = self.target(network, self.model(dataclasses.replace(network, arm=CLEAN, enters="training", planted=0)))
        made, recipe = self.poison(network), network.recipe
        knows = Victim(victim, self.settings.learning_rate, recipe.seed)
        if getattr(made, "adapted", False):
            knows = Victim(
                victim, recipe.learning_rate, recipe.seed, recipe.optimizer, recipe.clip_norm, self.rehearsal(network)
            )
        return made.poison(self.train, knows)

    def rehearsal(self, network: Network) -> Callable[[Split], float]:
        """A training like the network's, from a seed that no network of the study has: the loss on clean rows.

        Minus infinity where the check drops every planted row: that is no poison.
        """
        seed = self.settings.seeds + network.recipe.seed
        other = dataclasses.replace(network, recipe=dataclasses.replace(network.recipe, seed=seed))

        def rehearse(split: Split) -> float:
            if network.checked and not bool((inside(split, self.bounds).id < 0).any()):
                return -float("inf")
            try:
                model = self.trained_on(split, other)
            except ModelError:
                return float("inf")
            with frozen(model), torch.no_grad():
                loss = float(nn.functional.cross_entropy(model(self.train.x), self.train.y))
            return loss if loss == loss else float("inf")  # noqa: PLR0124  # NaN differs from itself

        return rehearse

    def poison(self, network: Network) -> Poison:
        """What plants the rows: of an update's clean twin, copies of clean rows."""
        share = network.planted / len(self.train.y)
        named = {RANDOM: f"random_rows(rows={network.planted})"}
        named[CLEAN] = f"outliers(share={share!r}, magnitude=1, labels=consistent)"
        made: Poison = registry.build("poisons", named.get(network.arm, network.arm))
        return made

    def model(self, network: Network) -> nn.Module:
        """The trained network. Raises ModelError with the reason where training broke, again each time."""
        if network not in self.trained:
            try:
                self.trained[network] = self.updated(network) if network.enters == "update" else self.fitted(network)
            except ModelError as problem:
                self.trained[network] = problem.problem
        found = self.trained[network]
        if isinstance(found, str):
            raise ModelError(found)
        return found

    def fitted(self, network: Network) -> nn.Module:
        """Trained from the beginning."""
        return self.trained_on(self.planted(network), network)

    def trained_on(self, split: Split, network: Network) -> nn.Module:
        """A network of the same kind, trained on a split with the checks that it makes."""
        if network.checked:
            split = inside(split, self.bounds)
        shape = tuple(self.train.x.shape[1:])
        model = models.build(network.spec, shape, len(self.classes), network.recipe.seed)
        if network.enters == "scaler":
            model = nn.Sequential(Standardise(split.x), model)
        training.fit(model, split.x, split.y, network.recipe)
        return model

    def updated(self, network: Network) -> nn.Module:
        """The clean-trained network after a few steps on the planted rows alone, all of them in each."""
        clean = self.model(dataclasses.replace(network, arm=CLEAN, enters="training", planted=0))
        split = self.planted(network)
        if network.checked:
            split = inside(split, self.bounds)
        new, model = split.id < 0, copy.deepcopy(clean)
        if bool(new.any()):
            steps = dataclasses.replace(network.recipe, epochs=self.settings.updates, batch_size=int(new.sum()))
            training.fit(model, split.x[new], split.y[new], steps)
        return model

    def target(self, network: Network, model: nn.Module) -> Target:
        """The model as attacks and measurements see it."""
        shape = tuple(self.train.x.shape[1:])
        found = targets.load(model, classes=self.classes, input_shape=shape, bounds=self.bounds)
        return found.having(name=network.spec)

    def alike(self, network: Network) -> Network:
        """The network without a range check that this one is to the bit: nothing planted is outside, or all of it."""
        if not network.checked or (network.planted and getattr(self.poison(network), "adapted", False)):
            return network  # what an adapted poison plants depends on the check
        plain, split = dataclasses.replace(network, checked=False), self.planted(network)
        kept = len(inside(split, self.bounds).y)
        if kept == len(split.y):
            return plain
        none_left = kept == len(self.train.y) and network.enters != "update"
        return dataclasses.replace(plain, arm=CLEAN, planted=0) if none_left else network

    def outcome(self, network: Network, source: Network | None) -> Outcome:
        """Measured at once and after clean epochs; attacked where there is a source for transfer."""
        same = self.alike(network)
        key = same, source is not None
        if (same, True) in self.measured:
            return self.measured[same, True]
        if key not in self.measured:
            self.measured[key] = self._outcome(same, source)
        return self.measured[key]

    def _outcome(self, network: Network, source: Network | None) -> Outcome:
        clean, settings = (self.train.x, self.train.y), self.settings
        try:
            model = self.model(network)
        except ModelError as problem:
            broke = Harm(broke=problem.problem)
            return Outcome(broke, broke)
        target = self.target(network, model)
        now = harm(target, clean, self.test)
        if source is not None and now.finite:
            other = self.target(source, self.model(source))
            rows = attacked(target, self.first, other, settings.eps, settings.queries, network.recipe.seed)
            now = dataclasses.replace(now, rows={**now.rows, **rows})
        after = copy.deepcopy(model)
        try:
            training.fit(after, *clean, dataclasses.replace(network.recipe, epochs=settings.clean_epochs))
            return Outcome(now, harm(self.target(network, after), clean, self.test))
        except ModelError as problem:
            return Outcome(now, Harm(broke=problem.problem))


def inside(split: Split, bounds: tuple[float, float]) -> Split:
    """The rows all of whose features lie within the bounds: the range check."""
    keep = ((split.x >= bounds[0]) & (split.x <= bounds[1])).flatten(1).all(1)
    return Split(split.x[keep], split.y[keep], split.id[keep])
