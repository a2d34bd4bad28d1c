"""What steadies the training of deep networks, measured on what it is said to fix: gradients and dead units.

    python -m benchmarks.stability                   # the gradient ratios, then the dead units, as markdown
    python -m benchmarks.stability ratios --seeds 5
    python -m benchmarks.stability dead --seeds 3 --depths 5 10

ratios: fully connected networks on the digits at initialisation, 64 units a layer. G is the norm of the loss's gradient
by the first layer's weights over that by the last layer's, one batch of 256 training digits, the geometric mean over
seeds and their range. A network below 1e-3 hardly trains its first layer, one above 1e3 overshoots it.

dead: networks of relu, trained at a high constant learning rate by plain SGD, with one thing changed at a time. "Off"
is the share of hidden units whose pre-activation is at most 0 on every training digit: of relu, dead for good; of leaky
relu, still learning. No number here is about robustness, and none is evidence for it.

A depth counts hidden layers; where linear layers are counted, the output's included, it is one more.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from actsec import models, training
from actsec.activations import watch
from actsec.data import Splits, load
from actsec.errors import ModelError
from actsec.study.depth import gradient_norms

DEPTHS = (3, 5, 10, 20)
ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu")
SETTINGS = {
    "init=glorot": "init=glorot",
    "init=he": "init=he",
    "init=auto": "init=auto",
    "init=orthogonal": "init=orthogonal",
    "init=glorot, norm=layer": "init=glorot, norm=layer",
    "init=glorot, norm=batch": "init=glorot, norm=batch",
    "init=glorot, residual": "init=glorot, residual=true",
}
HIGH, LOW = 0.5, 0.05
"""The learning rate that kills units, and a tenth of it."""


@dataclass(frozen=True)
class Trial:
    """One way to train a deep network: the model's options and the recipe's, on top of what all share."""

    name: str
    model: str = "activation=relu, init=he"
    recipe: dict[str, float] = field(default_factory=dict)


TRIALS = (
    Trial("relu, He, learning rate 0.5"),
    Trial("init=torch", "activation=relu, init=torch"),
    Trial("init=glorot", "activation=relu, init=glorot"),
    Trial("init=orthogonal", "activation=relu, init=orthogonal"),
    Trial("norm=layer", "activation=relu, init=he, norm=layer"),
    Trial("norm=batch", "activation=relu, init=he, norm=batch"),
    Trial("residual=true", "activation=relu, init=he, residual=true"),
    Trial("residual=true, norm=layer", "activation=relu, init=he, residual=true, norm=layer"),
    Trial("dropout=0.2", "activation=relu, init=he, dropout=0.2"),
    Trial("leaky_relu", "activation=leaky_relu, init=he"),
    Trial("learning rate 0.05", recipe={"learning_rate": LOW}),
    Trial("clip_norm=1", recipe={"clip_norm": 1.0}),
)


def digits() -> tuple[Splits, torch.Tensor, torch.Tensor]:
    """The digits and the training split as tensors."""
    splits = load("digits")
    assert isinstance(splits, Splits)
    assert splits.train is not None
    return splits, torch.from_numpy(splits.train.x), torch.from_numpy(splits.train.y)


def built(options: str, depth: int, seed: int) -> nn.Module:
    """A fully connected network of so many hidden layers of 64 units."""
    return models.build(f"mlp(width=[64], depth={depth}, {options})", (1, 8, 8), 10, seed)


def ratio(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """The norm of the loss's gradient by the first layer's weights over that by the last layer's."""
    norms = gradient_norms(model, x, y)
    return norms[0] / norms[-1]


def off_on_every_input(model: nn.Module, x: torch.Tensor) -> float:
    """The share of hidden units whose pre-activation is at most 0 on every row of x, over all activation calls."""
    model.eval()
    with watch(model, post=False) as seen, torch.no_grad():
        model(x)
    off = [(call.pre <= 0).all(0) for call in seen.calls]
    return float(torch.cat([each.flatten() for each in off]).double().mean())


def ratios(seeds: int, depths: Sequence[int]) -> Iterator[str]:
    """Markdown: a row for each activation and setting, a column for each depth."""
    _, x, y = digits()
    x, y = x[:256], y[:256]
    yield f"Gradient ratio G, first over last layer, at initialisation: geometric mean of {seeds} seeds (range)."
    yield ""
    yield "| activation | setting | " + " | ".join(f"depth {depth}" for depth in depths) + " |"
    yield "|---" * (2 + len(depths)) + "|"
    for kind in ACTIVATIONS:
        for name, options in SETTINGS.items():
            cells = []
            for depth in depths:
                found = [ratio(built(f"activation={kind}, {options}", depth, seed), x, y) for seed in range(seeds)]
                cells.append(f"{_geometric(found)} ({min(found):.1e} to {max(found):.1e})")
            yield f"| {kind} | {name} | " + " | ".join(cells) + " |"


def _geometric(values: Sequence[float]) -> str:
    return f"{math.exp(np.mean([math.log(max(value, 1e-300)) for value in values])):.1e}"


def dead(seeds: int, depths: Sequence[int], epochs: int) -> Iterator[str]:
    """Markdown: a row for each trial and depth, with every seed's number."""
    splits, x, y = digits()
    held = torch.from_numpy(splits.test.x), torch.from_numpy(splits.test.y)
    shared = {"optimizer": "sgd", "momentum": 0.0, "schedule": "constant", "learning_rate": HIGH, "epochs": epochs}
    yield f"Hidden units off on all {len(x)} training digits, {epochs} epochs of SGD: mean of {seeds} seeds (each)."
    yield ""
    yield "| depth | changed | off before | off after | test accuracy | diverged |"
    yield "|---|---|---|---|---|---|"
    for depth in depths:
        for trial in TRIALS:
            before, after, right, broken = [], [], [], 0
            for seed in range(seeds):
                model = built(trial.model, depth, seed)
                before.append(off_on_every_input(model, x))
                recipe = training.Recipe(**{**shared, **trial.recipe, "seed": seed})  # type: ignore[arg-type]  # options by name
                try:
                    training.fit(model, x, y, recipe)
                except ModelError:  # it says that training diverged; the weights are those before that update
                    broken += 1
                after.append(off_on_every_input(model, x))
                right.append(training.accuracy(model, *held))
            cells = (_each(before), _each(after), _each(right), str(broken) if broken else "0")
            yield f"| {depth} | {trial.name} | " + " | ".join(cells) + " |"


def _each(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})"


def main() -> None:
    """Print what was asked for as markdown, line by line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("part", nargs="?", choices=("all", "ratios", "dead"), default="all")
    parser.add_argument("--seeds", type=int, help="networks a cell; 5 for ratios and 3 for dead where not given")
    parser.add_argument("--depths", type=int, nargs="+", help="hidden layers")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of training, for dead")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.part in ("all", "ratios"):
        for line in ratios(given.seeds or 5, given.depths or DEPTHS):
            print(line, flush=True)
    if given.part in ("all", "dead"):
        if given.part == "all":
            print()
        for line in dead(given.seeds or 3, given.depths or (5, 10), given.epochs):
            print(line, flush=True)


if __name__ == "__main__":
    main()
