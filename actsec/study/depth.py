"""Gradient norms of fully connected networks at initialisation, over depth, activation and initialisation.

Depth counts layers with weights, the output's included. The protocol is that of the course notes the project grew from:
100 standard normal inputs, 64 units a layer, random binary labels, one batch of 32, zero biases; the two logits'
softmax stands for their one sigmoid. On data of your own the labels are real and the batch is larger.

G is the norm of the loss's gradient by the first layer's weights over the last layer's: below 1e-3 gradients vanish,
above 1e3 they explode. Nothing here is about robustness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actsec import data, models
from actsec.activations import activation
from actsec.data import Splits
from actsec.errors import BadOption, DataError
from actsec.verdict.activity import EXPLODING, VANISHING

DEPTHS = (3, 5, 10, 15, 20)
ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu", "elu", "silu")
INITS = ("glorot", "he")
GAUSSIAN = "gaussian"
BATCH = 256


@dataclass(frozen=True, slots=True)
class Norms:
    """One network: L2 norms of the loss's gradient by each layer's weights, first layer first, and their G."""

    activation: str
    init: str
    depth: int
    seed: int
    norms: tuple[float, ...]
    ratio: float


@dataclass(frozen=True, slots=True)
class Cell:
    """Networks that differ in their seed only.

    mean, std, least and most are over the layers of a network, then averaged over seeds; ratio is the geometric mean of
    G over seeds with its smallest and largest value. verdict: vanishing, exploding or flowing, by ratio.
    """

    activation: str
    init: str
    depth: int
    seeds: int
    mean: float
    std: float
    least: float
    most: float
    ratio: float
    ratio_low: float
    ratio_high: float
    verdict: str


def gradient_norms(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, ...]:
    """The norm of the mean cross-entropy's gradient by the weights of each linear layer, in order, in train mode.

    x (n, *shape), y (n,). One forward and one backward; the model's gradients are left as they are.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    model.train()
    loss = F.cross_entropy(model(x), y)
    found = torch.autograd.grad(loss, [layer.weight for layer in layers])
    return tuple(float(gradient.double().norm()) for gradient in found)


def inputs(source: str, seed: int) -> tuple[Tensor, Tensor, int]:
    """A batch, its labels, and how many classes there are: of ``gaussian``, or the first 256 training rows of data."""
    if source == GAUSSIAN:
        draws = torch.Generator().manual_seed(seed)
        return torch.randn(32, 100, generator=draws), torch.randint(0, 2, (32,), generator=draws), 2
    loaded = data.load(source, seed=0)
    part = (loaded.train or loaded.test) if isinstance(loaded, Splits) else loaded
    if not len(part):
        raise DataError(f"{source} holds no examples", "Give data with at least one row.")
    return torch.from_numpy(part.x[:BATCH]), torch.from_numpy(part.y[:BATCH]), len(part.classes)


def run(
    activations: Sequence[str] = ACTIVATIONS,
    depths: Sequence[int] = DEPTHS,
    inits: Sequence[str] = INITS,
    seeds: int = 5,
    width: int = 64,
    source: str = GAUSSIAN,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[Norms, ...]:
    """Every network's gradient norms. Raises BadOption for depths below 2 or no seed, UnknownName for activations."""
    if seeds < 1 or min(depths, default=0) < 2 or width < 1:
        raise BadOption(f"seeds={seeds}, depths={list(depths)}, width={width}", "Give 1 seed, depth 2, 1 unit or more.")
    kinds = [str(activation(kind).spec) for kind in activations]
    found = []
    for kind, given in zip(kinds, activations, strict=True):
        tell(f"gradients of {given}")
        for init in inits:
            for depth in depths:
                for seed in range(seeds):
                    x, y, classes = inputs(source, seed)
                    spec = f"mlp(activation={kind}, width=[{width}], depth={depth - 1}, init={init})"
                    norms = gradient_norms(models.build(spec, tuple(x.shape[1:]), classes, seed), x, y)
                    # of a network that is dead both are 0: nothing reaches the first layer
                    ratio = 0.0 if norms[0] == 0 else norms[0] / norms[-1] if norms[-1] > 0 else math.inf
                    found.append(Norms(given, init, depth, seed, norms, ratio))
    return tuple(found)


def cells(networks: Sequence[Norms]) -> tuple[Cell, ...]:
    """The networks of one activation, initialisation and depth together, in the order of their first."""
    groups: dict[tuple[str, str, int], list[Norms]] = {}
    for network in networks:
        groups.setdefault((network.activation, network.init, network.depth), []).append(network)
    return tuple(_cell(*key, group) for key, group in groups.items())


def _cell(kind: str, init: str, depth: int, group: list[Norms]) -> Cell:
    def average(of: Callable[[tuple[float, ...]], float]) -> float:
        return float(np.mean([of(network.norms) for network in group]))

    ratios = [network.ratio for network in group]
    # a ratio of exactly 0 has no logarithm: 1e-300 stands for it and still vanishes
    middle = math.exp(float(np.mean([math.log(min(max(ratio, 1e-300), 1e300)) for ratio in ratios])))
    return Cell(
        activation=kind,
        init=init,
        depth=depth,
        seeds=len(group),
        mean=average(lambda norms: float(np.mean(norms))),
        std=average(lambda norms: float(np.std(norms))),
        least=average(min),
        most=average(max),
        ratio=middle,
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        verdict="vanishing" if middle < VANISHING else "exploding" if middle > EXPLODING else "flowing",
    )


def lines(networks: Sequence[Norms], source: str, width: int) -> Iterator[str]:
    """The study as markdown."""
    found = cells(networks)
    depths, seeds = sorted({cell.depth for cell in found}), max((cell.seeds for cell in found), default=0)
    yield "# Gradients over depth"
    yield ""
    where = "standard normal inputs, random labels" if source == GAUSSIAN else f"rows of {source}"
    yield f"Fully connected networks, {width} units a layer, zero biases, untrained; {where}; {seeds} seeds."
    yield "Depth counts layers with weights. Nothing here is about robustness."
    yield ""
    yield "G, first layer's gradient norm over the last's: geometric mean (range over seeds)"
    yield ""
    yield "| activation | initialisation | " + " | ".join(f"depth {depth}" for depth in depths) + " |"
    yield "|---" * (2 + len(depths)) + "|"
    for kind, init in dict.fromkeys((cell.activation, cell.init) for cell in found):
        row = {cell.depth: cell for cell in found if (cell.activation, cell.init) == (kind, init)}
        told = [f"{c.ratio:.1e} ({c.ratio_low:.1e} to {c.ratio_high:.1e})" for c in map(row.__getitem__, depths)]
        yield f"| {kind} | {init} | " + " | ".join(told) + " |"
    yield ""
    for verdict, sign, limit in (("vanishing", "<", VANISHING), ("exploding", ">", EXPLODING)):
        bad = [f"{c.activation} ({c.init}, depth {c.depth})" for c in found if c.verdict == verdict]
        yield f"G {sign} {limit:g}, {verdict}: {', '.join(bad) or 'none'}."
        yield ""
    yield "Norms by layer: mean, standard deviation, smallest, largest of a network's layers, averaged over seeds"
    yield ""
    yield "| activation | initialisation | depth | mean | std | min | max |"
    yield "|---|---|---|---|---|---|---|"
    for c in found:
        yield f"| {c.activation} | {c.init} | {c.depth} | {c.mean:.2e} | {c.std:.2e} | {c.least:.2e} | {c.most:.2e} |"
