"""Models ailing from a known cause: a small network on digits, planted so that one thing is wrong with it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import actsec
from actsec.data import Dataset, load
from actsec.health import vital_signs
from actsec.health.flow import gradients
from actsec.health.vitals import Vitals


@dataclass(frozen=True)
class Planted:
    """A model, the training rows it learned from, and the cause that is true of it."""

    model: nn.Module
    x: Tensor
    cause: str
    scale: float = 1.0


@functools.cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor, Dataset]:
    splits = load("digits")
    return (*(torch.from_numpy(a) for s in (splits.train, splits.test) for a in (s.x, s.y)), splits.train)


def network(seed: int, width: tuple[int, ...] = (64, 64), kind: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(seed)
    sizes = (64, *width)
    layers = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), kind())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], 10))


def trained(model: nn.Module, x: Tensor, seed: int, rate: float, epochs: int, adam: bool = False, **more) -> nn.Module:
    torch.manual_seed(seed + 1000)
    y = digits()[1]
    update = torch.optim.Adam(model.parameters(), rate) if adam else torch.optim.SGD(model.parameters(), rate, **more)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(32):
            update.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            update.step()
    return model.eval()


def outlying(x: Tensor, scale: float, seed: int) -> Tensor:
    """One row in a hundred is noise of a thousand times the range, as an unnormalised pipeline would hand it on."""
    draws = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(x), generator=draws)[: len(x) // 100]
    x = x.clone()
    x[rows] = scale * torch.rand(len(rows), *x.shape[1:], generator=draws)
    return x


def shifted(model: nn.Module, layer: str, units: slice, by: float) -> nn.Module:
    """The same model with biases moved: a checkpoint that was tampered with."""
    with torch.no_grad():
        model.get_submodule(layer).bias[units] += by
    return model


def negative(model: nn.Module) -> nn.Module:
    """Half of the first layer drawn below zero, which inputs above zero never wake."""
    with torch.no_grad():
        model.get_submodule("1").weight[:32].abs_().neg_()
    return model


def wide(model: nn.Module) -> nn.Module:
    """Every weight drawn twelve times as wide as usual."""
    with torch.no_grad():
        for layer in (m for m in model.modules() if isinstance(m, nn.Linear)):
            layer.weight *= 12
    return model


@functools.cache
def plant(ailment: str, seed: int, epochs: int = 6) -> Planted:
    """The model of an ailment; those named ``healthy`` have none. The first layer is "1", the second "3"."""
    x = digits()[0]
    if "outliers" in ailment:
        x = outlying(x, 100.0 if "x100," in ailment else 1000.0, seed)
    scale = 60.0 if ailment == "tanh: inputs x60" else 1.0
    x = scale * x

    def net(**more) -> nn.Sequential:
        return network(seed, kind=nn.Tanh if "tanh" in ailment else nn.ReLU, **more)

    def learn(model: nn.Module, rate: float, **more) -> nn.Module:
        return trained(model, x, seed, rate, epochs, **more)

    made = {
        "rate: sgd 1": lambda: learn(net(), 1.0),
        "rate: adam .05": lambda: learn(net(), 0.05, adam=True),
        "rate: momentum": lambda: learn(net(), 0.2, momentum=0.9),
        "outliers x1000": lambda: learn(net(), 0.1),
        "outliers x100, momentum": lambda: learn(net(), 0.1, momentum=0.9),
        "bias before training": lambda: learn(shifted(net(), "1", slice(0, 32), -10), 0.1),
        "bias tampered": lambda: shifted(learn(net(), 0.1), "3", slice(0, None, 2), -20),
        "narrow": lambda: learn(net(width=(16, 8, 4, 4)), 0.001, adam=True),
        "negative weights": lambda: learn(negative(net()), 0.1),
        "tanh: wide weights": lambda: learn(wide(net()), 0.01),
        "tanh: rate": lambda: learn(net(), 0.1, adam=True),
        "tanh: inputs x60": lambda: learn(net(), 0.001),
        "tanh: bias": lambda: shifted(learn(net(), 0.1), "3", slice(0, 42), 8),
        "healthy: sgd": lambda: learn(net(), 0.1),
        "healthy: adam": lambda: learn(net(), 0.001, adam=True),
        "healthy: tanh": lambda: learn(net(), 0.1),
    }
    return Planted(made[ailment](), x, AILMENTS[ailment], scale)


AILMENTS = {
    "rate: sgd 1": "learning rate",
    "rate: adam .05": "learning rate",
    "rate: momentum": "learning rate",
    "outliers x1000": "outliers in the training data",
    "outliers x100, momentum": "outliers in the training data",
    "bias before training": "bias shift",
    "bias tampered": "bias shift",
    "narrow": "dead from birth",
    "negative weights": "initialisation",
    "tanh: wide weights": "initialisation",
    "tanh: rate": "learning rate",
    "tanh: inputs x60": "scale of the inputs",
    "tanh: bias": "bias shift",
    "healthy: sgd": "",
    "healthy: adam": "",
    "healthy: tanh": "",
}
"""What is planted, and the cause that is true of it."""


def looked(planted: Planted, given: bool = True, rows: int = 300) -> Vitals:
    """The vitals of a planted model; ``given``: its training rows are."""
    _, _, x, y, train = digits()
    bounds, x = (0.0, planted.scale), planted.scale * x
    target = actsec.load(planted.model, input_shape=tuple(x.shape[1:]), classes=10, bounds=bounds)
    data = dataclasses.replace(train, x=planted.x.numpy()) if given else None
    return vital_signs.vital_signs(target, x[:rows], y[:rows], gradients(target, x[:rows], y[:rows]), data)
